// A file that is there whole or not at all.
#ifndef PENSTOCK_MANIFEST_SAVE_FILE_H_
#define PENSTOCK_MANIFEST_SAVE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "manifest/memory_block.h"

namespace penstock {

// Written beside its final place, synced, renamed over it, and the folder synced: a reader sees the old file or the new one,
// after a crash too. What is not committed is removed.
class SaveFile {
 public:
  static absl::StatusOr<SaveFile> Create(const std::string& path);
  // In memory, for the case that nothing can be written; `name` is for messages.
  static SaveFile CreateInMemory(const std::string& name) { return SaveFile(name, "", UniqueFd()); }

  SaveFile(SaveFile&& other) noexcept = default;
  SaveFile& operator=(SaveFile&&) = delete;
  ~SaveFile();

  // So many bytes will be written in all. Called once, before Write().
  //
  // Errors: ResourceExhausted, OutOfRange  there is no room, or no file may be so long.
  absl::Status Reserve(uint64_t bytes);
  absl::Status Write(const void* data, size_t bytes);
  absl::Status Commit();
  // The bytes of an in-memory file, which are then the caller's.
  MemoryBlock TakeMemory() { return std::move(memory_); }

 private:
  SaveFile(std::string path, std::string temporary_path, UniqueFd fd)
      : path_(std::move(path)), temporary_path_(std::move(temporary_path)), fd_(std::move(fd)) {}
  absl::Status Error(int error_number, const char* what) const;

  std::string path_;
  std::string temporary_path_;  // empty once it is renamed, and in memory
  UniqueFd fd_;         // invalid in memory
  MemoryBlock memory_;
  uint64_t written_ = 0;
};

// EFBIG where a file of this process may not have so many bytes (RLIMIT_FSIZE), else 0. Writing beyond would end the process by SIGXFSZ.
int ErrorOfFileSize(uint64_t bytes);

// As IoError() (base/io_error.h), for what is made and not for what is read: its cures would be the wrong ones.
absl::Status SaveError(int error_number, absl::string_view what);

// "/a/b" for "/a/b/c", "." for "c".
std::string ParentFolder(const std::string& path);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_SAVE_FILE_H_
