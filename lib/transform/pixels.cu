// The job of pixels.h on a GPU. It reads every byte once and writes every element once, so the GPU's memory bounds it.
#include "transform/pixels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>

namespace penstock {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kElementsPerThread = 8;
constexpr int64_t kGridMax = 65535;  // of blocks in y

template <typename Element>
__device__ Element Cast(float value);
template <>
__device__ float Cast<float>(float value) {
  return value;
}
template <>
__device__ __half Cast<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __nv_bfloat16 Cast<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Blocks in y: samples. In x and by thread: elements of the output in their order, so that neighbouring threads write neighbours. What they
// read lies `channels` bytes apart in planar output; the other channels of those bytes' sectors come from the L1 or L2 cache.
template <typename Element, bool kPlanar>
__global__ void __launch_bounds__(kThreads) Transform(const PixelJob job) {
  const auto pixels = static_cast<uint32_t>(job.pixels);
  const auto channels = static_cast<uint32_t>(job.channels);
  const uint32_t elements = pixels * channels;
  for (int64_t sample = blockIdx.y; sample < job.samples; sample += gridDim.y) {
    Element* const output = reinterpret_cast<Element*>(job.output) + sample * int64_t{elements};
    const bool valid = job.valid[sample] != 0;
    const auto* const input = reinterpret_cast<const uint8_t*>(job.data) + (valid ? job.offsets[sample] + job.header_bytes : 0);
    for (uint32_t element = blockIdx.x * kThreads + threadIdx.x; element < elements; element += gridDim.x * kThreads) {
      const uint32_t channel = kPlanar ? element / pixels : element % channels;
      const uint32_t source = kPlanar ? (element - channel * pixels) * channels + channel : element;
      output[element] =
          valid ? Cast<Element>(__fmaf_rn(static_cast<float>(input[source]), job.scale[channel], job.bias[channel])) : Cast<Element>(0.0f);
    }
  }
}

template <typename Element>
cudaError_t Launch(const PixelJob& job, cudaStream_t cuda_stream) {
  const int64_t elements = job.pixels * job.channels;
  const int64_t per_block = kThreads * kElementsPerThread;
  const dim3 grid(static_cast<unsigned>((elements + per_block - 1) / per_block), static_cast<unsigned>(std::min(job.samples, kGridMax)));
  PixelJob argument = job;
  void* arguments[] = {&argument};
  const void* const kernel =
      job.planar ? reinterpret_cast<const void*>(&Transform<Element, true>) : reinterpret_cast<const void*>(&Transform<Element, false>);
  return cudaLaunchKernel(kernel, grid, dim3(kThreads), arguments, 0, cuda_stream);
}

}  // namespace

int LaunchTransform(const PixelJob& job, CUstream_st* cuda_stream) {
  if (job.samples == 0 || job.pixels == 0) return cudaSuccess;
  switch (job.element) {
    case PixelElement::kFloat32:
      return Launch<float>(job, cuda_stream);
    case PixelElement::kFloat16:
      return Launch<__half>(job, cuda_stream);
    case PixelElement::kBfloat16:
      return Launch<__nv_bfloat16>(job, cuda_stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace penstock
