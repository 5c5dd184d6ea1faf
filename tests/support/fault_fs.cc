#include "support/fault_fs.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "support/skip.h"

namespace penstock::testing {
namespace {

constexpr int kMountPatienceMs = 10000;

dev_t DeviceOf(const std::string& path) {
  struct stat attributes {};
  return ::stat(path.c_str(), &attributes) == 0 ? attributes.st_dev : 0;
}

// Runs fusermount3 -u, which also works without root; for root umount(2) does.
bool TryUnmount(const std::string& path) {
  if (::umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0) return true;
  if (errno != EPERM) return false;
  const pid_t child = ::fork();
  if (child == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, 2);
    ::execlp("fusermount3", "fusermount3", "-u", path.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  int status = 0;
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

FaultFs::FaultFs() {
  if (::access("/dev/fuse", R_OK | W_OK) != 0) SkipTest(std::string("/dev/fuse: ") + std::strerror(errno));
  std::string folder = "/tmp/penstock_fault_fs_XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp");
  folder_ = folder;
  backing_ = folder_ + "/backing";
  mounted_ = folder_ + "/mounted";
  control_ = folder_ + "/control";
  std::filesystem::create_directory(backing_);
  std::filesystem::create_directory(mounted_);
  std::filesystem::permissions(folder_, std::filesystem::perms::all);
  Set("");
  const dev_t before = DeviceOf(mounted_);
  pid_ = ::fork();
  if (pid_ == 0) {
    if (::geteuid() == 0) {
      ::execl(PENSTOCK_FAULT_FS, "fault_fs", backing_.c_str(), mounted_.c_str(), control_.c_str(), "-o", "allow_other,default_permissions",
              static_cast<char*>(nullptr));
    } else {
      ::execl(PENSTOCK_FAULT_FS, "fault_fs", backing_.c_str(), mounted_.c_str(), control_.c_str(), static_cast<char*>(nullptr));
    }
    ::_exit(127);
  }
  for (int waited_ms = 0; DeviceOf(mounted_) == before; waited_ms += 5) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_ || waited_ms > kMountPatienceMs) {
      pid_ = -1;
      std::filesystem::remove_all(folder_);
      SkipTest("FUSE cannot be mounted here (" PENSTOCK_FAULT_FS " says why)");
    }
    ::usleep(5000);
  }
  is_mounted_ = true;
}

FaultFs::~FaultFs() {
  if (is_mounted_) {
    Clear();
    for (int tries = 0; tries < 400 && !Unmount(); ++tries) ::usleep(5000);
    if (is_mounted_) ::umount2(mounted_.c_str(), MNT_DETACH);
  }
  if (pid_ > 0) {
    int status = 0;
    bool ended = false;
    for (int tries = 0; tries < 400 && !ended; ++tries) {
      ended = ::waitpid(pid_, &status, WNOHANG) == pid_;
      if (!ended) ::usleep(5000);
    }
    if (!ended) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status, 0);
    }
  }
  std::error_code ignored;
  if (DeviceOf(mounted_) == DeviceOf(folder_)) std::filesystem::remove_all(folder_, ignored);
}

void FaultFs::Set(const std::string& faults) {
  const std::string next = control_ + ".next";
  {
    std::ofstream file(next, std::ios::trunc);
    file << faults;
  }
  std::filesystem::rename(next, control_);
}

int64_t FaultFs::hangs() const {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(control_ + ".hangs", error);
  return error ? 0 : static_cast<int64_t>(bytes);
}

bool FaultFs::Unmount() {
  if (is_mounted_ && TryUnmount(mounted_)) is_mounted_ = false;
  return !is_mounted_;
}

}  // namespace penstock::testing
