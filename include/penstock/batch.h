// One batch, lent to the consumer.
#ifndef PENSTOCK_BATCH_H_
#define PENSTOCK_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "penstock/export.h"

struct CUstream_st;

namespace penstock {

struct DeviceLayout;

/// A batch: one buffer, and where each sample lies in it.
///
/// Shape:    size() samples. Sample i has bytes [offset(i), offset(i) + length(i)) of data(). Nobody may assume that
///           offset(i+1) = offset(i) + length(i): places are 64-byte aligned (unless samples share one read), in any order, with holes.
/// Units:    offsets and lengths in bytes.
/// Lifetime: all views are valid until Release(), Stop() notwithstanding. The destructor releases. A batch may outlive its loader:
///           then its memory lives until the release.
/// Threads:  one thread at a time, whichever. In a forked child data() is null and sample() empty: the memory stays with the parent.
class PENSTOCK_EXPORT Batch {
 public:
  Batch();
  Batch(Batch&& other) noexcept;
  Batch& operator=(Batch&& other) noexcept;
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch();

  int64_t size() const;
  int64_t epoch() const;
  int64_t step() const;                              // within the epoch, from the run's origin
  absl::Span<const int64_t> ids() const;             // sample ids
  absl::Span<const int64_t> offsets() const;
  absl::Span<const int64_t> lengths() const;         // 0 where valid is 0
  absl::Span<const int32_t> labels() const;          // -1: none
  absl::Span<const uint8_t> valid() const;           // 0: skipped by the error policy
  absl::Span<const int32_t> members() const;         // of a mixture: which data set each sample is of; empty without one
  std::byte* data() const;                           // device memory with options.device >= 0, else host memory
  int64_t bytes() const;                             // of data(), holes included
  int64_t stride() const;                            // layout=dense: bytes from one sample to the next; else 0
  int64_t sample_bytes() const;                      // layout=dense: of each sample, also of an empty batch; 0 with a codec's function
  bool on_device() const;

  /// Device path: the same columns in device memory, size() values each. Null on the host path.
  const int64_t* device_ids() const;
  const int64_t* device_offsets() const;
  const int64_t* device_lengths() const;
  const int32_t* device_labels() const;
  const uint8_t* device_valid() const;

  /// Host path: the bytes of sample i. Empty on the device path.
  absl::Span<const std::byte> sample(int64_t i) const;

  /// Device path: makes `cuda_stream` wait for this batch's copies. Next() has already seen them finished, so this only orders the streams.
  ///
  /// Errors:   FailedPrecondition  the batch is empty (released). On the host path all three do nothing and return OK.
  ///           the device's        a CUDA stream that is none; a context that was lost.
  absl::Status WaitOn(CUstream_st* cuda_stream);
  /// Device path: `cuda_stream` reads the batch too; its memory is reused only after what is enqueued there by the time of this call.
  ///
  /// Errors:   as WaitOn. Nobody knows then when that use ends, so the batch's memory is never used again.
  absl::Status RecordUse(CUstream_st* cuda_stream);
  /// Gives the batch back; it is empty then. The second form is for the device path: reuse waits for `cuda_stream`, as after RecordUse.
  void Release();
  absl::Status Release(CUstream_st* cuda_stream);

  /// Whether this is a batch: false after a release, for what NextWithin() returns when its time is over, and at an epoch's end.
  explicit operator bool() const { return lease_ != nullptr; }
  /// What Next() returns behind the last batch of an epoch: no batch and no error. No error of a store, a codec or an option says this.
  bool end_of_epoch() const { return end_of_epoch_; }

 private:
  friend class Loader;
  friend class LoaderCore;
  friend struct BatchTransform;
  struct Lease;
  explicit Batch(std::unique_ptr<Lease> lease);
  static Batch EndOfEpoch();
  template <typename Value>
  const Value* DeviceColumn(int64_t DeviceLayout::*column) const;
  std::unique_ptr<Lease> lease_;
  bool end_of_epoch_ = false;
};

}  // namespace penstock

#endif  // PENSTOCK_BATCH_H_
