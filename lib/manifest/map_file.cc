#include "manifest/map_file.h"

#include <fcntl.h>
#include <sys/mman.h>
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
#include "base/io_error.h"

namespace penstock {
namespace {

bool IsOnLocalFileSystem(int fd) {
  struct statfs info;
  return ::fstatfs(fd, &info) == 0 && IsLocalFileSystem(static_cast<int64_t>(static_cast<uint32_t>(info.f_type)));
}

// A file without a name on a local file system, or one in memory.
absl::StatusOr<UniqueFd> LocalTemporary(const std::string& shown) {
  const char* tmpdir = std::getenv("TMPDIR");
  for (const char* folder : {tmpdir != nullptr ? tmpdir : "/tmp", "/var/tmp", "/tmp"}) {
    UniqueFd fd(::open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (fd.valid() && IsOnLocalFileSystem(fd.get())) return fd;
  }
  UniqueFd fd(::memfd_create("penstock-manifest", MFD_CLOEXEC));
  if (!fd.valid()) return IoError(errno, absl::StrCat("memfd_create for a local copy of ", shown));
  return fd;
}

absl::Status CopyAll(int from, int to, uint64_t bytes, const std::string& shown) {
  // Blocks are reserved first: a full file system is to fail here, not as SIGBUS. Some file systems cannot; writing does it then.
  if (bytes > 0 && ::fallocate(to, 0, 0, static_cast<off_t>(bytes)) != 0 && errno == ENOSPC) {
    return IoError(ENOSPC, absl::StrCat("local copy of ", shown, ", ", bytes, " bytes"));
  }
  static constexpr size_t kStepBytes = size_t{4} << 20;
  const std::unique_ptr<char[]> buffer(new char[kStepBytes]);
  uint64_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(from, buffer.get(), std::min<uint64_t>(kStepBytes, bytes - done), static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, absl::StrCat("read of ", shown, " at ", done));
    if (got == 0) {
      return absl::DataLossError(
          absl::StrCat("read of ", shown, ": it ended at ", done, " of ", bytes, " bytes while it was copied. Try again"));
    }
    for (ssize_t put = 0; put < got;) {
      const ssize_t written = ::pwrite(to, buffer.get() + put, static_cast<size_t>(got - put), static_cast<off_t>(done) + put);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return IoError(errno, absl::StrCat("local copy of ", shown));
      put += written;
    }
    done += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
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

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path, Mode mode) {
  const std::string shown = EscapeName(path);
  // O_NONBLOCK: a FIFO by that name must not block; it is refused below.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    const int error_number = errno;
    if (error_number == ENOENT || error_number == ENOTDIR) {
      return absl::NotFoundError(absl::StrCat("manifest ", shown, ": ", ErrnoText(error_number), ". Make it with penstock index"));
    }
    return IoError(error_number, absl::StrCat("open of the manifest ", shown));
  }
  return FromDescriptor(std::move(fd), shown, mode);
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::FromDescriptor(UniqueFd fd, const std::string& shown, Mode mode) {
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return IoError(errno, absl::StrCat("fstat of ", shown));
  if (!S_ISREG(info.st_mode)) {
    return absl::DataLossError(absl::StrCat("manifest ", shown, ": not a regular file. Remove it and index again (penstock index)"));
  }
  const auto bytes = static_cast<uint64_t>(info.st_size);
  const bool copy = mode == Mode::kCopy || !IsOnLocalFileSystem(fd.get());
  if (copy) {
    absl::StatusOr<UniqueFd> local = LocalTemporary(shown);
    if (!local.ok()) return local.status();
    const absl::Status status = CopyAll(fd.get(), local->get(), bytes, shown);
    if (!status.ok()) return status;
    fd = *std::move(local);
  }
  if (bytes == 0) return std::shared_ptr<const MappedFile>(new MappedFile(nullptr, 0, copy));
  void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return IoError(errno, absl::StrCat("mmap of ", shown, ", ", bytes, " bytes"));
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<const unsigned char*>(data), bytes, copy));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<unsigned char*>(data_), bytes_);
}

}  // namespace penstock
