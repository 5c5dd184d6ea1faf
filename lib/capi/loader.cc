// The loader and what loaders share.
#include <string>
#include <utility>

#include "capi/hand_back.h"
#include "capi/json.h"
#include "capi/objects.h"
#include "penstock/c.h"
#include "penstock/mixture.h"

using namespace penstock;
using namespace penstock::capi;

namespace {

template <typename Body>
absl::Status WithLoader(const char* function, const penstock_loader* handle, Body&& body) {
  absl::StatusOr<std::shared_ptr<LoaderObject>> object = Find<LoaderObject>(function, handle);
  if (!object.ok()) return object.status();
  return body(**object);
}

absl::Status Forked(const char* function) {
  return absl::FailedPreconditionError(absl::StrCat(
      function,
      ": this loader was opened before fork(): its threads and rings are the parent's. Open a loader in the child, or use threads"));
}

// A text of the loader; every call of a forked child is refused.
template <typename Text>
penstock_code GetText(const char* function, const penstock_loader* loader, char** text, penstock_error** error, Text&& of) {
  if (text != nullptr) *text = nullptr;
  return Call(error, [&] {
    return WithLoader(function, loader, [&](LoaderObject& object) -> absl::Status {
      if (text == nullptr) return Missing(function, "the text");
      if (object.loader->epoch() < 0) return Forked(function);
      return GiveText(of(*object.loader), text);
    });
  });
}

absl::Status Next(const char* function, penstock_loader* loader, int64_t wait_ms, penstock_batch** batch, bool& end_of_epoch) {
  return WithLoader(function, loader, [&](LoaderObject& object) -> absl::Status {
    if (batch == nullptr) return Missing(function, "batch");
    // What was handed back by tensors counts as released before the loader says that there is no memory.
    HandBack::Current().Settle();
    // The handle comes first: a batch that was taken is never lost for want of one.
    auto taken = std::make_shared<BatchObject>();
    taken->device = object.device;
    penstock_batch* handle = nullptr;
    if (absl::Status status = Give(taken, &handle); !status.ok()) return status;
    absl::StatusOr<Batch> next = wait_ms < 0 ? object.loader->Next() : object.loader->NextWithin(wait_ms);
    if (next.ok() && *next) {
      taken->batch = *std::move(next);
      *batch = handle;
      return absl::OkStatus();
    }
    HandleTable::Get().Take(Kind::kBatch, handle);
    end_of_epoch = next.ok() && next->end_of_epoch();
    return next.status();
  });
}

}  // namespace

penstock_code penstock_runtime_create(const penstock_options* runtime_options, penstock_runtime** runtime, penstock_error** error) {
  if (runtime != nullptr) *runtime = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (runtime == nullptr) return Missing(function, "runtime");
    const absl::StatusOr<RuntimeOptions> options = CopyOptions<RuntimeOptions>(function, runtime_options, /*optional=*/true);
    if (!options.ok()) return options.status();
    auto object = std::make_shared<RuntimeObject>();
    object->runtime = Runtime::Create(*options);
    return Give(std::move(object), runtime);
  });
}

penstock_code penstock_runtime_close(penstock_runtime* runtime, penstock_error** error) {
  return Call(error, [&, function = __func__] { return Take<RuntimeObject>(function, runtime).status(); });
}

penstock_code penstock_loader_open(const penstock_options* options, penstock_runtime* runtime, penstock_loader** loader,
                                   penstock_error** error) {
  if (loader != nullptr) *loader = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (loader == nullptr) return Missing(function, "loader");
    absl::StatusOr<LoaderOptions> loader_options = CopyOptions<LoaderOptions>(function, options, /*optional=*/false);
    if (!loader_options.ok()) return loader_options.status();
    std::shared_ptr<Runtime> shared;
    if (runtime != nullptr) {
      absl::StatusOr<std::shared_ptr<RuntimeObject>> object = Find<RuntimeObject>(function, runtime);
      if (!object.ok()) return object.status();
      shared = (*object)->runtime;
    }
    auto object = std::make_shared<LoaderObject>();
    object->device = loader_options->device;
    absl::StatusOr<std::unique_ptr<Loader>> opened = CallUntilCancelled<std::unique_ptr<Loader>>(
        options, [given = *std::move(loader_options), shared = std::move(shared)] { return Loader::Open(given, shared); });
    if (!opened.ok()) return opened.status();
    object->loader = *std::move(opened);
    return Give(std::move(object), loader);
  });
}

penstock_code penstock_loader_close(penstock_loader* loader, penstock_error** error) {
  return Call(error, [&, function = __func__]() -> absl::Status {
    absl::StatusOr<std::shared_ptr<LoaderObject>> object = Take<LoaderObject>(function, loader);
    if (!object.ok()) return object.status();
    // A thread that is in next() holds the loader too: it returns now, and the loader ends there.
    if (*object != nullptr) (*object)->loader->Stop();
    return absl::OkStatus();
  });
}

penstock_code penstock_loader_next(penstock_loader* loader, penstock_batch** batch, penstock_error** error) {
  if (batch != nullptr) *batch = nullptr;
  bool end_of_epoch = false;
  const penstock_code code = Call(error, [&, function = __func__] { return Next(function, loader, -1, batch, end_of_epoch); });
  return end_of_epoch ? PENSTOCK_END_OF_EPOCH : code;
}

penstock_code penstock_loader_next_within(penstock_loader* loader, int64_t wait_ms, penstock_batch** batch, penstock_error** error) {
  if (batch != nullptr) *batch = nullptr;
  bool end_of_epoch = false;
  const penstock_code code = Call(error, [&, function = __func__]() -> absl::Status {
    if (wait_ms < 0) return absl::InvalidArgumentError(absl::StrCat(function, ": wait_ms is ", wait_ms, "; it is 0 or more"));
    return Next(function, loader, wait_ms, batch, end_of_epoch);
  });
  return end_of_epoch ? PENSTOCK_END_OF_EPOCH : code;
}

penstock_code penstock_loader_start_epoch(penstock_loader* loader, int64_t epoch, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithLoader(function, loader, [&](LoaderObject& object) -> absl::Status {
      if (epoch < -1)
        return absl::InvalidArgumentError(absl::StrCat(function, ": epoch is ", epoch, "; epochs are counted from 0, -1 is the next one"));
      return epoch == -1 ? object.loader->StartEpoch() : object.loader->StartEpoch(epoch);
    });
  });
}

penstock_code penstock_loader_set_weights(penstock_loader* loader, const double* weights, int64_t count, penstock_error** error) {
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (weights == nullptr) return Missing(function, "weights");
    if (count < 0 || count > kMixtureMembersMax) {
      return absl::InvalidArgumentError(absl::StrCat(function, ": count is ", count, "; a mixture has from 1 to ", kMixtureMembersMax,
                                                     " data sets, and a weight for each"));
    }
    return WithLoader(function, loader, [&](LoaderObject& object) {
      return object.loader->SetWeights(absl::MakeConstSpan(weights, static_cast<size_t>(count)));
    });
  });
}

penstock_code penstock_loader_skip(penstock_loader* loader, int64_t steps, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithLoader(function, loader, [&](LoaderObject& object) { return object.loader->Skip(steps); });
  });
}

penstock_code penstock_loader_stop(penstock_loader* loader, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithLoader(function, loader, [&](LoaderObject& object) {
      if (object.loader->epoch() < 0) return Forked(function);
      object.loader->Stop();
      return absl::OkStatus();
    });
  });
}

penstock_code penstock_loader_position(const penstock_loader* loader, int64_t* epoch, int64_t* step, int64_t* steps,
                                       int64_t* steps_left, penstock_error** error) {
  for (int64_t* out : {epoch, step, steps, steps_left}) {
    if (out != nullptr) *out = 0;
  }
  return Call(error, [&, function = __func__] {
    return WithLoader(function, loader, [&](LoaderObject& object) {
      const int64_t now = object.loader->epoch();
      if (now < 0) return Forked(function);
      if (epoch != nullptr) *epoch = now;
      if (step != nullptr) *step = object.loader->step();
      if (steps != nullptr) *steps = object.loader->steps();
      if (steps_left != nullptr) *steps_left = object.loader->steps_left();
      return absl::OkStatus();
    });
  });
}

penstock_code penstock_loader_state(const penstock_loader* loader, char** state, penstock_error** error) {
  return GetText(__func__, loader, state, error, [](const Loader& of) { return of.state(); });
}

penstock_code penstock_loader_report_json(const penstock_loader* loader, char** json, penstock_error** error) {
  return GetText(__func__, loader, json, error, [](const Loader& of) { return ToJson(of.report()); });
}

penstock_code penstock_loader_setup_json(const penstock_loader* loader, char** json, penstock_error** error) {
  return GetText(__func__, loader, json, error, [](const Loader& of) { return ToJson(of.setup()); });
}

penstock_code penstock_loader_manifest(const penstock_loader* loader, penstock_manifest** manifest, penstock_error** error) {
  if (manifest != nullptr) *manifest = nullptr;
  return Call(error, [&, function = __func__] {
    return WithLoader(function, loader, [&](LoaderObject& object) -> absl::Status {
      if (manifest == nullptr) return Missing(function, "manifest");
      auto held = std::make_shared<ManifestObject>();
      held->manifest = object.loader->manifest();
      return Give(std::move(held), manifest);
    });
  });
}
