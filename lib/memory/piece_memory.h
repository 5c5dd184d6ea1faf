// The host memory of one piece, on its own: on the way to a device a batch is never whole in host memory.
#ifndef PENSTOCK_MEMORY_PIECE_MEMORY_H_
#define PENSTOCK_MEMORY_PIECE_MEMORY_H_

#include <atomic>
#include <memory>
#include <utility>

#include "memory/arena.h"

namespace penstock {

// Held by whoever works on the piece: the stream until its last request was reaped, then the copy until its event is done. The memory goes
// back to the arena with the last reference.
class PieceMemory {
 public:
  PieceMemory(std::shared_ptr<Arena> arena, const Run& run) : arena_(std::move(arena)), run_(run) {}
  PieceMemory(const PieceMemory&) = delete;
  PieceMemory& operator=(const PieceMemory&) = delete;
  ~PieceMemory() {
    if (quarantined_.load(std::memory_order_acquire)) {
      arena_->Reclaim(run_);
    } else {
      arena_->Free(run_);
    }
  }

  const Run& run() const { return run_; }

  // Something may still write to it, or read it, that nobody can stop: counted as given up until the last reference is gone.
  void Quarantine() {
    if (!quarantined_.exchange(true, std::memory_order_acq_rel)) arena_->Quarantine(run_);
  }

 private:
  const std::shared_ptr<Arena> arena_;
  const Run run_;
  std::atomic<bool> quarantined_{false};
};

}  // namespace penstock

#endif  // PENSTOCK_MEMORY_PIECE_MEMORY_H_
