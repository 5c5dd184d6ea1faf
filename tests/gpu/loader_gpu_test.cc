// The whole way, from files to a real GPU's memory. Where there is none each case is skipped with the reason.
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "support/skip.h"
#include "transfer/cuda_device.h"

#include <cuda_runtime_api.h>

using namespace penstock;
using namespace penstock::testing;

namespace {

void NeedGpu() {
  const absl::StatusOr<std::shared_ptr<Device>> device = OpenCudaDevice(0);
  if (!device.ok()) SkipTest(std::string(device.status().message()));
}

template <typename Value>
std::vector<Value> Back(const Value* device_memory, size_t count, cudaStream_t stream) {
  std::vector<Value> values(count);
  if (count == 0) return values;
  REQUIRE(cudaMemcpyAsync(values.data(), device_memory, count * sizeof(Value), cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  return values;
}

void CheckOnGpu(const Loader& loader, Batch& batch, cudaStream_t stream) {
  REQUIRE(batch.on_device());
  REQUIRE_OK(batch.WaitOn(stream));
  const auto count = static_cast<size_t>(batch.size());
  const std::vector<char> bytes = Back(reinterpret_cast<const char*>(batch.data()), static_cast<size_t>(batch.bytes()), stream);
  const std::vector<int64_t> ids = Back(batch.device_ids(), count, stream);
  const std::vector<int64_t> offsets = Back(batch.device_offsets(), count, stream);
  const std::vector<int64_t> lengths = Back(batch.device_lengths(), count, stream);
  const std::vector<int32_t> labels = Back(batch.device_labels(), count, stream);
  for (size_t i = 0; i < count; ++i) {
    REQUIRE(ids[i] == batch.ids()[i]);
    REQUIRE(labels[i] == loader.manifest()->Label(ids[i]));
    REQUIRE(lengths[i] == static_cast<int64_t>(loader.manifest()->StoredBytes(ids[i])));
    const std::string name = loader.manifest()->Name(ids[i]);
    INFO(name);
    REQUIRE((std::string(bytes.data() + offsets[i], static_cast<size_t>(lengths[i])) ==
             DataSet::Content(name, static_cast<size_t>(lengths[i]))));
  }
}

}  // namespace

TEST_CASE("every byte of every sample arrives on the GPU, with memory used again under pressure", "[gpu]") {
  NeedGpu();
  const EngineOption engine = GENERATE(EngineOption::kUring, EngineOption::kThreads);
  const DataSet data(3000, 40000);
  LoaderOptions options = data.Options(64);
  options.engine = engine;
  options.device = 0;
  options.memory_bytes = 16 << 20;
  options.device_bytes = 8 << 20;
  options.piece_bytes = 256 << 10;
  options.tail = Tail::kPartial;
  int current = -1;
  REQUIRE(cudaGetDevice(&current) == cudaSuccess);
  auto loader = MustOpen(options);
  cudaStream_t streams[3];
  for (cudaStream_t& stream : streams) REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  for (int epoch = 0; epoch < 3; ++epoch) {
    if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
    std::set<int64_t> seen;
    for (int64_t step = 0;; ++step) {
      absl::StatusOr<Batch> batch = loader->Next();
      REQUIRE_OK(batch);
      if (batch->end_of_epoch()) break;
      const cudaStream_t stream = streams[step % 3];
      CheckOnGpu(*loader, *batch, stream);
      for (const int64_t id : batch->ids()) CHECK(seen.insert(id).second);
      REQUIRE_OK(batch->Release(stream));
    }
    CHECK(seen.size() == 3000);
  }
  loader.reset();
  for (const cudaStream_t stream : streams) REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
  int after = -1;
  REQUIRE(cudaGetDevice(&after) == cudaSuccess);
  CHECK(after == current);
}

TEST_CASE("a batch released while its stream still copies from it is not overwritten", "[gpu]") {
  NeedGpu();
  const DataSet data(600, -60000);
  LoaderOptions options = data.Options(32);
  options.device = 0;
  options.memory_bytes = 16 << 20;
  options.device_bytes = 5 << 20;  // two batches
  auto loader = MustOpen(options);
  cudaStream_t stream;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  std::vector<std::vector<char>> copies(10);
  std::vector<std::vector<int64_t>> ids(10), offsets(10);
  for (size_t step = 0; step < 10; ++step) {
    absl::StatusOr<Batch> batch = loader->Next();
    REQUIRE_OK(batch);
    copies[step].resize(static_cast<size_t>(batch->bytes()));
    ids[step].assign(batch->ids().begin(), batch->ids().end());
    offsets[step].assign(batch->offsets().begin(), batch->offsets().end());
    // Enqueued, not waited for: the release must not let the next batch in before this copy has read it.
    REQUIRE(cudaMemcpyAsync(copies[step].data(), batch->data(), copies[step].size(), cudaMemcpyDeviceToHost, stream) == cudaSuccess);
    REQUIRE_OK(batch->Release(stream));
  }
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  for (size_t step = 0; step < 10; ++step) {
    for (size_t i = 0; i < ids[step].size(); ++i) {
      const std::string content = DataSet::Content(loader->manifest()->Name(ids[step][i]), 60000);
      REQUIRE(std::memcmp(copies[step].data() + offsets[step][i], content.data(), content.size()) == 0);
    }
  }
  loader.reset();
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}
