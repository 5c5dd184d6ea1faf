#include "memory/arena.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "penstock/log.h"
#include "support/skip.h"
#include "support/status.h"

namespace penstock {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

std::shared_ptr<Arena> MakeArena(ArenaOptions options) {
  auto arena = Arena::Create(options);
  REQUIRE_OK(arena);
  return *std::move(arena);
}

std::shared_ptr<Arena> MakeArena(int32_t granules) { return MakeArena(ArenaOptions{.bytes = granules * kGranuleBytes}); }

// Whether the kernel has a page at this address.
bool Resident(const std::byte* address) {
  unsigned char resident = 0;
  REQUIRE(::mincore(const_cast<std::byte*>(address), 4096, &resident) == 0);
  return (resident & 1) != 0;
}

bool Mapped(const std::byte* address) {
  unsigned char resident = 0;
  return ::mincore(const_cast<std::byte*>(address), 4096, &resident) == 0;
}

// What a child process that runs `body` ends by: its exit status, or 128 + the signal.
template <typename Body>
int InChild(Body body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// A scripted cudaHostRegister: remembers what is pinned, refuses what overlaps, fails from the given call on.
struct Pinner {
  std::map<void*, size_t> pinned;
  int calls = 0;
  int fail_at = -1;
  int unpin_calls = 0;

  ArenaOptions Options(int32_t granules) {
    return ArenaOptions{.bytes = granules * kGranuleBytes,
                        .pin =
                            [this](void* address, size_t bytes) {
                              if (++calls == fail_at) return absl::ResourceExhaustedError("RLIMIT_MEMLOCK is 8 MiB");
                              for (const auto& [other, other_bytes] : pinned) {
                                char* const begin = static_cast<char*>(address);
                                char* const other_begin = static_cast<char*>(other);
                                if (begin < other_begin + other_bytes && other_begin < begin + bytes) {
                                  return absl::AlreadyExistsError("cudaErrorHostMemoryAlreadyRegistered");
                                }
                              }
                              pinned[address] = bytes;
                              return absl::OkStatus();
                            },
                        .unpin =
                            [this](void* address) {
                              ++unpin_calls;
                              pinned.erase(address);
                            }};
  }
  size_t Bytes() const {
    size_t bytes = 0;
    for (const auto& [address, chunk_bytes] : pinned) bytes += chunk_bytes;
    return bytes;
  }
};

TEST_CASE("an arena has the whole granules of its bytes at a 2 MiB border", "[memory]") {
  auto arena = MakeArena(ArenaOptions{.bytes = 5 * kGranuleBytes + kGranuleBytes / 2});
  CHECK(arena->granules() == 5);
  CHECK(arena->free_granules() == 5);
  CHECK(arena->report().bytes == 5 * kGranuleBytes);
  CHECK(reinterpret_cast<uintptr_t>(arena->base()) % kGranuleBytes == 0);
}

TEST_CASE("an arena below one granule is refused with the number", "[memory]") {
  const auto arena = Arena::Create({.bytes = kGranuleBytes - 1});
  REQUIRE(arena.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(arena.status().message()).find(std::to_string(kGranuleBytes - 1)) != std::string::npos);
}

TEST_CASE("an arena larger than the address space allows is an error and not a crash", "[memory]") {
  if (kSanitized) testing::SkipTest("a sanitizer needs the address space that this test takes away");
  const int status = InChild([] {
    const rlimit limit{.rlim_cur = rlim_t{1} << 30, .rlim_max = rlim_t{1} << 30};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(2);
    const auto arena = Arena::Create({.bytes = int64_t{4} << 30});
    ::_exit(arena.status().code() == absl::StatusCode::kResourceExhausted ? 0 : 1);
  });
  CHECK(status == 0);
}

TEST_CASE("a virtual size far beyond the memory costs nothing until it is handed out", "[memory]") {
  // 1 TiB of addresses; 8 GiB where a sanitizer shadows them.
  auto arena = MakeArena(ArenaOptions{.bytes = kSanitized ? int64_t{8} << 30 : int64_t{1} << 40});
  CHECK(arena->report().touched_bytes == 0);
  CHECK_FALSE(Resident(arena->base()));
  const Run run = arena->Allocate(1);
  REQUIRE(run.valid());
  CHECK(arena->report().touched_bytes == kGranuleBytes);
  arena->Free(run);
}

TEST_CASE("the pages of a run are there when it is handed out and those behind it are not", "[memory]") {
  auto arena = MakeArena(8);
  const Run run = arena->Allocate(2);
  REQUIRE(run.valid());
  for (int64_t offset = 0; offset < run.bytes; offset += 4096) REQUIRE(Resident(run.data + offset));
  CHECK_FALSE(Resident(run.data + run.bytes));
  CHECK(arena->report().touched_bytes == 2 * kGranuleBytes);
  arena->Free(run);
  const Run again = arena->Allocate(2);
  CHECK(arena->report().touched_bytes == 2 * kGranuleBytes);
  arena->Free(again);
}

TEST_CASE("every byte of a run can be written and read", "[memory]") {
  auto arena = MakeArena(3);
  const Run run = arena->Allocate(3);
  REQUIRE(run.valid());
  REQUIRE(run.bytes == 3 * kGranuleBytes);
  CHECK(std::all_of(run.data, run.data + run.bytes, [](std::byte byte) { return byte == std::byte{0}; }));
  std::memset(run.data, 0x5a, run.bytes);
  CHECK(std::all_of(run.data, run.data + run.bytes, [](std::byte byte) { return byte == std::byte{0x5a}; }));
  arena->Free(run);
}

TEST_CASE("nothing is handed out when all is in use and all of it again afterwards", "[memory]") {
  auto arena = MakeArena(6);
  std::vector<Run> runs;
  for (int i = 0; i < 3; ++i) runs.push_back(arena->Allocate(2));
  CHECK(arena->free_granules() == 0);
  CHECK_FALSE(arena->Allocate(1).valid());
  for (const int i : {1, 0, 2}) arena->Free(runs[i]);
  CHECK(arena->free_granules() == 6);
  const Run whole = arena->Allocate(6);
  CHECK(whole.valid());
  arena->Free(whole);
}

TEST_CASE("the most recently freed run of that length goes out first", "[memory]") {
  auto arena = MakeArena(10);
  std::vector<Run> runs;
  for (int i = 0; i < 5; ++i) runs.push_back(arena->Allocate(2));
  // Its neighbours are free too, so all of it is one extent: the run must still come from the same place.
  for (const int i : {0, 4, 3, 1, 2}) arena->Free(runs[i]);
  const Run first = arena->Allocate(2);
  CHECK(first.first_granule == runs[2].first_granule);
  arena->Free(first);
  const Run again = arena->Allocate(2);
  CHECK(again.first_granule == runs[2].first_granule);
  arena->Free(again);
}

TEST_CASE("a longer run is not put across the place of a short one while an end is free", "[memory]") {
  auto arena = MakeArena(12);
  const Run left = arena->Allocate(4);
  const Run middle = arena->Allocate(2);
  arena->Free(left);
  arena->Free(middle);
  const Run three = arena->Allocate(3);
  REQUIRE(three.valid());
  // At an end of the free extent, so the rest is in one piece.
  const Run nine = arena->Allocate(9);
  CHECK(nine.valid());
  arena->Free(three);
  arena->Free(nine);
}

TEST_CASE("the reserve stays free in one piece", "[memory]") {
  auto arena = MakeArena(10);
  const Run four = arena->Allocate(4, 4);
  REQUIRE(four.valid());
  CHECK_FALSE(arena->Allocate(3, 4).valid());
  const Run two = arena->Allocate(2, 4);
  REQUIRE(two.valid());
  CHECK_FALSE(arena->Allocate(1, 4).valid());
  const Run reserve = arena->Allocate(4);
  CHECK(reserve.valid());
  for (const Run& run : {four, two, reserve}) arena->Free(run);
}

TEST_CASE("the reserve keeps a run out of the middle of the last long extent", "[memory]") {
  auto arena = MakeArena(10);
  const Run left = arena->Allocate(4);
  const Run middle = arena->Allocate(2);
  const Run right = arena->Allocate(4);
  for (const Run& run : {left, right, middle}) arena->Free(run);
  // The last freed run would leave 4 + 4; with a reserve of 8 it must come from an end.
  const Run run = arena->Allocate(2, 8);
  REQUIRE(run.valid());
  const Run reserve = arena->Allocate(8);
  CHECK(reserve.valid());
  arena->Free(run);
  arena->Free(reserve);
}

TEST_CASE("a quarantined run is counted and never handed out until it is reclaimed", "[memory]") {
  const int64_t before = QuarantinedBytes();
  auto arena = MakeArena(4);
  const Run run = arena->Allocate(2);
  arena->Quarantine(run);
  CHECK(arena->quarantined_granules() == 2);
  CHECK(arena->free_granules() == 2);
  CHECK(QuarantinedBytes() == before + 2 * kGranuleBytes);
  CHECK_FALSE(arena->Allocate(3).valid());
  const Run other = arena->Allocate(2);
  REQUIRE(other.valid());
  CHECK(other.first_granule != run.first_granule);
  arena->Reclaim(run);
  CHECK(arena->quarantined_granules() == 0);
  CHECK(QuarantinedBytes() == before);
  arena->Free(other);
  const Run whole = arena->Allocate(4);
  CHECK(whole.valid());
  arena->Free(whole);
}

TEST_CASE("a quarantined run may be written even after the arena is gone and its bytes stay counted", "[memory]") {
  Pinner pinner;
  const int64_t before = QuarantinedBytes();
  auto arena = MakeArena(pinner.Options(4));
  const Run run = arena->Allocate(1);
  const Run other = arena->Allocate(1);
  REQUIRE(other.valid());
  arena->Free(other);
  arena->Quarantine(run);
  arena.reset();
  std::memset(run.data, 1, run.bytes);  // the late write
  CHECK(Mapped(run.data));
  CHECK(QuarantinedBytes() == before + kGranuleBytes);
  CHECK(pinner.unpin_calls == 0);
  CHECK(pinner.pinned.count(run.data) == 1);
}

TEST_CASE("an arena that is left to a quarantined run gives back the pages of its free ones", "[memory]") {
  auto arena = MakeArena(4);
  const Run run = arena->Allocate(1);
  const Run other = arena->Allocate(3);
  arena->Free(other);
  arena->Quarantine(run);
  arena.reset();
  CHECK(Resident(run.data));
  CHECK(Mapped(other.data));
  CHECK_FALSE(Resident(other.data));
}

TEST_CASE("an arena without quarantine is unmapped", "[memory]") {
  auto arena = MakeArena(2);
  const std::byte* const base = arena->base();
  arena->Free(arena->Allocate(2));
  REQUIRE(Mapped(base));
  arena.reset();
  CHECK_FALSE(Mapped(base));
}

TEST_CASE("each granule is pinned once before its first use and unpinned at the end", "[memory]") {
  Pinner pinner;
  auto arena = MakeArena(pinner.Options(8));
  CHECK(pinner.calls == 0);
  const Run two = arena->Allocate(2);
  CHECK(pinner.pinned.at(two.data) == 2 * kGranuleBytes);
  arena->Free(two);
  // Over pinned and unpinned granules: only the new ones are pinned.
  const Run five = arena->Allocate(5);
  CHECK(pinner.Bytes() == 5 * kGranuleBytes);
  arena->Free(five);
  arena->Free(arena->Allocate(5));
  CHECK(pinner.Bytes() == 5 * kGranuleBytes);
  CHECK(arena->report().pinning == "cudaHostRegister");
  const int chunks = pinner.calls;
  CHECK(pinner.pinned.size() == static_cast<size_t>(chunks));
  arena.reset();
  CHECK(pinner.unpin_calls == chunks);
  CHECK(pinner.pinned.empty());
}

TEST_CASE("an arena that cannot be pinned goes on without and says so once", "[memory]") {
  std::vector<std::string> messages;
  SetLogSink([&](LogLevel level, absl::string_view message) {
    if (level == LogLevel::kWarning) messages.emplace_back(message);
  });
  Pinner pinner;
  pinner.fail_at = 2;
  auto arena = MakeArena(pinner.Options(8));
  std::vector<Run> runs;
  for (int i = 0; i < 4; ++i) {
    runs.push_back(arena->Allocate(2));
    REQUIRE(runs.back().valid());
    std::memset(runs.back().data, i, runs.back().bytes);
  }
  SetLogSink(nullptr);
  CHECK(pinner.calls == 2);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].find("RLIMIT_MEMLOCK is 8 MiB") != std::string::npos);
  CHECK(arena->report().pinning == "failed: RLIMIT_MEMLOCK is 8 MiB; copies go through the driver's staging buffer");
  for (const Run& run : runs) arena->Free(run);
  arena.reset();
  CHECK(pinner.unpin_calls == 1);
}

TEST_CASE("an arena without a GPU reports that nothing is pinned", "[memory]") {
  CHECK(MakeArena(1)->report().pinning == "none (host only)");
}

TEST_CASE("huge pages are used and reported where the kernel gives them", "[memory]") {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  std::getline(file, line);
  auto arena = MakeArena(4);
  const std::string pages = arena->report().pages;
  if (line.empty() || line.find("[never]") != std::string::npos) {
    CHECK((pages == "hugetlb" || pages.rfind("4 KiB pages: ", 0) == 0));
    return;
  }
  CHECK((pages == "hugetlb" || pages == "transparent huge pages"));
}

TEST_CASE("small pages are used where huge pages are switched off", "[memory]") {
  auto arena = MakeArena(ArenaOptions{.bytes = 2 * kGranuleBytes, .huge_pages = false});
  CHECK(arena->report().pages == "4 KiB pages: huge_pages is off");
  const Run run = arena->Allocate(2);
  REQUIRE(run.valid());
  std::ifstream smaps("/proc/self/smaps");
  std::string line, begin = [&] {
    char text[32];
    std::snprintf(text, sizeof text, "%lx-", reinterpret_cast<unsigned long>(run.data));
    return std::string(text);
  }();
  bool found = false;
  while (std::getline(smaps, line)) {
    if (line.rfind(begin, 0) == 0) found = true;
    if (found && line.rfind("AnonHugePages:", 0) == 0) {
      CHECK(line.find(" 0 kB") != std::string::npos);
      break;
    }
  }
  CHECK(found);
  arena->Free(run);
}

TEST_CASE("an unknown node is reported and not guessed", "[memory]") {
  CHECK(MakeArena(1)->report().binding == "not bound: node unknown");
}

TEST_CASE("a node that cannot be had leaves a working arena and its reason", "[memory]") {
  auto arena = MakeArena(ArenaOptions{.bytes = kGranuleBytes, .numa_node = 1000});
  const std::string binding = arena->report().binding;
  CHECK(binding.rfind("node 1000 by first touch: mbind: ", 0) == 0);
  const Run run = arena->Allocate(1);
  CHECK(run.valid());
  arena->Free(run);
}

TEST_CASE("a node that is there is asked for", "[memory]") {
  auto arena = MakeArena(ArenaOptions{.bytes = kGranuleBytes, .numa_node = 0});
  const std::string binding = arena->report().binding;
  // Containers refuse mbind(2).
  CHECK((binding == "node 0 by mbind" || binding.find("EPERM") != std::string::npos || binding.find("ENOSYS") != std::string::npos));
}

TEST_CASE("a guarded arena faults on the byte before and behind it", "[memory]") {
  auto arena = MakeArena(ArenaOptions{.bytes = kGranuleBytes, .guard_pages = true});
  const Run run = arena->Allocate(1);
  REQUIRE(run.valid());
  // write(2) reads the byte in the kernel: EFAULT tells without a signal whether there is access.
  int pipe_fds[2];
  REQUIRE(::pipe(pipe_fds) == 0);
  CHECK(::syscall(SYS_write, pipe_fds[1], run.data, 1) == 1);
  CHECK(::syscall(SYS_write, pipe_fds[1], run.data + run.bytes - 1, 1) == 1);
  CHECK(::syscall(SYS_write, pipe_fds[1], run.data - 1, 1) == -1);
  CHECK(::syscall(SYS_write, pipe_fds[1], run.data + run.bytes, 1) == -1);
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
  arena->Free(run);
}

TEST_CASE("giving a run back twice ends the process", "[memory]") {
  // The child makes its own arena: one from before the fork does nothing there.
  const int status = InChild([] {
    ::close(2);
    auto own = Arena::Create({.bytes = 4 * kGranuleBytes});
    const Run own_run = (*own)->Allocate(1);
    (*own)->Free(own_run);
    (*own)->Free(own_run);
  });
  CHECK(status == 128 + SIGABRT);
}

TEST_CASE("destroying an arena whose run is in use ends the process", "[memory]") {
  const int status = InChild([] {
    ::close(2);
    auto own = Arena::Create({.bytes = 4 * kGranuleBytes});
    const Run run = (*own)->Allocate(1);
    own->reset();
    ::_exit(run.valid() ? 0 : 1);
  });
  CHECK(status == 128 + SIGABRT);
}

TEST_CASE("a forked child gets nothing from the arena and does not harm the parent", "[memory]") {
  Pinner pinner;
  auto arena = MakeArena(pinner.Options(4));
  const Run run = arena->Allocate(1);
  std::memset(run.data, 7, run.bytes);
  const int status = InChild([&] {
    if (Mapped(run.data)) ::_exit(1);
    if (arena->Allocate(1).valid()) ::_exit(2);
    arena->Free(run);
    // What the child maps at these addresses is its own.
    void* own = ::mmap(run.data, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    arena.reset();
    if (!Mapped(static_cast<std::byte*>(own))) ::_exit(3);
    if (pinner.unpin_calls != 0) ::_exit(4);
  });
  CHECK(status == 0);
  CHECK(run.data[0] == std::byte{7});
  CHECK(arena->free_granules() == 3);
  arena->Free(run);
}

#ifdef __SANITIZE_ADDRESS__
TEST_CASE("a read of a freed run is found by AddressSanitizer", "[memory]") {
  const int status = InChild([] {
    ::close(2);
    auto own = Arena::Create({.bytes = 4 * kGranuleBytes});
    const Run run = (*own)->Allocate(1);
    (*own)->Free(run);
    const volatile char* const late = reinterpret_cast<const char*>(run.data) + 12345;
    ::_exit(*late == 1 ? 0 : 0);
  });
  CHECK(status == 1);
}

TEST_CASE("a write behind a run is found by AddressSanitizer", "[memory]") {
  const int status = InChild([] {
    ::close(2);
    auto own = Arena::Create({.bytes = 4 * kGranuleBytes});
    const Run run = (*own)->Allocate(1);
    *(reinterpret_cast<volatile char*>(run.data) + run.bytes) = 1;
    ::_exit(0);
  });
  CHECK(status == 1);
}
#endif

TEST_CASE("threads share an arena without getting the same bytes", "[memory]") {
  std::atomic<int> pin_calls{0};
  auto arena = MakeArena(ArenaOptions{.bytes = 24 * kGranuleBytes, .pin = [&](void*, size_t) {
                                        ++pin_calls;
                                        return absl::OkStatus();
                                      }});
  constexpr int kThreads = 6;
  std::atomic<int> mixed{0};
  std::vector<std::thread> threads;
  for (int index = 0; index < kThreads; ++index) {
    threads.emplace_back([&, index] {
      for (int round = 0; round < 400; ++round) {
        const Run run = arena->Allocate(1 + (index + round) % 3, round % 4);
        if (!run.valid()) {
          std::this_thread::yield();
          continue;
        }
        // Plain writes: two owners of one byte are a data race for TSan, and a wrong value without it.
        const std::byte mark{static_cast<unsigned char>(index + 1)};
        for (int64_t offset = 0; offset < run.bytes; offset += kGranuleBytes / 2) run.data[offset] = mark;
        std::this_thread::yield();
        for (int64_t offset = 0; offset < run.bytes; offset += kGranuleBytes / 2) mixed += run.data[offset] != mark ? 1 : 0;
        if (round % 7 == 0) {
          arena->Quarantine(run);
          arena->Reclaim(run);
        } else {
          arena->Free(run);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(mixed == 0);
  CHECK(arena->free_granules() == 24);
  CHECK(pin_calls > 0);
  const Run whole = arena->Allocate(24);
  CHECK(whole.valid());
  arena->Free(whole);
}

}  // namespace
}  // namespace penstock
