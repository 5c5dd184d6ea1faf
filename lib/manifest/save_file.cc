#include "manifest/save_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/io_error.h"

namespace penstock {
namespace {

constexpr int kLeftoverAgeS = 3600;

// Removes what a process that was killed while it saved left behind. Nobody writes one file for an hour without touching it.
void RemoveLeftovers(const std::string& folder, const std::string& prefix) {
  DIR* dir = ::opendir(folder.c_str());
  if (dir == nullptr) return;
  while (const dirent* entry = ::readdir(dir)) {
    struct stat info;
    if (absl::StartsWith(entry->d_name, prefix) && ::fstatat(::dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(info.st_mode) && info.st_mtime + kLeftoverAgeS < ::time(nullptr)) {
      ::unlinkat(::dirfd(dir), entry->d_name, 0);
    }
  }
  ::closedir(dir);
}

}  // namespace

std::string ParentFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::StatusOr<SaveFile> SaveFile::Create(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  RemoveLeftovers(ParentFolder(path), absl::StrCat(path.substr(path.rfind('/') + 1), ".tmp-"));
  for (;;) {
    timespec now;
    ::clock_gettime(CLOCK_REALTIME, &now);
    // Hosts share file systems, and process ids repeat among them; O_EXCL decides.
    const std::string temporary = absl::StrCat(path, ".tmp-", ::getpid(), "-", now.tv_nsec, "-", counter.fetch_add(1));
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd >= 0) return SaveFile(path, temporary, UniqueFd(fd));
    if (errno != EEXIST && errno != EINTR) return SaveError(errno, absl::StrCat("creation of ", EscapeName(temporary)));
  }
}

SaveFile::~SaveFile() {
  if (fd_.valid() && !temporary_path_.empty()) ::unlink(temporary_path_.c_str());
}

absl::Status SaveFile::Error(int error_number, const char* what) const {
  return SaveError(error_number, absl::StrCat("saving the manifest ", EscapeName(path_), ": ", what));
}

absl::Status SaveFile::Reserve(uint64_t bytes) {
  if (!fd_.valid()) {
    absl::StatusOr<MemoryBlock> memory = MemoryBlock::Make(bytes, EscapeName(path_));
    if (!memory.ok()) return memory.status();
    memory_ = *std::move(memory);
    return absl::OkStatus();
  }
  if (const int error_number = ErrorOfFileSize(bytes); error_number != 0) return Error(error_number, "its size");
  return absl::OkStatus();
}

absl::Status SaveFile::Write(const void* data, size_t bytes) {
  if (!fd_.valid()) {
    PENSTOCK_CHECK(bytes <= memory_.bytes() - written_, "no more is written than was reserved");
    if (bytes > 0) std::memcpy(memory_.data() + written_, data, bytes);
    written_ += bytes;
    return absl::OkStatus();
  }
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd_.get(), next, std::min(bytes, size_t{1} << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      return Error(errno, "write");
    }
    if (written == 0) return Error(ENOSPC, "write");
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status SaveFile::Commit() {
  if (!fd_.valid()) return absl::OkStatus();
  // Where nothing can be synced (fsync(2), EINVAL; other systems ENOSYS and EOPNOTSUPP) a file is as safe as any other there.
  const auto cannot_sync = [](int error_number) { return error_number == EINVAL || error_number == ENOTSUP || error_number == ENOSYS; };
  if (::fsync(fd_.get()) != 0 && !cannot_sync(errno)) return Error(errno, "fsync");
  // Network file systems report a full disk at close(2).
  if (::close(fd_.Release()) != 0 && errno != EINTR) {
    const int error_number = errno;
    ::unlink(temporary_path_.c_str());
    return Error(error_number, "close");
  }
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    const int error_number = errno;
    ::unlink(temporary_path_.c_str());
    return Error(error_number, "rename");
  }
  temporary_path_.clear();
  const std::string folder = ParentFolder(path_);
  const UniqueFd folder_fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // A folder that may be written and not read, or that cannot be synced: the whole file is there, and after a crash it or the one before.
  if (!folder_fd.valid() && errno != EACCES) return Error(errno, "open of its folder");
  if (folder_fd.valid() && ::fsync(folder_fd.get()) != 0 && !cannot_sync(errno) && errno != EBADF) return Error(errno, "fsync of its folder");
  return absl::OkStatus();
}

int ErrorOfFileSize(uint64_t bytes) {
  rlimit limit{};
  return ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur ? EFBIG : 0;
}

absl::Status SaveError(int error_number, absl::string_view what) {
  return absl::Status(ErrnoToCode(error_number), absl::StrCat(what, ": ", ErrnoText(error_number)));
}

}  // namespace penstock
