// Batches: looked at, ordered behind CUDA streams, given back.
#include <cstddef>
#include <utility>

#include "capi/objects.h"
#include "penstock/c.h"

using namespace penstock;
using namespace penstock::capi;

namespace {

template <typename Body>
absl::Status WithBatch(const char* function, const penstock_batch* handle, Body&& body) {
  absl::StatusOr<std::shared_ptr<BatchObject>> object = FindBatch(function, handle);
  if (!object.ok()) return object.status();
  std::lock_guard<std::mutex> lock((*object)->mutex);
  return body((*object)->batch, (*object)->device);
}

}  // namespace

penstock_code penstock_batch_get(const penstock_batch* batch, penstock_batch_view* view, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithBatch(function, batch, [&](const Batch& of, int32_t device) -> absl::Status {
      if (view == nullptr) return Missing(function, "view");
      penstock_batch_view filled{};
      filled.size = of.size();
      filled.epoch = of.epoch();
      filled.step = of.step();
      filled.data = of.bytes() > 0 ? of.data() : nullptr;
      filled.bytes = of.bytes();
      filled.stride = of.stride();
      filled.ids = of.ids().data();
      filled.offsets = of.offsets().data();
      filled.lengths = of.lengths().data();
      filled.labels = of.labels().data();
      filled.valid = of.valid().data();
      filled.on_device = of.on_device() ? 1 : 0;
      filled.device = of.on_device() ? device : -1;
      filled.device_ids = of.device_ids();
      filled.device_offsets = of.device_offsets();
      filled.device_lengths = of.device_lengths();
      filled.device_labels = of.device_labels();
      filled.device_valid = of.device_valid();
      filled.sample_bytes = of.sample_bytes();
      filled.members = of.members().empty() ? nullptr : of.members().data();
      return FillView(function, filled, offsetof(penstock_batch_view, members), view);
    });
  });
}

penstock_code penstock_batch_release(penstock_batch* batch, penstock_error** error) {
  return Call(error, [&, function = __func__] { return Take<BatchObject>(function, batch).status(); });
}

penstock_code penstock_batch_release_after(penstock_batch* batch, void* cuda_stream, penstock_error** error) {
  return Call(error, [&, function = __func__]() -> absl::Status {
    absl::StatusOr<std::shared_ptr<BatchObject>> object = Take<BatchObject>(function, batch);
    if (!object.ok() || *object == nullptr) return object.status();
    if ((*object)->fork_guard.InForkedChild()) return absl::OkStatus();  // it is the parent's, and stays there
    std::lock_guard<std::mutex> lock((*object)->mutex);
    return (*object)->batch.RecordUse(static_cast<CUstream_st*>(cuda_stream));
  });
}

penstock_code penstock_batch_wait_on(penstock_batch* batch, void* cuda_stream, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithBatch(function, batch, [&](Batch& of, int32_t) { return of.WaitOn(static_cast<CUstream_st*>(cuda_stream)); });
  });
}

penstock_code penstock_batch_record_use(penstock_batch* batch, void* cuda_stream, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithBatch(function, batch, [&](Batch& of, int32_t) { return of.RecordUse(static_cast<CUstream_st*>(cuda_stream)); });
  });
}
