// What 320 streams take: memory of the process, and locked memory of its user.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "loader/data_set.h"
#include "loader/intervals.h"
#include "ring/engine.h"
#include "support/child.h"
#include "support/fault_fs.h"
#include "support/log_capture.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int kStreams = 320;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// A line of /proc/self/status, in bytes.
int64_t StatusBytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
  }
  return -1;
}

bool HasUring() { return ProbeEngine(Engine::kUring).uring.ok(); }

// A user of its own for each child: the kernel counts locked memory per user, and gives it back some time after a ring's end.
std::string BecomeUser(uid_t user, rlim_t memlock_bytes) {
  const rlimit limit{memlock_bytes, memlock_bytes};
  if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "setrlimit";
  if (::setgid(user) != 0 || ::setuid(user) != 0) return "setuid";
  ::prctl(PR_SET_DUMPABLE, 1);  // else /proc/self/fd of a process that changed its user belongs to root
  return "";
}
uid_t UserOfThisTest() { return 40000 + static_cast<uid_t>(::getpid() % 20000); }

// 1,000 files that every user may read, with their manifest.
struct ReadableByAll : DataSet {
  ReadableByAll() : DataSet(1000, 3000) {
    REQUIRE_OK(Manifest::Build(root()));
    REQUIRE(::chmod(root().c_str(), 0755) == 0);
  }
};

void NeedRoot() {
  ::unsetenv("PENSTOCK_ENGINE");  // it is io_uring that locked memory is short for
  if (::geteuid() != 0) SkipTest("becoming another user needs root");
}

void NeedUring() {
  if (!HasUring()) SkipTest("there is no io_uring here that could be short of memory");
}

// One epoch with 320 streams; "" if every sample came once, with its own bytes.
std::string Epoch(const DataSet& data, int depth_per_stream, std::string& engine) {
  RuntimeOptions runtime;
  runtime.queue_depth = kStreams * depth_per_stream;
  LoaderOptions options = data.Options(50);
  options.streams = kStreams;
  options.queue_depth = kStreams * depth_per_stream;
  auto loader = Loader::Open(options, Runtime::Create(runtime));
  if (!loader.ok()) return loader.status().ToString();
  engine = (*loader)->setup().engine;
  std::set<int64_t> seen;
  while (true) {
    auto batch = (*loader)->Next();
    if (EpochEnded(batch)) break;
    if (!batch.ok()) return batch.status().ToString();
    for (int64_t i = 0; i < batch->size(); ++i) {
      const int64_t id = batch->ids()[static_cast<size_t>(i)];
      const auto bytes = batch->sample(i);
      const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      if (!seen.insert(id).second) return absl::StrCat("sample ", id, " came twice");
      const auto manifest = (*loader)->manifest();
      if (text != DataSet::Content(manifest->Name(id), manifest->StoredBytes(id))) return absl::StrCat("sample ", id, " has other bytes");
    }
  }
  return seen.size() == 1000 ? "" : absl::StrCat(seen.size(), " samples");
}

}  // namespace

// The promise: a process peak of at most memory_bytes + 64 MiB beyond the mapped manifest and libraries, at 320 streams, with every batch
// held and one reader hung.
TEST_CASE("320 streams stay within memory_bytes and 64 MiB with every batch held and a reader that hangs", "[limits]") {
  if (kSanitized) SkipTest("a sanitizer's own memory would be counted");
  constexpr int64_t kMemory = int64_t{128} << 20;
  constexpr int64_t kBeside = int64_t{64} << 20;
  for (const EngineOption engine : {EngineOption::kUring, EngineOption::kThreads}) {
    if (engine == EngineOption::kUring && !HasUring()) continue;
    FaultFs fs;
    std::filesystem::create_directories(fs.backing() + "/c");
    for (int i = 0; i < 1600; ++i) {
      const std::string path = absl::StrCat(fs.backing(), "/c/", 10000 + i);
      std::ofstream(path).close();
      std::filesystem::resize_file(path, 120'000);  // sparse: what they hold is of no interest here
    }
    LoaderOptions options;
    options.root = fs.mounted();
    options.manifest_path = fs.backing() + "/../manifest";
    IndexOptions index;
    index.manifest_path = options.manifest_path;
    REQUIRE_OK(Manifest::Build(fs.mounted(), index));
    fs.Set("*/10050 hanghard\n");
    const std::string result = InChild([&]() -> std::string {
      LogCapture log;
      options.batch_size = 17;
      options.rank = 0;
      options.world_size = 1;
      options.shuffle = false;
      options.streams = kStreams;
      options.queue_depth = 16 * kStreams;
      options.memory_bytes = kMemory;
      options.engine = engine;
      options.io = IoMode::kBuffered;
      options.retries = 0;
      options.deadline_s = 3;
      options.policy = ErrorPolicy::kSkip;
      RuntimeOptions runtime;
      runtime.queue_depth = options.queue_depth;
      std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM begins anew (proc(5))
      const int64_t before = StatusBytes("VmRSS");
      auto loader = Loader::Open(options, Runtime::Create(runtime));
      if (!loader.ok()) return loader.status().ToString();
      std::vector<Batch> held;
      absl::Status status;
      for (int failures = 0; failures < 30;) {
        auto batch = (*loader)->Next();
        status = batch.status();
        if (batch.ok()) {
          held.push_back(*std::move(batch));
        } else if (absl::IsDeadlineExceeded(status)) {
          ++failures;
        } else {
          break;
        }
      }
      if (!absl::IsResourceExhausted(status)) return absl::StrCat(held.size(), " held, then ", status.ToString());
      int64_t lent = 0;
      for (const Batch& batch : held) lent += batch.bytes();
      const int64_t quarantined = (*loader)->setup().quarantined_bytes;
      const int64_t peak = StatusBytes("VmHWM") - before;
      const SetupReport setup = (*loader)->setup();
      const auto mib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
      std::printf("%s, %d streams: peak %.1f MiB beyond memory_bytes (%d batches with %.1f MiB lent, %.1f MiB with the hung reader)\n",
                  setup.engine.c_str(), setup.streams, mib(peak - kMemory), static_cast<int>(held.size()), mib(lent), mib(quarantined));
      std::fflush(stdout);
      if (quarantined == 0) return "nothing hangs";
      if (peak < kMemory * 8 / 10) return absl::StrCat("a peak of ", peak, " bytes says that not all memory was used");
      if (peak > kMemory + kBeside) return absl::StrCat("a peak of ", peak, " bytes");
      return "";
    });
    CHECK(result == "");
  }
}

TEST_CASE("320 streams of an ordinary user with 8 MiB of locked memory deliver an epoch", "[limits]") {
  NeedRoot();
  const ReadableByAll data;
  const bool has_uring = HasUring();
  for (const int depth : {1, 16, 256}) {
    const std::string result = InChild([&]() -> std::string {
      if (const std::string error = BecomeUser(UserOfThisTest(), 8 << 20); !error.empty()) return error;
      LogCapture log;
      std::string engine;
      if (const std::string error = Epoch(data, depth, engine); !error.empty()) return error;
      const std::vector<std::string> warnings = log.Warnings();
      const size_t expected = engine == "uring" ? 0 : 1;
      if (warnings.size() != expected) return absl::StrCat(engine, " with these warnings: ", absl::StrJoin(warnings, "; "));
      // A ring of depth 16 takes 8 KiB, so 320 of them fit.
      if (has_uring && depth <= 16 && engine != "uring") return absl::StrCat("depth ", depth, ": ", warnings[0]);
      return "";
    });
    INFO("depth " << depth);
    CHECK(result == "");
  }
}

TEST_CASE("where locked memory does not hold all rings every stream reads with threads and one warning says why", "[limits]") {
  NeedRoot();
  NeedUring();
  const ReadableByAll data;
  for (const rlim_t memlock : {rlim_t{0}, rlim_t{64} << 10, rlim_t{1} << 20}) {
    const std::string result = InChild([&]() -> std::string {
      if (const std::string error = BecomeUser(UserOfThisTest(), memlock); !error.empty()) return error;
      Intervals().ring_patience_ns = 100'000'000;
      LogCapture log;
      std::string engine;
      if (const std::string error = Epoch(data, 1, engine); !error.empty()) return error;
      if (engine == "uring") return "uncharged";
      const std::vector<std::string> warnings = log.Warnings();
      if (warnings.size() != 1) return absl::StrCat("these warnings: ", absl::StrJoin(warnings, "; "));
      for (const char* part : {"threads", "RLIMIT_MEMLOCK", "ulimit -l"}) {
        if (warnings[0].find(part) == std::string::npos) return absl::StrCat(part, " is not in: ", warnings[0]);
      }
      return "";
    });
    if (result == "uncharged") SkipTest("this kernel does not charge rings to RLIMIT_MEMLOCK");
    INFO("memlock " << memlock);
    CHECK(result == "");
  }
}

TEST_CASE("engine=uring refuses to degrade and names what is short", "[limits]") {
  NeedRoot();
  NeedUring();
  const ReadableByAll data;
  const std::string result = InChild([&]() -> std::string {
    if (const std::string error = BecomeUser(UserOfThisTest(), 64 << 10); !error.empty()) return error;
    LoaderOptions options = data.Options(50);
    options.streams = kStreams;
    options.engine = EngineOption::kUring;
    const auto loader = Loader::Open(options);
    return loader.status().ToString();
  });
  if (result == "OK") SkipTest("this kernel does not charge rings to RLIMIT_MEMLOCK");
  CHECK(result.find("RESOURCE_EXHAUSTED") != std::string::npos);
  CHECK(result.find("of 320") != std::string::npos);
  CHECK(result.find("ulimit -l") != std::string::npos);
}

// The charge of a killed process lingers for some 50 ms (seen on Linux 6.18).
TEST_CASE("a loader that starts right after another of its user was killed gets its rings", "[limits]") {
  NeedRoot();
  NeedUring();
  const ReadableByAll data;
  const auto objects = (*Manifest::Open(data.root()))->OpenObjects();
  const uid_t user = UserOfThisTest();
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t hog = ::fork();
  if (hog == 0) {
    std::vector<std::unique_ptr<Ring>> rings;
    if (BecomeUser(user, 8 << 20).empty()) {
      while (true) {
        auto ring = MakeRing(Engine::kUring, *objects, {.capacity = 4});
        if (!ring.ok() || rings.size() > 4000) break;
        rings.push_back(*std::move(ring));
      }
    }
    [[maybe_unused]] const ssize_t written = ::write(ready[1], "x", 1);
    ::pause();
    ::_exit(0);
  }
  char byte;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  ::close(ready[0]);
  ::close(ready[1]);
  ::kill(hog, SIGKILL);
  const std::string result = InChild([&]() -> std::string {
    if (const std::string error = BecomeUser(user, 8 << 20); !error.empty()) return error;
    LogCapture log;
    std::string engine;
    if (const std::string error = Epoch(data, 1, engine); !error.empty()) return error;
    return absl::StrCat(engine, absl::StrJoin(log.Warnings(), "; "));
  });
  int status = 0;
  ::waitpid(hog, &status, 0);
  CHECK(result == "uring");
}
