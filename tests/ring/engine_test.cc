// Which engine is chosen, and what a user is told where limits and policies stand in the way.
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/io_error.h"
#include "ring/backends.h"
#include "support/child.h"
#include "support/seccomp.h"

#include <catch2/catch.hpp>

namespace penstock::testing {
namespace {

bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("the probe names the engine and the kernel", "[ring]") {
  const EngineChoice choice = ProbeEngine(Engine::kAuto);
  CHECK_FALSE(choice.kernel.empty());
  CHECK_FALSE(choice.why.empty());
  CHECK(choice.engine == (choice.uring.ok() ? Engine::kUring : Engine::kThreads));
  if (choice.uring.ok()) CHECK(choice.features.sq_entries >= 4);
}

TEST_CASE("io_uring is found to work where there is no /proc", "[ring]") {
  if (const EngineChoice choice = ProbeEngine(Engine::kAuto); !choice.uring.ok()) SkipTest(choice.why);
  const std::string result = InChild([]() -> std::string {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 || ::umount2("/proc", MNT_DETACH) != 0) {
      return absl::StrCat("skip /proc cannot be taken away: ", ErrnoText(errno));
    }
    if (::access("/proc/self", F_OK) == 0) return "skip there is another /proc below";
    const EngineChoice choice = ProbeEngine(Engine::kAuto);
    return choice.engine == Engine::kUring ? "" : choice.why;
  });
  if (result.rfind("skip ", 0) == 0) SkipTest(result);
  CHECK(result == "");
}

TEST_CASE("threads are chosen when asked for even where io_uring works", "[ring]") {
  CHECK(ProbeEngine(Engine::kThreads).engine == Engine::kThreads);
}

TEST_CASE("under seccomp auto reads with threads and says why", "[ring]") {
  for (const int error_number : {EPERM, ENOSYS}) {
    TempFolder folder;
    NamedObjects objects(folder.path());
    const uint32_t object = objects.Add("file");
    std::ofstream(folder.path() + "/file") << "hello";
    const std::string result = InChild([&]() -> std::string {
      if (const std::string error = DenyIoUring(error_number); !error.empty()) return "skip " + error;
      const EngineChoice choice = ProbeEngine(Engine::kAuto);
      if (choice.engine != Engine::kThreads || choice.uring.ok()) return "the probe chose io_uring";
      if (!Contains(choice.why, error_number == EPERM ? "EPERM" : "ENOSYS")) return choice.why;
      if (!Contains(choice.why, "seccomp") || !Contains(choice.why, "engine=threads")) return choice.why;
      auto ring = MakeRing(Engine::kAuto, objects, {});
      if (!ring.ok()) return std::string(ring.status().message());
      if ((*ring)->name() != std::string("threads")) return (*ring)->name();
      std::byte memory[6];
      if (RunOne(**ring, {.object = object, .length_bytes = 6, .need_bytes = 5, .destination = memory}).bytes != 5) return "read";
      const auto insisted = MakeRing(Engine::kUring, objects, {});
      if (insisted.ok()) return "kUring was made";
      if (insisted.status().code() != absl::StatusCode::kUnavailable || !Contains(std::string(insisted.status().message()), "profile")) {
        return insisted.status().ToString();
      }
      return "";
    });
    if (result.rfind("skip ", 0) == 0) SkipTest(result);
    CHECK(result == "");
  }
}

// A user of its own for each child: the kernel counts locked memory per user, and gives it back some time after a ring's end.
std::string BecomeNobody(rlim_t memlock_bytes) {
  const uid_t user = 60000 + static_cast<uid_t>(::getpid() % 5000);
  const rlimit limit{memlock_bytes, memlock_bytes};
  if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "setrlimit";
  if (::geteuid() == 0 && (::setgid(user) != 0 || ::setuid(user) != 0)) return "setuid";
  ::prctl(PR_SET_DUMPABLE, 1);  // else /proc/self/fd of a process that changed its user belongs to root
  return "";
}

TEST_CASE("320 rings of depth 16 fit into 8 MiB of locked memory of an ordinary user", "[ring]") {
  SkipWithoutUring();
  Uring backend;
  const uint32_t object = backend.AddObject(1000);
  REQUIRE(::chmod(backend.folder().c_str(), 0755) == 0);
  const std::string result = InChild([&]() -> std::string {
    if (const std::string error = BecomeNobody(8 << 20); !error.empty()) return error;
    std::vector<std::unique_ptr<Ring>> rings;
    for (int i = 0; i < 320; ++i) {
      auto ring = MakeRing(Engine::kUring, backend.objects(), {.capacity = 16});
      if (!ring.ok()) return absl::StrCat("ring ", i, ": ", ring.status().message());
      rings.push_back(*std::move(ring));
      if (rings.back()->capacity() != 16) return absl::StrCat("ring ", i, " has capacity ", rings.back()->capacity());
    }
    std::vector<std::byte> memory(1000);
    const Completion done = RunOne(*rings[319], {.object = object, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data()});
    return done.bytes == 1000 ? "" : absl::StrCat("read: ", done.error_number);
  });
  CHECK(result == "");
}

// The kernel charges rings to RLIMIT_MEMLOCK since 6.14; before, nothing here can fail and the test says so.
TEST_CASE("a ring gets fewer entries where locked memory is short and an error with cause and cure where there is none", "[ring]") {
  SkipWithoutUring();
  Uring backend;
  const std::string shrunk = InChild([&]() -> std::string {
    if (const std::string error = BecomeNobody(8 << 10); !error.empty()) return error;
    auto ring = MakeRing(Engine::kUring, backend.objects(), {.capacity = 256});
    if (!ring.ok()) return std::string(ring.status().message());
    return absl::StrCat("capacity ", (*ring)->capacity());
  });
  const std::string refused = InChild([&]() -> std::string {
    if (const std::string error = BecomeNobody(0); !error.empty()) return error;
    const EngineChoice choice = ProbeEngine(Engine::kAuto);
    auto ring = MakeRing(Engine::kUring, backend.objects(), {.capacity = 64});
    if (ring.ok()) return "uncharged";
    if (choice.engine != Engine::kThreads || !Contains(choice.why, "RLIMIT_MEMLOCK")) return choice.why;
    return ring.status().ToString();
  });
  if (refused == "uncharged") SkipTest("this kernel does not charge rings to RLIMIT_MEMLOCK");
  INFO(shrunk << " / " << refused);
  CHECK(Contains(shrunk, "capacity "));
  CHECK(std::stoi("0" + shrunk.substr(shrunk.find_first_of("0123456789"))) < 256);
  CHECK(Contains(refused, "RESOURCE_EXHAUSTED"));
  CHECK(Contains(refused, "RLIMIT_MEMLOCK is 0 bytes"));
  CHECK(Contains(refused, "ulimit -l"));
}

TEST_CASE("a ring gets a smaller capacity where few descriptors are allowed", "[ring]") {
  SkipWithoutUring();
  Uring backend;
  const uint32_t object = backend.AddObject(1000);
  const std::string result = InChild([&]() -> std::string {
    const rlimit limit{64, 64};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return "setrlimit";
    auto ring = MakeRing(Engine::kUring, backend.objects(), {.capacity = 256});
    if (!ring.ok()) return std::string(ring.status().message());
    if ((*ring)->capacity() > 64) return absl::StrCat("capacity ", (*ring)->capacity());
    std::vector<std::byte> memory(1000);
    return RunOne(**ring, {.object = object, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data()}).bytes == 1000
               ? ""
               : "read";
  });
  CHECK(result == "");
}

TEST_CASE("the pool starts no more threads than allowed and none before they are needed", "[ring]") {
  TempFolder folder;
  NamedObjects objects(folder.path());
  std::ofstream(folder.path() + "/file") << "hello";
  const uint32_t object = objects.Add("file");
  const auto pool = std::make_shared<PreadPool>(2);
  auto ring = MakeRing(Engine::kThreads, objects, {.capacity = 64}, pool);
  REQUIRE_OK(ring);
  CHECK(pool->worker_count() == 0);
  std::byte memory[64 * 6];
  for (int round = 0; round < 50; ++round) {
    for (size_t i = 0; i < 64; ++i) {
      REQUIRE((*ring)->Enqueue({.object = object, .length_bytes = 6, .need_bytes = 5, .destination = memory + 6 * i}));
    }
    ReapCount(**ring, 64);
  }
  CHECK(pool->worker_count() >= 1);
  CHECK(pool->worker_count() <= 2);
}

}  // namespace
}  // namespace penstock::testing
