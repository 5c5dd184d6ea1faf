// A first-in first-out queue of at most `capacity` small numbers, allocated once.
#ifndef PENSTOCK_RING_INDEX_QUEUE_H_
#define PENSTOCK_RING_INDEX_QUEUE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"

namespace penstock {

class IndexQueue {
 public:
  void Reset(size_t capacity) {
    items_.assign(std::bit_ceil(capacity < 1 ? size_t{1} : capacity), 0);
    head_ = tail_ = 0;
  }
  bool empty() const { return head_ == tail_; }
  size_t size() const { return tail_ - head_; }
  void Push(uint32_t index) {
    PENSTOCK_CHECK(size() < items_.size(), "an index was queued twice");
    items_[tail_++ & (items_.size() - 1)] = index;
  }
  uint32_t Pop() { return items_[head_++ & (items_.size() - 1)]; }

 private:
  std::vector<uint32_t> items_;
  size_t head_ = 0;
  size_t tail_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_RING_INDEX_QUEUE_H_
