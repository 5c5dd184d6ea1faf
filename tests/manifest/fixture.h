// What the manifest's tests share.
#ifndef PENSTOCK_TESTS_MANIFEST_FIXTURE_H_
#define PENSTOCK_TESTS_MANIFEST_FIXTURE_H_

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "manifest/place.h"
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

// Where the manifest of `root` is kept by default, and where it goes when that place takes none.
inline std::vector<std::string> PlacesOf(const std::string& root, TreeRule rule = TreeRule::kAuto) {
  const auto data_set = FindDataSet(root, rule);
  REQUIRE_OK(data_set);
  return ManifestPlaces(*data_set, "");
}
inline std::string PlaceOf(const std::string& root) { return PlacesOf(root)[0]; }

// Root may write anywhere, so a test of missing permission runs as somebody else.
class OtherUser {
 public:
  OtherUser() : was_root_(::geteuid() == 0) {
    if (was_root_) REQUIRE(::seteuid(65534) == 0);
  }
  OtherUser(const OtherUser&) = delete;
  OtherUser& operator=(const OtherUser&) = delete;
  ~OtherUser() {
    if (was_root_ && ::seteuid(0) != 0) std::abort();
  }

 private:
  const bool was_root_;
};

template <typename T>
std::string MessageOf(const absl::StatusOr<T>& result) {
  return std::string(result.status().message());
}
inline bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_MANIFEST_FIXTURE_H_
