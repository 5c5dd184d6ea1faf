// The kernel of TransformImages() on a real GPU: its bits are the host's. Where there is none each case is skipped with the reason.
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "support/skip.h"
#include "support/status.h"
#include "transfer/cuda_device.h"
#include "transform/pixels.h"

#ifdef PENSTOCK_HAVE_CUDA
#include <cuda_runtime_api.h>

namespace penstock {
namespace {

// Host values in the GPU's memory, for the time of a test.
template <typename Value>
class OnGpu {
 public:
  OnGpu(Device& device, const std::vector<Value>& values) : device_(device), memory_(*device.Malloc(values.size() * sizeof(Value))) {
    REQUIRE(cudaMemcpy(memory_, values.data(), values.size() * sizeof(Value), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~OnGpu() { device_.Free(memory_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  Value* get() const { return reinterpret_cast<Value*>(memory_); }

 private:
  Device& device_;
  std::byte* const memory_;
};

TEST_CASE("the GPU's pixels have the host's bits, in every type and layout, and what lies beside the output is left alone", "[gpu]") {
  absl::StatusOr<std::shared_ptr<Device>> device = OpenCudaDevice(0);
  if (!device.ok()) testing::SkipTest(std::string(device.status().message()));
  PixelJob job;
  job.channels = GENERATE(1, 2, 3, 4);
  job.element = GENERATE(PixelElement::kFloat32, PixelElement::kFloat16, PixelElement::kBfloat16);
  job.planar = GENERATE(false, true);
  job.pixels = GENERATE(1, 783, 224 * 224);
  CAPTURE(job.channels, static_cast<int>(job.element), job.planar, job.pixels);
  job.samples = 37;
  job.header_bytes = 13;  // so that pixels begin at any address
  std::mt19937 random(1);
  const int64_t place = (job.header_bytes + job.pixels * job.channels + 63) / 64 * 64;
  std::vector<uint8_t> data(static_cast<size_t>(place * job.samples));
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
  std::vector<int64_t> offsets;
  std::vector<uint8_t> valid;
  for (int64_t sample = 0; sample < job.samples; ++sample) {
    offsets.push_back((job.samples - 1 - sample) * place);
    valid.push_back(sample % 5 != 2);
  }
  for (int channel = 0; channel < job.channels; ++channel) {
    job.scale[channel] = 0.0171F + 0.003F * static_cast<float>(channel);
    job.bias[channel] = -2.1F + 0.7F * static_cast<float>(channel);
  }
  const auto bytes = static_cast<size_t>(job.samples * job.pixels * job.channels * ElementBytes(job.element));
  std::vector<std::byte> expected(bytes + 64, std::byte{0x5A});
  PixelJob host = job;
  host.data = reinterpret_cast<const std::byte*>(data.data());
  host.offsets = offsets.data();
  host.valid = valid.data();
  host.output = expected.data();
  TransformOnHost(host);

  const OnGpu<uint8_t> gpu_data(**device, data);
  const OnGpu<int64_t> gpu_offsets(**device, offsets);
  const OnGpu<uint8_t> gpu_valid(**device, valid);
  const OnGpu<std::byte> gpu_output(**device, std::vector<std::byte>(bytes + 64, std::byte{0x5A}));
  job.data = reinterpret_cast<const std::byte*>(gpu_data.get());
  job.offsets = gpu_offsets.get();
  job.valid = gpu_valid.get();
  job.output = gpu_output.get();
  const CudaStream cuda_stream = *(*device)->CreateStream();
  const absl::Status status = (*device)->Transform(job, cuda_stream);
  if (absl::IsUnimplemented(status)) testing::SkipTest(std::string(status.message()));
  REQUIRE_OK(status);
  REQUIRE_OK((*device)->Synchronize(cuda_stream));
  (*device)->DestroyStream(cuda_stream);
  std::vector<std::byte> got(bytes + 64);
  REQUIRE(cudaMemcpy(got.data(), gpu_output.get(), got.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(std::memcmp(got.data(), expected.data(), got.size()) == 0);
}

}  // namespace
}  // namespace penstock

#endif  // PENSTOCK_HAVE_CUDA
