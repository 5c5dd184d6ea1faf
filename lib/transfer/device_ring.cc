#include "transfer/device_ring.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"

namespace penstock {

absl::StatusOr<std::unique_ptr<DeviceRing>> DeviceRing::Create(std::shared_ptr<Device> device, int64_t bytes) {
  const int64_t usable_bytes = bytes < 0 ? 0 : static_cast<int64_t>(AlignDown(static_cast<uint64_t>(bytes), kAlignmentBytes));
  if (usable_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("device_bytes is ", bytes, "; the ring of batches on the device needs at least ", kAlignmentBytes, " bytes"));
  }
  absl::StatusOr<std::byte*> data = device->Malloc(static_cast<size_t>(usable_bytes));
  if (!data.ok()) return data.status();
  return std::unique_ptr<DeviceRing>(new DeviceRing(std::move(device), *data, usable_bytes));
}

DeviceRing::DeviceRing(std::shared_ptr<Device> device, std::byte* data, int64_t bytes)
    : device_(std::move(device)), data_(data), bytes_(bytes) {}

DeviceRing::~DeviceRing() {
  if (buffers_out_ == 0) {
    device_->Free(data_);
    return;
  }
  Log(LogLevel::kWarning, absl::StrCat("CUDA device ", device_->index(), ": ", buffers_out_, " batches were not released before their ",
                                       "loader was destroyed; ", FormatBytes(bytes_),
                                       " of device memory stay allocated until the process ends"));
}

absl::Status DeviceRing::CheckFits(int64_t bytes) const {
  if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("a batch of ", bytes, " bytes"));
  if (bytes <= bytes_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a batch of ", bytes, " bytes (", FormatBytes(bytes), ") is larger than the ring of ",
                                                 "batches on device ", device_->index(), ", ", bytes_,
                                                 " bytes: set device_bytes to at least ",
                                                 AlignUp(static_cast<uint64_t>(bytes), kAlignmentBytes),
                                                 " (twice that lets the next batch arrive while one is "
                                                 "used), or batch_size lower"));
}

absl::StatusOr<DeviceBuffer> DeviceRing::Allocate(int64_t bytes) {
  absl::Status fits = CheckFits(bytes);
  if (!fits.ok()) return fits;
  const int64_t taken_bytes = static_cast<int64_t>(AlignUp(static_cast<uint64_t>(std::max<int64_t>(bytes, 1)), kAlignmentBytes));
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t start = 0;
  if (!entries_.empty()) {
    const int64_t tail = entries_.front().start;
    const int64_t head = entries_.back().end;
    // Used is [tail, head), or, once wrapped, all but [head, tail). Entries are never empty, so head == tail means wrapped and full.
    const bool wrapped = head <= tail;
    if (!wrapped && bytes_ - head >= taken_bytes) {
      start = head;
    } else if (!wrapped && tail >= taken_bytes) {
      start = 0;  // What is left at the end stays a hole until the tail has passed it.
    } else if (wrapped && tail - head >= taken_bytes) {
      start = head;
    } else {
      return DeviceBuffer{};
    }
  }
  const uint64_t number = next_number_++;
  entries_.push_back({number, start, start + taken_bytes, false});
  ++buffers_out_;
  return DeviceBuffer{data_ + start, bytes, number};
}

void DeviceRing::Free(const DeviceBuffer& buffer) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto entry = std::lower_bound(entries_.begin(), entries_.end(), buffer.number,
                                      [](const Entry& left, uint64_t number) { return left.number < number; });
  PENSTOCK_CHECK(entry != entries_.end() && entry->number == buffer.number && !entry->free,
                 "a device buffer is freed once, by its own ring");
  PENSTOCK_CHECK(data_ + entry->start == buffer.data, "a device buffer is freed as it was handed out");
  entry->free = true;
  --buffers_out_;
  while (!entries_.empty() && entries_.front().free) entries_.pop_front();
}

int64_t DeviceRing::used_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (entries_.empty()) return 0;
  const int64_t tail = entries_.front().start;
  const int64_t head = entries_.back().end;
  return head > tail ? head - tail : bytes_ - (tail - head);
}

int64_t DeviceRing::buffers_out() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return buffers_out_;
}

}  // namespace penstock
