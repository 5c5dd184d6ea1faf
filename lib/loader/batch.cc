#include "penstock/batch.h"

#include <utility>

#include "base/check.h"
#include "loader/lease.h"

namespace penstock {

Batch::Batch(std::unique_ptr<Lease> lease) : lease_(std::move(lease)) {}
Batch::Batch(Batch&& other) noexcept = default;
Batch& Batch::operator=(Batch&& other) noexcept {
  if (this != &other) {
    Release();
    lease_ = std::move(other.lease_);
  }
  return *this;
}
Batch::~Batch() { Release(); }

int64_t Batch::size() const { return lease_ == nullptr ? 0 : static_cast<int64_t>(lease_->attempt->plan().ids.size()); }
int64_t Batch::epoch() const { return lease_ == nullptr ? -1 : lease_->attempt->epoch(); }
int64_t Batch::step() const { return lease_ == nullptr ? -1 : lease_->attempt->step(); }
absl::Span<const int64_t> Batch::ids() const { return lease_ == nullptr ? absl::Span<const int64_t>() : lease_->attempt->plan().ids; }
absl::Span<const int64_t> Batch::offsets() const { return lease_ == nullptr ? absl::Span<const int64_t>() : lease_->attempt->plan().offsets; }
absl::Span<const int64_t> Batch::lengths() const { return lease_ == nullptr ? absl::Span<const int64_t>() : lease_->attempt->plan().lengths; }
absl::Span<const int32_t> Batch::labels() const { return lease_ == nullptr ? absl::Span<const int32_t>() : lease_->attempt->plan().labels; }
absl::Span<const uint8_t> Batch::valid() const { return lease_ == nullptr ? absl::Span<const uint8_t>() : lease_->attempt->plan().valid; }
std::byte* Batch::data() const { return lease_ == nullptr ? nullptr : lease_->attempt->places(); }
int64_t Batch::bytes() const { return lease_ == nullptr ? 0 : static_cast<int64_t>(lease_->attempt->plan().bytes); }
int64_t Batch::stride() const { return lease_ == nullptr ? 0 : static_cast<int64_t>(lease_->attempt->plan().stride); }
bool Batch::on_device() const { return false; }

absl::Span<const std::byte> Batch::sample(int64_t i) const {
  PENSTOCK_CHECK(i >= 0 && i < size(), "sample index < size()");
  const BatchPlan& plan = lease_->attempt->plan();
  const auto index = static_cast<size_t>(i);
  return {lease_->attempt->places() + plan.offsets[index], static_cast<size_t>(plan.lengths[index])};
}

absl::Status Batch::WaitOn(CUstream_st*) { return absl::OkStatus(); }
absl::Status Batch::RecordUse(CUstream_st*) { return absl::OkStatus(); }

void Batch::Release() {
  if (lease_ == nullptr) return;
  std::unique_ptr<Lease> lease = std::move(lease_);
  if (lease->core->InForkedChild()) {
    static_cast<void>(lease.release());  // memory, locks and threads are the parent's
    return;
  }
  const Attempt* attempt = lease->attempt.get();
  lease->attempt.reset();
  lease->core->Released(attempt);
}

absl::Status Batch::Release(CUstream_st*) {
  Release();
  return absl::OkStatus();
}

}  // namespace penstock
