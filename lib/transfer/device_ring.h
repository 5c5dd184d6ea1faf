// The device's memory for batches: one allocation, used as a ring from which each batch takes its exact size.
#ifndef PENSTOCK_TRANSFER_DEVICE_RING_H_
#define PENSTOCK_TRANSFER_DEVICE_RING_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transfer/device.h"

namespace penstock {

// The device memory of one batch. Not an owner: give it back to the ring that it is from.
struct DeviceBuffer {
  std::byte* data = nullptr;
  int64_t bytes = 0;    // as asked for
  uint64_t number = 0;  // of the allocation; never used twice
  bool valid() const { return data != nullptr; }
};

// Thread-safe. Buffers may be freed in any order, but memory is used again in the order in which it was handed out: batches are consumed
// in order, so a ring loses nothing by it and never fragments.
class DeviceRing {
 public:
  static constexpr int64_t kAlignmentBytes = 256;  // what cudaMalloc itself guarantees

  // Takes `bytes`, rounded down to the alignment, of the device's memory.
  //
  // Errors: InvalidArgument    less than one alignment.
  //         ResourceExhausted  the device has not that much; the message has the numbers.
  static absl::StatusOr<std::unique_ptr<DeviceRing>> Create(std::shared_ptr<Device> device, int64_t bytes);
  // Gives the memory back to the device. Buffers still handed out keep it: then it stays allocated until the process ends, since somebody
  // may be using it, and a warning says so.
  ~DeviceRing();
  DeviceRing(const DeviceRing&) = delete;
  DeviceRing& operator=(const DeviceRing&) = delete;

  // Whether a batch of that size can ever be had: to be asked once, with the largest batch, at Open().
  //
  // Errors: InvalidArgument  larger than the ring; the message has both sizes.
  absl::Status CheckFits(int64_t bytes) const;

  // A buffer of `bytes` (0 is allowed: an empty batch has a place too), or an invalid one where that much is not free now: wait for a Free.
  //
  // Errors: InvalidArgument  as CheckFits.
  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes);

  // Nobody uses the buffer any more: no copy into it is pending and the consumer's work on it is done. Each buffer once: checked.
  void Free(const DeviceBuffer& buffer);

  int64_t bytes() const { return bytes_; }
  int64_t used_bytes() const;  // handed out, and what waits behind it to be used again
  int64_t buffers_out() const;

 private:
  struct Entry {
    uint64_t number;
    int64_t start;  // offset in the ring
    int64_t end;    // the next entry's start, unless that wrapped
    bool free;
  };
  DeviceRing(std::shared_ptr<Device> device, std::byte* data, int64_t bytes);

  const std::shared_ptr<Device> device_;
  std::byte* const data_;
  const int64_t bytes_;
  mutable std::mutex mutex_;
  std::deque<Entry> entries_;  // oldest first: the ring from its tail to its head
  uint64_t next_number_ = 1;
  int64_t buffers_out_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSFER_DEVICE_RING_H_
