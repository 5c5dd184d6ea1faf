#include "gpu/kernels.h"

#include <cuda_runtime_api.h>

#include "gpu/crc32c_parts.h"

namespace penstock::testing {
namespace {

constexpr int kThreads = 256;

// One block per sample, so that a sample of any size is checked and small ones still fill the GPU.
__global__ void __launch_bounds__(kThreads)
    CheckCrc32c(const uint8_t* data, const int64_t* offsets, const int64_t* lengths, const int64_t* ids, int64_t samples,
                const uint32_t* expected, unsigned long long* wrong) {
  __shared__ uint32_t table[256];
  __shared__ uint32_t joined;
  table[threadIdx.x] = Crc32cByte(0, static_cast<uint8_t>(threadIdx.x));
  for (int64_t sample = blockIdx.x; sample < samples; sample += gridDim.x) {
    __syncthreads();  // the table; and the last round's result has been read
    if (threadIdx.x == 0) joined = 0;
    __syncthreads();
    const auto length = static_cast<uint64_t>(lengths[sample]);
    const uint64_t part = (length + kThreads - 1) / kThreads;
    const uint64_t begin = part * threadIdx.x < length ? part * threadIdx.x : length;
    const uint64_t end = begin + part < length ? begin + part : length;
    const uint8_t* const bytes = data + offsets[sample];
    uint32_t state = threadIdx.x == 0 ? 0xFFFFFFFFu : 0;
    for (uint64_t i = begin; i < end; ++i) state = (state >> 8) ^ table[(state ^ bytes[i]) & 0xFF];
    atomicXor(&joined, Crc32cOverZeros(state, length - end));
    __syncthreads();
    if (threadIdx.x == 0 && ~joined != expected[ids[sample]]) atomicAdd(wrong, 1ull);
  }
}

__device__ int64_t GlobalNs() {
  int64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

__global__ void Spin(int64_t ns) {
  const int64_t end = GlobalNs() + ns;
  while (GlobalNs() < end) {
  }
}

__global__ void WaitForFlag(const volatile int* flag) {
  while (*flag == 0) {
  }
}

}  // namespace

int LaunchCheckCrc32c(const std::byte* data, const int64_t* offsets, const int64_t* lengths, const int64_t* ids, int64_t samples,
                      const uint32_t* expected, unsigned long long* wrong, CUstream_st* cuda_stream) {
  if (samples == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(samples < 65536 ? samples : 65536);
  CheckCrc32c<<<blocks, kThreads, 0, cuda_stream>>>(reinterpret_cast<const uint8_t*>(data), offsets, lengths, ids, samples, expected,
                                                    wrong);
  return cudaGetLastError();
}

int LaunchSpin(int64_t ns, int blocks, CUstream_st* cuda_stream) {
  Spin<<<static_cast<unsigned>(blocks), 1, 0, cuda_stream>>>(ns);
  return cudaGetLastError();
}

int LaunchWaitForFlag(const volatile int* flag, CUstream_st* cuda_stream) {
  WaitForFlag<<<1, 1, 0, cuda_stream>>>(flag);
  return cudaGetLastError();
}

int LoadKernels() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, CheckCrc32c);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, Spin);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, WaitForFlag);
  return error;
}

}  // namespace penstock::testing
