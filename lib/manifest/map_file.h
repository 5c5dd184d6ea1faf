// A file's bytes, where a page fault cannot end the process.
#ifndef PENSTOCK_MANIFEST_MAP_FILE_H_
#define PENSTOCK_MANIFEST_MAP_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "manifest/bus_guard.h"
#include "manifest/memory_block.h"
#include "manifest/trust.h"

namespace penstock {

// True for the file systems (statfs(2), f_type) whose pages come from this machine. Over a network one a page fault becomes
// SIGBUS when the server is gone or has replaced the file; what is unknown counts as one.
bool IsLocalFileSystem(int64_t statfs_type);

// True where the file or folder behind `fd` lies on a network file system (or an unknown one).
bool IsOnNetwork(int fd);

// A file of at most so many bytes is read into memory of its own, which nobody else can change. Opening a manifest of that size reads all
// of it anyway, for its checksums.
inline constexpr uint64_t kPrivateBytesMax = uint64_t{64} << 20;

class MappedFile {
 public:
  // kAuto: read up to kPrivateBytesMax; beyond that mapped as it is, or from a local copy where its file system is not local.
  enum class Mode { kAuto, kCopy, kMap };

  // `trust`: whose file it may be; null: anybody's.
  //
  // Errors: NotFound, and those of open(2), read(2) and mmap(2).
  //         PermissionDenied  a symbolic link, or a file that is not to be believed.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path, Mode mode = Mode::kAuto,
                                                                const Trust* trust = nullptr);
  // Takes all of what `fd` refers to; `shown` is for messages.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> FromDescriptor(UniqueFd fd, const std::string& shown, Mode mode);
  static std::shared_ptr<const MappedFile> FromMemory(MemoryBlock memory);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const unsigned char* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  // Whether all bytes were read when it was opened, and are nobody else's.
  bool copied() const { return guard_ == nullptr; }

  // DataLoss once the mapped file was cut off or written to after it was opened; what was read from it since may be anything. Always OK for
  // a copy. One fstat(2).
  absl::Status CheckIntact() const { return guard_ == nullptr ? absl::OkStatus() : Changed(); }

 private:
  MappedFile() = default;
  absl::Status Changed() const;

  const unsigned char* data_ = nullptr;
  uint64_t bytes_ = 0;
  MemoryBlock memory_;                       // a copy
  std::unique_ptr<const BusGuard> mapping_;  // a mapping: of a local copy, or of the file itself
  const BusGuard* guard_ = nullptr;          // of the file itself
  UniqueFd fd_;                              // of the file itself
  std::string shown_;
  int64_t mtime_ns_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_MAP_FILE_H_
