// DLPack tensors over batches on a real GPU: deleted while kernels that read them have not started. Skipped without a GPU, with the reason.
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <cuda_runtime_api.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "capi/c_api.h"
#include "capi/dlpack_layout.h"
#include "gpu/kernels.h"
#include "support/skip.h"
#include "support/status.h"
#include "transfer/cuda_device.h"

using namespace penstock;
using namespace penstock::testing;

#define REQUIRE_CUDA(call) REQUIRE(static_cast<cudaError_t>(call) == cudaSuccess)

namespace {

DLManagedTensorVersioned* Export(penstock_batch* batch, int32_t part, cudaStream_t stream) {
  Error error;
  DLManagedTensorVersioned* tensor = nullptr;
  C_OK(error, penstock_batch_to_dlpack_versioned(batch, part, 0, 0, 0, 0, nullptr, static_cast<int64_t>(reinterpret_cast<intptr_t>(stream)),
                                                 &tensor, &error));
  REQUIRE(tensor->dl_tensor.device.device_type == kDLCUDA);
  return tensor;
}

const int64_t* Values(const DLManagedTensorVersioned* tensor) { return static_cast<const int64_t*>(tensor->dl_tensor.data); }

}  // namespace

TEST_CASE("DLPack tensors deleted while kernels that read them wait keep their memory until these are done", "[gpu][sanitize]") {
  const absl::StatusOr<std::shared_ptr<Device>> device = OpenCudaDevice(0);
  if (!device.ok()) SkipTest(std::string(device.status().message()));
  const DataSet data(600, -60000);
  COptions options(data.root(), EngineOption::kThreads, 32);
  options.Set("device", "0");
  options.Set("device_bytes", "5MiB");  // two batches
  options.Set("memory_bytes", "16MiB");
  options.Set("deadline_s", "20");      // should anything wait for the kernel that waits for us
  penstock_loader* const loader = options.Open();

  const auto manifest = Manifest::Open(data.root(), {});
  REQUIRE_OK(manifest);
  std::vector<uint32_t> crcs;
  for (int64_t id = 0; id < 600; ++id) {
    const std::string content = DataSet::Content((*manifest)->Name(id), 60000);
    crcs.push_back(Crc32c(content.data(), content.size()));
  }
  uint32_t* expected = nullptr;
  unsigned long long* wrong = nullptr;
  int* flag = nullptr;
  cudaStream_t stream = nullptr;
  REQUIRE_CUDA(LoadKernels());
  REQUIRE_CUDA(cudaMalloc(reinterpret_cast<void**>(&expected), crcs.size() * sizeof(uint32_t)));
  REQUIRE_CUDA(cudaMemcpy(expected, crcs.data(), crcs.size() * sizeof(uint32_t), cudaMemcpyHostToDevice));
  REQUIRE_CUDA(cudaMalloc(reinterpret_cast<void**>(&wrong), sizeof *wrong));
  REQUIRE_CUDA(cudaMemset(wrong, 0, sizeof *wrong));
  REQUIRE_CUDA(cudaHostAlloc(reinterpret_cast<void**>(&flag), sizeof *flag, cudaHostAllocMapped));
  REQUIRE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Error error;
  for (int step = 0; step < 8; ++step) C_OK(error, penstock_batch_release(TakeBatch(loader), &error));  // all memory is pinned by now

  for (int round = 0; round < 4; ++round) {
    *flag = 0;
    REQUIRE_CUDA(LaunchWaitForFlag(flag, stream));
    penstock_batch* const batch = TakeBatch(loader);
    DLManagedTensorVersioned* tensors[] = {Export(batch, PENSTOCK_TENSOR_DATA, stream), Export(batch, PENSTOCK_TENSOR_OFFSETS, stream),
                                           Export(batch, PENSTOCK_TENSOR_LENGTHS, stream), Export(batch, PENSTOCK_TENSOR_IDS, stream)};
    C_OK(error, penstock_batch_release(batch, &error));
    REQUIRE_CUDA(LaunchCheckCrc32c(static_cast<const std::byte*>(tensors[0]->dl_tensor.data), Values(tensors[1]), Values(tensors[2]),
                                   Values(tensors[3]), 32, expected, wrong, stream));
    for (DLManagedTensorVersioned* tensor : tensors) tensor->deleter(tensor);
    C_OK(error, penstock_batch_release(TakeBatch(loader), &error));  // the other half of the ring
    SleepNs(50 * kNsPerMs);                                          // the streams would fill the first half now
    *const_cast<volatile int*>(flag) = 1;
    REQUIRE_CUDA(cudaStreamSynchronize(stream));
  }
  unsigned long long count = 0;
  REQUIRE_CUDA(cudaMemcpy(&count, wrong, sizeof count, cudaMemcpyDeviceToHost));
  CHECK(count == 0);
  C_OK(error, penstock_loader_close(loader, &error));
  cudaFree(expected);
  cudaFree(wrong);
  cudaFreeHost(flag);
  cudaStreamDestroy(stream);
}
