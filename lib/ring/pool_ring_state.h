// What a PoolRing and the pool's threads share.
#ifndef PENSTOCK_RING_POOL_RING_STATE_H_
#define PENSTOCK_RING_POOL_RING_STATE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "ring/index_queue.h"
#include "ring/parker.h"
#include "ring/progress.h"

namespace penstock {

inline constexpr uint32_t kNoSlot = UINT32_MAX;

// Cache lines of its own: neighbours are written by different threads.
struct alignas(64) PoolSlot {
  Progress progress;
  int64_t open_ns = 0;
  int64_t transfer_ns = 0;
  int32_t served_beside = 0;
  int file = -1;            // found open; -1: to be opened
  int32_t entry = -1;       // of that descriptor in the table of open files
  bool found_open = false;
  std::atomic<bool> cancelled{false};
  uint32_t next = kNoSlot;  // in the list of done ones
};

struct PoolRingState {
  PoolRingState(const ObjectStore& store, uint64_t read_bytes_max, uint32_t capacity, std::shared_ptr<OpenFiles> open_files)
      : store(store),
        read_bytes_max(read_bytes_max),
        open_files(std::move(open_files)),
        notify_at(NotifyAt(capacity)),
        slots(new PoolSlot[capacity]) {
    pending.Reset(capacity);
  }

  const ObjectStore& store;
  const uint64_t read_bytes_max;
  const std::shared_ptr<OpenFiles> open_files;  // null: no file is kept open
  std::atomic<uint32_t> notify_at;  // the owner is woken for so many fast ones at a time
  const std::unique_ptr<PoolSlot[]> slots;

  IndexQueue pending;   // slots no thread has taken; guarded by the pool's mutex
  bool queued = false;  // in the pool's list of rings with pending slots; likewise

  // What the owner writes and the threads look at.
  alignas(64) std::atomic<uint64_t> submitted{0};  // requests handed to the pool since the beginning
  std::atomic<uint64_t> taken{0};                  // `done` as it was when the owner took the list

  // What the threads write for each request: a list without a lock, of which the owner takes all, and its count.
  alignas(64) std::atomic<uint32_t> done_head{kNoSlot};
  std::atomic<uint64_t> done{0};  // since the beginning
  std::atomic<int32_t> served{0};  // requests that a thread is at now

  alignas(64) Parker parker;  // where the owner sleeps

  static uint32_t NotifyAt(uint32_t in_flight) { return std::clamp(in_flight * 3 / 4, 1U, 96U); }

  // Gives back a file that was found open or is kept.
  void LetGo(PoolSlot& slot) {
    if (slot.entry < 0) return;
    if (slot.progress.Spoiled()) open_files->Drop(slot.entry);
    open_files->Release(slot.entry);
    slot.file = slot.entry = -1;
  }

  // Any thread; the slot is the owner's from then on. True: the owner should be woken, even if this one was fast.
  bool PushDone(uint32_t index) {
    uint32_t head = done_head.load(std::memory_order_relaxed);
    do {
      slots[index].next = head;
    } while (!done_head.compare_exchange_weak(head, index, std::memory_order_release, std::memory_order_relaxed));
    const uint64_t count = done.fetch_add(1) + 1;
    return count == submitted.load() || count - taken.load(std::memory_order_relaxed) >= notify_at.load(std::memory_order_relaxed);
  }
};

}  // namespace penstock

#endif  // PENSTOCK_RING_POOL_RING_STATE_H_
