// The permutations of the windows in use, kept within a bound.
#ifndef PENSTOCK_ORDER_WINDOW_CACHE_H_
#define PENSTOCK_ORDER_WINDOW_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "order/permutation.h"

namespace penstock {

// Which window: of an epoch's chunk, counted from the chunk's own start.
struct WindowId {
  int64_t epoch = 0;
  int64_t chunk = 0;
  int64_t window = 0;
  friend bool operator==(const WindowId&, const WindowId&) = default;
};

// Least recently used first out. Any thread. A table handed out stays valid when it is dropped from here.
class WindowCache {
 public:
  // Keeps tables worth `bytes_max`, and always the newest one.
  explicit WindowCache(int64_t bytes_max) : bytes_max_(bytes_max) {}

  // The permutation of [0, n) for a window, made if it is not here.
  std::shared_ptr<const Permutation> Get(uint64_t seed, const WindowId& id, int64_t n);

  int64_t bytes() const;

 private:
  struct Hash {
    size_t operator()(const WindowId& id) const {
      return Mix64(Mix64(Mix64(static_cast<uint64_t>(id.epoch)) + static_cast<uint64_t>(id.chunk)) + static_cast<uint64_t>(id.window));
    }
  };
  struct Entry {
    WindowId id;
    std::shared_ptr<const Permutation> permutation;
  };
  static int64_t EntryBytes(int64_t n);

  const int64_t bytes_max_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the most recently used first
  std::unordered_map<WindowId, std::list<Entry>::iterator, Hash> index_;
  int64_t bytes_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_ORDER_WINDOW_CACHE_H_
