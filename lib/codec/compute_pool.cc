#include "codec/compute_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fork_guard.h"
#include "base/io_error.h"
#include "base/thread_error.h"
#include "base/log.h"

namespace penstock {

namespace {

constexpr int64_t kWaitNsMax = int64_t{365} * 86400 * kNsPerSecond;  // the clock's sum must not overflow

}  // namespace

// What finished for one poster. Shared, since a task may finish while, or long after, its poster is destroyed.
struct ComputePosterState {
  explicit ComputePosterState(std::function<void()> wake_function) : wake(std::move(wake_function)) {}

  void Finish(ComputeTask* task, absl::Status status) {
    // Waking under the lock: once the poster has closed this, nobody is in `wake` any more.
    std::lock_guard<std::mutex> lock(mutex);
    if (closed) return;
    task->status_ = std::move(status);
    task->next_ = nullptr;
    const bool was_empty = first == nullptr;
    (was_empty ? first : last->next_) = task;
    last = task;
    if (was_empty && wake) wake();
  }

  std::mutex mutex;
  const std::function<void()> wake;
  ComputeTask* first = nullptr;
  ComputeTask* last = nullptr;
  bool closed = false;
};

// Shared with the threads, since one that hangs in a user's function outlives the pool.
struct ComputePoolState {
  struct Worker {
    int64_t since_ns = 0;  // when its task began; 0: it has none
  };

  void Work(size_t worker_index);
  static absl::Status RunContained(ComputeTask& task);

  std::mutex mutex;
  std::condition_variable work_waits;
  std::condition_variable worker_stopped;
  ComputeTask* first = nullptr;  // queued
  ComputeTask* last = nullptr;
  int64_t queued = 0;
  int64_t running = 0;
  int64_t idle = 0;
  int64_t finished = 0;
  int64_t busy_ns = 0;
  bool stopping = false;
  bool given_up = false;
  std::vector<Worker> workers;

  std::mutex threads_mutex;  // for joining; never taken by a compute thread
  std::vector<std::thread> threads;
  ForkGuard fork_guard;
};

absl::Status ComputePoolState::RunContained(ComputeTask& task) {
  try {
    return task.Run();
  } catch (const std::exception& exception) {
    return absl::InternalError(absl::StrCat("a compute task threw: ", EscapeName(exception.what())));
  } catch (...) {
    return absl::InternalError("a compute task threw something that is no std::exception");
  }
}

void ComputePoolState::Work(size_t worker_index) {
  std::unique_lock<std::mutex> lock(mutex);
  while (true) {
    ++idle;
    work_waits.wait(lock, [this] { return first != nullptr || stopping; });
    --idle;
    if (first == nullptr) return;  // stopping: Stop() emptied the queue
    ComputeTask* const task = first;
    first = task->next_;
    if (first == nullptr) last = nullptr;
    --queued;
    ++running;
    const int64_t start_ns = MonotonicNs();
    workers[worker_index].since_ns = start_ns;
    lock.unlock();

    absl::Status status = RunContained(*task);

    lock.lock();
    workers[worker_index].since_ns = 0;
    ++finished;
    busy_ns += MonotonicNs() - start_ns;
    if (given_up) return;  // Its poster was told that the task does not come back, and may be gone.
    lock.unlock();
    // The poster may take the task and destroy it the moment it is finished, so its state is held here.
    const std::shared_ptr<ComputePosterState> poster = std::move(task->poster_);
    poster->Finish(task, std::move(status));
    lock.lock();
    --running;  // Only now: what Stop() does not give up has come back when it returns.
    if (stopping) worker_stopped.notify_all();
  }
}

absl::StatusOr<std::unique_ptr<ComputePool>> ComputePool::Create(const ComputePoolOptions& options) {
  if (options.threads < 1) return absl::InvalidArgumentError(absl::StrCat("a compute pool of ", options.threads, " threads"));
  auto state = std::make_shared<ComputePoolState>();
  state->workers.resize(static_cast<size_t>(options.threads));
  // From here on the destructor stops and joins the threads made so far.
  std::unique_ptr<ComputePool> pool(new ComputePool(state));
  int affinity_error = 0;
  for (size_t i = 0; i < state->workers.size(); ++i) {
    try {
      state->threads.emplace_back([state, i] { state->Work(i); });
    } catch (const std::system_error& error) {
      return absl::ResourceExhaustedError(absl::StrCat("compute thread ", i + 1, " of ", options.threads, " cannot be started: ",
                                                       ErrnoText(error.code().value()),
                                                       ": ", ThreadCure(), ", or lower cpu_share"));
    }
    const pthread_t thread = state->threads.back().native_handle();
    ::pthread_setname_np(thread, options.name.substr(0, 15).c_str());
    if (!options.cpus.empty()) {
      cpu_set_t* const set = CPU_ALLOC(CPU_SETSIZE * 8);
      const size_t set_bytes = CPU_ALLOC_SIZE(CPU_SETSIZE * 8);
      CPU_ZERO_S(set_bytes, set);
      for (int32_t cpu : options.cpus) {
        if (cpu >= 0) CPU_SET_S(static_cast<size_t>(cpu), set_bytes, set);
      }
      const int error = ::pthread_setaffinity_np(thread, set_bytes, set);
      CPU_FREE(set);
      if (error != 0) affinity_error = error;
    }
  }
  if (affinity_error != 0) {
    Log(LogLevel::kWarning, absl::StrCat("compute threads are not bound to their ", options.cpus.size(), " CPUs: pthread_setaffinity_np: ",
                                         ErrnoText(affinity_error)));
  }
  return pool;
}

ComputePool::ComputePool(std::shared_ptr<ComputePoolState> state) : state_(std::move(state)) {}

ComputePool::~ComputePool() {
  if (state_->fork_guard.InForkedChild()) {
    // The threads are not in this process and their locks may be held for good: leave all as it is.
    new std::shared_ptr<ComputePoolState>(state_);
    return;
  }
  Stop(-1).IgnoreError();
}

absl::Status ComputePool::Stop(int64_t wait_ns) {
  ComputeTask* cancelled = nullptr;
  bool given_up = false;
  int64_t still_running = 0;
  {
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->stopping = true;
    cancelled = std::exchange(state_->first, nullptr);
    state_->last = nullptr;
    state_->queued = 0;
    state_->work_waits.notify_all();
  }
  while (cancelled != nullptr) {
    ComputeTask* const task = cancelled;
    cancelled = task->next_;
    const std::shared_ptr<ComputePosterState> poster = std::move(task->poster_);
    poster->Finish(task, absl::CancelledError("the compute pool was stopped before this task ran"));
  }
  {
    std::unique_lock<std::mutex> lock(state_->mutex);
    const auto none_runs = [this] { return state_->running == 0; };
    if (state_->given_up) {
      // As the first time.
    } else if (wait_ns < 0) {
      state_->worker_stopped.wait(lock, none_runs);
    } else if (!state_->worker_stopped.wait_for(lock, std::chrono::nanoseconds(std::min(wait_ns, kWaitNsMax)), none_runs)) {
      state_->given_up = true;
    }
    given_up = state_->given_up;
    still_running = state_->running;
  }
  {
    std::lock_guard<std::mutex> lock(state_->threads_mutex);
    for (std::thread& thread : state_->threads) {
      if (given_up) {
        thread.detach();
      } else {
        thread.join();
      }
    }
    state_->threads.clear();
  }
  if (!given_up) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(still_running, " codec tasks still run ", wait_ns / kNsPerMs,
                                                  " ms after the stop: the user's codec function hangs. Its threads and memory "
                                                  "are left behind"));
}

ComputePoolStats ComputePool::stats() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  ComputePoolStats stats{state_->queued, state_->running, state_->finished, state_->busy_ns, 0};
  const int64_t now_ns = MonotonicNs();
  for (const ComputePoolState::Worker& worker : state_->workers) {
    if (worker.since_ns != 0) stats.oldest_running_ns = std::max(stats.oldest_running_ns, now_ns - worker.since_ns);
  }
  return stats;
}

int32_t ComputePool::threads() const { return static_cast<int32_t>(state_->workers.size()); }

ComputePoster::ComputePoster(ComputePool& pool, std::function<void()> wake)
    : pool_(pool.state_), state_(std::make_shared<ComputePosterState>(std::move(wake))) {}

ComputePoster::~ComputePoster() {
  if (pool_->fork_guard.InForkedChild()) {
    new std::shared_ptr<ComputePosterState>(state_);
    return;
  }
  std::lock_guard<std::mutex> lock(state_->mutex);
  if (outstanding_ != 0) {
    std::lock_guard<std::mutex> pool_lock(pool_->mutex);
    PENSTOCK_CHECK(pool_->given_up, "a poster is destroyed when its tasks are back, or given up by Stop()");
  }
  state_->closed = true;
}

void ComputePoster::Post(absl::Span<ComputeTask* const> tasks) {
  if (tasks.empty()) return;
  for (size_t i = 0; i < tasks.size(); ++i) {
    PENSTOCK_DCHECK(tasks[i]->poster_ == nullptr, "a task is posted once at a time");
    tasks[i]->poster_ = state_;
    tasks[i]->next_ = i + 1 < tasks.size() ? tasks[i + 1] : nullptr;
  }
  outstanding_ += static_cast<int64_t>(tasks.size());
  bool stopping = false;
  int64_t to_wake = 0;
  {
    std::lock_guard<std::mutex> lock(pool_->mutex);
    stopping = pool_->stopping;
    if (!stopping) {
      (pool_->first == nullptr ? pool_->first : pool_->last->next_) = tasks.front();
      pool_->last = tasks.back();
      pool_->queued += static_cast<int64_t>(tasks.size());
      to_wake = std::min(pool_->idle, static_cast<int64_t>(tasks.size()));
    }
  }
  for (int64_t i = 0; i < to_wake; ++i) pool_->work_waits.notify_one();
  if (!stopping) return;
  for (ComputeTask* task : tasks) {
    task->poster_.reset();
    state_->Finish(task, absl::CancelledError("the compute pool is stopped"));
  }
}

size_t ComputePoster::Take(std::vector<ComputeTask*>& finished) {
  ComputeTask* task = nullptr;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    task = std::exchange(state_->first, nullptr);
    state_->last = nullptr;
  }
  size_t count = 0;
  for (; task != nullptr; ++count) {
    finished.push_back(task);
    task = std::exchange(task->next_, nullptr);
  }
  outstanding_ -= static_cast<int64_t>(count);
  return count;
}

}  // namespace penstock
