// A manifest that cannot be saved, for whatever reason, does not keep a data set from being opened.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "base/io_error.h"
#include "manifest/fixture.h"
#include "manifest/lease.h"
#include "support/child.h"
#include "support/seccomp.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Where the manifest went: "memory", its path, or the error. A call that never returns ends the child by SIGALRM.
std::string OpenedAt(const std::string& root, const IndexOptions& options = {}) {
  ::alarm(20);
  const auto manifest = Manifest::Open(root, options);
  if (!manifest.ok()) return std::string(manifest.status().ToString());
  return (*manifest)->path().empty() ? "memory" : (*manifest)->path();
}

// A file system of its own, of so many bytes. In a mount namespace of its own: for a forked child.
std::string MountTmpfs(const std::string& folder, int64_t bytes) {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return "unshare refused";
  const std::string size = absl::StrCat("size=", bytes);
  return ::mount("tmpfs", folder.c_str(), "tmpfs", 0, size.c_str()) == 0 ? "" : "mount refused";
}

// A data set in a folder of its own, so that the folder above it is the test's too; and a cache folder.
struct Sets {
  Sets() : home(cache.path()) {
    above.Write("set/a/1", "x");
    above.Write("set/b/2", "yy");
  }
  std::string root() const { return above.At("set"); }
  TempFolder above;
  TempFolder cache;
  CacheHome home;
  LogCapture log;
};

}  // namespace

// By role, not by a list of errors: a system call that saving needs and reading does not fails with each of them.
TEST_CASE("a system call that fails while a manifest is saved does not fail the open", "[manifest]") {
  struct Call {
    int number;
    const char* name;
  };
  const Call call = GENERATE(Call{SYS_fsync, "fsync"}, Call{SYS_rename, "rename"}, Call{SYS_write, "write"}, Call{SYS_mkdir, "mkdir"},
                             Call{SYS_memfd_create, "memfd_create"});
  const int error_number = GENERATE(ENOSPC, EDQUOT, EFBIG, ENOSYS, EOPNOTSUPP, EIO, EROFS, EPERM, ENAMETOOLONG, ESTALE, ENOMEM);
  const bool both_places = GENERATE(false, true);
  INFO(call.name << " " << ErrnoText(error_number) << " both " << both_places);
  Sets sets;
  const std::string result = InChild([&]() -> std::string {
    SetLogSink([](LogLevel, absl::string_view) {});
    // A read-only place beside the data set leaves the cache folder, and memory behind it.
    if (both_places && ::geteuid() == 0 && (::chmod(sets.above.path().c_str(), 0555) != 0 || ::chmod(sets.root().c_str(), 0555) != 0 ||
                                            ::chmod(sets.cache.path().c_str(), 0777) != 0 || ::seteuid(65534) != 0)) {
      return "set-up failed";
    }
    if (std::string why = DenySystemCall(call.number, error_number); !why.empty()) return why;
    const std::string at = OpenedAt(sets.root());
    if (call.number != SYS_write) return at;
    // Nothing can be written to the parent's pipe either; the exit status tells.
    ::_exit(at == "memory" ? 42 : 43);
  });
  ::chmod(sets.above.path().c_str(), 0755);
  if (call.number == SYS_write) {
    CHECK(result == " [exit status 42]");
  } else {
    CHECK((result == "memory" || result[0] == '/'));
  }
}

TEST_CASE("a full file system of the data set leaves the manifest to the cache folder", "[manifest]") {
  if (::geteuid() != 0) SkipTest("only root can mount");
  Sets sets;
  const std::string at = InChild([&]() -> std::string {
    if (std::string why = MountTmpfs(sets.above.path(), 1 << 20); !why.empty()) return why;
    sets.above.Write("set/a/1", "x");
    const int fd = ::open(sets.above.At("set/a/fill").c_str(), O_WRONLY | O_CREAT, 0644);
    const std::string block(4096, 'x');
    while (::write(fd, block.data(), block.size()) > 0) {
    }
    ::close(fd);
    LogCapture log;
    const std::string opened = OpenedAt(sets.root());
    if (log.Warnings().size() != 1) return absl::StrCat(log.Warnings().size(), " warnings");
    if (log.CountOf("No space left") != 1) return log.Warnings()[0];
    return opened + " then " + OpenedAt(sets.root());
  });
  if (Contains(at, "refused")) SkipTest(at);
  const std::string expected = PlacesOf(sets.root())[1];
  CHECK(at == expected + " then " + expected);
}

TEST_CASE("a limit of file sizes does not end the process", "[manifest]") {
  Sets sets;
  const rlim_t limit = GENERATE(rlim_t{0}, rlim_t{10}, rlim_t{400});
  const std::string at = InChild([&]() -> std::string {
    SetLogSink([](LogLevel, absl::string_view) {});
    const rlimit small{limit, RLIM_INFINITY};
    if (::setrlimit(RLIMIT_FSIZE, &small) != 0) return "setrlimit failed";
    return OpenedAt(sets.root());
  });
  CHECK(at == "memory");
}

TEST_CASE("a home that cannot be made leaves the manifest in memory, with one warning", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("above/set/1", "x");
  folder.Write("file");
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  REQUIRE(::chmod(folder.At("above").c_str(), 0555) == 0);
  REQUIRE(::chmod(folder.At("above/set").c_str(), 0555) == 0);
  const CacheHome home(GENERATE(std::string("/proc/none"), std::string("/nonexistent/home"), std::string("file")) == "file"
                           ? folder.At("file")
                           : std::string("/proc/none"));
  OtherUser other;
  const auto manifest = Manifest::Open(folder.At("above/set"));
  REQUIRE_OK(manifest);
  CHECK((*manifest)->path().empty());
  CHECK((*manifest)->sample_count() == 1);
  CHECK(log.Warnings().size() == 1);
  CHECK(log.CountOf("XDG_CACHE_HOME") == 1);
}

TEST_CASE("a manifest_path that takes nothing is a warning for an open and an error for an index", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("set/1", "x");
  folder.Write("file");
  IndexOptions options;
  options.manifest_path = folder.At("file/manifest");
  const auto opened = Manifest::Open(folder.At("set"), options);
  REQUIRE_OK(opened);
  CHECK((*opened)->path().empty());
  REQUIRE(log.Warnings().size() == 1);
  CHECK(Contains(log.Warnings()[0], folder.At("file")));
  CHECK(Contains(log.Warnings()[0], "manifest_path"));
  const auto built = Manifest::Build(folder.At("set"), options);
  CHECK_FALSE(built.ok());
  CHECK(Contains(MessageOf(built), folder.At("file")));
}

// The data set's own faults are errors still: what is in memory would be no better.
TEST_CASE("a data set that cannot be scanned fails the open at once", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("list", "1\n2\n");
  folder.Write("1", "x");
  const auto opened = Manifest::Open(folder.At("list"));
  CHECK(opened.status().code() == absl::StatusCode::kNotFound);
  CHECK(log.Warnings().empty());
}

namespace {

// A lease of a process of this host that has ended.
std::string DeadLease(const std::string& path) {
  return InChild([&]() -> std::string {
    auto lease = Lease::TryAcquire(path);
    if (!lease.ok() || *lease == nullptr) return "no lease";
    ::_exit(0);  // without giving it back
  });
}

}  // namespace

TEST_CASE("what lies in the lease's place and is none does not keep the data set from opening", "[manifest]") {
  const int what = GENERATE(0, 1, 2, 3);
  CAPTURE(what);
  Sets sets;
  const std::string lease = PlaceOf(sets.root()) + ".lease";
  std::filesystem::create_directories(std::filesystem::path(lease).parent_path());
  switch (what) {
    case 0: std::filesystem::create_directories(lease); break;
    case 1: REQUIRE(::symlink("/nonexistent", lease.c_str()) == 0); break;
    case 2: REQUIRE(::symlink("/dev/zero", lease.c_str()) == 0); break;
    default: REQUIRE(::mkfifo(lease.c_str(), 0644) == 0); break;
  }
  const std::string at = InChild([&] { return OpenedAt(sets.root()); });
  CHECK(at == PlacesOf(sets.root())[1]);
}

TEST_CASE("the lease of a dead process that this user may not remove is passed over", "[manifest]") {
  if (::geteuid() != 0) SkipTest("only root can leave a lease to another user");
  Sets sets;
  const std::vector<std::string> places = PlacesOf(sets.root());
  const std::string lease = places[0] + ".lease";
  std::filesystem::create_directories(std::filesystem::path(lease).parent_path());
  REQUIRE(DeadLease(lease).empty());
  REQUIRE(::chmod(sets.above.path().c_str(), 0755) == 0);
  REQUIRE(::chmod(sets.cache.path().c_str(), 0777) == 0);
  const std::string at = InChild([&]() -> std::string {
    if (::seteuid(65534) != 0) return "seteuid failed";
    return OpenedAt(sets.root());
  });
  CHECK(at == places[1]);
}

// As after an index that was killed in such a folder: what is made there can be neither removed nor renamed.
TEST_CASE("a folder that only grows leaves the manifest to the cache folder", "[manifest]") {
  Sets sets;
  const std::string folder = std::filesystem::path(PlaceOf(sets.root())).parent_path();
  std::filesystem::create_directories(folder);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int flags = 0;
  if (::ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) SkipTest("the file system of /tmp has no inode flags");
  const int append = flags | FS_APPEND_FL;
  if (::ioctl(fd, FS_IOC_SETFLAGS, &append) != 0) SkipTest("append-only folders cannot be made here");
  const std::string first = InChild([&] { return OpenedAt(sets.root()); });
  const std::string second = InChild([&] { return OpenedAt(sets.root()); });
  CHECK(::ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0);
  ::close(fd);
  CHECK(first == PlacesOf(sets.root())[1]);
  CHECK(second == first);
}

TEST_CASE("a lease that another user may hide for ever is passed over", "[manifest]") {
  if (::geteuid() != 0) SkipTest("only root can make a file of another user");
  Sets sets;
  const std::string lease = PlaceOf(sets.root()) + ".lease";
  std::filesystem::create_directories(std::filesystem::path(lease).parent_path());
  const int fd = ::open(lease.c_str(), O_WRONLY | O_CREAT, 0600);
  REQUIRE(fd >= 0);
  REQUIRE(::fchown(fd, 65533, 65533) == 0);
  ::close(fd);
  const std::string at = InChild([&] { return OpenedAt(sets.root()); });
  CHECK(at == PlacesOf(sets.root())[1]);
}

// flock(2) needs no more than read permission, so that any user could hold the lock of our lease.
TEST_CASE("a lock that somebody holds on the lease does not keep a process from giving it back", "[manifest]") {
  TempFolder folder;
  const std::string path = folder.At("m.lease");
  const std::string result = InChild([&]() -> std::string {
    ::alarm(20);
    auto lease = Lease::TryAcquire(path);
    if (!lease.ok() || *lease == nullptr) return "no lease";
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (::flock(fd, LOCK_EX) != 0) return "no lock";
    lease->reset();
    return std::filesystem::exists(path) ? "kept" : "given back";
  });
  CHECK(result == "given back");
}

// Whoever holds the lease may end without a manifest (here: another rule was asked for). Those who waited build for themselves then, all at
// once, and do not wait for each other.
TEST_CASE("a holder that ends without a manifest is waited for once", "[manifest]") {
  Sets sets;
  const std::string lease = PlaceOf(sets.root()) + ".lease";
  std::filesystem::create_directories(std::filesystem::path(lease).parent_path());
  const std::string at = InChild([&]() -> std::string {
    ::alarm(20);
    auto held = Lease::TryAcquire(lease);
    if (!held.ok() || *held == nullptr) return "no lease";
    IndexOptions options;
    int waits = 0;
    options.progress = [&](const IndexProgress& progress) {
      if (progress.phase != IndexProgress::Phase::kWaiting) return;
      ++waits;
      held->reset();
      auto again = Lease::TryAcquire(lease);  // the next one is there at once
      if (again.ok() && *again != nullptr) *held = *std::move(again);
    };
    options.wait_s = 1000;
    return OpenedAt(sets.root(), options);
  });
  CHECK(at == PlaceOf(sets.root()));
}
