// A file that is there whole or not at all.
#ifndef PENSTOCK_MANIFEST_SAVE_FILE_H_
#define PENSTOCK_MANIFEST_SAVE_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace penstock {

// Written beside its final place, synced, renamed over it, and the folder synced: a reader sees the old file or the new one,
// after a crash too. What is not committed is removed.
class SaveFile {
 public:
  static absl::StatusOr<SaveFile> Create(const std::string& path);
  // In memory, for the case that nothing can be written; `name` is for messages.
  static absl::StatusOr<SaveFile> CreateInMemory(const std::string& name);

  SaveFile(SaveFile&& other) noexcept = default;
  SaveFile& operator=(SaveFile&&) = delete;
  ~SaveFile();

  absl::Status Write(const void* data, size_t bytes);
  absl::Status Commit();
  // The descriptor of an in-memory file, which is then the caller's.
  UniqueFd TakeDescriptor() { return std::move(fd_); }

 private:
  SaveFile(std::string path, std::string temporary_path, UniqueFd fd)
      : path_(std::move(path)), temporary_path_(std::move(temporary_path)), fd_(std::move(fd)) {}
  absl::Status Error(int error_number, const char* what) const;

  std::string path_;
  std::string temporary_path_;  // empty once it is renamed, and in memory
  UniqueFd fd_;
};

// "/a/b" for "/a/b/c", "." for "c".
std::string ParentFolder(const std::string& path);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_SAVE_FILE_H_
