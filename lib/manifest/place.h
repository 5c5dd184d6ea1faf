// Where a data set lies and where its manifest is kept.
#ifndef PENSTOCK_MANIFEST_PLACE_H_
#define PENSTOCK_MANIFEST_PLACE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "manifest/trust.h"
#include "penstock/manifest.h"

namespace penstock {

// `path` from the root of the file system, without trailing slashes; symbolic links stay. Relative to the working directory.
std::string AbsolutePath(absl::string_view path);

struct SplitName {
  absl::string_view folder;  // "" for a name without a slash, "/" for "/x"
  absl::string_view name;
};
SplitName SplitAtLastSlash(absl::string_view path);

// A data set as the user named it.
struct DataSet {
  std::string root;       // absolute
  std::string list_name;  // of a list file in root; empty for a folder
  TreeRule rule = TreeRule::kAuto;  // kList exactly where list_name is set
  std::string shown() const;  // escaped, for messages
  Trust trust() const;        // whose manifests of it are believed
};

// Errors: NotFound         nothing is there.
//         InvalidArgument  the rule does not fit what is there.
absl::StatusOr<DataSet> FindDataSet(absl::string_view path, TreeRule rule);

// Where the manifest may lie, the preferred place first.
std::vector<std::string> ManifestPlaces(const DataSet& data_set, const std::string& manifest_path);

// Makes the folders that the manifest's file needs. Errors: those of mkdir(2).
absl::Status PreparePlace(const std::string& manifest_path);

// True where the error says that nobody may write there, so that the next place is to be tried.
bool IsUnwritable(const absl::Status& status);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_PLACE_H_
