// What a PoolRing and the pool's threads share.
#ifndef PENSTOCK_RING_POOL_RING_STATE_H_
#define PENSTOCK_RING_POOL_RING_STATE_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "ring/index_queue.h"
#include "ring/parker.h"
#include "ring/progress.h"

namespace penstock {

inline constexpr uint32_t kNoSlot = UINT32_MAX;

struct PoolSlot {
  Progress progress;
  int64_t open_ns = 0;
  int64_t transfer_ns = 0;
  std::atomic<bool> cancelled{false};
  uint32_t next = kNoSlot;  // in the list of done ones
};

struct PoolRingState {
  PoolRingState(const ObjectStore& store, uint64_t read_bytes_max, uint32_t capacity)
      : store(store), read_bytes_max(read_bytes_max), slots(new PoolSlot[capacity]), notify_at(capacity < 4 ? 1 : capacity / 2 < 32 ? capacity / 2 : 32) {
    pending.Reset(capacity);
  }

  const ObjectStore& store;
  const uint64_t read_bytes_max;
  const std::unique_ptr<PoolSlot[]> slots;

  IndexQueue pending;       // slots no thread has taken; guarded by the pool's mutex
  bool queued = false;      // in the pool's list of rings with pending slots; likewise

  // A list without a lock: the threads push, the owner takes all.
  std::atomic<uint32_t> done_head{kNoSlot};
  std::atomic<uint32_t> done_count{0};  // since the owner took the last ones
  std::atomic<uint32_t> unfinished{0};  // handed to the pool and not done
  const uint32_t notify_at;             // the owner is woken for so many fast ones at a time
  Parker parker;                        // where the owner sleeps

  // Any thread; the slot is the owner's from then on.
  void PushDone(uint32_t index) {
    uint32_t head = done_head.load(std::memory_order_relaxed);
    do {
      slots[index].next = head;
    } while (!done_head.compare_exchange_weak(head, index, std::memory_order_release, std::memory_order_relaxed));
  }
};

}  // namespace penstock

#endif  // PENSTOCK_RING_POOL_RING_STATE_H_
