// Batches as DLPack tensors.
#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "capi/dlpack_layout.h"
#include "capi/hand_back.h"
#include "capi/objects.h"
#include "penstock/c.h"

using namespace penstock;
using namespace penstock::capi;

static_assert(sizeof(DLTensor) == 48 && offsetof(DLTensor, shape) == 24 && offsetof(DLTensor, byte_offset) == 40);
static_assert(sizeof(DLManagedTensor) == 64 && sizeof(DLManagedTensorVersioned) == 80 &&
              offsetof(DLManagedTensorVersioned, dl_tensor) == 32);

namespace {

constexpr int32_t kDimensionsMax = 32;
// cudaStreamPerThread as CUDA and __dlpack__() write it.
constexpr int64_t kPerThreadStream = 2;

// A tensor with all that it points to. The consumer holds the address of `managed`.
template <typename Managed>
struct Tensor : HandBack::Hold {
  Managed managed{};
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  std::vector<unsigned char> column;  // host columns: a copy
};

template <typename Managed>
void Delete(Managed* self) {
  if (self == nullptr) return;
  auto* tensor = static_cast<Tensor<Managed>*>(self->manager_ctx);
  if (tensor->batch == nullptr) {
    delete tensor;
  } else {
    HandBack::Leave(tensor);
  }
}

struct Type {
  int32_t code;
  int32_t bits;
  int64_t bytes() const { return bits / 8; }
};

// How a sample is to be read: bytes unless the caller says otherwise.
struct Wanted {
  Type type;
  std::vector<int64_t> shape;  // of one sample
  bool typed;
};

absl::StatusOr<Wanted> ReadWanted(int32_t code, int32_t bits, int32_t ndim, const int64_t* shape) {
  if (bits == 0) return Wanted{{PENSTOCK_TYPE_UINT, 8}, {}, false};
  static constexpr struct {
    int32_t code;
    int32_t bits[4];
  } kTypes[] = {{PENSTOCK_TYPE_INT, {8, 16, 32, 64}},  {PENSTOCK_TYPE_UINT, {8, 16, 32, 64}},    {PENSTOCK_TYPE_FLOAT, {16, 32, 64, 0}},
                {PENSTOCK_TYPE_BFLOAT, {16, 0, 0, 0}}, {PENSTOCK_TYPE_COMPLEX, {64, 128, 0, 0}}, {PENSTOCK_TYPE_BOOL, {8, 0, 0, 0}}};
  bool known = false;
  for (const auto& type : kTypes) {
    for (const int32_t width : type.bits) known = known || (code == type.code && bits == width);
  }
  if (!known)
    return absl::InvalidArgumentError(
        absl::StrCat("type_code ", code, " with type_bits ", bits, " is no type of a tensor; PENSTOCK_TYPE_FLOAT with 32 is one"));
  if (ndim < 0 || ndim > kDimensionsMax) return absl::InvalidArgumentError(absl::StrCat("ndim is ", ndim, "; it is 0 to ", kDimensionsMax));
  if (ndim > 0 && shape == nullptr) return absl::InvalidArgumentError("shape is NULL");
  Wanted wanted{{code, bits}, std::vector<int64_t>(shape, shape + ndim), true};
  for (const int64_t axis : wanted.shape) {
    if (axis < 0) return absl::InvalidArgumentError(absl::StrCat("shape (", absl::StrJoin(wanted.shape, ", "), ") has an axis below 0"));
  }
  return wanted;
}

std::string Describe(const Wanted& wanted) {
  static constexpr const char* kNames[] = {"int", "uint", "float", "", "bfloat", "complex", "bool"};
  return absl::StrCat(kNames[wanted.type.code], wanted.type.bits, " of shape (", absl::StrJoin(wanted.shape, ", "), ")");
}

// Whether the shape has exactly `bytes` bytes.
absl::Status Fits(const Wanted& wanted, int64_t bytes, int64_t sample) {
  int64_t product = wanted.type.bytes();
  bool overflow = false;
  for (const int64_t axis : wanted.shape) overflow = __builtin_mul_overflow(product, axis, &product) || overflow;
  if (!overflow && product == bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("sample ", sample, " of the batch has ", bytes, " bytes, and ", Describe(wanted), " has ",
                                                 overflow ? "more than 2^63" : absl::StrCat(product)));
}

// What a tensor shows: where, and in which shape. Strides follow from the shape, but for the first axis where that is given.
struct View {
  const void* data = nullptr;
  Type type{PENSTOCK_TYPE_UINT, 8};
  std::vector<int64_t> shape;
  int64_t first_stride = -1;  // in elements
  bool host_column = false;
};

absl::StatusOr<View> DataView(const Batch& batch, Wanted wanted) {
  View view{batch.data(), wanted.type, {}, -1, false};
  if (!wanted.typed) {
    view.shape = batch.stride() > 0 ? std::vector<int64_t>{batch.size(), batch.stride()} : std::vector<int64_t>{batch.bytes()};
    return view;
  }
  if (batch.stride() == 0) {
    return absl::InvalidArgumentError("all samples as one tensor of a type need layout=dense; PENSTOCK_TENSOR_SAMPLE gives each as one");
  }
  bool looked = false;
  for (int64_t i = 0; i < batch.size(); ++i) {
    if (batch.valid()[static_cast<size_t>(i)] == 0) continue;
    if (absl::Status status = Fits(wanted, batch.lengths()[static_cast<size_t>(i)], i); !status.ok()) return status;
    looked = true;
  }
  // An empty batch, or one whose samples were all skipped, takes the same shape as the others.
  if (!looked && batch.sample_bytes() > 0) {
    if (absl::Status status = Fits(wanted, batch.sample_bytes(), 0); !status.ok()) return status;
  }
  // Strides are aligned to 64 bytes, so that they are whole elements of every type.
  view.shape = std::move(wanted.shape);
  view.shape.insert(view.shape.begin(), batch.size());
  if (batch.size() > 0) view.first_stride = batch.stride() / wanted.type.bytes();  // without samples there is nothing between them
  return view;
}

absl::StatusOr<View> SampleView(const Batch& batch, int64_t index, Wanted wanted) {
  if (index < 0 || index >= batch.size())
    return absl::InvalidArgumentError(absl::StrCat("index ", index, " of a batch of ", batch.size(), " samples"));
  const auto i = static_cast<size_t>(index);
  const int64_t length = batch.lengths()[i];
  View view{batch.data() == nullptr ? nullptr : batch.data() + batch.offsets()[i], wanted.type, {length}, -1, false};
  if (!wanted.typed) return view;
  if (absl::Status status = Fits(wanted, length, index); !status.ok()) return status;
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(wanted.type.bytes()) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sample ", index, " lies at byte ", batch.offsets()[i], " of the batch, which is not aligned for ", Describe(wanted),
                     ": it shares its read with a neighbour. Take its bytes and copy them, or use layout=dense"));
  }
  view.shape = std::move(wanted.shape);
  return view;
}

template <typename Value>
View ColumnView(const Batch& batch, Type type, absl::Span<const Value> host, const Value* device) {
  return {batch.on_device() ? device : host.data(), type, {batch.size()}, -1, !batch.on_device()};
}

absl::StatusOr<View> ViewOf(const Batch& batch, int32_t part, int64_t index, Wanted wanted) {
  switch (part) {
    case PENSTOCK_TENSOR_DATA:
      return DataView(batch, std::move(wanted));
    case PENSTOCK_TENSOR_SAMPLE:
      return SampleView(batch, index, std::move(wanted));
    case PENSTOCK_TENSOR_IDS:
      return ColumnView(batch, {PENSTOCK_TYPE_INT, 64}, batch.ids(), batch.device_ids());
    case PENSTOCK_TENSOR_OFFSETS:
      return ColumnView(batch, {PENSTOCK_TYPE_INT, 64}, batch.offsets(), batch.device_offsets());
    case PENSTOCK_TENSOR_LENGTHS:
      return ColumnView(batch, {PENSTOCK_TYPE_INT, 64}, batch.lengths(), batch.device_lengths());
    case PENSTOCK_TENSOR_LABELS:
      return ColumnView(batch, {PENSTOCK_TYPE_INT, 32}, batch.labels(), batch.device_labels());
    case PENSTOCK_TENSOR_VALID:
      return ColumnView(batch, {PENSTOCK_TYPE_UINT, 8}, batch.valid(), batch.device_valid());
    default:
      return absl::InvalidArgumentError(absl::StrCat("part ", part, " is none of PENSTOCK_TENSOR_DATA (0) to PENSTOCK_TENSOR_VALID (6)"));
  }
}

// The stream that waits, and the one that reuse waits for. A per-thread stream means another one on the thread that records: the legacy
// stream, which waits for all of them, stands for it (CUDA Runtime API, "Stream synchronization behavior"). So it does for a consumer
// who orders his streams himself and does not say which.
absl::Status OrderStreams(BatchObject& object, int64_t stream, CUstream_st*& reuse_after) {
  if (!object.batch.on_device()) return absl::OkStatus();
  if (stream == 0 || stream < -1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stream is ", stream, "; it is 1 (legacy default), 2 (per thread), a cudaStream_t, or -1 (nothing waits), as in __dlpack__()"));
  }
  auto* const cuda_stream = stream == 1 ? nullptr : reinterpret_cast<CUstream_st*>(stream);
  reuse_after = stream > kPerThreadStream ? cuda_stream : nullptr;
  return stream == -1 ? absl::OkStatus() : object.batch.WaitOn(cuda_stream);
}

void SetVersion(DLManagedTensor&, bool) {}
void SetVersion(DLManagedTensorVersioned& managed, bool copied) {
  managed.version = {PENSTOCK_DLPACK_MAJOR, PENSTOCK_DLPACK_MINOR};
  managed.flags = copied ? DLPACK_FLAG_BITMASK_IS_COPIED : 0;
}

template <typename Managed>
absl::Status Export(const char* function, const penstock_batch* handle, int32_t part, int64_t index, int32_t type_code, int32_t type_bits,
                    int32_t ndim, const int64_t* shape, int64_t stream, Managed** out) {
  if (out == nullptr) return Missing(function, "tensor");
  absl::StatusOr<std::shared_ptr<BatchObject>> object = FindBatch(function, handle);
  if (!object.ok()) return object.status();
  absl::StatusOr<Wanted> wanted = ReadWanted(type_code, type_bits, ndim, shape);
  if (!wanted.ok()) return wanted.status();
  std::lock_guard<std::mutex> lock((*object)->mutex);
  const Batch& batch = (*object)->batch;
  absl::StatusOr<View> view = ViewOf(batch, part, index, *std::move(wanted));
  if (!view.ok()) return view.status();

  auto tensor = std::make_unique<Tensor<Managed>>();
  tensor->shape = std::move(view->shape);
  tensor->strides.assign(tensor->shape.size(), 1);
  // An axis of 0 leaves the others' strides as they would be with 1.
  for (size_t i = tensor->shape.size(); i-- > 1;) tensor->strides[i - 1] = tensor->strides[i] * std::max<int64_t>(tensor->shape[i], 1);
  if (view->first_stride >= 0) tensor->strides[0] = view->first_stride;
  const void* data = view->data;
  if (view->host_column) {
    const auto* bytes = static_cast<const unsigned char*>(view->data);
    tensor->column.assign(bytes, bytes + batch.size() * view->type.bytes());
    data = tensor->column.data();
  } else {
    if (absl::Status status = HandBack::Current().Start(); !status.ok()) return status;
    if (absl::Status status = OrderStreams(**object, stream, tensor->cuda_stream); !status.ok()) return status;
    tensor->to = &HandBack::Current();
  }
  tensor->managed.manager_ctx = tensor.get();
  tensor->managed.deleter = &Delete<Managed>;
  SetVersion(tensor->managed, view->host_column);
  DLTensor& dl = tensor->managed.dl_tensor;
  dl.data = const_cast<void*>(data);
  dl.device = {batch.on_device() ? kDLCUDA : kDLCPU, batch.on_device() ? (*object)->device : 0};
  dl.ndim = static_cast<int32_t>(tensor->shape.size());
  dl.dtype = {static_cast<uint8_t>(view->type.code), static_cast<uint8_t>(view->type.bits), 1};
  dl.shape = tensor->shape.data();
  dl.strides = tensor->strides.data();
  if (!view->host_column) tensor->batch = *object;
  *out = &tensor.release()->managed;
  return absl::OkStatus();
}

}  // namespace

penstock_code penstock_batch_to_dlpack(penstock_batch* batch, int32_t part, int64_t index, int32_t type_code, int32_t type_bits,
                                       int32_t ndim, const int64_t* shape, int64_t stream, struct DLManagedTensor** tensor,
                                       penstock_error** error) {
  if (tensor != nullptr) *tensor = nullptr;
  return Call(error,
              [&, function = __func__] { return Export(function, batch, part, index, type_code, type_bits, ndim, shape, stream, tensor); });
}

penstock_code penstock_batch_to_dlpack_versioned(penstock_batch* batch, int32_t part, int64_t index, int32_t type_code, int32_t type_bits,
                                                 int32_t ndim, const int64_t* shape, int64_t stream,
                                                 struct DLManagedTensorVersioned** tensor, penstock_error** error) {
  if (tensor != nullptr) *tensor = nullptr;
  return Call(error,
              [&, function = __func__] { return Export(function, batch, part, index, type_code, type_bits, ndim, shape, stream, tensor); });
}
