// The way from pieces of host memory to batches in a GPU's memory: the device buffers, the copies under way, and what the consumer's CUDA
// streams still use.
#ifndef PENSTOCK_TRANSFER_DEVICE_PATH_H_
#define PENSTOCK_TRANSFER_DEVICE_PATH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/arena.h"
#include "memory/piece_memory.h"
#include "plan/batch_plan.h"
#include "transfer/copier.h"
#include "transfer/device.h"
#include "transfer/device_ring.h"

namespace penstock {

// Where a batch's columns lie in its device buffer, behind the samples' bytes. Offsets in bytes from the buffer's start.
struct DeviceLayout {
  int64_t offsets = 0;  // int64_t[B]
  int64_t lengths = 0;  // int64_t[B]
  int64_t ids = 0;      // int64_t[B]
  int64_t labels = 0;   // int32_t[B]
  int64_t valid = 0;    // uint8_t[B]
  int64_t columns_bytes = 0;  // all of them, which begin at `offsets`
  int64_t bytes = 0;    // of the whole buffer

  static DeviceLayout Of(int64_t place_bytes, int64_t batch_size);
};

// The device memory of one batch. Goes back to the ring with the last reference: the batch's, and that of each copy into it.
class DeviceBatch {
 public:
  DeviceBatch(DeviceRing& ring, Copier& copier, const DeviceBuffer& buffer, const DeviceLayout& layout)
      : events(copier), layout(layout), ring_(ring), copier_(copier), buffer_(buffer) {}
  ~DeviceBatch() {
    if (!keep_) ring_.Free(buffer_);
  }
  DeviceBatch(const DeviceBatch&) = delete;
  DeviceBatch& operator=(const DeviceBatch&) = delete;

  std::byte* data() const { return buffer_.data; }
  Device& device() const { return copier_.device(); }
  // The memory is never used again: nobody knows who still reads it.
  void Keep() { keep_ = true; }

  BatchEvents events;
  const DeviceLayout layout;

 private:
  DeviceRing& ring_;
  Copier& copier_;
  const DeviceBuffer buffer_;
  bool keep_ = false;
};

struct DevicePathOptions {
  int64_t device_bytes = 0;
  int64_t batch_size = 0;
  int32_t batches = 0;        // whose columns may be on their way at the same time
  int64_t report_ns = 0;      // age of a copy at which it is reported
  int64_t deadline_ns = 0;    // age at which it is an error
};

// Thread-safe. Whoever calls must keep it until every DeviceBatch is gone.
class DevicePath {
 public:
  // Errors: ResourceExhausted  the device's memory, or the arena's.
  static absl::StatusOr<std::unique_ptr<DevicePath>> Create(std::shared_ptr<Device> device, std::shared_ptr<Arena> arena,
                                                            const DevicePathOptions& options);
  // Waits for what is under way, for at most a second; the memory of what does not end is left to the device for good.
  ~DevicePath();
  DevicePath(const DevicePath&) = delete;
  DevicePath& operator=(const DevicePath&) = delete;

  // Device memory for a batch, or null where there is none now.
  absl::StatusOr<std::shared_ptr<DeviceBatch>> Place(const BatchPlan& plan);

  // Starts the copy of `bytes` at `places`, in the piece's memory, to offset `offset` of the batch. Memory and batch are kept until it has
  // ended.
  absl::Status CopyPiece(const std::shared_ptr<DeviceBatch>& batch, int64_t offset, const std::byte* places,
                         std::shared_ptr<PieceMemory> memory, int64_t bytes);

  // Starts the copy of the columns: the batch's last one, after which its bytes are complete. Its `ready` event is recorded behind it.
  absl::Status CopyColumns(const std::shared_ptr<DeviceBatch>& batch, const BatchPlan& plan);

  // Lets go of what was copied, and appends the batches whose columns, and so all of them, have come. Never waits. `freed` becomes true
  // where host memory was given back.
  absl::Status Poll(std::vector<const DeviceBatch*>& complete, bool& freed);

  // The consumer gives a batch back. Its memory is used again once the work recorded on it is done.
  void Release(std::shared_ptr<DeviceBatch> batch);
  // Frees the memory of the batches whose recorded work is done; `freed` becomes true where there was one. Never waits.
  absl::Status PollReleased(bool& freed);

  bool copying() const { return copier_->copying(); }
  bool releasing() const;

 private:
  struct CopyEntry {
    std::shared_ptr<DeviceBatch> batch;
    std::shared_ptr<PieceMemory> memory;  // what is copied lies in it: a piece's, or the columns'
    bool last = false;                    // the columns
    int32_t columns_slot = -1;            // of columns_memory_; -1: they lie in `columns`
    std::vector<std::byte> columns;
  };

  DevicePath(std::shared_ptr<Device> device, std::shared_ptr<Arena> arena, const DevicePathOptions& options);
  uint64_t NewEntry(CopyEntry entry);
  CopyEntry TakeEntry(uint64_t cookie);
  absl::Status Copy(uint64_t cookie, std::byte* target, const std::byte* source, int64_t bytes);
  // What the device may still read stays as it is, for good.
  static void Abandon(CopyEntry entry);

  const std::shared_ptr<Device> device_;
  const std::shared_ptr<Arena> arena_;
  const DevicePathOptions options_;
  std::unique_ptr<DeviceRing> ring_;
  std::unique_ptr<Copier> copier_;
  std::shared_ptr<PieceMemory> columns_memory_;  // slots of columns_bytes_ each, pinned as the pieces are
  int64_t columns_bytes_ = 0;

  mutable std::mutex mutex_;
  std::vector<CopyEntry> entries_;  // by cookie
  std::vector<uint64_t> free_entries_;
  std::vector<int32_t> free_columns_;
  std::vector<std::shared_ptr<DeviceBatch>> released_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSFER_DEVICE_PATH_H_
