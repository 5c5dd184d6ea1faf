// The functions of the CUDA runtime and driver that cuda_device.cc calls, linked in their place: what it does with errors, contexts and
// forks is tested without a GPU. cudaSetDevice is missing on purpose, and so is whatever else it must not call.
#ifndef PENSTOCK_TESTS_TRANSFER_FAKE_CUDA_RUNTIME_H_
#define PENSTOCK_TESTS_TRANSFER_FAKE_CUDA_RUNTIME_H_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <vector>

namespace penstock::testing {

struct FakeCuda {
  int device_count = 2;
  std::map<std::string, cudaError_t> errors;  // by function: what it returns
  std::vector<std::string> calls;             // in order
  CUcontext current = nullptr;                // of the (only) thread
  CUcontext current_in_call = nullptr;        // as the last runtime call saw it
  cudaError_t last_error = cudaSuccess;       // what cudaGetLastError would give
  int retained = 0;                           // primary contexts
};

FakeCuda& fake_cuda();

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_TRANSFER_FAKE_CUDA_RUNTIME_H_
