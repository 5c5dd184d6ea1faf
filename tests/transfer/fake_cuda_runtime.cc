#include "transfer/fake_cuda_runtime.h"

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "transform/pixels.h"

namespace penstock::testing {

FakeCuda& fake_cuda() {
  static FakeCuda fake;
  return fake;
}

namespace {

// Notes a runtime call and returns the error that it is to have.
cudaError_t Called(const char* name) {
  FakeCuda& fake = fake_cuda();
  fake.calls.push_back(name);
  fake.current_in_call = fake.current;
  const auto error = fake.errors.find(name);
  if (error == fake.errors.end()) return cudaSuccess;
  if (error->second != cudaSuccess) fake.last_error = error->second;
  return error->second;
}

// The same for a driver call, which leaves the runtime's last error alone.
CUresult DriverCalled(const char* name) {
  fake_cuda().calls.push_back(name);
  const auto error = fake_cuda().errors.find(name);
  return error == fake_cuda().errors.end() ? CUDA_SUCCESS : static_cast<CUresult>(error->second);
}

template <typename Handle>
Handle FakeHandle(uintptr_t number) {
  return reinterpret_cast<Handle>(number);
}

CUresult FakeDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return DriverCalled("cuDeviceGet");
}
CUresult FakeRetain(CUcontext* context, CUdevice device) {
  *context = FakeHandle<CUcontext>(0x1000 + static_cast<uintptr_t>(device));
  const CUresult result = DriverCalled("cuDevicePrimaryCtxRetain");
  if (result == CUDA_SUCCESS) ++fake_cuda().retained;
  return result;
}
CUresult FakeRelease(CUdevice) {
  --fake_cuda().retained;
  return DriverCalled("cuDevicePrimaryCtxRelease");
}
std::vector<CUcontext>& Stack() {
  static std::vector<CUcontext> stack;
  return stack;
}
CUresult FakePush(CUcontext context) {
  const CUresult result = DriverCalled("cuCtxPushCurrent");
  if (result != CUDA_SUCCESS) return result;
  Stack().push_back(fake_cuda().current);
  fake_cuda().current = context;
  return result;
}
CUresult FakePop(CUcontext* context) {
  const CUresult result = DriverCalled("cuCtxPopCurrent");
  *context = fake_cuda().current;
  fake_cuda().current = Stack().back();
  Stack().pop_back();
  return result;
}

}  // namespace
}  // namespace penstock::testing

using penstock::testing::Called;
using penstock::testing::fake_cuda;
using penstock::testing::FakeHandle;

extern "C" {

cudaError_t CUDARTAPI cudaGetDeviceCount(int* count) {
  *count = fake_cuda().device_count;
  return Called("cudaGetDeviceCount");
}
cudaError_t CUDARTAPI cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  std::snprintf(id, static_cast<size_t>(bytes), "0000:%02X:00.0", 0x1B + device);
  return Called("cudaDeviceGetPCIBusId");
}
static cudaError_t FindDriverCall(const char* name, void** function, cudaDriverEntryPointQueryResult* found) {
  namespace fakes = penstock::testing;
  *function = nullptr;
  *found = cudaDriverEntryPointSuccess;
  if (std::strcmp(name, "cuDeviceGet") == 0) *function = reinterpret_cast<void*>(&fakes::FakeDeviceGet);
  if (std::strcmp(name, "cuDevicePrimaryCtxRetain") == 0) *function = reinterpret_cast<void*>(&fakes::FakeRetain);
  if (std::strcmp(name, "cuDevicePrimaryCtxRelease") == 0) *function = reinterpret_cast<void*>(&fakes::FakeRelease);
  if (std::strcmp(name, "cuCtxPushCurrent") == 0) *function = reinterpret_cast<void*>(&fakes::FakePush);
  if (std::strcmp(name, "cuCtxPopCurrent") == 0) *function = reinterpret_cast<void*>(&fakes::FakePop);
  if (*function == nullptr) *found = cudaDriverEntryPointSymbolNotFound;
  return Called("cudaGetDriverEntryPoint");
}
#if CUDART_VERSION >= 12050
cudaError_t CUDARTAPI cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned int, unsigned long long,
                                                       cudaDriverEntryPointQueryResult* found) {
  return FindDriverCall(name, function, found);
}
#else
cudaError_t CUDARTAPI cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long,
                                              cudaDriverEntryPointQueryResult* found) {
  return FindDriverCall(name, function, found);
}
#endif
const char* CUDARTAPI cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheFake"; }
const char* CUDARTAPI cudaGetErrorString(cudaError_t) { return "an error of the fake runtime"; }
cudaError_t CUDARTAPI cudaGetLastError(void) {
  const cudaError_t error = fake_cuda().last_error;
  fake_cuda().last_error = cudaSuccess;
  return error;
}
cudaError_t CUDARTAPI cudaMalloc(void** memory, size_t) {
  *memory = FakeHandle<void*>(0x20000);
  return Called("cudaMalloc");
}
cudaError_t CUDARTAPI cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = 111;
  *total_bytes = 222;
  return Called("cudaMemGetInfo");
}
cudaError_t CUDARTAPI cudaFree(void*) { return Called("cudaFree"); }
cudaError_t CUDARTAPI cudaHostRegister(void*, size_t, unsigned int) { return Called("cudaHostRegister"); }
cudaError_t CUDARTAPI cudaHostUnregister(void*) { return Called("cudaHostUnregister"); }
cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t* cuda_stream, unsigned int flags) {
  *cuda_stream = FakeHandle<cudaStream_t>(0x30000);
  return flags == cudaStreamNonBlocking ? Called("cudaStreamCreateWithFlags") : cudaErrorInvalidValue;
}
cudaError_t CUDARTAPI cudaStreamDestroy(cudaStream_t) { return Called("cudaStreamDestroy"); }
cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t) { return Called("cudaStreamSynchronize"); }
cudaError_t CUDARTAPI cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int) { return Called("cudaStreamWaitEvent"); }
cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  *event = FakeHandle<cudaEvent_t>(0x40000);
  return flags == cudaEventDisableTiming ? Called("cudaEventCreateWithFlags") : cudaErrorInvalidValue;
}
cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t) { return Called("cudaEventDestroy"); }
cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t, cudaStream_t) { return Called("cudaEventRecord"); }
cudaError_t CUDARTAPI cudaEventQuery(cudaEvent_t) { return Called("cudaEventQuery"); }
cudaError_t CUDARTAPI cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind kind, cudaStream_t) {
  return kind == cudaMemcpyHostToDevice ? Called("cudaMemcpyAsync") : cudaErrorInvalidMemcpyDirection;
}

}  // extern "C"

int penstock::LaunchTransform(const PixelJob&, CUstream_st*) { return Called("LaunchTransform"); }
