// Finished pieces on their way to the GPU: one copy CUDA stream per GPU, and after each copy an event that says when the piece is free.
#ifndef PENSTOCK_TRANSFER_COPIER_H_
#define PENSTOCK_TRANSFER_COPIER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "transfer/device.h"

namespace penstock {

struct CopierOptions {
  int32_t events = 64;  // made at once; copies beyond so many in flight share an event with a later one
  int64_t report_after_ns = 30 * kNsPerSecond;   // a copy that takes longer is reported to the log, once
  int64_t deadline_ns = 600 * kNsPerSecond;      // a copy that takes longer makes Poll fail
};

struct CopyTicket {
  uint64_t sequence = 0;  // 1 for the first copy; copies complete in this order
};

struct CopierStats {
  int64_t copies = 0;         // given to the device
  int64_t bytes = 0;          // of those
  int64_t pending = 0;        // copies not known to be complete
  int64_t pending_bytes = 0;
  uint64_t completed_sequence = 0;  // every ticket up to this one is complete
};

// Thread-safe: all I/O streams of a loader share one. `now_ns` in every call is MonotonicNs(), or a test's clock.
class Copier {
 public:
  static absl::StatusOr<std::unique_ptr<Copier>> Create(std::shared_ptr<Device> device, CopierOptions options = {});
  // Drain first. What is still pending keeps CUDA stream and events alive for good; its source memory must stay mapped and registered.
  ~Copier();
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Starts a copy of a piece's bytes to the device. From OK on, `source` belongs to the copier until `cookie` comes out of Poll or Drain.
  //
  // Errors: the device's. The cookie will not come out then. Where the context was lost (device.sticky() is not OK) nobody can tell
  //         whether the device still reads `source`: it must not be used again, unregistered or unmapped.
  absl::StatusOr<CopyTicket> Copy(std::byte* device_memory, const std::byte* source, size_t bytes, uint64_t cookie,
                                  int64_t now_ns = MonotonicNs());

  // Appends the cookies of all copies that completed, in order, and returns how many. Never waits. Whoever polls gets everybody's.
  //
  // Errors: the device's (finished cookies found before are appended all the same).
  //         DeadlineExceeded  the oldest copy is pending for longer than deadline_ns. It stays pending: its piece is not to be used again.
  absl::StatusOr<size_t> Poll(std::vector<uint64_t>& finished_cookies, int64_t now_ns = MonotonicNs());

  // Polls until nothing is pending, for at most `wait_ns`.
  //
  // Errors: DeadlineExceeded  something is still pending; the message says how much.
  absl::Status Drain(std::vector<uint64_t>& finished_cookies, int64_t wait_ns);

  // Age of the oldest pending copy; 0 when none is pending.
  int64_t OldestPendingNs(int64_t now_ns = MonotonicNs()) const;
  CopierStats stats() const;
  // Whether a copy is pending. Without the lock.
  bool copying() const { return pending_count_.load(std::memory_order_acquire) > 0; }
  Device& device() const { return *device_; }
  CudaStream cuda_stream() const { return cuda_stream_; }

 private:
  friend class BatchEvents;
  struct Pending {
    uint64_t sequence;
    uint64_t cookie;
    size_t bytes;
    int64_t since_ns;
    CudaEvent event;  // nullptr: covered by the event of a later copy, since they complete in order
    bool reported;
  };

  Copier(std::shared_ptr<Device> device, CopierOptions options, CudaStream cuda_stream);
  // With mutex_ held.
  absl::StatusOr<size_t> PollLocked(std::vector<uint64_t>& finished_cookies, int64_t now_ns);
  CudaEvent TakeFreeEvent();
  // For BatchEvents: an event of the pool, or a new one.
  absl::StatusOr<CudaEvent> AcquireEvent();
  void ReleaseEvent(CudaEvent event);

  const std::shared_ptr<Device> device_;
  const CopierOptions options_;
  const CudaStream cuda_stream_;
  // Pending copies: without the lock, so that an idle I/O stream's Poll costs one load.
  std::atomic<int64_t> pending_count_{0};
  mutable std::mutex mutex_;
  std::deque<Pending> pending_;  // oldest first
  std::vector<CudaEvent> free_events_;
  CopierStats stats_;
};

// The events of one batch: when its bytes are there, and when the consumer's CUDA streams are done with them. Events come from the
// copier's pool and go back to it. One thread at a time. The copier must outlive it.
class BatchEvents {
 public:
  explicit BatchEvents(Copier& copier) : copier_(&copier) {}
  ~BatchEvents() { Reset(); }
  BatchEvents(const BatchEvents&) = delete;
  BatchEvents& operator=(const BatchEvents&) = delete;

  // All of the batch's copies were given to the copier: whatever was copied so far is part of it.
  absl::Status RecordReady();
  // Whether the batch's bytes are in device memory. Never waits. An error if RecordReady was not called.
  absl::StatusOr<bool> Ready();
  // Work given to the consumer's stream from now on runs after the bytes have arrived.
  absl::Status WaitOn(CudaStream consumer);
  // The consumer's stream uses the batch with the work given to it so far. Several streams may; the last call of each counts.
  // After an error nobody knows when that use ends: UsesDone returns the same error from then on.
  absl::Status RecordUse(CudaStream consumer);
  // Whether all recorded uses are done, so that the device memory may be used again. Never waits. True when no use was recorded.
  absl::StatusOr<bool> UsesDone();
  // Forgets everything; the object can be used for another batch.
  void Reset();

 private:
  Copier* copier_;
  CudaEvent ready_ = nullptr;
  std::vector<std::pair<CudaStream, CudaEvent>> uses_;
  absl::Status use_error_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSFER_COPIER_H_
