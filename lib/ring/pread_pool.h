// The threads that the pread backend reads with: openat, pread, close. Shared by all rings of a process.
#ifndef PENSTOCK_RING_PREAD_POOL_H_
#define PENSTOCK_RING_PREAD_POOL_H_

#include <cstdint>
#include <memory>

namespace penstock {

struct PoolRingState;
struct PreadPoolState;

// Starts a thread when one more would help, up to `worker_max`: as many as there are CPUs when there is work, and further ones
// while the reads they wait for are slow. All calls are thread-safe.
class PreadPool {
 public:
  explicit PreadPool(int worker_max);
  // Ends the threads. One that hangs in the kernel is left behind: it holds on to what it touches, and ends by itself.
  ~PreadPool();
  PreadPool(const PreadPool&) = delete;
  PreadPool& operator=(const PreadPool&) = delete;

  int worker_max() const;    // now
  int worker_first() const;  // as it was made
  // Allows so many threads more, or with a number below 0 fewer: those beyond rest as soon as they are done with their request.
  void AddWorkers(int count);
  int worker_count() const;  // started so far

  // Of all threads together, since they began: how long they were at requests, and how much CPU time they wanted (-1: not known). Where the
  // two are near each other the CPU is what bounds them, and not the store. Opens a file per thread.
  struct Usage {
    int64_t busy_ns = 0;
    int64_t demand_ns = -1;
  };
  Usage usage() const;

  // For the rings.
  void Push(const std::shared_ptr<PoolRingState>& ring, const uint32_t* slots, uint32_t count);
  // Takes back what no thread has begun.
  void TakeBack(PoolRingState& ring);
  // Sees to it that queued work goes on although all threads may hang.
  void Nudge();

 private:
  const std::shared_ptr<PreadPoolState> state_;
};

}  // namespace penstock

#endif  // PENSTOCK_RING_PREAD_POOL_H_
