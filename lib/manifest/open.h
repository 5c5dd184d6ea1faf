// Saved manifests: opening one, and telling whether its data set has changed since.
#ifndef PENSTOCK_MANIFEST_OPEN_H_
#define PENSTOCK_MANIFEST_OPEN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "manifest/layout.h"
#include "manifest/map_file.h"
#include "manifest/trust.h"
#include "penstock/manifest.h"

namespace penstock {

// How many folders are asked for their mtime, and how many shards for theirs and their size, when a manifest is opened.
inline constexpr uint64_t kAskedMax = 1000;

// What makes a Manifest; a class, so that Manifest can befriend it.
class ManifestOpener {
 public:
  // `root` empty: as saved.
  static absl::StatusOr<std::shared_ptr<const Manifest>> FromMapping(std::shared_ptr<const MappedFile> file, const std::string& path,
                                                                     const std::string& root, ManifestCheck check);
  // Errors: those of FromMapping; NotFound  there is none; PermissionDenied  it is a symbolic link, or not to be believed.
  static absl::StatusOr<std::shared_ptr<const Manifest>> FromPath(const std::string& path, const std::string& root, ManifestCheck check,
                                                                  const Trust& trust);

  // What a manifest that is not fresh is of: this data set as it was before; the folder that lay at its path before; or another data set, by
  // path and inode of the root.
  enum class Whose { kThis, kReplaced, kOther };
  // FailedPrecondition where the data set has changed since the manifest was made; names what differs, without a cure.
  static absl::Status CheckFresh(const Manifest& manifest, Whose& whose);

  static int64_t ScannedUnixNs(const Manifest& manifest);
  // Of a list file's manifest; empty otherwise.
  static std::string ListName(const Manifest& manifest);
  // What its files hold, and how that was found; of a scanned data set.
  static std::optional<layout::RecordSource> RecordSource(const Manifest& manifest);
  // An option that it was indexed with and that an update keeps; empty: it was not given.
  static std::string SavedOption(const Manifest& manifest, absl::string_view name);
  static std::string LabelsPath(const Manifest& manifest);
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_OPEN_H_
