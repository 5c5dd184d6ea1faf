// Whether anybody still waits for the work that this thread does (penstock/cancel.h).
#ifndef PENSTOCK_BASE_CANCEL_H_
#define PENSTOCK_BASE_CANCEL_H_

#include <atomic>
#include <memory>
#include <utility>

#include "absl/status/status.h"

namespace penstock {

using CancelFlag = std::shared_ptr<const std::atomic<bool>>;

// The flag of the call for which this thread works; null where it cannot be cancelled.
CancelFlag& CurrentCancel();

inline bool Cancelled() {
  const CancelFlag& flag = CurrentCancel();
  return flag != nullptr && flag->load(std::memory_order_relaxed);
}

inline absl::Status CancelledStatus() { return absl::CancelledError("the call was cancelled"); }

// Makes this thread one that works for the call of `flag`, for the life of this object.
class CancelScope {
 public:
  explicit CancelScope(CancelFlag flag) : before_(std::exchange(CurrentCancel(), std::move(flag))) {}
  ~CancelScope() { CurrentCancel() = std::move(before_); }
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  CancelFlag before_;
};

}  // namespace penstock

#endif  // PENSTOCK_BASE_CANCEL_H_
