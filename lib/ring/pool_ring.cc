#include "ring/pool_ring.h"

#include <sys/uio.h>

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
constexpr uint32_t kReadNowSkipMax = 1023;

class PoolRing final : public Ring {
 public:
  PoolRing(const ObjectStore& store, const RingOptions& options, std::shared_ptr<PreadPool> pool)
      : capacity_(static_cast<uint32_t>(std::clamp<size_t>(options.capacity, 1, 1 << 20))),
        pool_(std::move(pool)),
        state_(std::make_shared<PoolRingState>(store, options.read_bytes_max, capacity_, options.open_files)) {
    free_.reserve(capacity_);
    queued_.reserve(capacity_);
    done_.reserve(2 * capacity_);
    for (uint32_t i = capacity_; i-- > 0;) free_.push_back(i);
  }

  ~PoolRing() override {
    PENSTOCK_CHECK(in_flight() == 0 || fork_guard_.InForkedChild(),
                   "a ring was destroyed with requests in flight: a thread may still write into their memory");
  }

  void Prefetch(absl::Span<const uint32_t> objects) const override {
    if (state_->open_files != nullptr) {
      for (const uint32_t object : objects) state_->open_files->Prefetch(object);
    }
    state_->store.Prefetch(objects);
  }

  void Expect(size_t in_flight) override {
    const uint32_t most = static_cast<uint32_t>(std::clamp<size_t>(in_flight, 1, capacity_));
    state_->notify_at.store(PoolRingState::NotifyAt(most), std::memory_order_relaxed);
  }

  bool Enqueue(const Request& request) override {
    if (free_.empty()) return false;
    CheckNotPoisoned(request);
    const uint32_t index = free_.back();
    free_.pop_back();
    PoolSlot& slot = state_->slots[index];
    slot.progress.Start(request);
    slot.cancelled.store(false, std::memory_order_relaxed);
    slot.open_ns = slot.transfer_ns = 0;
    slot.served_beside = 0;
    slot.file = slot.entry = -1;
    if (MayKeep(state_->open_files.get(), request)) slot.entry = state_->open_files->Find(request.object, slot.file);
    slot.found_open = slot.entry >= 0;
    if (slot.found_open && ReadNow(slot)) {
      if (next_done_ == done_.size() || done_.size() == 2 * capacity_) MakeRoom();
      done_.push_back(index);
      return true;
    }
    queued_.push_back(index);
    return true;
  }

  absl::Status Submit() override {
    if (fork_guard_.InForkedChild()) {
      return absl::FailedPreconditionError("this ring belongs to the parent process; open a new loader after fork()");
    }
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
      out[count] = slot.progress.ToCompletion(slot.open_ns, slot.transfer_ns, slot.found_open);
      out[count].served_beside = slot.served_beside;
      slot.progress.AddTo(counters_);
      counters_.kept_open += slot.found_open ? 1 : 0;
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
      state_->LetGo(state_->slots[index]);
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
  // Reads what an open file has in the page cache, on the owner's thread: where nothing is to be waited for, handing over costs more than
  // the read. False: a thread of the pool has to do it, or the rest of it.
  bool ReadNow(PoolSlot& slot) {
    if (read_now_skip_ > 0) {
      --read_now_skip_;
      return false;
    }
    if (!slot.progress.HasTransfer()) {
      state_->LetGo(slot);
      return true;
    }
    const int64_t start_ns = MonotonicNs();
    bool done = false;
    while (!done) {
      const Chunk chunk = slot.progress.NextChunk(state_->read_bytes_max);
      const iovec places[] = {{chunk.address, chunk.length_bytes}, {BeyondPlace(), chunk.beyond_bytes}};
      const ssize_t result = ::preadv2(slot.file, places, chunk.beyond_bytes > 0 ? 2 : 1, static_cast<off_t>(chunk.offset_bytes), RWF_NOWAIT);
      if (result < 0) {
        // EAGAIN: it is not in the page cache, and then the next ones are not either. EOPNOTSUPP and others: not on this file system.
        read_now_misses_ = errno == EAGAIN ? std::min(2 * read_now_misses_ + 1, kReadNowSkipMax) : kReadNowSkipMax;
        read_now_skip_ = read_now_misses_;
        return false;
      }
      done = slot.progress.Advance(result, Progress::Ends::kAnywhere) == Progress::Next::kDone;
    }
    read_now_misses_ = 0;
    slot.progress.SetInMemory(true);
    slot.transfer_ns = MonotonicNs() - start_ns;
    state_->LetGo(slot);
    return true;
  }

  // Forgets what was reaped. What was not are at most capacity_.
  void MakeRoom() {
    done_.erase(done_.begin(), done_.begin() + static_cast<std::ptrdiff_t>(next_done_));
    next_done_ = 0;
  }

  // Takes what the threads have done, behind what was done before.
  bool HasDone() {
    if (state_->done_head.load(std::memory_order_relaxed) == kNoSlot) return next_done_ < done_.size();
    MakeRoom();
    const auto old_end = static_cast<std::ptrdiff_t>(done_.size());
    state_->taken.store(state_->done.load(std::memory_order_relaxed), std::memory_order_relaxed);
    for (uint32_t index = state_->done_head.exchange(kNoSlot, std::memory_order_acquire); index != kNoSlot;
         index = state_->slots[index].next)
      done_.push_back(index);
    std::reverse(done_.begin() + old_end, done_.end());  // the list has the last one first
    return true;
  }

  const uint32_t capacity_;
  const std::shared_ptr<PreadPool> pool_;
  const std::shared_ptr<PoolRingState> state_;
  const ForkGuard fork_guard_;
  std::vector<uint32_t> free_;    // the last one freed goes out first
  std::vector<uint32_t> queued_;  // enqueued, not submitted
  std::vector<uint32_t> done_;    // from next_done_ on not yet reaped
  size_t next_done_ = 0;
  uint32_t read_now_skip_ = 0;    // so many open files go to the pool without a try
  uint32_t read_now_misses_ = 0;  // how many were skipped after the last failed try
  std::atomic<bool> wake_pending_{false};
  RingCounters counters_;
};

}  // namespace

std::unique_ptr<Ring> MakePoolRing(const ObjectStore& store, const RingOptions& options, std::shared_ptr<PreadPool> pool) {
  return std::make_unique<PoolRing>(store, options, std::move(pool));
}

}  // namespace penstock
