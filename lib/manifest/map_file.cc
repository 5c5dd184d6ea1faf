#include "manifest/map_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "manifest/save_file.h"

namespace penstock {
namespace {

bool IsOnLocalFileSystem(int fd) {
  struct statfs info;
  return ::fstatfs(fd, &info) == 0 && IsLocalFileSystem(static_cast<int64_t>(static_cast<uint32_t>(info.f_type)));
}

// Reads `bytes` of `from` from its start, and hands them on in steps.
template <typename Put>
absl::Status ReadAll(int from, uint64_t bytes, const std::string& shown, char* into, uint64_t into_bytes, const Put& put) {
  uint64_t done = 0;
  while (done < bytes) {
    char* const at = into_bytes == bytes ? into + done : into;
    const ssize_t got = ::pread(from, at, std::min(into_bytes, bytes - done), static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, absl::StrCat("read of the manifest ", shown, " at ", done));
    if (got == 0) {
      return absl::DataLossError(absl::StrCat("read of the manifest ", shown, ": it ended at ", done, " of ", bytes,
                                              " bytes while it was read. Try again"));
    }
    const absl::Status status = put(at, static_cast<uint64_t>(got), done);
    if (!status.ok()) return status;
    done += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<MemoryBlock> CopyToMemory(int from, uint64_t bytes, const std::string& shown) {
  absl::StatusOr<MemoryBlock> memory = MemoryBlock::Make(bytes, shown);
  if (!memory.ok()) return memory.status();
  const absl::Status status =
      ReadAll(from, bytes, shown, memory->data(), bytes, [](const char*, uint64_t, uint64_t) { return absl::OkStatus(); });
  if (!status.ok()) return status;
  return memory;
}

// A copy in a file without a name, on a local file system. An invalid descriptor where none has room for it.
absl::StatusOr<UniqueFd> CopyToLocalFile(int from, uint64_t bytes, const std::string& shown) {
  static constexpr uint64_t kStepBytes = uint64_t{4} << 20;
  const std::unique_ptr<char[]> buffer(new char[kStepBytes]);
  const char* tmpdir = std::getenv("TMPDIR");
  for (const char* folder : {tmpdir != nullptr ? tmpdir : "/tmp", "/var/tmp", "/tmp"}) {
    UniqueFd fd(::open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fd.valid() || !IsOnLocalFileSystem(fd.get()) || ErrorOfFileSize(bytes) != 0) continue;
    // Blocks are reserved first: a full file system is to fail here, not as SIGBUS. Some file systems cannot; writing does it then.
    if (::fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) continue;
    bool written_all = true;
    const absl::Status status = ReadAll(from, bytes, shown, buffer.get(), kStepBytes, [&](const char* data, uint64_t got, uint64_t at) {
      for (uint64_t put = 0; put < got && written_all;) {
        const ssize_t written = ::pwrite(fd.get(), data + put, got - put, static_cast<off_t>(at + put));
        if (written < 0 && errno == EINTR) continue;
        written_all = written > 0;
        if (written_all) put += static_cast<uint64_t>(written);
      }
      return written_all ? absl::OkStatus() : absl::AbortedError("the copy failed");
    });
    if (!status.ok() && written_all) return status;
    if (written_all) return fd;
  }
  return UniqueFd();
}

}  // namespace

bool IsLocalFileSystem(int64_t statfs_type) {
  // linux/magic.h and the file systems' own sources.
  switch (statfs_type) {
    case 0xEF53:      // ext2, ext3, ext4
    case 0x58465342:  // XFS
    case 0x9123683E:  // btrfs
    case 0x01021994:  // tmpfs, memfd
    case 0x858458F6:  // ramfs
    case 0x794C7630:  // overlayfs
    case 0xF2F52010:  // F2FS
    case 0x2FC12FC1:  // ZFS
    case 0xCA451A4E:  // bcachefs
    case 0x73717368:  // squashfs
    case 0xE0F5E1E2:  // EROFS
    case 0x3153464A:  // JFS
    case 0x52654973:  // ReiserFS
      return true;
    default: return false;
  }
}

bool IsOnNetwork(int fd) { return !IsOnLocalFileSystem(fd); }

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path, Mode mode, const Trust* trust) {
  const std::string shown = EscapeName(path);
  // O_NONBLOCK: a FIFO by that name must not block; it is refused below.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (trust != nullptr ? O_NOFOLLOW : 0)));
  if (!fd.valid()) {
    const int error_number = errno;
    if (error_number == ENOENT || error_number == ENOTDIR) {
      return absl::NotFoundError(absl::StrCat("manifest ", shown, ": ", ErrnoText(error_number), ". Make it with penstock index"));
    }
    struct stat info;
    if (error_number == ELOOP && ::lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode)) {
      return absl::PermissionDeniedError(
          absl::StrCat("manifest ", shown, " is a symbolic link, which is not followed. Give the path of the file itself (manifest_path)"));
    }
    return SaveError(error_number, absl::StrCat("open of the manifest ", shown));
  }
  if (trust != nullptr) {
    struct stat info;
    if (::fstat(fd.get(), &info) != 0) return SaveError(errno, absl::StrCat("fstat of the manifest ", shown));
    if (const std::string why = trust->WhyNot(info); !why.empty()) {
      return absl::PermissionDeniedError(absl::StrCat("manifest ", shown, " ", why,
                                                      ", and says which files are read: it is not used. Make one of your own (penstock "
                                                      "index --manifest FILE), or have its owner changed (chown, chmod go-w)"));
    }
  }
  return FromDescriptor(std::move(fd), shown, mode);
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::FromDescriptor(UniqueFd fd, const std::string& shown, Mode mode) {
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return IoError(errno, absl::StrCat("fstat of the manifest ", shown));
  if (!S_ISREG(info.st_mode)) {
    return absl::DataLossError(absl::StrCat("manifest ", shown, ": not a regular file. Remove it and index again (penstock index)"));
  }
  const auto bytes = static_cast<uint64_t>(info.st_size);
  const bool local = IsOnLocalFileSystem(fd.get());
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->bytes_ = bytes;
  if (mode == Mode::kMap || (mode == Mode::kAuto && bytes > kPrivateBytesMax && local)) {
    if (bytes == 0) return std::shared_ptr<const MappedFile>(std::move(file));
    absl::StatusOr<std::unique_ptr<const BusGuard>> mapping = BusGuard::Map(fd.get(), bytes, shown);
    if (!mapping.ok()) return mapping.status();
    file->mapping_ = *std::move(mapping);
    file->guard_ = file->mapping_.get();
    file->data_ = file->guard_->data();
    file->fd_ = std::move(fd);
    file->shown_ = shown;
    file->mtime_ns_ = int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec;
    return std::shared_ptr<const MappedFile>(std::move(file));
  }
  // What is too large for memory of its own goes to a local drive, whose page cache can drop it.
  if (bytes > kPrivateBytesMax) {
    absl::StatusOr<UniqueFd> copy = CopyToLocalFile(fd.get(), bytes, shown);
    if (!copy.ok()) return copy.status();
    if (copy->valid()) {
      absl::StatusOr<std::unique_ptr<const BusGuard>> mapping = BusGuard::Map(copy->get(), bytes, shown);
      if (!mapping.ok()) return mapping.status();
      file->mapping_ = *std::move(mapping);
      file->data_ = file->mapping_->data();
      return std::shared_ptr<const MappedFile>(std::move(file));
    }
  }
  absl::StatusOr<MemoryBlock> memory = CopyToMemory(fd.get(), bytes, shown);
  if (!memory.ok()) return memory.status();
  return FromMemory(*std::move(memory));
}

std::shared_ptr<const MappedFile> MappedFile::FromMemory(MemoryBlock memory) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->memory_ = std::move(memory);
  file->data_ = reinterpret_cast<const unsigned char*>(file->memory_.data());
  file->bytes_ = file->memory_.bytes();
  return file;
}

absl::Status MappedFile::Changed() const {
  struct stat info;
  const bool looked = ::fstat(fd_.get(), &info) == 0;
  if (!guard_->lost() && looked && static_cast<uint64_t>(info.st_size) == bytes_ &&
      int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec == mtime_ns_) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat(
      "manifest ", shown_, ": it was cut off or written to while it was in use, at ", looked ? info.st_size : 0, " of ", bytes_,
      " bytes now. Open the data set again, and replace a manifest by renaming a whole one over it (penstock index does, cp does not)"));
}

}  // namespace penstock
