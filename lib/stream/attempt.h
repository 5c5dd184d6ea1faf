// One try at reading one batch: its plan, its memory, and who still works on it.
#ifndef PENSTOCK_STREAM_ATTEMPT_H_
#define PENSTOCK_STREAM_ATTEMPT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "memory/arena.h"
#include "plan/batch_plan.h"

namespace penstock {

class DeviceBatch;  // transfer/device_path.h

// A sample that could not be read.
struct SampleFailure {
  uint32_t index = 0;  // in the batch
  absl::Status status;
  bool hung = false;   // the kernel may still write to its place
};

// Plans that batches are done with: their vectors have grown. Any thread.
class SparePlans {
 public:
  BatchPlan Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plans_.empty()) return BatchPlan();
    BatchPlan plan = std::move(plans_.back());
    plans_.pop_back();
    return plan;
  }
  void Give([[maybe_unused]] BatchPlan plan) {
#ifdef NDEBUG  // else it is freed, so that AddressSanitizer sees a column that is read after its batch was released
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plans_.size() < kMax) plans_.push_back(std::move(plan));
#endif
  }

 private:
  static constexpr size_t kMax = 4;  // one goes as one comes
  std::mutex mutex_;
  std::vector<BatchPlan> plans_;
};

// Shared by the loader and by every stream that works on a piece of it. Its memory goes back to the arena with the last reference, that is
// when the kernel has let go of the last byte; the reference of a stream stays until each of its requests was reaped.
class Attempt {
 public:
  Attempt(std::shared_ptr<Arena> arena, std::shared_ptr<SparePlans> spare_plans, int64_t epoch, int64_t step)
      : arena_(std::move(arena)), spare_plans_(std::move(spare_plans)), epoch_(epoch), step_(step), plan_(spare_plans_->Take()) {}
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;
  ~Attempt() {
    spare_plans_->Give(std::move(plan_));
    if (!run_.valid()) return;
    if (quarantined_.load(std::memory_order_acquire)) {
      arena_->Reclaim(run_);
    } else {
      arena_->Free(run_);
    }
  }

  int64_t epoch() const { return epoch_; }
  int64_t step() const { return step_; }
  BatchPlan& plan() { return plan_; }
  const BatchPlan& plan() const { return plan_; }

  // Host path: the batch's memory, and behind it the codec's scratch.
  void set_run(const Run& run) { run_ = run; }
  const Run& run() const { return run_; }
  std::byte* places() const { return run_.data; }
  std::byte* scratch() const { return run_.data + plan_.bytes; }

  // Nobody waits for it any more: streams drop what they have not handed to the kernel.
  void Cancel() { cancelled_.store(true, std::memory_order_release); }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

  bool quarantined() const { return quarantined_.load(std::memory_order_acquire); }

  // A read of it hangs: its memory is counted as given up until the last reference is gone.
  void Quarantine() {
    if (!quarantined_.exchange(true, std::memory_order_acq_rel) && run_.valid()) arena_->Quarantine(run_);
  }

  // Below: guarded by the loader's mutex.
  std::shared_ptr<DeviceBatch> device;  // device path: where the batch goes; null once it was given up
  uint32_t next_piece = 0;   // to be claimed
  uint32_t pieces_left = 0;  // not finished yet
  uint32_t pieces_claimed = 0;  // that streams work on
  bool returning = false;       // given up, and these pieces are waited for: their memory comes back
  std::vector<SampleFailure> failures;

 private:
  const std::shared_ptr<Arena> arena_;
  const std::shared_ptr<SparePlans> spare_plans_;
  const int64_t epoch_;
  const int64_t step_;
  BatchPlan plan_;
  Run run_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> quarantined_{false};
};

}  // namespace penstock

#endif  // PENSTOCK_STREAM_ATTEMPT_H_
