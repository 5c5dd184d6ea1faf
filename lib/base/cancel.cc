#include "base/cancel.h"

#include "absl/strings/str_cat.h"
#include "base/aside.h"
#include "base/clock.h"
#include "base/thread_error.h"
#include "penstock/cancel.h"

namespace penstock {

CancelFlag& CurrentCancel() {
  thread_local CancelFlag flag;
  return flag;
}

absl::Status RunUntilCancelled(std::function<void()> call, const std::function<bool()>& cancelled) {
  constexpr int64_t kAskEveryNs = 20 * kNsPerMs;
  // So long a call that is not held up may take to put away what it made: its lease, a file that is half written.
  constexpr int64_t kToEndNs = 30 * kNsPerMs;
  auto flag = std::make_shared<std::atomic<bool>>(false);
  Aside<bool> aside([flag, call = std::move(call)] {
    const CancelScope scope(flag);
    call();
    return true;
  });
  if (!aside.no_thread().empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no thread for a call that can be cancelled: ", aside.no_thread(), "; ", ThreadCure()));
  }
  while (aside.Within(kAskEveryNs) == nullptr) {
    if (!cancelled()) continue;
    flag->store(true);
    aside.Within(kToEndNs);
    return CancelledStatus();
  }
  return absl::OkStatus();
}

}  // namespace penstock
