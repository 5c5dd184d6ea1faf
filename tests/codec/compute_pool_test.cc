#include "codec/compute_pool.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <thread>

#include <catch2/catch.hpp>

#include "base/clock.h"
#include "support/skip.h"
#include "support/status.h"

namespace {

// Counts the allocations of the thread that asks for it.
thread_local int64_t allocation_count = 0;

}  // namespace

void* operator new(size_t bytes) {
  ++allocation_count;
  if (void* const memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++allocation_count;
  return std::malloc(bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace penstock {
namespace {

class FunctionTask : public ComputeTask {
 public:
  explicit FunctionTask(std::function<absl::Status()> function) : function_(std::move(function)) {}

 protected:
  absl::Status Run() override { return function_(); }

 private:
  std::function<absl::Status()> function_;
};

// Keeps whoever passes waiting until it is opened.
class Gate {
 public:
  void Pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void Open() {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void AwaitWaiting(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
};

// A poster that sleeps on an eventfd, as an I/O stream does.
class TestPoster {
 public:
  explicit TestPoster(ComputePool& pool)
      : fd_(::eventfd(0, 0)), poster_(pool, [this] {
          ++wakes_;
          const uint64_t one = 1;
          if (::write(fd_, &one, sizeof(one)) != sizeof(one)) std::abort();
        }) {}
  ~TestPoster() { ::close(fd_); }
  ComputePoster* operator->() { return &poster_; }

  // Sleeps until something finished; takes all that did.
  std::vector<ComputeTask*> AwaitSome() {
    uint64_t count = 0;
    if (::read(fd_, &count, sizeof(count)) != sizeof(count)) std::abort();
    std::vector<ComputeTask*> finished;
    poster_.Take(finished);
    return finished;
  }
  std::vector<ComputeTask*> AwaitAll() {
    std::vector<ComputeTask*> finished;
    while (poster_.outstanding() > 0) {
      for (ComputeTask* task : AwaitSome()) finished.push_back(task);
    }
    return finished;
  }
  int wakes() const { return wakes_; }

 private:
  const int fd_;
  std::atomic<int> wakes_{0};
  ComputePoster poster_;
};

std::unique_ptr<ComputePool> Pool(int32_t threads) {
  absl::StatusOr<std::unique_ptr<ComputePool>> pool = ComputePool::Create({.threads = threads});
  REQUIRE_OK(pool);
  return std::move(*pool);
}

TEST_CASE("a task comes back to its own poster with its status", "[codec]") {
  auto pool = Pool(2);
  TestPoster first(*pool), second(*pool);
  FunctionTask good([] { return absl::OkStatus(); });
  FunctionTask bad([] { return absl::DataLossError("damaged"); });
  first->Post(&good);
  second->Post(&bad);
  CHECK(first.AwaitAll() == std::vector<ComputeTask*>{&good});
  CHECK(second.AwaitAll() == std::vector<ComputeTask*>{&bad});
  CHECK(good.status().ok());
  CHECK(bad.status().message() == "damaged");
  CHECK(pool->stats().finished == 2);
}

TEST_CASE("an exception of a task is contained and the thread goes on", "[codec]") {
  auto pool = Pool(1);
  TestPoster poster(*pool);
  FunctionTask standard([]() -> absl::Status { throw std::runtime_error("boom"); });
  FunctionTask odd([]() -> absl::Status { throw 7; });
  FunctionTask good([] { return absl::OkStatus(); });
  for (ComputeTask* task : {static_cast<ComputeTask*>(&standard), static_cast<ComputeTask*>(&odd), static_cast<ComputeTask*>(&good)}) {
    poster->Post(task);
  }
  CHECK(poster.AwaitAll().size() == 3);
  CHECK(standard.status().code() == absl::StatusCode::kInternal);
  CHECK(std::string(standard.status().message()).find("boom") != std::string::npos);
  CHECK(odd.status().code() == absl::StatusCode::kInternal);
  CHECK(good.status().ok());
}

TEST_CASE("no more tasks run at a time than there are threads", "[codec]") {
  auto pool = Pool(3);
  TestPoster poster(*pool);
  std::atomic<int> running{0}, most{0};
  std::vector<std::unique_ptr<FunctionTask>> tasks;
  std::vector<ComputeTask*> pointers;
  for (int i = 0; i < 300; ++i) {
    tasks.push_back(std::make_unique<FunctionTask>([&] {
      const int now = ++running;
      int seen = most;
      while (now > seen && !most.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::yield();
      --running;
      return absl::OkStatus();
    }));
    pointers.push_back(tasks.back().get());
  }
  poster->Post(pointers);
  CHECK(poster.AwaitAll().size() == 300);
  CHECK(most <= 3);
  CHECK(pool->threads() == 3);
}

TEST_CASE("one thread runs tasks in the order in which they were posted", "[codec]") {
  auto pool = Pool(1);
  TestPoster poster(*pool);
  std::vector<int> order;
  std::vector<std::unique_ptr<FunctionTask>> tasks;
  for (int i = 0; i < 50; ++i) {
    tasks.push_back(std::make_unique<FunctionTask>([&order, i] {
      order.push_back(i);
      return absl::OkStatus();
    }));
  }
  for (const auto& task : tasks) poster->Post(task.get());
  const std::vector<ComputeTask*> finished = poster.AwaitAll();
  REQUIRE(finished.size() == 50);
  for (int i = 0; i < 50; ++i) {
    CHECK(order[i] == i);
    CHECK(finished[i] == tasks[i].get());
  }
}

TEST_CASE("a hung task does not keep Post from returning", "[codec]") {
  auto pool = Pool(1);
  TestPoster poster(*pool);
  Gate gate;
  FunctionTask hung([&] {
    gate.Pass();
    return absl::OkStatus();
  });
  poster->Post(&hung);
  gate.AwaitWaiting(1);
  std::vector<std::unique_ptr<FunctionTask>> tasks;
  for (int i = 0; i < 1000; ++i) tasks.push_back(std::make_unique<FunctionTask>([] { return absl::OkStatus(); }));
  for (const auto& task : tasks) poster->Post(task.get());
  std::vector<ComputeTask*> finished;
  CHECK(poster->Take(finished) == 0);
  CHECK(poster->outstanding() == 1001);
  const ComputePoolStats stats = pool->stats();
  CHECK(stats.running == 1);
  CHECK(stats.queued == 1000);
  CHECK(stats.oldest_running_ns > 0);
  gate.Open();
  CHECK(poster.AwaitAll().size() == 1001);
}

TEST_CASE("posting and taking allocate nothing", "[codec]") {
  auto pool = Pool(1);
  TestPoster poster(*pool);
  FunctionTask task([] { return absl::OkStatus(); });
  std::vector<ComputeTask*> finished;
  finished.reserve(4);
  poster->Post(&task);
  poster.AwaitAll();
  const int64_t before = allocation_count;
  for (int i = 0; i < 100; ++i) {
    poster->Post(&task);
    while (poster->Take(finished) == 0) std::this_thread::yield();
    finished.clear();
  }
  CHECK(allocation_count == before);
}

TEST_CASE("the poster is woken once for tasks that finish before it takes them", "[codec]") {
  auto pool = Pool(1);
  TestPoster poster(*pool);
  std::vector<std::unique_ptr<FunctionTask>> tasks;
  std::vector<ComputeTask*> pointers;
  for (int i = 0; i < 20; ++i) {
    tasks.push_back(std::make_unique<FunctionTask>([] { return absl::OkStatus(); }));
    pointers.push_back(tasks.back().get());
  }
  poster->Post(pointers);
  REQUIRE_OK([&] {
    while (pool->stats().finished < 20 || pool->stats().running > 0) std::this_thread::yield();
    return absl::OkStatus();
  }());
  CHECK(poster.wakes() == 1);
  CHECK(poster.AwaitSome().size() == 20);
}

TEST_CASE("Stop gives queued tasks back as cancelled and waits for the running one", "[codec]") {
  auto pool = Pool(1);
  TestPoster poster(*pool);
  Gate gate;
  FunctionTask running([&] {
    gate.Pass();
    return absl::OkStatus();
  });
  FunctionTask queued([] { return absl::OkStatus(); });
  poster->Post(&running);
  poster->Post(&queued);
  gate.AwaitWaiting(1);
  std::thread opener([&] {
    while (pool->stats().queued > 0) std::this_thread::yield();  // until Stop has emptied the queue
    gate.Open();
  });
  REQUIRE_OK(pool->Stop(-1));
  opener.join();
  CHECK(poster.AwaitAll().size() == 2);
  CHECK(running.status().ok());
  CHECK(queued.status().code() == absl::StatusCode::kCancelled);
  FunctionTask late([] { return absl::OkStatus(); });
  poster->Post(&late);
  CHECK(poster.AwaitAll().size() == 1);
  CHECK(late.status().code() == absl::StatusCode::kCancelled);
  CHECK(pool->stats().finished == 1);
}

TEST_CASE("Stop gives up on a hung task at its deadline and its late end harms nobody", "[codec]") {
  static Gate gate;
  static std::atomic<bool> ended{false};
  // Never freed, as the contract has it: the thread that hangs still uses it.
  static FunctionTask hung([] {
    gate.Pass();
    ended = true;
    return absl::OkStatus();
  });
  {
    auto pool = Pool(2);
    TestPoster poster(*pool);
    poster->Post(&hung);
    gate.AwaitWaiting(1);
    const absl::Status status = pool->Stop(20 * kNsPerMs);
    CHECK(status.code() == absl::StatusCode::kDeadlineExceeded);
    CHECK(std::string(status.message()).find("1 codec tasks still run") != std::string::npos);
    CHECK(poster->outstanding() == 1);
  }
  gate.Open();
  while (!ended) std::this_thread::yield();
}

TEST_CASE("many posters get exactly their own tasks back", "[codec]") {
  auto pool = Pool(4);
  std::atomic<int> wrong{0};
  std::vector<std::thread> streams;
  for (int stream = 0; stream < 6; ++stream) {
    streams.emplace_back([&] {
      TestPoster poster(*pool);
      std::vector<std::unique_ptr<FunctionTask>> tasks;
      std::set<ComputeTask*> mine;
      std::atomic<int> runs{0};
      for (int i = 0; i < 32; ++i) {
        tasks.push_back(std::make_unique<FunctionTask>([&runs] {
          ++runs;
          return absl::OkStatus();
        }));
        mine.insert(tasks.back().get());
        poster->Post(tasks.back().get());
      }
      // Each is posted again as soon as it is back.
      int reposts = 500;
      while (poster->outstanding() > 0) {
        for (ComputeTask* task : poster.AwaitSome()) {
          if (mine.count(task) == 0) ++wrong;
          if (reposts-- > 0) poster->Post(task);
        }
      }
      if (runs != 532) ++wrong;
    });
  }
  for (std::thread& stream : streams) stream.join();
  CHECK(wrong == 0);
  CHECK(pool->stats().finished == 6 * 532);
}

TEST_CASE("compute threads run on the CPUs that they are given", "[codec]") {
  cpu_set_t allowed;
  REQUIRE(::sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
  if (CPU_COUNT(&allowed) < 2) testing::SkipTest("this process may use one CPU only");
  int last = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) last = cpu;
  }
  absl::StatusOr<std::unique_ptr<ComputePool>> pool = ComputePool::Create({.threads = 1, .cpus = {last}});
  REQUIRE_OK(pool);
  TestPoster poster(**pool);
  cpu_set_t seen;
  FunctionTask task([&seen] {
    return ::sched_getaffinity(0, sizeof(seen), &seen) == 0 ? absl::OkStatus() : absl::InternalError("sched_getaffinity");
  });
  poster->Post(&task);
  poster.AwaitAll();
  REQUIRE_OK(task.status());
  CHECK(CPU_COUNT(&seen) == 1);
  CHECK(CPU_ISSET(last, &seen));
}

TEST_CASE("a pool without threads is refused", "[codec]") {
  CHECK(ComputePool::Create({.threads = 0}).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("a forked child may destroy the pool and the parent goes on", "[codec]") {
  auto pool = Pool(2);
  TestPoster poster(*pool);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    pool.reset();
    ::_exit(0);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  FunctionTask task([] { return absl::OkStatus(); });
  poster->Post(&task);
  CHECK(poster.AwaitAll().size() == 1);
}

}  // namespace
}  // namespace penstock
