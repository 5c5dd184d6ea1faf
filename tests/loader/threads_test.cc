// Which thread and which process may do what.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "loader/data_set.h"
#include "loader/gate.h"
#include "loader/intervals.h"
#include "ring/engine.h"
#include "support/child.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

// A forked child never frees what the parent's threads hold; LeakSanitizer would call that a leak, and asks this first.
static int leaks_are_known = 0;
extern "C" __attribute__((visibility("default"))) int __lsan_is_turned_off();
extern "C" int __lsan_is_turned_off() { return leaks_are_known; }

namespace {

void OnItsOwnThread(const std::function<void()>& work) { std::thread(work).join(); }

// Takes the rest of the epoch without Catch's macros; "" if `expected` samples came with their own bytes.
std::string Take(Loader& loader, int64_t expected) {
  int64_t count = 0;
  while (true) {
    auto batch = loader.Next();
    if (EpochEnded(batch)) break;
    if (!batch.ok()) return batch.status().ToString();
    for (int64_t i = 0; i < batch->size(); ++i, ++count) {
      const auto bytes = batch->sample(i);
      const std::string name = loader.manifest()->Name(batch->ids()[static_cast<size_t>(i)]);
      if (std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) != DataSet::Content(name, bytes.size())) return name;
    }
  }
  return count == expected ? "" : absl::StrCat(count, " samples");
}

}  // namespace

TEST_CASE("a loader goes on after the thread that opened it has ended and for one thread after the other", "[threads]") {
  for (const EngineOption engine : Engines()) {
    DataSet data(400);
    LoaderOptions options = data.Options(10);
    options.engine = engine;
    std::unique_ptr<Loader> loader;
    OnItsOwnThread([&] { loader = MustOpen(options); });
    int64_t taken = 0;
    for (int i = 0; i < 20; ++i) {
      OnItsOwnThread([&] {
        auto batch = loader->Next();
        REQUIRE_OK(batch);
        taken += static_cast<int64_t>(CheckBatch(*loader, *batch).size());
      });
    }
    taken += static_cast<int64_t>(TakeEpoch(*loader).size());
    CHECK(taken == 400);
    OnItsOwnThread([&] { loader.reset(); });
  }
}

TEST_CASE("batches are released by any thread and after their loader is gone", "[threads]") {
  for (const EngineOption engine : Engines()) {
    DataSet data(400, -30000);
    LoaderOptions options = data.Options(40);
    options.memory_bytes = 12 << 20;
    options.engine = engine;
    auto loader = MustOpen(options);
    std::vector<Batch> held;
    for (auto batch = loader->Next(); batch.ok(); batch = loader->Next()) held.push_back(*std::move(batch));
    REQUIRE(held.size() >= 2);
    // The memory that another thread gives back serves this one.
    OnItsOwnThread([&] { held.front().Release(); });
    auto next = loader->Next();
    REQUIRE_OK(next);
    CheckBatch(*loader, *next);
    const auto manifest = loader->manifest();
    loader.reset();
    OnItsOwnThread([&] {
      for (Batch& batch : held) {
        for (int64_t i = 0; i < batch.size(); ++i) {
          const auto bytes = batch.sample(i);
          const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          CHECK((text == DataSet::Content(manifest->Name(batch.ids()[static_cast<size_t>(i)]), bytes.size())));
        }
        batch.Release();
      }
    });
  }
}

TEST_CASE("memory that comes back at the moment when there is none is found", "[threads]") {
  for (const EngineOption engine : Engines()) {
    DataSet data(600, -150000);
    LoaderOptions options = data.Options(10);
    options.engine = engine;
    options.memory_bytes = 12 << 20;  // six batches, one of them in reserve
    options.prefetch_batches = 8;
    options.deadline_s = 10;
    std::mutex mutex;
    std::vector<Batch> held;
    int64_t released = 0;
    // Once a planner has looked in vain, all that the consumer holds comes back, before the loader knows that it waits.
    Intervals().memory_refused = [&] {
      std::lock_guard<std::mutex> lock(mutex);
      released += static_cast<int64_t>(held.size());
      held.clear();
    };
    auto loader = MustOpen(options);
    Intervals().memory_refused = nullptr;
    for (int64_t taken = 0; taken < loader->steps();) {
      absl::StatusOr<Batch> batch = loader->Next();
      std::lock_guard<std::mutex> lock(mutex);
      if (absl::IsResourceExhausted(batch.status())) {
        REQUIRE_FALSE(held.empty());
        held.pop_back();
        continue;
      }
      REQUIRE_OK(batch);
      held.push_back(*std::move(batch));
      ++taken;
    }
    loader.reset();  // before what its hook refers to
    CHECK(released > 0);
  }
}

TEST_CASE("a batch that comes while another is given back is the one that stays lent", "[threads]") {
  // The memory of what is freed may be what comes next: the new batch then has the old one's address.
  DataSet data(2000, -150000);
  LoaderOptions options = data.Options(10);
  options.memory_bytes = 12 << 20;  // six batches, one of them in reserve
  options.prefetch_batches = 8;
  options.engine = EngineOption::kThreads;
  Loader* taking = nullptr;
  std::vector<Batch> held;
  Intervals().batch_freed = [&] {
    Loader* const loader = std::exchange(taking, nullptr);
    if (loader == nullptr) return;
    absl::StatusOr<Batch> batch = loader->Next();
    while (batch.ok() && !batch->end_of_epoch()) {
      held.push_back(*std::move(batch));
      batch = loader->Next();
    }
  };
  const auto loader = MustOpen(options);
  for (int round = 0; round < 20; ++round) {
    std::vector<int64_t> released;
    absl::StatusOr<Batch> batch = loader->Next();
    REQUIRE_OK(batch);
    std::thread([&] {
      // With the thread's own store of freed blocks full, what it frees is for others to take.
      std::vector<std::vector<void*>> blocks;
      for (size_t bytes = 24; bytes < 1040; bytes += 16) {
        for (int i = 0; i < 7; ++i) blocks.push_back({::malloc(bytes)});
      }
      for (const auto& block : blocks) ::free(block[0]);
      taking = loader.get();
      batch->Release();
    }).join();
    REQUIRE_FALSE(held.empty());
    // All that was taken is named, and nothing else.
    absl::StatusOr<Batch> next = loader->Next();
    for (; next.ok() && !next->end_of_epoch(); next = loader->Next()) held.push_back(*std::move(next));
    const absl::Status status = next.status();
    INFO(round << ": " << status);
    REQUIRE(absl::IsResourceExhausted(status));
    REQUIRE(absl::StrContains(status.message(), absl::StrCat("is in ", held.size(), " batches")));
    held.clear();
  }
  Intervals().batch_freed = nullptr;
}

TEST_CASE("an epoch is not begun while another thread waits in Next", "[threads]") {
  const DataSet data(40, -100);
  LoaderOptions options = data.Options(10);
  options.codec.function = [](void* user, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t, size_t* bytes, char*,
                              size_t) {
    while (!static_cast<std::atomic<bool>*>(user)->load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::memcpy(delivered, stored, stored_bytes);
    *bytes = stored_bytes;
    return 0;
  };
  std::atomic<bool> open{false};
  options.codec.user = &open;
  options.codec.expansion_max = 1;
  const auto loader = MustOpen(options);
  std::atomic<bool> taken{false};
  std::thread consumer([&] {
    absl::StatusOr<Batch> batch = loader->Next();
    while (absl::IsFailedPrecondition(batch.status())) batch = loader->Next();  // the main thread looked at this moment
    taken = batch.ok();
  });
  // Until the consumer waits.
  while (loader->NextWithin(0).ok()) std::this_thread::yield();
  CHECK(absl::IsFailedPrecondition(loader->StartEpoch()));
  CHECK(absl::IsFailedPrecondition(loader->StartEpoch(3)));
  CHECK(absl::IsFailedPrecondition(loader->Skip(1)));
  CHECK(loader->epoch() == 0);
  open = true;
  consumer.join();
  CHECK(taken);
  CHECK(loader->step() == 1);
  REQUIRE_OK(loader->StartEpoch());
  CHECK(loader->epoch() == 1);
}

TEST_CASE("every call of a forked child is refused and neither its calls nor its exit disturb the parent", "[threads]") {
  for (const EngineOption engine : Engines()) {
    DataSet data(2000, 20000);
    LoaderOptions options = data.Options(20);
    options.engine = engine;
    options.streams = 4;
    auto runtime = Runtime::Create();
    auto loader = MustOpen(options, runtime);
    auto held = loader->Next();
    REQUIRE_OK(held);
    int64_t taken = 0;
    for (int round = 0; round < 8; ++round) {
      const pid_t child = ::fork();
      if (child == 0) {
        int bad = 0;
        bad |= loader->Next().status().code() != absl::StatusCode::kFailedPrecondition ? 1 : 0;
        bad |= loader->StartEpoch().code() != absl::StatusCode::kFailedPrecondition ? 2 : 0;
        bad |= loader->StartEpoch(1).code() != absl::StatusCode::kFailedPrecondition ? 4 : 0;
        bad |= loader->epoch() != -1 || loader->steps() != -1 || loader->step() != -1 || !loader->state().empty() ? 8 : 0;
        bad |= loader->report().expected != 0 || !loader->setup().engine.empty() ? 16 : 0;
        bad |= Loader::Open(options, runtime).status().code() != absl::StatusCode::kFailedPrecondition ? 32 : 0;
        // The memory is not in this process: nothing may lead there.
        bad |= held->data() != nullptr || !held->sample(0).empty() ? 64 : 0;
        loader->Stop();
        held->Release();
        loader.reset();
        runtime.reset();
        if (round % 2 == 0) ::_exit(bad);
        leaks_are_known = 1;
        std::exit(bad);  // with all destructors of static objects
      }
      auto batch = loader->Next();
      REQUIRE_OK(batch);
      taken += static_cast<int64_t>(CheckBatch(*loader, *batch).size());
      int status = -1;
      REQUIRE(::waitpid(child, &status, 0) == child);
      CHECK(status == 0);
    }
    CheckBatch(*loader, *held);
    held->Release();
    CHECK(taken + static_cast<int64_t>(TakeEpoch(*loader).size()) == 2000 - 20);
  }
}

TEST_CASE("a forked child may open a loader of its own", "[threads]") {
#if defined(__SANITIZE_THREAD__)
  SkipTest("ThreadSanitizer ends a forked child that starts threads");
#elif defined(__SANITIZE_ADDRESS__)
  SkipTest("AddressSanitizer's allocator hangs in a child that was forked while another thread was inside it (gcc 12)");
#endif
  for (const EngineOption engine : Engines()) {
    DataSet data(400);
    LoaderOptions options = data.Options(10);
    options.engine = engine;
    auto loader = MustOpen(options);
    REQUIRE_OK(loader->Next());
    const std::string result = InChild([&]() -> std::string {
      auto own = Loader::Open(options);
      if (!own.ok()) return own.status().ToString();
      if (const std::string error = Take(**own, 400); !error.empty()) return error;
      // And so may its child.
      return InChild([&]() -> std::string {
        auto third = Loader::Open(options);
        return third.ok() ? Take(**third, 400) : third.status().ToString();
      });
    });
    CHECK(result == "");
    CHECK(TakeEpoch(*loader).size() == 390);
  }
}

TEST_CASE("Stop wakes a Next that waits", "[threads]") {
  DataSet data(40, -500);
  LoaderOptions options = data.Options(20);
  Gate gate;
  options.codec.function = PassTheGate;
  options.codec.user = &gate;
  auto loader = MustOpen(options);
  absl::Status status;
  std::thread consumer([&] { status = loader->Next().status(); });
  gate.WaitForOne();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the consumer is most likely in its wait now
  loader->Stop();
  consumer.join();
  CHECK(absl::IsCancelled(status));
  CHECK(absl::IsCancelled(loader->Next().status()));
  CHECK(absl::IsCancelled(loader->StartEpoch()));
  gate.Open();
}

TEST_CASE("a second thread in Next is refused and the first gets its batch", "[threads]") {
  DataSet data(40, -500);
  LoaderOptions options = data.Options(20);
  Gate gate;
  options.codec.function = PassTheGate;
  options.codec.user = &gate;
  auto loader = MustOpen(options);
  absl::StatusOr<Batch> first = absl::UnknownError("");
  std::atomic<bool> inside{false};
  std::thread consumer([&] {
    inside.store(true);
    first = loader->Next();
  });
  absl::Status second;
  // Which of the two comes first is not known; the one that finds the other inside is refused.
  while (!inside.load()) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    gate.Open();
  });
  second = loader->Next().status();
  consumer.join();
  opener.join();
  REQUIRE_OK(first);
  CheckBatch(*loader, *first);
  CHECK(second.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(second.message().find("one consumer") != std::string::npos);
  REQUIRE_OK(loader->Next());
}

TEST_CASE("threads that all call Next get each batch once and nothing worse than a refusal", "[threads]") {
  DataSet data(2000, 200);
  auto loader = MustOpen(data.Options(10));
  std::atomic<int64_t> delivered{0};
  std::atomic<int> other{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      while (true) {
        auto batch = loader->Next();
        if (EpochEnded(batch)) {
          return;
        } else if (batch.ok()) {
          delivered.fetch_add(batch->size());
        } else if (batch.status().code() != absl::StatusCode::kFailedPrecondition) {
          other.fetch_add(1);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(other.load() == 0);
  CHECK(delivered.load() == 2000);
  CHECK(loader->report().delivered == 2000);
}
