#include "order/window_cache.h"

#include <utility>

namespace penstock {

int64_t WindowCache::EntryBytes(int64_t n) {
  constexpr int64_t kOverheadBytes = 384;  // the Permutation, its two allocations, the list's and the map's nodes
  return kOverheadBytes + (n < kTableDomainEnd ? 2 * static_cast<int64_t>(sizeof(uint16_t)) * n : 0);
}

std::shared_ptr<const Permutation> WindowCache::Get(uint64_t seed, const WindowId& id, int64_t n) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = index_.find(id); found != index_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return found->second->permutation;
    }
  }
  // Made outside the lock: a table of 65,535 takes a fifth of a millisecond. Two threads may make the same one; the first stays.
  auto made = std::make_shared<const Permutation>(WindowKey(seed, id.epoch, id.chunk, id.window), n);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const auto found = index_.find(id); found != index_.end()) return found->second->permutation;
  entries_.push_front({id, made});
  index_.emplace(id, entries_.begin());
  bytes_ += EntryBytes(n);
  while (bytes_ > bytes_max_ && entries_.size() > 1) {
    bytes_ -= EntryBytes(entries_.back().permutation->size());
    index_.erase(entries_.back().id);
    entries_.pop_back();
  }
  return made;
}

int64_t WindowCache::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

}  // namespace penstock
