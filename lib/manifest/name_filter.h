// Which names of a folder tree are samples: what systems and tools leave beside data is not.
#ifndef PENSTOCK_MANIFEST_NAME_FILTER_H_
#define PENSTOCK_MANIFEST_NAME_FILTER_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "penstock/manifest.h"

namespace penstock {

// IndexOptions::include, exclude and extensions, and the list of names that are no data (README.md).
class NameFilter {
 public:
  enum class Verdict {
    kTake,
    kNoData,    // by the list
    kExcluded,  // by the options
  };

  explicit NameFilter(const IndexOptions& options);
  NameFilter() = default;

  // `path` from the root, without a slash at its begin. Threads: any.
  Verdict OfFolder(absl::string_view path) const;
  Verdict OfFile(absl::string_view path) const;

 private:
  std::vector<std::string> include_;
  std::vector<std::string> exclude_;
  std::vector<std::string> extensions_;  // with their dot, in lower case
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_NAME_FILTER_H_
