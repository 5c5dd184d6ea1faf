// Batches as DLPack tensors: what they describe, and whose the memory is until the last of them is gone.
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "capi/c_api.h"
#include "capi/dlpack_layout.h"
#include "capi/hand_back.h"
#include "capi/objects.h"
#include "loader/runtime.h"
#include "penstock/log.h"
#include "support/child.h"
#include "transfer/scripted_device.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// The arguments of an export; bytes of the whole batch unless said otherwise.
struct Wanted {
  int32_t part = PENSTOCK_TENSOR_DATA;
  int64_t index = 0;
  int32_t type_code = 0;
  int32_t type_bits = 0;
  std::vector<int64_t> shape;
  int64_t stream = -1;
};

DLManagedTensorVersioned* Export(penstock_batch* batch, const Wanted& wanted = {}) {
  Error error;
  DLManagedTensorVersioned* tensor = nullptr;
  C_OK(error,
       penstock_batch_to_dlpack_versioned(batch, wanted.part, wanted.index, wanted.type_code, wanted.type_bits,
                                          static_cast<int32_t>(wanted.shape.size()), wanted.shape.data(), wanted.stream, &tensor, &error));
  REQUIRE(tensor != nullptr);
  return tensor;
}

void CheckRefused(penstock_batch* batch, const Wanted& wanted, const std::string& part_of_text) {
  Error error;
  DLManagedTensor* tensor = reinterpret_cast<DLManagedTensor*>(1);
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT,
          penstock_batch_to_dlpack(batch, wanted.part, wanted.index, wanted.type_code, wanted.type_bits,
                                   static_cast<int32_t>(wanted.shape.size()), wanted.shape.data(), wanted.stream, &tensor, &error));
  CHECK(tensor == nullptr);
  INFO(error.text());
  CHECK(error.text().find(part_of_text) != std::string::npos);
}

std::vector<int64_t> Shape(const DLTensor& tensor) { return {tensor.shape, tensor.shape + tensor.ndim}; }
std::vector<int64_t> Strides(const DLTensor& tensor) { return {tensor.strides, tensor.strides + tensor.ndim}; }

// A runtime of the C API whose device 0 is scripted.
penstock_runtime* ScriptedRuntime(const std::shared_ptr<ScriptedDevice>& device) {
  auto object = std::make_shared<capi::RuntimeObject>();
  object->runtime = RuntimeCore::MakeRuntime({}, [device](int) -> absl::StatusOr<std::shared_ptr<Device>> { return device; });
  penstock_runtime* runtime = nullptr;
  REQUIRE_OK(capi::Give(std::move(object), &runtime));
  return runtime;
}

struct DeviceFixture {
  explicit DeviceFixture(const DataSet& data, int64_t batch_size = 16)
      : device(std::make_shared<ScriptedDevice>()), options(data.root(), EngineOption::kThreads, batch_size) {
    options.Set("device", "0");
    options.Set("device_bytes", "1MiB");
    options.Set("memory_bytes", "16MiB");
    options.Set("prefetch_batches", "1");
    penstock_runtime* runtime = ScriptedRuntime(device);
    loader = options.Open(runtime);
    penstock_runtime_close(runtime, nullptr);
  }
  ~DeviceFixture() {
    penstock_loader_close(loader, nullptr);
    for (const std::string& violation : device->violations()) FAIL_CHECK(violation);
  }
  int64_t RecordsOn(CudaStream stream) const {
    int64_t count = 0;
    for (const ScriptedCall& call : device->calls()) count += call.name == "Record" && call.cuda_stream == stream;
    return count;
  }
  int64_t WaitsOf(CudaStream stream) const {
    int64_t count = 0;
    for (const ScriptedCall& call : device->calls()) count += call.name == "MakeWait" && call.cuda_stream == stream;
    return count;
  }
  std::shared_ptr<ScriptedDevice> device;
  COptions options;
  penstock_loader* loader = nullptr;
};

}  // namespace

TEST_CASE("an empty dense batch is a tensor of no samples of the shape that was asked for", "[dlpack]") {
  const DataSet data(5, -48);
  for (const EngineOption engine : Engines()) {
    COptions options(data.root(), engine, 1);
    options.Set("layout", "dense");
    options.Set("tail", "partial");
    options.Set("rank", "3");
    options.Set("world_size", "4");
    penstock_loader* loader = options.Open();
    Error error;
    C_OK(error, penstock_batch_release(TakeBatch(loader), &error));
    penstock_batch* batch = TakeBatch(loader);
    const penstock_batch_view view = ViewOf(batch);
    CHECK(view.size == 0);
    CHECK(view.stride == 64);
    CHECK(view.sample_bytes == 48);
    DLManagedTensorVersioned* tensor = Export(batch);
    CHECK(Shape(tensor->dl_tensor) == std::vector<int64_t>{0, 64});
    tensor->deleter(tensor);
    tensor = Export(batch, {PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, {3, 4}});
    CHECK(Shape(tensor->dl_tensor) == std::vector<int64_t>{0, 3, 4});
    CHECK(Strides(tensor->dl_tensor) == std::vector<int64_t>{12, 4, 1});
    tensor->deleter(tensor);
    tensor = Export(batch, {PENSTOCK_TENSOR_LABELS});
    CHECK(Shape(tensor->dl_tensor) == std::vector<int64_t>{0});
    tensor->deleter(tensor);
    CheckRefused(batch, {PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, {3, 5}}, "48 bytes");
    CheckRefused(batch, {PENSTOCK_TENSOR_SAMPLE, 0}, "index 0");
    C_OK(error, penstock_batch_release(batch, &error));
    C_OK(error, penstock_loader_close(loader, &error));
  }
}

TEST_CASE("a tensor shows the batch's bytes, its sample's bytes and its columns, with strides filled", "[dlpack]") {
  const DataSet data(40, 3000);
  for (const EngineOption engine : Engines()) {
    penstock_loader* loader = COptions(data.root(), engine).Open();
    penstock_batch* batch = TakeBatch(loader);
    const penstock_batch_view view = ViewOf(batch);
    DLManagedTensorVersioned* all = Export(batch);
    CHECK(all->version.major == 1);
    CHECK(all->flags == 0);
    CHECK(all->dl_tensor.data == view.data);
    CHECK(reinterpret_cast<uintptr_t>(view.data) % 256 == 0);
    CHECK(all->dl_tensor.device.device_type == kDLCPU);
    CHECK(all->dl_tensor.device.device_id == 0);
    CHECK(all->dl_tensor.byte_offset == 0);
    CHECK(Shape(all->dl_tensor) == std::vector<int64_t>{view.bytes});
    CHECK(Strides(all->dl_tensor) == std::vector<int64_t>{1});
    CHECK((all->dl_tensor.dtype.code == PENSTOCK_TYPE_UINT && all->dl_tensor.dtype.bits == 8 && all->dl_tensor.dtype.lanes == 1));
    for (int64_t i = 0; i < view.size; ++i) {
      DLManagedTensorVersioned* sample = Export(batch, {PENSTOCK_TENSOR_SAMPLE, i});
      CHECK(sample->dl_tensor.data == static_cast<char*>(view.data) + view.offsets[i]);
      CHECK(reinterpret_cast<uintptr_t>(sample->dl_tensor.data) % 64 == 0);
      CHECK(Shape(sample->dl_tensor) == std::vector<int64_t>{view.lengths[i]});
      sample->deleter(sample);
    }
    const std::pair<int32_t, const void*> columns[] = {{PENSTOCK_TENSOR_IDS, view.ids},
                                                       {PENSTOCK_TENSOR_OFFSETS, view.offsets},
                                                       {PENSTOCK_TENSOR_LENGTHS, view.lengths},
                                                       {PENSTOCK_TENSOR_LABELS, view.labels},
                                                       {PENSTOCK_TENSOR_VALID, view.valid}};
    for (const auto& [part, values] : columns) {
      DLManagedTensorVersioned* column = Export(batch, {part});
      const DLTensor& tensor = column->dl_tensor;
      CHECK(Shape(tensor) == std::vector<int64_t>{view.size});
      CHECK(Strides(tensor) == std::vector<int64_t>{1});
      CHECK(tensor.dtype.bits == (part == PENSTOCK_TENSOR_LABELS ? 32 : part == PENSTOCK_TENSOR_VALID ? 8 : 64));
      CHECK(std::memcmp(tensor.data, values, static_cast<size_t>(view.size) * tensor.dtype.bits / 8) == 0);
      CHECK(column->flags == DLPACK_FLAG_BITMASK_IS_COPIED);
      column->deleter(column);
    }
    Error error;
    DLManagedTensor* legacy = nullptr;
    C_OK(error, penstock_batch_to_dlpack(batch, PENSTOCK_TENSOR_DATA, 0, 0, 0, 0, nullptr, -1, &legacy, &error));
    CHECK(legacy->dl_tensor.data == view.data);
    CHECK(Strides(legacy->dl_tensor) == std::vector<int64_t>{1});
    legacy->deleter(legacy);
    all->deleter(all);
    C_OK(error, penstock_batch_release(batch, &error));
    C_OK(error, penstock_loader_close(loader, &error));
  }
}

TEST_CASE("a dense batch becomes one tensor of the wanted type and shape, whose strides jump over the padding", "[dlpack]") {
  const DataSet data(20, -120);  // 2 x 3 x 5 floats, in places of 128 bytes
  COptions options(data.root(), EngineOption::kThreads, 4);
  options.Set("layout", "dense");
  penstock_loader* loader = options.Open();
  penstock_batch* batch = TakeBatch(loader);
  const penstock_batch_view view = ViewOf(batch);
  REQUIRE(view.stride == 128);
  DLManagedTensorVersioned* bytes = Export(batch);
  CHECK(Shape(bytes->dl_tensor) == std::vector<int64_t>{4, 128});
  CHECK(Strides(bytes->dl_tensor) == std::vector<int64_t>{128, 1});
  DLManagedTensorVersioned* floats = Export(batch, {PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, {2, 3, 5}});
  CHECK(Shape(floats->dl_tensor) == std::vector<int64_t>{4, 2, 3, 5});
  CHECK(Strides(floats->dl_tensor) == std::vector<int64_t>{32, 15, 5, 1});
  CHECK((floats->dl_tensor.dtype.code == PENSTOCK_TYPE_FLOAT && floats->dl_tensor.dtype.bits == 32));
  DLManagedTensorVersioned* sample = Export(batch, {PENSTOCK_TENSOR_SAMPLE, 3, PENSTOCK_TYPE_BFLOAT, 16, {60}});
  CHECK(Shape(sample->dl_tensor) == std::vector<int64_t>{60});
  const Wanted bad[] = {{PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, {2, 3, 6}},
                        {PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, {}},
                        {PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, {INT64_MAX, INT64_MAX}},
                        {PENSTOCK_TENSOR_SAMPLE, 0, PENSTOCK_TYPE_FLOAT, 64, {16}}};
  for (const Wanted& wanted : bad) CheckRefused(batch, wanted, "has 120 bytes");
  CheckRefused(batch, {PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, {2, -3, 5}}, "below 0");
  CheckRefused(batch, {PENSTOCK_TENSOR_DATA, 0, PENSTOCK_TYPE_FLOAT, 32, std::vector<int64_t>(33, 1)}, "ndim");
  for (const auto& [code, bits] : {std::pair<int32_t, int32_t>{PENSTOCK_TYPE_FLOAT, 8},
                                   {3, 32},
                                   {-1, 8},
                                   {7, 8},
                                   {PENSTOCK_TYPE_INT, -8},
                                   {PENSTOCK_TYPE_INT, 12},
                                   {INT32_MAX, INT32_MAX},
                                   {INT32_MIN, INT32_MIN}}) {
    CheckRefused(batch, {PENSTOCK_TENSOR_DATA, 0, code, bits, {120}}, "no type");
  }
  for (const int64_t index : {int64_t{-1}, int64_t{4}, INT64_MAX, INT64_MIN})
    CheckRefused(batch, {PENSTOCK_TENSOR_SAMPLE, index}, "of a batch of 4");
  for (const int32_t part : {-1, 7, INT32_MAX, INT32_MIN}) CheckRefused(batch, {part}, "part");
  Error error;
  DLManagedTensor* tensor = nullptr;
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT,
          penstock_batch_to_dlpack(batch, 0, 0, PENSTOCK_TYPE_FLOAT, 32, 3, nullptr, -1, &tensor, &error));
  for (DLManagedTensorVersioned* held : {bytes, floats, sample}) held->deleter(held);
  C_OK(error, penstock_batch_release(batch, &error));
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("the memory stays until the last tensor is gone, after the release and after the loader's close", "[dlpack]") {
  const DataSet data(64, -50000);
  COptions options(data.root(), EngineOption::kThreads);
  penstock_loader* loader = options.Open();
  Error error;
  std::vector<DLManagedTensorVersioned*> tensors;
  std::vector<std::string> contents;
  for (int i = 0; i < 2; ++i) {
    penstock_batch* batch = TakeBatch(loader);
    tensors.push_back(Export(batch, {PENSTOCK_TENSOR_SAMPLE, 5}));
    tensors.push_back(Export(batch));
    C_OK(error, penstock_batch_release(batch, &error));
  }
  for (DLManagedTensorVersioned* tensor : tensors)
    contents.emplace_back(static_cast<char*>(tensor->dl_tensor.data), static_cast<size_t>(tensor->dl_tensor.shape[0]));
  tensors[0]->deleter(tensors[0]);  // its batch has another one
  for (int i = 0; i < 2; ++i) C_OK(error, penstock_batch_release(TakeBatch(loader), &error));
  C_OK(error, penstock_loader_close(loader, &error));
  for (size_t i = 1; i < tensors.size(); ++i)
    CHECK((contents[i] == std::string(static_cast<char*>(tensors[i]->dl_tensor.data), contents[i].size())));
  // From threads of nobody's.
  std::vector<std::thread> threads;
  for (size_t i = 1; i < tensors.size(); ++i) threads.emplace_back([tensor = tensors[i]] { tensor->deleter(tensor); });
  for (std::thread& thread : threads) thread.join();
  capi::HandBack::Current().Settle();
}

TEST_CASE("a batch whose tensors are gone is released before next says that all memory is lent", "[dlpack]") {
  const DataSet data(200, -1000000);
  COptions options(data.root(), EngineOption::kThreads, 8);
  options.Set("memory_bytes", "40MiB");  // four batches of 8 MiB, one in reserve
  penstock_loader* loader = options.Open();
  Error error;
  std::vector<DLManagedTensorVersioned*> tensors;
  penstock_code code = PENSTOCK_OK;
  while (true) {
    penstock_batch* batch = nullptr;
    code = penstock_loader_next(loader, &batch, &error);
    if (code != PENSTOCK_OK) break;
    tensors.push_back(Export(batch));
    C_OK(error, penstock_batch_release(batch, &error));
  }
  INFO(error.text());
  REQUIRE(code == PENSTOCK_RESOURCE_EXHAUSTED);
  REQUIRE(tensors.size() >= 2);
  for (int round = 0; round < 10; ++round) {
    DLManagedTensorVersioned* oldest = tensors.front();
    tensors.erase(tensors.begin());
    oldest->deleter(oldest);
    penstock_batch* batch = TakeBatch(loader);
    tensors.push_back(Export(batch));
    C_OK(error, penstock_batch_release(batch, &error));
  }
  for (DLManagedTensorVersioned* tensor : tensors) tensor->deleter(tensor);
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("a deleter that runs inside a log function, under whatever locks, does not wait", "[dlpack]") {
  const DataSet data(40);
  COptions options(data.root(), EngineOption::kThreads, 4);
  options.Set("policy", "skip");
  options.Set("retries", "0");
  options.Set("shuffle", "false");
  const auto manifest = *Manifest::Open(data.root());
  std::filesystem::remove(data.root() + "/" + manifest->Name(17));
  static std::atomic<DLManagedTensorVersioned*> kept{nullptr};
  static std::atomic<int> deleted{0};
  Error error;
  C_OK(error, penstock_set_log(
                  [](void*, int32_t, const char*) {
                    if (DLManagedTensorVersioned* tensor = kept.exchange(nullptr)) {
                      tensor->deleter(tensor);
                      ++deleted;
                    }
                  },
                  nullptr, &error));
  options.Set("prefetch_batches", "1");
  penstock_loader* loader = options.Open();
  penstock_batch* batch = TakeBatch(loader);
  kept = Export(batch);
  C_OK(error, penstock_batch_release(batch, &error));
  for (int i = 1; i < 10; ++i) C_OK(error, penstock_batch_release(TakeBatch(loader), &error));
  CHECK(deleted == 1);
  C_OK(error, penstock_set_log(nullptr, nullptr, &error));
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("in a forked child a tensor's deleter does nothing to the parent", "[dlpack]") {
  const DataSet data(40);
  penstock_loader* loader = COptions(data.root(), EngineOption::kThreads).Open();
  penstock_batch* batch = TakeBatch(loader);
  DLManagedTensorVersioned* tensor = Export(batch);
  const std::string result = InChild([&]() -> std::string {
    tensor->deleter(tensor);
    DLManagedTensor* refused = nullptr;
    if (penstock_batch_to_dlpack(batch, 0, 0, 0, 0, 0, nullptr, -1, &refused, nullptr) != PENSTOCK_FAILED_PRECONDITION) return "exported";
    return "";
  });
  CHECK(result == "");
  const std::string bytes(static_cast<char*>(tensor->dl_tensor.data), static_cast<size_t>(tensor->dl_tensor.shape[0]));
  CHECK_FALSE(bytes.empty());
  tensor->deleter(tensor);
  Error error;
  C_OK(error, penstock_batch_release(batch, &error));
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("on the device the stream given waits, and reuse waits for that stream, recorded on no deleter's thread", "[dlpack]") {
  const DataSet data(64, -20000);
  DeviceFixture fixture(data);
  ScriptedDevice& device = *fixture.device;
  const CudaStream consumer = *device.CreateStream();
  Error error;
  penstock_batch* batch = TakeBatch(fixture.loader);
  const penstock_batch_view view = ViewOf(batch);
  CHECK(view.on_device == 1);
  CHECK(view.device == 0);
  for (const int64_t stream : {int64_t{0}, int64_t{-2}, INT64_MIN})
    CheckRefused(batch, {PENSTOCK_TENSOR_DATA, 0, 0, 0, {}, stream}, "stream");
  DLManagedTensorVersioned* tensor = Export(batch, {PENSTOCK_TENSOR_DATA, 0, 0, 0, {}, reinterpret_cast<int64_t>(consumer)});
  CHECK(fixture.WaitsOf(consumer) == 1);
  CHECK(tensor->dl_tensor.data == view.data);
  CHECK(tensor->dl_tensor.device.device_type == kDLCUDA);
  CHECK(tensor->dl_tensor.device.device_id == 0);
  DLManagedTensorVersioned* ids = Export(batch, {PENSTOCK_TENSOR_IDS, 0, 0, 0, {}, 1});
  CHECK(ids->dl_tensor.data == view.device_ids);
  CHECK(ids->dl_tensor.device.device_type == kDLCUDA);
  CHECK(ids->flags == 0);
  CHECK(fixture.WaitsOf(nullptr) == 1);
  C_OK(error, penstock_batch_release(batch, &error));
  // What the consumer has enqueued is not done: its memory must not be filled again.
  device.Hold(consumer);
  const std::string before(static_cast<char*>(tensor->dl_tensor.data), 1000);
  const char* const address = static_cast<char*>(tensor->dl_tensor.data);
  tensor->deleter(tensor);
  CHECK(fixture.RecordsOn(consumer) <= 1);  // by another thread, at its time
  ids->deleter(ids);
  capi::HandBack::Current().Settle();
  CHECK(fixture.RecordsOn(consumer) == 1);
  for (int i = 0; i < 2; ++i) C_OK(error, penstock_batch_release(TakeBatch(fixture.loader), &error));
  CHECK((before == std::string(address, 1000)));
  device.Unhold(consumer);
  device.CompleteAll();
  C_OK(error, penstock_batch_release(TakeBatch(fixture.loader), &error));
}

TEST_CASE("a per-thread stream, and one that is not named, make reuse wait for the legacy stream", "[dlpack]") {
  const DataSet data(64, -20000);
  DeviceFixture fixture(data);
  Error error;
  penstock_batch* batch = TakeBatch(fixture.loader);
  const int64_t before = fixture.RecordsOn(nullptr);
  DLManagedTensorVersioned* unnamed = Export(batch, {PENSTOCK_TENSOR_DATA, 0, 0, 0, {}, -1});
  CHECK(fixture.WaitsOf(nullptr) == 0);
  unnamed->deleter(unnamed);
  capi::HandBack::Current().Settle();
  CHECK(fixture.RecordsOn(nullptr) == before + 1);
  C_OK(error, penstock_batch_release_after(batch, nullptr, &error));
  CHECK(fixture.RecordsOn(nullptr) == before + 2);
}
