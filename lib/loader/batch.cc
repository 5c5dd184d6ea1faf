#include "penstock/batch.h"

#include <utility>

#include "base/check.h"
#include "loader/lease.h"

namespace penstock {
namespace {

absl::Status Released() { return absl::FailedPreconditionError("the batch was released"); }
absl::Status Forked() { return absl::FailedPreconditionError("the batch was taken before fork(): its device memory is the parent's"); }

}  // namespace

template <typename Value>
const Value* Batch::DeviceColumn(int64_t DeviceLayout::*column) const {
  if (!on_device()) return nullptr;
  const DeviceBatch& device = *lease_->attempt->device;
  return reinterpret_cast<const Value*>(device.data() + device.layout.*column);
}

Batch::Batch() = default;
Batch::Batch(std::unique_ptr<Lease> lease) : lease_(std::move(lease)) {}
Batch Batch::EndOfEpoch() {
  Batch end;
  end.end_of_epoch_ = true;
  return end;
}
Batch::Batch(Batch&& other) noexcept = default;
Batch& Batch::operator=(Batch&& other) noexcept {
  if (this != &other) {
    Release();
    lease_ = std::move(other.lease_);
    end_of_epoch_ = other.end_of_epoch_;
  }
  return *this;
}
Batch::~Batch() { Release(); }

int64_t Batch::size() const { return lease_ == nullptr ? 0 : static_cast<int64_t>(lease_->attempt->plan().ids.size()); }
int64_t Batch::epoch() const { return lease_ == nullptr ? -1 : lease_->attempt->epoch(); }
int64_t Batch::step() const { return lease_ == nullptr ? -1 : lease_->attempt->step(); }
absl::Span<const int64_t> Batch::ids() const { return lease_ == nullptr ? absl::Span<const int64_t>() : lease_->attempt->plan().ids; }
absl::Span<const int64_t> Batch::offsets() const {
  return lease_ == nullptr ? absl::Span<const int64_t>() : lease_->attempt->plan().offsets;
}
absl::Span<const int64_t> Batch::lengths() const {
  return lease_ == nullptr ? absl::Span<const int64_t>() : lease_->attempt->plan().lengths;
}
absl::Span<const int32_t> Batch::labels() const { return lease_ == nullptr ? absl::Span<const int32_t>() : lease_->attempt->plan().labels; }
absl::Span<const uint8_t> Batch::valid() const { return lease_ == nullptr ? absl::Span<const uint8_t>() : lease_->attempt->plan().valid; }
absl::Span<const int32_t> Batch::members() const {
  return lease_ == nullptr ? absl::Span<const int32_t>() : lease_->attempt->plan().members;
}
std::byte* Batch::data() const {
  // In a forked child the memory is not there (MADV_DONTFORK).
  if (lease_ == nullptr || lease_->core->InForkedChild()) return nullptr;
  return on_device() ? lease_->attempt->device->data() : lease_->attempt->places();
}
int64_t Batch::bytes() const { return lease_ == nullptr ? 0 : static_cast<int64_t>(lease_->attempt->plan().bytes); }
int64_t Batch::stride() const { return lease_ == nullptr ? 0 : static_cast<int64_t>(lease_->attempt->plan().stride); }
int64_t Batch::sample_bytes() const { return lease_ == nullptr ? 0 : static_cast<int64_t>(lease_->attempt->plan().dense_bytes); }
bool Batch::on_device() const { return lease_ != nullptr && lease_->attempt->device != nullptr; }

const int64_t* Batch::device_ids() const { return DeviceColumn<int64_t>(&DeviceLayout::ids); }
const int64_t* Batch::device_offsets() const { return DeviceColumn<int64_t>(&DeviceLayout::offsets); }
const int64_t* Batch::device_lengths() const { return DeviceColumn<int64_t>(&DeviceLayout::lengths); }
const int32_t* Batch::device_labels() const { return DeviceColumn<int32_t>(&DeviceLayout::labels); }
const uint8_t* Batch::device_valid() const { return DeviceColumn<uint8_t>(&DeviceLayout::valid); }

absl::Span<const std::byte> Batch::sample(int64_t i) const {
  PENSTOCK_CHECK(i >= 0 && i < size(), "sample index < size()");
  if (on_device() || lease_->core->InForkedChild()) return {};
  const BatchPlan& plan = lease_->attempt->plan();
  const auto index = static_cast<size_t>(i);
  return {lease_->attempt->places() + plan.offsets[index], static_cast<size_t>(plan.lengths[index])};
}

absl::Status Batch::WaitOn(CUstream_st* cuda_stream) {
  if (lease_ == nullptr) return Released();
  if (!on_device()) return absl::OkStatus();
  return lease_->core->InForkedChild() ? Forked() : lease_->attempt->device->events.WaitOn(cuda_stream);
}

absl::Status Batch::RecordUse(CUstream_st* cuda_stream) {
  if (lease_ == nullptr) return Released();
  if (!on_device()) return absl::OkStatus();
  return lease_->core->InForkedChild() ? Forked() : lease_->attempt->device->events.RecordUse(cuda_stream);
}

void Batch::Release() {
  if (lease_ == nullptr) return;
  std::unique_ptr<Lease> lease = std::move(lease_);
  if (lease->core->InForkedChild()) {
    static_cast<void>(lease.release());  // memory, locks and threads are the parent's
    return;
  }
  std::shared_ptr<DeviceBatch> device = std::move(lease->attempt->device);
  lease->attempt.reset();
  if (const auto& freed = Intervals().batch_freed; freed != nullptr) freed();
  lease->core->Released(lease->number, std::move(device));
}

absl::Status Batch::Release(CUstream_st* cuda_stream) {
  absl::Status status = RecordUse(cuda_stream);
  Release();
  return status;
}

}  // namespace penstock
