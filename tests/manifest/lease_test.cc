#include "manifest/lease.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "manifest/fixture.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// A process that holds the lease until it is killed.
pid_t HoldLeaseInChild(const std::string& path) {
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto lease = Lease::TryAcquire(path);
    const char ok = lease.ok() && *lease != nullptr ? 'y' : 'n';
    if (::write(ready[1], &ok, 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char ok = 'n';
  REQUIRE(::read(ready[0], &ok, 1) == 1);
  REQUIRE(ok == 'y');
  ::close(ready[0]);
  ::close(ready[1]);
  return child;
}

void Kill(pid_t child) {
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

}  // namespace

TEST_CASE("a lease has one holder and is given back", "[manifest]") {
  TempFolder folder;
  const std::string path = folder.At("m.lease");
  {
    auto first = Lease::TryAcquire(path);
    REQUIRE_OK(first);
    REQUIRE(*first != nullptr);
    auto second = Lease::TryAcquire(path);
    REQUIRE_OK(second);
    CHECK(*second == nullptr);
    LeaseWatch watch(path);
    CHECK(watch.Look() == LeaseWatch::State::kHeld);
    CHECK(Contains(watch.holder(), absl::StrCat("process ", ::getpid())));
  }
  CHECK_FALSE(std::filesystem::exists(path));
  LeaseWatch watch(path);
  CHECK(watch.Look() == LeaseWatch::State::kGone);
}

TEST_CASE("the lease of a killed process is seen to be dead", "[manifest]") {
  TempFolder folder;
  const std::string path = folder.At("m.lease");
  const pid_t child = HoldLeaseInChild(path);
  LeaseWatch watch(path);
  CHECK(watch.Look() == LeaseWatch::State::kHeld);
  Kill(child);
  CHECK(watch.Look() == LeaseWatch::State::kDead);
  watch.Remove();
  CHECK_FALSE(std::filesystem::exists(path));
}

// Process ids are used again: a living process with the holder's id, but started at another time, is not the holder.
TEST_CASE("another process under the holder's id does not keep a lease", "[manifest]") {
  TempFolder folder;
  const std::string path = folder.At("m.lease");
  auto lease = Lease::TryAcquire(path);
  REQUIRE_OK(lease);
  std::vector<std::string> lines;
  std::string line;
  for (const char c : ReadFile(path)) {
    if (c != '\n') {
      line += c;
      continue;
    }
    lines.push_back(line);
    line.clear();
  }
  REQUIRE(lines.size() == 7);
  lines[5] = "1";
  std::string forged;
  for (const std::string& part : lines) forged += part + "\n";
  folder.Write("other.lease", forged);
  LeaseWatch watch(folder.At("other.lease"));
  CHECK(watch.Look() == LeaseWatch::State::kDead);
}

TEST_CASE("a lease of another host is dead once it is no longer touched", "[manifest]") {
  TempFolder folder;
  const std::string path = folder.Write("m.lease", "penstock lease\nanother-host\nboot\nns\n12\n34\nx\n");
  LeaseWatch patient(path);
  CHECK(patient.Look() == LeaseWatch::State::kHeld);
  CHECK(patient.Look() == LeaseWatch::State::kHeld);
  CHECK(Contains(patient.holder(), "another-host"));
  LeaseWatch watch(path, Trust(), /*dead_after_ns=*/20'000'000);
  CHECK(watch.Look() == LeaseWatch::State::kHeld);
  ::usleep(40'000);
  // Its own clock says when it saw the last touch; a new one starts the wait again.
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0) == 0);
  CHECK(watch.Look() == LeaseWatch::State::kHeld);
  ::usleep(40'000);
  CHECK(watch.Look() == LeaseWatch::State::kDead);
}

TEST_CASE("taking over does not remove the lease of whoever was faster", "[manifest]") {
  TempFolder folder;
  const std::string path = folder.At("m.lease");
  Kill(HoldLeaseInChild(path));
  LeaseWatch slow(path);
  REQUIRE(slow.Look() == LeaseWatch::State::kDead);
  LeaseWatch fast(path);
  REQUIRE(fast.Look() == LeaseWatch::State::kDead);
  fast.Remove();
  auto lease = Lease::TryAcquire(path);
  REQUIRE_OK(lease);
  REQUIRE(*lease != nullptr);
  slow.Remove();
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("of several processes one builds and the others use what it saved", "[manifest]") {
  TempFolder tree;
  for (int i = 0; i < 2000; ++i) tree.Write("c" + std::to_string(i % 5) + "/" + std::to_string(i), "x");
  TempFolder logs;
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      // Each line appended at once, so that lines of all children can be counted.
      const int fd = ::open(logs.At("log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      SetLogSink([fd](LogLevel, absl::string_view message) {
        const std::string line = std::string(message) + "\n";
        if (::write(fd, line.data(), line.size()) < 0) ::_exit(3);
      });
      const auto manifest = Manifest::Open(tree.path());
      ::_exit(manifest.ok() && (*manifest)->sample_count() == 2000 ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  const std::string log = ReadFile(logs.At("log"));
  size_t built = 0;
  for (size_t at = log.find("indexed "); at != std::string::npos; at = log.find("indexed ", at + 1)) ++built;
  CHECK(built == 1);
  CHECK_FALSE(std::filesystem::exists(PlaceOf(tree.path()) + ".lease"));
}

TEST_CASE("a process that waits says for whom and gives up at its deadline", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x");
  const pid_t child = HoldLeaseInChild(PlaceOf(tree.path()) + ".lease");
  IndexOptions options;
  options.wait_s = 0.2;
  int waiting = 0;
  std::string note;
  options.progress = [&](const IndexProgress& progress) {
    if (progress.phase != IndexProgress::Phase::kWaiting) return;
    ++waiting;
    note = progress.note;
  };
  const auto result = Manifest::Open(tree.path(), options);
  Kill(child);
  CHECK(result.status().code() == absl::StatusCode::kDeadlineExceeded);
  CHECK(Contains(MessageOf(result), absl::StrCat("process ", child)));
  CHECK(Contains(MessageOf(result), ".penstock.lease"));
  CHECK(waiting >= 2);
  CHECK(Contains(note, absl::StrCat(child)));
  CHECK(log.CountOf("waiting for process") == 1);
}

TEST_CASE("a process that waits goes on when the holder is killed", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x");
  const pid_t child = HoldLeaseInChild(PlaceOf(tree.path()) + ".lease");
  IndexOptions options;
  bool killed = false;
  options.progress = [&](const IndexProgress& progress) {
    if (progress.phase == IndexProgress::Phase::kWaiting && !killed) {
      killed = true;
      Kill(child);
    }
  };
  REQUIRE_OK(Manifest::Open(tree.path(), options));
  CHECK(killed);
  CHECK(log.CountOf("taken over") == 1);
}

TEST_CASE("threads of one process that open at once build once", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 500; ++i) tree.Write(std::to_string(i), "x");
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      const auto manifest = Manifest::Open(tree.path());
      good += manifest.ok() && (*manifest)->sample_count() == 500;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(good == 6);
  CHECK(log.CountOf("indexed") == 1);
}
