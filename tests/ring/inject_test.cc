// System calls that fail as the kernel may let them: strace injects the errors into read_files, which compares every byte.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>

#include "ring/backends.h"

#include <catch2/catch.hpp>

namespace penstock::testing {
namespace {

struct Result {
  int status = -1;
  std::string output;
};

Result RunShell(const std::string& command) {
  Result result;
  FILE* const pipe = ::popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  char buffer[4096];
  for (size_t count; (count = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.output.append(buffer, count);
  const int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

// Runs read_files with faults, each a value of strace's `inject=`.
Result RunInjected(const std::string& engine, const std::vector<std::string>& injections, int count = 100, int depth = 32) {
  static const bool usable = [] {
    const Result tried = RunShell("strace -f -qq -o /dev/null -e trace=getppid true");
    if (tried.status != 0) SkipTest("strace cannot be used here: " + tried.output);
    return true;
  }();
  static_cast<void>(usable);
  TempFolder folder;
  const std::string read = absl::StrCat(PENSTOCK_READ_FILES, " ", engine, " ", folder.path(), " ", count, " ", depth);
  const Result clean = RunShell(read);  // makes the files
  if (engine == "uring" && clean.status == 4) SkipTest(clean.output);
  REQUIRE(clean.status == 0);
  // LeakSanitizer cannot run under a tracer.
  std::string command =
      "ASAN_OPTIONS=detect_leaks=0 strace -f -qq -o /dev/null -e "
      "trace=io_uring_setup,io_uring_enter,io_uring_register,openat,pread64,eventfd2";
  for (const std::string& injection : injections) command += " -e inject=" + injection;
  return RunShell(command + " " + read);
}

void CheckNothingLost(const Result& result, int requests) {
  INFO(result.output);
  CHECK(result.status == 0);
  CHECK(result.output.find(absl::StrCat("requests ", requests, " ")) != std::string::npos);
}

TEST_CASE("io_uring_enter interrupted again and again loses nothing", "[ring][inject]") {
  CheckNothingLost(RunInjected("uring", {"io_uring_enter:error=EINTR:when=2+2"}), 300);
}

TEST_CASE("io_uring_enter with EAGAIN and EBUSY loses nothing and counts them", "[ring][inject]") {
  for (const char* error : {"EAGAIN", "EBUSY", "ENOMEM"}) {
    const Result result = RunInjected("uring", {absl::StrCat("io_uring_enter:error=", error, ":when=3+3")});
    CheckNothingLost(result, 300);
    CHECK(result.output.find("busy 0") == std::string::npos);
  }
}

TEST_CASE("a long row of EBUSY is waited out", "[ring][inject]") {
  CheckNothingLost(RunInjected("uring", {"io_uring_enter:error=EBUSY:when=3..60"}), 300);
}

TEST_CASE("a signal in the middle of a wait loses nothing", "[ring][inject]") {
  CheckNothingLost(RunInjected("uring", {"io_uring_enter:signal=SIGCHLD:when=2+1"}), 300);
}

TEST_CASE("an io_uring_enter that fails for good ends every request with its error", "[ring][inject]") {
  // The first calls are the probe's or the first batch; what the kernel holds then cannot be reaped, so the very first one fails here.
  const Result result = RunInjected("uring", {"io_uring_enter:error=EPERM:when=1+"});
  INFO(result.output);
  CHECK(result.status == 3);
  CHECK(result.output.find("300 times Operation not permitted") != std::string::npos);
}

TEST_CASE("without permission for io_uring_setup auto reads with threads", "[ring][inject]") {
  for (const char* error : {"EPERM", "ENOSYS", "EMFILE"}) {
    const Result result = RunInjected("auto", {absl::StrCat("io_uring_setup:error=", error)});
    CheckNothingLost(result, 300);
    CHECK(result.output.find("threads:") != std::string::npos);
  }
}

TEST_CASE("without permission for io_uring_setup uring fails with cause and cure", "[ring][inject]") {
  const Result result = RunInjected("uring", {"io_uring_setup:error=EPERM"});
  INFO(result.output);
  CHECK(result.status == 4);
  CHECK(result.output.find("UNAVAILABLE: io_uring_setup: Operation not permitted (EPERM, 1)") != std::string::npos);
  CHECK(result.output.find("engine=threads") != std::string::npos);
}

TEST_CASE("a kernel that knows fewer set-up flags is used without them", "[ring][inject]") {
  CheckNothingLost(RunInjected("uring", {"io_uring_setup:error=EINVAL:when=1"}), 300);
  CheckNothingLost(RunInjected("uring", {"io_uring_setup:error=EINVAL:when=1..3"}), 300);
  CHECK(RunInjected("uring", {"io_uring_setup:error=EINVAL"}).status == 4);
}

TEST_CASE("a ring refused for want of memory is made with fewer entries", "[ring][inject]") {
  CheckNothingLost(RunInjected("uring", {"io_uring_setup:error=ENOMEM:when=1..3"}, 100, 128), 300);
  const Result result = RunInjected("uring", {"io_uring_setup:error=ENOMEM"}, 100, 128);
  INFO(result.output);
  CHECK(result.status == 4);
  CHECK(result.output.find("a ring of 8 entries needs 8192 bytes") != std::string::npos);
}

TEST_CASE("without permission for io_uring_register uring fails and auto reads with threads", "[ring][inject]") {
  const Result result = RunInjected("uring", {"io_uring_register:error=EPERM"});
  INFO(result.output);
  CHECK(result.status == 4);
  CheckNothingLost(RunInjected("auto", {"io_uring_register:error=EPERM"}), 300);
}

TEST_CASE("pread interrupted again and again loses nothing", "[ring][inject]") {
  for (const char* error : {"EINTR", "EAGAIN"}) {
    const Result result = RunInjected("threads", {absl::StrCat("pread64:error=", error, ":when=10+3")});
    CheckNothingLost(result, 300);
    CHECK(result.output.find("retries 0") == std::string::npos);
  }
}

TEST_CASE("EMFILE at one open fails that request and no other", "[ring][inject]") {
  // The loader's own opens come first; `when` counts per thread.
  const Result result = RunInjected("threads", {"openat:error=EMFILE:when=40+50"});
  INFO(result.output);
  CHECK(result.status == 3);
  CHECK(result.output.find("requests 300 ") != std::string::npos);
  CHECK(result.output.find("Too many open files (EMFILE") != std::string::npos);
  CHECK(result.output.find("300 times") == std::string::npos);
}

TEST_CASE("EINTR at an open is tried again", "[ring][inject]") {
  CheckNothingLost(RunInjected("threads", {"openat:error=EINTR:when=40+7"}), 300);
}

}  // namespace
}  // namespace penstock::testing
