// What the manifest's tests share.
#ifndef PENSTOCK_TESTS_MANIFEST_FIXTURE_H_
#define PENSTOCK_TESTS_MANIFEST_FIXTURE_H_

#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "penstock/log.h"
#include "penstock/manifest.h"
#include "store/temp_folder.h"
#include "support/log_capture.h"
#include "support/status.h"

namespace penstock::testing {

// XDG_CACHE_HOME set to `folder` for the life of this object.
class CacheHome {
 public:
  explicit CacheHome(const std::string& folder) {
    const char* before = ::getenv("XDG_CACHE_HOME");
    if (before != nullptr) before_ = std::make_unique<std::string>(before);
    ::setenv("XDG_CACHE_HOME", folder.c_str(), 1);
  }
  CacheHome(const CacheHome&) = delete;
  CacheHome& operator=(const CacheHome&) = delete;
  ~CacheHome() { before_ ? ::setenv("XDG_CACHE_HOME", before_->c_str(), 1) : ::unsetenv("XDG_CACHE_HOME"); }

 private:
  std::unique_ptr<std::string> before_;
};

inline std::vector<std::string> NamesOf(const Manifest& manifest) {
  std::vector<std::string> names;
  for (int64_t id = 0; id < manifest.sample_count(); ++id) names.push_back(manifest.Name(id));
  return names;
}

inline std::vector<int32_t> LabelsOf(const Manifest& manifest) {
  std::vector<int32_t> labels;
  for (int64_t id = 0; id < manifest.sample_count(); ++id) labels.push_back(manifest.Label(id));
  return labels;
}

template <typename T>
std::string MessageOf(const absl::StatusOr<T>& result) {
  return std::string(result.status().message());
}
inline bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_MANIFEST_FIXTURE_H_
