// Giving up a call that opens or indexes a data set, from outside of it.
#ifndef PENSTOCK_CANCEL_H_
#define PENSTOCK_CANCEL_H_

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "penstock/export.h"

namespace penstock {

/// Runs `call` on a thread of its own until it returns, or until `cancelled`, which is asked about every 20 ms on the calling thread, is true.
///
/// Errors:   Cancelled          `cancelled` was true. `call` may still be at work for a while, and for good where a file system does not
///                              answer: it ends on its own, and its result is dropped.
///           ResourceExhausted  there is no thread to be had.
/// Lifetime: what `call` uses must be its own: copies and shared pointers.
[[nodiscard]] PENSTOCK_EXPORT absl::Status RunUntilCancelled(std::function<void()> call, const std::function<bool()>& cancelled);

/// The same for what opens: Loader::Open(), Manifest::Open(), Build() and Update(). These stop waiting for other processes, and stop listing and
/// reading, as soon as they see that nobody waits for them; a lease is given back, and nothing is saved. IndexOptions::progress is called on
/// the thread of the call then.
///
///     auto loader = penstock::UntilCancelled<std::unique_ptr<penstock::Loader>>([options] { return penstock::Loader::Open(options); },
///                                                                               [] { return interrupted != 0; });
template <typename T>
[[nodiscard]] absl::StatusOr<T> UntilCancelled(std::function<absl::StatusOr<T>()> call, const std::function<bool()>& cancelled) {
  auto result = std::make_shared<std::optional<absl::StatusOr<T>>>();
  const absl::Status status = RunUntilCancelled([result, call = std::move(call)] { result->emplace(call()); }, cancelled);
  if (!status.ok()) return status;
  return std::move(**result);
}

}  // namespace penstock

#endif  // PENSTOCK_CANCEL_H_
