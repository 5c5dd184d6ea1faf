// Compute threads for codecs: I/O streams post work and go on; what is done comes back to the stream that posted it.
#ifndef PENSTOCK_CODEC_COMPUTE_POOL_H_
#define PENSTOCK_CODEC_COMPUTE_POOL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

struct ComputePoolState;
struct ComputePosterState;

// One unit of work. Its memory is the poster's, which allocates it once and posts it again and again: posting allocates nothing.
// From Post() until it comes out of Take() it belongs to the pool.
class ComputeTask {
 public:
  virtual ~ComputeTask() = default;
  // What Run() returned; an exception that left it is Internal; Cancelled if the pool was stopped first.
  const absl::Status& status() const { return status_; }

 protected:
  // On a compute thread.
  virtual absl::Status Run() = 0;

 private:
  friend class ComputePool;
  friend class ComputePoster;
  friend struct ComputePoolState;
  friend struct ComputePosterState;
  ComputeTask* next_ = nullptr;
  std::shared_ptr<ComputePosterState> poster_;  // while it belongs to the pool
  absl::Status status_;
};

struct ComputePoolOptions {
  int32_t threads = 1;
  std::vector<int32_t> cpus;  // the threads may run on these; empty: wherever the creating thread may
  std::string name = "pstk-codec";  // of the threads, as `top -H` shows it; 15 bytes at most
};

struct ComputePoolStats {
  int64_t queued = 0;
  int64_t running = 0;
  int64_t finished = 0;           // over all time
  int64_t busy_ns = 0;            // time in finished tasks, over all threads
  int64_t oldest_running_ns = 0;  // how long the task that runs longest has been running; a hung function shows here
};

// Thread-safe.
class ComputePool {
 public:
  // Errors: InvalidArgument  less than one thread.
  //         ResourceExhausted  the system gives no more threads.
  static absl::StatusOr<std::unique_ptr<ComputePool>> Create(const ComputePoolOptions& options);
  // Stops without a deadline: waits for every running task, unless Stop gave up on one before.
  ~ComputePool();
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;

  // No task is begun any more: those queued, and those posted from now on, come back with Cancelled. Waits for the running ones, for
  // at most `wait_ns` (negative: for as long as it takes).
  //
  // Errors: DeadlineExceeded  a task still runs. The pool gives up on it: it does not come back, its thread is left behind, and its
  //                           memory and what it works on must never be freed or used again.
  absl::Status Stop(int64_t wait_ns);

  ComputePoolStats stats() const;
  int32_t threads() const;

 private:
  friend class ComputePoster;
  explicit ComputePool(std::shared_ptr<ComputePoolState> state);
  std::shared_ptr<ComputePoolState> state_;
};

// One I/O stream's side of the pool. Post and Take are for one thread at a time.
class ComputePoster {
 public:
  // `wake` is called when a finished task waits to be taken and none did before: on a compute thread, or in Stop or Post once the pool is
  // stopped. It must not wait or call the pool or the poster: writing an eventfd is what it is for.
  ComputePoster(ComputePool& pool, std::function<void()> wake);
  // Take everything first (outstanding() == 0). After a Stop that gave up, what is still out is forgotten, and wake is not called any more.
  ~ComputePoster();
  ComputePoster(const ComputePoster&) = delete;
  ComputePoster& operator=(const ComputePoster&) = delete;

  // Hands tasks over, in order. Never waits for a task to run, however many are queued or hang, and allocates nothing.
  void Post(ComputeTask* task) { Post(absl::MakeConstSpan(&task, 1)); }
  void Post(absl::Span<ComputeTask* const> tasks);
  // Appends the finished tasks in the order in which they finished, and returns how many. Never waits.
  size_t Take(std::vector<ComputeTask*>& finished);
  // Posted and not taken.
  int64_t outstanding() const { return outstanding_; }

 private:
  const std::shared_ptr<ComputePoolState> pool_;
  const std::shared_ptr<ComputePosterState> state_;
  int64_t outstanding_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_CODEC_COMPUTE_POOL_H_
