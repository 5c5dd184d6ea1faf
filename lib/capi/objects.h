// What lies behind the handles.
#ifndef PENSTOCK_CAPI_OBJECTS_H_
#define PENSTOCK_CAPI_OBJECTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/fork_guard.h"
#include "capi/call.h"
#include "penstock/cancel.h"
#include "penstock/loader.h"
#include "penstock/manifest.h"
#include "penstock/options.h"

namespace penstock::capi {

struct ErrorObject {
  static constexpr Kind kKind = Kind::kError;
  penstock_code code;
  std::string message;
};

struct OptionsObject {
  static constexpr Kind kKind = Kind::kOptions;
  std::mutex mutex;
  std::variant<LoaderOptions, IndexOptions, RuntimeOptions> options;  // in the order of PENSTOCK_*_OPTIONS
  const int32_t* cancel = nullptr;
};

// A copy of options of one table; its defaults where the handle is NULL and that is allowed.
template <typename Options>
absl::StatusOr<Options> CopyOptions(absl::string_view function, const penstock_options* handle, bool optional) {
  if (handle == nullptr && optional) return Options();
  absl::StatusOr<std::shared_ptr<OptionsObject>> object = Find<OptionsObject>(function, handle);
  if (!object.ok()) return object.status();
  std::lock_guard<std::mutex> lock((*object)->mutex);
  const Options* options = std::get_if<Options>(&(*object)->options);
  if (options == nullptr) {
    static constexpr const char* kTables[] = {"PENSTOCK_LOADER_OPTIONS", "PENSTOCK_INDEX_OPTIONS", "PENSTOCK_RUNTIME_OPTIONS"};
    const std::variant<LoaderOptions, IndexOptions, RuntimeOptions> wanted(std::in_place_type<Options>);
    return absl::InvalidArgumentError(
        absl::StrCat(function, ": these options are of ", kTables[(*object)->options.index()], "; it takes ", kTables[wanted.index()]));
  }
  return *options;
}

// Runs `call`, which opens or indexes, until the number of these options (penstock_options_set_cancel) says to give up.
template <typename T>
absl::StatusOr<T> CallUntilCancelled(const penstock_options* handle, std::function<absl::StatusOr<T>()> call) {
  const int32_t* flag = nullptr;
  if (absl::StatusOr<std::shared_ptr<OptionsObject>> object = Find<OptionsObject>("options", handle); handle != nullptr && object.ok()) {
    std::lock_guard<std::mutex> lock((*object)->mutex);
    flag = (*object)->cancel;
  }
  if (flag == nullptr) return call();
  // Written by a signal handler, or by another thread.
  return UntilCancelled<T>(std::move(call), [flag] { return __atomic_load_n(flag, __ATOMIC_RELAXED) != 0; });
}

struct RuntimeObject {
  static constexpr Kind kKind = Kind::kRuntime;
  ~RuntimeObject() {
    // Its threads are the parent's.
    if (fork_guard.InForkedChild()) new std::shared_ptr<Runtime>(std::move(runtime));
  }
  const ForkGuard fork_guard;
  std::shared_ptr<Runtime> runtime;
};

struct ManifestObject {
  static constexpr Kind kKind = Kind::kManifest;
  std::shared_ptr<const Manifest> manifest;
};

struct LoaderObject {
  static constexpr Kind kKind = Kind::kLoader;
  std::unique_ptr<Loader> loader;
  int32_t device = -1;
};

// A batch, held by its handle and by every tensor that was exported of it; it is released with the last of them.
struct BatchObject {
  static constexpr Kind kKind = Kind::kBatch;
  const ForkGuard fork_guard;  // asked before the mutex, which a thread of the parent may hold for good
  std::mutex mutex;            // a Batch is used by one thread at a time, and tensors go away on any
  Batch batch;
  int32_t device = -1;
};

// Finds a batch. Errors: InvalidArgument; FailedPrecondition  a forked child.
inline absl::StatusOr<std::shared_ptr<BatchObject>> FindBatch(absl::string_view function, const penstock_batch* handle) {
  absl::StatusOr<std::shared_ptr<BatchObject>> object = Find<BatchObject>(function, handle);
  if (object.ok() && (*object)->fork_guard.InForkedChild()) {
    return absl::FailedPreconditionError(absl::StrCat(
        function, ": the batch was taken before fork(): its memory is the parent's. Take batches from a loader of the child's own"));
  }
  return object;
}

}  // namespace penstock::capi

#endif  // PENSTOCK_CAPI_OBJECTS_H_
