// Objects that are files below one folder of a mounted file system.
#ifndef PENSTOCK_STORE_FILE_STORE_H_
#define PENSTOCK_STORE_FILE_STORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "store/name_table.h"
#include "store/object_store.h"

namespace penstock {

// Keeps one descriptor per folder, so that opening a file walks one path component instead of all. They are opened when first
// needed and closed with the store; never earlier, because an openat(2) that uses one may be in flight. Their number is
// bounded: files of the folders beyond the bound are opened by their path from the root.
class FileStore : public ObjectStore {
 public:
  // `keep_alive` owns what `names` points to. `open_folders_max` < 0: a quarter of RLIMIT_NOFILE.
  FileStore(std::string root, const NameTable& names, std::shared_ptr<const void> keep_alive, int64_t open_folders_max = -1);
  ~FileStore() override;

  absl::StatusOr<OpenTarget> Target(uint32_t object, std::string& scratch) const override;
  void Prefetch(absl::Span<const uint32_t> objects) const override;
  std::string Name(uint32_t object) const override;

  // Descriptors in use now, the root's included.
  int64_t open_folder_count() const;

 private:
  // Opens a folder and keeps its descriptor in `slot`. Several threads may do so at once: one keeps its own (`kept`), the others
  // get that one.
  absl::StatusOr<int> OpenFolder(std::atomic<int>& slot, int at_fd, const char* path, const std::string& shown, bool& kept) const;

  const std::string root_;
  const NameTable names_;
  const std::shared_ptr<const void> keep_alive_;
  const int64_t open_folders_max_;
  mutable std::atomic<int64_t> open_folders_{0};
  mutable std::atomic<int> root_fd_{-1};
  std::unique_ptr<std::atomic<int>[]> folder_fds_;  // per folder of names_: a descriptor, or -1
};

}  // namespace penstock

#endif  // PENSTOCK_STORE_FILE_STORE_H_
