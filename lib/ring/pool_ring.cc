#include "ring/pool_ring.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/fork_guard.h"
#include "ring/poison.h"
#include "ring/pool_ring_state.h"

namespace penstock {
namespace {

// A sleeping owner looks up now and then, so that a pool whose threads all hang is noticed: at first soon, then rarely.
constexpr int64_t kFirstNapNs = 2 * kNsPerMs;
constexpr int64_t kLongestNapNs = 128 * kNsPerMs;

class PoolRing final : public Ring {
 public:
  PoolRing(const ObjectStore& store, const RingOptions& options, std::shared_ptr<PreadPool> pool)
      : capacity_(static_cast<uint32_t>(std::clamp<size_t>(options.capacity, 1, 1 << 20))),
        pool_(std::move(pool)),
        state_(std::make_shared<PoolRingState>(store, options.read_bytes_max, capacity_)) {
    free_.reserve(capacity_);
    queued_.reserve(capacity_);
    done_.reserve(capacity_);
    for (uint32_t i = capacity_; i-- > 0;) free_.push_back(i);
  }

  ~PoolRing() override {
    PENSTOCK_CHECK(in_flight() == 0 || fork_guard_.InForkedChild(), "a ring was destroyed with requests in flight: a thread may still write into their memory");
  }

  bool Enqueue(const Request& request) override {
    if (free_.empty()) return false;
    CheckNotPoisoned(request);
    const uint32_t index = free_.back();
    free_.pop_back();
    PoolSlot& slot = state_->slots[index];
    slot.progress.Start(request);
    slot.cancelled.store(false, std::memory_order_relaxed);
    queued_.push_back(index);
    return true;
  }

  absl::Status Submit() override {
    if (fork_guard_.InForkedChild()) return absl::FailedPreconditionError("this ring belongs to the parent process; open a new loader after fork()");
    if (queued_.empty()) return absl::OkStatus();
    ++counters_.submissions;
    pool_->Push(state_, queued_.data(), static_cast<uint32_t>(queued_.size()));
    queued_.clear();
    return absl::OkStatus();
  }

  size_t Reap(absl::Span<Completion> out) override {
    size_t count = 0;
    for (; count < out.size() && HasDone(); ++count) {
      const uint32_t index = done_[next_done_++];
      const PoolSlot& slot = state_->slots[index];
      out[count] = slot.progress.ToCompletion(slot.open_ns, slot.transfer_ns);
      out[count].served_beside = slot.served_beside;
      slot.progress.AddTo(counters_);
      free_.push_back(index);
    }
    return count;
  }

  absl::Status Wait(int64_t deadline_ns) override {
    if (absl::Status status = Submit(); !status.ok()) return status;
    for (int64_t nap_ns = kFirstNapNs;; nap_ns = std::min(2 * nap_ns, kLongestNapNs)) {
      if (HasDone()) return absl::OkStatus();
      if (wake_pending_.exchange(false)) return absl::OkStatus();
      const int64_t now_ns = MonotonicNs();
      if (now_ns >= deadline_ns) return absl::OkStatus();
      const bool busy = in_flight() > 0;
      state_->parker.Park(busy ? std::min(deadline_ns, now_ns + nap_ns) : deadline_ns);
      if (busy && nap_ns > kFirstNapNs) pool_->Nudge();
    }
  }

  void Wake() override {
    wake_pending_.store(true);
    state_->parker.Unpark();
  }

  void Cancel() override {
    state_->submitted.fetch_add(queued_.size());  // as if the pool had had them
    for (const uint32_t index : queued_) {
      state_->slots[index].progress.Fail(ECANCELED, RequestStage::kOpen);
      state_->slots[index].open_ns = state_->slots[index].transfer_ns = 0;
      state_->PushDone(index);
    }
    queued_.clear();
    // All slots: those that are free are reset by their next Enqueue.
    for (uint32_t i = 0; i < capacity_; ++i) state_->slots[i].cancelled.store(true, std::memory_order_relaxed);
    pool_->TakeBack(*state_);
  }

  size_t in_flight() const override { return capacity_ - free_.size(); }
  size_t capacity() const override { return capacity_; }
  const char* name() const override { return "threads"; }
  RingCounters counters() const override { return counters_; }

 private:
  // Takes what the threads have done once what was taken before is used up.
  bool HasDone() {
    if (next_done_ < done_.size()) return true;
    if (state_->done_head.load(std::memory_order_relaxed) == kNoSlot) return false;
    done_.clear();
    next_done_ = 0;
    state_->taken.store(state_->done.load(std::memory_order_relaxed), std::memory_order_relaxed);
    for (uint32_t index = state_->done_head.exchange(kNoSlot, std::memory_order_acquire); index != kNoSlot; index = state_->slots[index].next) done_.push_back(index);
    std::reverse(done_.begin(), done_.end());  // the list has the last one first
    return true;
  }

  const uint32_t capacity_;
  const std::shared_ptr<PreadPool> pool_;
  const std::shared_ptr<PoolRingState> state_;
  const ForkGuard fork_guard_;
  std::vector<uint32_t> free_;    // the last one freed goes out first
  std::vector<uint32_t> queued_;  // enqueued, not submitted
  std::vector<uint32_t> done_;    // taken from the list; from next_done_ on not yet reaped
  size_t next_done_ = 0;
  std::atomic<bool> wake_pending_{false};
  RingCounters counters_;
};

}  // namespace

std::unique_ptr<Ring> MakePoolRing(const ObjectStore& store, const RingOptions& options, std::shared_ptr<PreadPool> pool) {
  return std::make_unique<PoolRing>(store, options, std::move(pool));
}

}  // namespace penstock
