// The io_uring backend.
#ifndef PENSTOCK_RING_URING_RING_H_
#define PENSTOCK_RING_URING_RING_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "ring/ring.h"

namespace penstock {

// What the kernel gave.
struct UringFeatures {
  bool single_issuer = false;   // completions run only when the owner asks for them (Linux 6.1)
  bool coop_taskrun = false;    // the next best: no interrupts of the owner (Linux 5.19)
  bool submit_all = false;      // a bad submission does not stop the ones behind it (Linux 5.18)
  uint32_t sq_entries = 0;
  uint32_t cq_entries = 0;
  uint32_t capacity = 0;        // below the one asked for where RLIMIT_MEMLOCK or RLIMIT_NOFILE is low
};

// Makes a ring, with fewer entries and capacity than asked for where the limits are low. It belongs to the thread that first
// enqueues, submits or waits, which must outlive it. `store` must outlive every request.
//
// Errors: Unavailable        io_uring is not allowed or not there; the message names the cause and the cure.
//         ResourceExhausted  RLIMIT_MEMLOCK or RLIMIT_NOFILE is too low even for 8 entries.
absl::StatusOr<std::unique_ptr<Ring>> MakeUringRing(const ObjectStore& store, const RingOptions& options,
                                                    UringFeatures* features = nullptr);

}  // namespace penstock

#endif  // PENSTOCK_RING_URING_RING_H_
