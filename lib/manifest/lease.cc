#include "manifest/lease.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdio>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "manifest/save_file.h"

namespace penstock {
namespace {

constexpr int kTouchEveryS = 5;
constexpr size_t kContentBytesMax = 1024;

std::string ReadAll(int fd) {
  std::string text(kContentBytesMax, '\0');
  const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

std::string ReadSmallFile(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return fd.valid() ? ReadAll(fd.get()) : "";
}

// The start time of a process in clock ticks since boot (proc(5), stat, field 22), or "" where there is no such process.
// Process ids are used again; with the start time they are unique.
std::string StartTime(pid_t pid) {
  const std::string stat = ReadSmallFile(absl::StrCat("/proc/", pid, "/stat"));
  // Field 2, the command, is in parentheses and may hold anything; the last one closes it.
  const size_t close = stat.rfind(')');
  if (close == std::string::npos) return "";
  const std::vector<std::string> fields = absl::StrSplit(absl::string_view(stat).substr(close + 1), ' ', absl::SkipEmpty());
  static constexpr size_t kStartTimeAfterCommand = 22 - 3;
  return fields.size() > kStartTimeAfterCommand ? fields[kStartTimeAfterCommand] : "";
}

// Host, boot and PID namespace: where they are equal, process ids mean the same.
struct Realm {
  std::string host;
  std::string boot;
  std::string pid_namespace;
};

const Realm& OwnRealm() {
  static const Realm realm = [] {
    Realm own;
    char host[HOST_NAME_MAX + 1] = {};
    if (::gethostname(host, sizeof host - 1) == 0) own.host = host;
    own.boot = ReadSmallFile("/proc/sys/kernel/random/boot_id").substr(0, 36);
    char name[64] = {};
    if (::readlink("/proc/self/ns/pid", name, sizeof name - 1) > 0) own.pid_namespace = name;
    return own;
  }();
  return realm;
}

struct Holder {
  Realm realm;
  int64_t pid = 0;
  std::string start_time;
};

// "penstock lease", host, boot, PID namespace, process, start time, a number that makes each lease unique; one a line.
std::string OwnContent() {
  static std::atomic<uint64_t> counter{0};
  const Realm& own = OwnRealm();
  return absl::StrCat("penstock lease\n", own.host, "\n", own.boot, "\n", own.pid_namespace, "\n", ::getpid(), "\n", StartTime(::getpid()),
                      "\n", MonotonicNs(), "-", counter.fetch_add(1), "\n");
}

bool ParseContent(const std::string& content, Holder& holder) {
  const std::vector<std::string> lines = absl::StrSplit(content, '\n');
  if (lines.size() < 8 || lines[0] != "penstock lease" || !absl::SimpleAtoi(lines[4], &holder.pid) || holder.pid <= 0 ||
      holder.pid > INT_MAX)
    return false;
  holder.realm = {lines[1], lines[2], lines[3]};
  holder.start_time = lines[5];
  return true;
}

// Removes the file if it is still the one with this content. Under flock(2), so that two who take over do not remove the lease
// that the first of them has just made; where flock does not work the worst case is double work. Any reader may hold that lock, so that it
// is not waited for without end. False where the file is still there; then errno says why.
bool RemoveIfStill(const std::string& path, const std::string& content, uint64_t device, uint64_t inode) {
  // Read permission is enough for flock(2) and for comparing; a lease that may not even be read is told by its inode.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.valid() && errno == ENOENT) return true;
  struct stat of_path;
  if (fd.valid()) {
    constexpr int kTries = 50;
    for (int i = 0; i < kTries && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; ++i) SleepNs(10 * kNsPerMs);
    struct stat of_fd;
    if (::fstat(fd.get(), &of_fd) != 0) return false;
    device = of_fd.st_dev;
    inode = of_fd.st_ino;
    if (ReadAll(fd.get()) != content) return true;
  }
  if (::lstat(path.c_str(), &of_path) != 0) return errno == ENOENT;
  if (of_path.st_dev != device || of_path.st_ino != inode) return true;
  return ::unlink(path.c_str()) == 0 || errno == ENOENT;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Lease>> Lease::TryAcquire(const std::string& path) {
  for (;;) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (!fd.valid()) {
      if (errno == EEXIST) return std::unique_ptr<Lease>();
      if (errno == EINTR) continue;
      return SaveError(errno, absl::StrCat("creation of the lease ", EscapeName(path)));
    }
    std::string content = OwnContent();
    if (const int error_number = ErrorOfFileSize(content.size()); error_number != 0) {
      ::unlink(path.c_str());
      return SaveError(error_number, absl::StrCat("write of the lease ", EscapeName(path)));
    }
    const ssize_t written = ::write(fd.get(), content.data(), content.size());
    if (written != static_cast<ssize_t>(content.size())) {
      const int error_number = written < 0 ? errno : ENOSPC;
      ::unlink(path.c_str());
      return SaveError(error_number, absl::StrCat("write of the lease ", EscapeName(path)));
    }
    return std::unique_ptr<Lease>(new Lease(path, std::move(content)));
  }
}

Lease::Lease(std::string path, std::string content) : path_(std::move(path)), content_(std::move(content)) {
  try {
    toucher_ = std::thread([this] { Touch(); });
  } catch (const std::system_error&) {
    // No thread to be had: processes on this host still see that we live; others may build a second time.
  }
}

void Lease::Touch() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ended_.wait_for(lock, std::chrono::seconds(kTouchEveryS), [this] { return end_; })) {
    ::utimensat(AT_FDCWD, path_.c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
  }
}

Lease::~Lease() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    end_ = true;
  }
  ended_.notify_all();
  if (toucher_.joinable()) toucher_.join();
  struct stat info;
  if (::lstat(path_.c_str(), &info) == 0) RemoveIfStill(path_, content_, info.st_dev, info.st_ino);
}

LeaseWatch::State LeaseWatch::Unusable(std::string why) {
  why_ = std::move(why);
  return State::kUnusable;
}

LeaseWatch::State LeaseWatch::Look() {
  struct stat info;
  if (::lstat(path_.c_str(), &info) != 0) {
    if (errno == ENOENT) return State::kGone;
    return Unusable(absl::StrCat("the lease ", EscapeName(path_), " cannot be looked at: ", ErrnoText(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    const absl::string_view what = S_ISDIR(info.st_mode) ? "a folder" : S_ISLNK(info.st_mode) ? "a symbolic link" : "no regular file";
    return Unusable(absl::StrCat(EscapeName(path_), " is ", what, ", where the lease is to be. Remove it"));
  }
  if (const std::string why = trust_.WhyNotOwner(info); !why.empty()) {
    return Unusable(absl::StrCat("the lease ", EscapeName(path_), " ", why, ". Have it removed"));
  }
  // Without read permission the holder stays unknown, and the times of the file tell.
  const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.valid() && errno == ENOENT) return State::kGone;
  std::string content = fd.valid() ? ReadAll(fd.get()) : "";
  // A lease that was being written at the look before is the same one.
  Holder holder_before;
  changed_hands_ = content != content_ && ParseContent(content_, holder_before);
  const int64_t mtime_ns = int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec;
  if (seen_ns_ == 0 || content != content_ || mtime_ns != mtime_ns_ || info.st_ino != inode_ || info.st_dev != device_) {
    seen_ns_ = MonotonicNs();
    content_ = std::move(content);
    mtime_ns_ = mtime_ns;
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
  Holder holder;
  const Realm& own = OwnRealm();
  if (ParseContent(content_, holder) && !own.boot.empty() && !own.pid_namespace.empty() && holder.realm.host == own.host &&
      holder.realm.boot == own.boot && holder.realm.pid_namespace == own.pid_namespace) {
    const auto pid = static_cast<pid_t>(holder.pid);
    if (::kill(pid, 0) != 0 && errno == ESRCH) return State::kDead;
    const std::string start_time = StartTime(pid);
    // Unreadable (hidepid) proves nothing.
    return !start_time.empty() && !holder.start_time.empty() && start_time != holder.start_time ? State::kDead : State::kHeld;
  }
  return MonotonicNs() - seen_ns_ > dead_after_ns_ ? State::kDead : State::kHeld;
}

bool LeaseWatch::Remove() {
  if (RemoveIfStill(path_, content_, device_, inode_)) return true;
  why_ = absl::StrCat("the lease ", EscapeName(path_), " of ", holder(), ", which has ended, cannot be removed: ", ErrnoText(errno),
                      ". Have it removed by a user that may");
  return false;
}

std::string LeaseWatch::holder() const {
  Holder holder;
  if (!ParseContent(content_, holder)) return "an unknown process";
  return absl::StrCat("process ", holder.pid, " on host ", EscapeName(holder.realm.host));
}

}  // namespace penstock
