// Kernels for tests and benchmarks: one that reads every byte of a batch, one that keeps a CUDA stream busy. Both return a cudaError_t.
#ifndef PENSTOCK_TESTS_GPU_KERNELS_H_
#define PENSTOCK_TESTS_GPU_KERNELS_H_

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace penstock::testing {

// Adds to *wrong the number of samples whose CRC-32C is not expected[ids[i]]. All pointers are the device's.
int LaunchCheckCrc32c(const std::byte* data, const int64_t* offsets, const int64_t* lengths, const int64_t* ids, int64_t samples,
                      const uint32_t* expected, unsigned long long* wrong, CUstream_st* cuda_stream);

// Takes `ns` of the GPU's own time on one multiprocessor (blocks = 1), or on as many as there are blocks.
int LaunchSpin(int64_t ns, int blocks, CUstream_st* cuda_stream);

// Waits on the GPU until *flag, mapped host memory, is not 0: what is enqueued behind it starts when the host says so.
int LaunchWaitForFlag(const volatile int* flag, CUstream_st* cuda_stream);

// Loads all of these now. CUDA loads a kernel when it is first launched, and for that may wait until what runs has ended: with
// LaunchWaitForFlag() before, for good.
int LoadKernels();

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_GPU_KERNELS_H_
