// A file's bytes, mapped from where a page fault cannot fail.
#ifndef PENSTOCK_MANIFEST_MAP_FILE_H_
#define PENSTOCK_MANIFEST_MAP_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace penstock {

// True for the file systems (statfs(2), f_type) whose pages come from this machine. Over a network one a page fault becomes
// SIGBUS when the server is gone or has replaced the file; what is unknown counts as one.
bool IsLocalFileSystem(int64_t statfs_type);

// True where the file or folder behind `fd` lies on a network file system (or an unknown one).
bool IsOnNetwork(int fd);

class MappedFile {
 public:
  enum class Mode { kAuto, kCopy };  // kAuto: copied where its file system is not local

  // Errors: NotFound, and those of open(2), read(2) and mmap(2).
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path, Mode mode = Mode::kAuto);
  // Maps all of what `fd` refers to; `shown` is for messages.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> FromDescriptor(UniqueFd fd, const std::string& shown, Mode mode);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const unsigned char* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  bool copied() const { return copied_; }

 private:
  MappedFile(const unsigned char* data, uint64_t bytes, bool copied) : data_(data), bytes_(bytes), copied_(copied) {}

  const unsigned char* data_;
  uint64_t bytes_;
  bool copied_;
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_MAP_FILE_H_
