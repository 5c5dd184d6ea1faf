// A place for one thread to sleep until another wakes it, or until a deadline. std::atomic::wait has no deadline, and a condition
// variable costs the waker a lock and, often, a system call where nobody sleeps.
#ifndef PENSTOCK_RING_PARKER_H_
#define PENSTOCK_RING_PARKER_H_

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace penstock {

class Parker {
 public:
  // Sleeps until Unpark() (one call before it counts) or until `deadline_ns` (MonotonicNs). May return early.
  void Park(int64_t deadline_ns) {
    uint32_t expected = kEmpty;
    if (state_.compare_exchange_strong(expected, kParked)) {
      // FUTEX_WAIT_BITSET takes an absolute time of the monotonic clock (futex(2)).
      const timespec until{static_cast<time_t>(deadline_ns / kNsPerSecond), static_cast<long>(deadline_ns % kNsPerSecond)};
      ::syscall(SYS_futex, &state_, FUTEX_WAIT_BITSET_PRIVATE, kParked, &until, nullptr, FUTEX_BITSET_MATCH_ANY);
    }
    state_.store(kEmpty);
  }

  void Unpark() {
    if (state_.exchange(kWoken) == kParked) ::syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }

 private:
  static constexpr uint32_t kEmpty = 0, kWoken = 1, kParked = 2;

  std::atomic<uint32_t> state_{kEmpty};
  static_assert(sizeof(std::atomic<uint32_t>) == 4, "futex(2) wants 32 bits");
};

}  // namespace penstock

#endif  // PENSTOCK_RING_PARKER_H_
