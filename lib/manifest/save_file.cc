#include "manifest/save_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <ctime>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
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
    if (errno != EEXIST && errno != EINTR) return IoError(errno, absl::StrCat("creation of ", EscapeName(temporary)));
  }
}

absl::StatusOr<SaveFile> SaveFile::CreateInMemory(const std::string& name) {
  const int fd = ::memfd_create("penstock-manifest", MFD_CLOEXEC);
  if (fd < 0) return IoError(errno, absl::StrCat("memfd_create for ", EscapeName(name)));
  return SaveFile(name, "", UniqueFd(fd));
}

SaveFile::~SaveFile() {
  if (fd_.valid() && !temporary_path_.empty()) ::unlink(temporary_path_.c_str());
}

absl::Status SaveFile::Error(int error_number, const char* what) const {
  return IoError(error_number, absl::StrCat("saving the manifest ", EscapeName(path_), ": ", what));
}

absl::Status SaveFile::Write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd_.get(), next, std::min(bytes, size_t{1} << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      return Error(errno, "write");
    }
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status SaveFile::Commit() {
  if (temporary_path_.empty()) return absl::OkStatus();
  if (::fsync(fd_.get()) != 0) return Error(errno, "fsync");
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
  if (!folder_fd.valid()) return Error(errno, "open of its folder");
  // Some file systems cannot sync a folder (fsync(2), EINVAL); they order the rename themselves or promise nothing anyway.
  if (::fsync(folder_fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EBADF) return Error(errno, "fsync of its folder");
  return absl::OkStatus();
}

}  // namespace penstock
