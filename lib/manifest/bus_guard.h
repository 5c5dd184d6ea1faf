// A mapping of a file that somebody may cut off: what is gone reads as zeros, and is known to be gone.
#ifndef PENSTOCK_MANIFEST_BUS_GUARD_H_
#define PENSTOCK_MANIFEST_BUS_GUARD_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace penstock {

// A load from a page beyond the end of a file, or that cannot be read from its drive, raises SIGBUS (mmap(2)). The first mapping installs a
// handler for the process, which stays. It puts zeros in the place of the rest of a mapping of this class, and hands every other SIGBUS to
// what was there before: a handler, or the end of the process. System calls that are given such an address fail with EFAULT instead.
//
// Source: the same way is taken by libwayland (wl_shm_buffer_begin_access) and PulseAudio (memtrap.c).
class BusGuard {
 public:
  // Maps `bytes` of `fd` from its start, read-only. `shown` is for messages. Errors: those of mmap(2).
  static absl::StatusOr<std::unique_ptr<const BusGuard>> Map(int fd, uint64_t bytes, const std::string& shown);
  BusGuard(const BusGuard&) = delete;
  BusGuard& operator=(const BusGuard&) = delete;
  ~BusGuard();

  const unsigned char* data() const { return data_; }
  // Whether a page was gone when it was read.
  bool lost() const;

 private:
  BusGuard(const unsigned char* data, uint64_t bytes, int slot) : data_(data), bytes_(bytes), slot_(slot) {}

  const unsigned char* const data_;
  const uint64_t bytes_;
  const int slot_;
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_BUS_GUARD_H_
