#include "transfer/cuda_device.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/log.h"

namespace penstock {
namespace {

// When CUDA was first used by this library. A child forked later has a driver whose threads and mappings are gone.
const ForkGuard& FirstUse() {
  static const ForkGuard first_use;
  return first_use;
}

// The errors after which "any further CUDA work will return the same error; to continue using CUDA, the process must be terminated
// and relaunched" (CUDA Runtime API 13.0, cudaError), and those that say that the context itself is gone. Kernels of anybody in the
// process raise them; the next call of ours merely reports them.
bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:        // 214
    case cudaErrorNvlinkUncorrectable:     // 220
    case cudaErrorIllegalAddress:          // 700
    case cudaErrorLaunchTimeout:           // 702
    case cudaErrorContextIsDestroyed:      // 709: cudaDeviceReset(), or the primary context was released
    case cudaErrorAssert:                  // 710
    case cudaErrorHardwareStackError:      // 714
    case cudaErrorIllegalInstruction:      // 715
    case cudaErrorMisalignedAddress:       // 716
    case cudaErrorInvalidAddressSpace:     // 717
    case cudaErrorInvalidPc:               // 718
    case cudaErrorLaunchFailure:           // 719
    case cudaErrorExternalDevice:          // 911
    case cudaErrorMpsClientTerminated:     // 810
#if CUDART_VERSION >= 12080
    case cudaErrorContained:               // 226
    case cudaErrorTensorMemoryLeak:        // 721
#endif
      return true;
    default:
      return false;
  }
}

// The driver is being unloaded as the process ends (cudaErrorCudartUnloading; CUDA_ERROR_DEINITIALIZED has the same number).
bool IsUnloading(cudaError_t error) { return error == cudaErrorCudartUnloading; }

std::string ErrorText(cudaError_t error) {
  return absl::StrCat(cudaGetErrorString(error), " (", cudaGetErrorName(error), ", ", static_cast<int>(error), ")");
}

// The driver's and the runtime's error numbers agree (CUDA Runtime API 10.1 and later).
cudaError_t ToRuntimeError(CUresult result) { return static_cast<cudaError_t>(result); }

// What is needed of the driver API: contexts. Looked up through the runtime, so that the program loads without libcuda.so.1.
struct DriverCalls {
  CUresult (*device_get)(CUdevice*, int) = nullptr;
  CUresult (*primary_retain)(CUcontext*, CUdevice) = nullptr;
  CUresult (*primary_release)(CUdevice) = nullptr;
  CUresult (*push)(CUcontext) = nullptr;
  CUresult (*pop)(CUcontext*) = nullptr;
};

template <typename Function>
cudaError_t FindDriverCall(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  // 12000: the meaning that these functions have had since CUDA 12.0, whatever the driver.
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess || address == nullptr) return cudaErrorInsufficientDriver;
  function = reinterpret_cast<Function>(address);
  return cudaSuccess;
}

cudaError_t FindDriverCalls(DriverCalls& calls) {
  cudaError_t error = FindDriverCall("cuDeviceGet", calls.device_get);
  if (error == cudaSuccess) error = FindDriverCall("cuDevicePrimaryCtxRetain", calls.primary_retain);
  if (error == cudaSuccess) error = FindDriverCall("cuDevicePrimaryCtxRelease", calls.primary_release);
  if (error == cudaSuccess) error = FindDriverCall("cuCtxPushCurrent", calls.push);
  if (error == cudaSuccess) error = FindDriverCall("cuCtxPopCurrent", calls.pop);
  return error;
}

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, std::string pci_bus_id, const DriverCalls& driver, CUdevice handle, CUcontext context)
      : ordinal_(ordinal), pci_bus_id_(std::move(pci_bus_id)), driver_(driver), handle_(handle), context_(context) {}
  ~CudaDevice() override {
    if (Usable()) driver_.primary_release(handle_);
  }

  int index() const override { return ordinal_; }
  std::string pci_bus_id() const override { return pci_bus_id_; }

  absl::StatusOr<std::byte*> Malloc(size_t bytes) override {
    void* memory = nullptr;
    size_t free_bytes = 0, total_bytes = 0;
    absl::Status status = Call("cudaMalloc of ", bytes, [&] {
      const cudaError_t error = cudaMalloc(&memory, bytes);
      if (error == cudaErrorMemoryAllocation) cudaMemGetInfo(&free_bytes, &total_bytes);
      return error;
    });
    if (absl::IsResourceExhausted(status)) {
      return absl::ResourceExhaustedError(absl::StrCat(status.message(), "; ", free_bytes, " of ", total_bytes,
                                                       " bytes of the GPU's memory are free. Make device_bytes smaller, or open the "
                                                       "loader before the framework reserves the GPU's memory"));
    }
    if (!status.ok()) return status;
    return static_cast<std::byte*>(memory);
  }

  void Free(std::byte* device_memory) override {
    if (device_memory != nullptr) CallVoid("cudaFree", [&] { return cudaFree(device_memory); });
  }

  absl::Status HostRegister(void* address, size_t bytes) override {
    // Portable: other GPUs' loaders in this process may read the same arena.
    return Call("cudaHostRegister of ", bytes, [&] { return cudaHostRegister(address, bytes, cudaHostRegisterPortable); });
  }

  void HostUnregister(void* address) override {
    CallVoid("cudaHostUnregister", [&] { return cudaHostUnregister(address); });
  }

  absl::StatusOr<CudaStream> CreateStream() override {
    cudaStream_t cuda_stream = nullptr;
    // Non-blocking: work on the legacy default stream, which frameworks use, must not hold up our copies.
    absl::Status status =
        Call("cudaStreamCreateWithFlags", 0, [&] { return cudaStreamCreateWithFlags(&cuda_stream, cudaStreamNonBlocking); });
    if (!status.ok()) return status;
    return cuda_stream;
  }

  void DestroyStream(CudaStream cuda_stream) override {
    if (cuda_stream != nullptr) CallVoid("cudaStreamDestroy", [&] { return cudaStreamDestroy(cuda_stream); });
  }

  absl::StatusOr<CudaEvent> CreateEvent() override {
    cudaEvent_t event = nullptr;
    absl::Status status = Call("cudaEventCreateWithFlags", 0, [&] { return cudaEventCreateWithFlags(&event, cudaEventDisableTiming); });
    if (!status.ok()) return status;
    return event;
  }

  void DestroyEvent(CudaEvent event) override {
    if (event != nullptr) CallVoid("cudaEventDestroy", [&] { return cudaEventDestroy(event); });
  }

  absl::Status CopyToDevice(std::byte* device_memory, const std::byte* host, size_t bytes, CudaStream cuda_stream) override {
    if (bytes == 0) return Ready();
    return Call("cudaMemcpyAsync to the GPU of ", bytes,
                [&] { return cudaMemcpyAsync(device_memory, host, bytes, cudaMemcpyHostToDevice, cuda_stream); });
  }

  absl::Status Transform(const PixelJob& job, CudaStream cuda_stream) override {
#ifdef PENSTOCK_CUDA_KERNELS
    return Call("cudaLaunchKernel (TransformImages)", 0, [&] { return static_cast<cudaError_t>(LaunchTransform(job, cuda_stream)); });
#else
    static_cast<void>(job);
    static_cast<void>(cuda_stream);
    return absl::UnimplementedError("penstock was built without a CUDA compiler (nvcc), so it has no kernels: transform the batch by the "
                                    "framework's operations, or build with the toolkit that cmake/fetch_cuda.sh fetches");
#endif
  }

  absl::Status Record(CudaEvent event, CudaStream cuda_stream) override {
    return Call("cudaEventRecord", 0, [&] { return cudaEventRecord(event, cuda_stream); });
  }

  absl::StatusOr<bool> Done(CudaEvent event) override {
    bool done = true;
    absl::Status status = Call("cudaEventQuery", 0, [&] {
      cudaError_t error = cudaEventQuery(event);
      if (error == cudaErrorNotReady) {
        done = false;
        cudaGetLastError();  // cudaErrorNotReady is kept as the thread's last error, where the caller's own check would find it.
        error = cudaSuccess;
      }
      return error;
    });
    if (!status.ok()) return status;
    return done;
  }

  absl::Status MakeWait(CudaStream cuda_stream, CudaEvent event) override {
    return Call("cudaStreamWaitEvent", 0, [&] { return cudaStreamWaitEvent(cuda_stream, event, 0); });
  }

  absl::Status Synchronize(CudaStream cuda_stream) override {
    return Call("cudaStreamSynchronize", 0, [&] { return cudaStreamSynchronize(cuda_stream); });
  }

  absl::Status sticky() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return sticky_;
  }

 private:
  bool Usable() const { return !fork_guard_.InForkedChild() && !lost_.load(std::memory_order_acquire); }

  absl::Status Ready() const {
    if (fork_guard_.InForkedChild()) {
      return absl::FailedPreconditionError(absl::StrCat("CUDA device ", ordinal_,
                                                        ": used in a child forked after the loader was opened; CUDA does not survive "
                                                        "fork(). Start the child with exec (multiprocessing: \"spawn\"), or open a "
                                                        "loader there"));
    }
    if (lost_.load(std::memory_order_acquire)) return sticky();
    return absl::OkStatus();
  }

  // Runs `function` with this device's primary context current and gives the caller's context back. cudaSetDevice would not do: since
  // CUDA 12.0 it makes a context on the device it is given, so that restoring "device 0" would cost every rank some hundred MiB on GPU 0.
  template <typename Function>
  cudaError_t InContext(const Function& function) {
    cudaError_t error = ToRuntimeError(driver_.push(context_));
    if (error != cudaSuccess) return error;
    error = function();
    // The last error is per thread and shared with the caller where both link the same runtime: ours must not be taken for theirs.
    if (error != cudaSuccess) cudaGetLastError();
    CUcontext popped = nullptr;
    const cudaError_t pop_error = ToRuntimeError(driver_.pop(&popped));
    return error != cudaSuccess ? error : pop_error;
  }

  template <typename Function>
  absl::Status Call(absl::string_view what, size_t bytes, const Function& function) {
    absl::Status ready = Ready();
    if (!ready.ok()) return ready;
    const cudaError_t error = InContext(function);
    if (error == cudaSuccess) return absl::OkStatus();
    return Failed(error, bytes == 0 ? std::string(what) : absl::StrCat(what, bytes, " bytes"));
  }

  // For what gives something back: an error cannot be helped, but is said, except that the process is just ending.
  template <typename Function>
  void CallVoid(absl::string_view what, const Function& function) {
    if (!Usable()) return;
    const cudaError_t error = InContext(function);
    if (error == cudaSuccess) return;
    const absl::Status status = Failed(error, what);
    if (!IsUnloading(error)) Log(LogLevel::kWarning, status.message());
  }

  absl::Status Failed(cudaError_t error, absl::string_view what) {
    const std::string text = absl::StrCat("CUDA device ", ordinal_, " (", pci_bus_id_, "): ", what, ": ", ErrorText(error));
    if (IsUnloading(error)) return Latch(absl::CancelledError(absl::StrCat(text, ". The process is ending")));
    if (IsSticky(error)) {
      return Latch(absl::InternalError(absl::StrCat(text,
                                                    ". The GPU's context is lost, by a kernel of this process or a hardware fault, not "
                                                    "necessarily by this call: restart the process (compute-sanitizer finds such kernels; "
                                                    "`nvidia-smi -q -d ECC` and the kernel log show hardware faults)")));
    }
    switch (error) {
      case cudaErrorMemoryAllocation:
        return absl::ResourceExhaustedError(text);
      case cudaErrorHostMemoryAlreadyRegistered:
        return absl::AlreadyExistsError(text);
      case cudaErrorNotSupported:
        return absl::UnimplementedError(text);
      case cudaErrorNoKernelImageForDevice:
        return absl::UnimplementedError(absl::StrCat(text,
                                                     ". penstock's kernels were compiled for newer GPUs only: build it with this GPU's "
                                                     "compute capability in PENSTOCK_CUDA_ARCHITECTURES"));
      case cudaErrorInvalidValue:
      case cudaErrorInvalidResourceHandle:
        return absl::InvalidArgumentError(text);
      case cudaErrorDevicesUnavailable:
        return absl::UnavailableError(text);
      default:
        return absl::InternalError(text);
    }
  }

  // Keeps the first error that lost the context; whoever comes later gets that one too, since theirs is only its echo.
  absl::Status Latch(absl::Status status) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (sticky_.ok()) sticky_ = std::move(status);
    lost_.store(true, std::memory_order_release);
    return sticky_;
  }

  const int ordinal_;
  const std::string pci_bus_id_;
  const DriverCalls driver_;
  const CUdevice handle_;
  const CUcontext context_;
  const ForkGuard fork_guard_;
  std::atomic<bool> lost_{false};
  mutable std::mutex mutex_;
  absl::Status sticky_;
};

}  // namespace

int CudaDeviceCount() {
  if (FirstUse().InForkedChild()) return 0;
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

absl::StatusOr<std::shared_ptr<Device>> OpenCudaDevice(int ordinal) {
  const std::string what = absl::StrCat("cannot open CUDA device ", ordinal, ": ");
  if (FirstUse().InForkedChild()) {
    return absl::FailedPreconditionError(absl::StrCat(what, "this process was forked after CUDA was first used; CUDA does not survive "
                                                            "fork(). Start it with exec (multiprocessing: \"spawn\")"));
  }
  const auto unavailable = [&what](cudaError_t error) {
    cudaGetLastError();
    return absl::UnavailableError(
        absl::StrCat(what, ErrorText(error), ". penstock was built with CUDA ", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10,
                     " and needs a driver for it (`nvidia-smi` shows the driver; a container needs the GPU passed in). Without "
                     "a GPU, take batches in host memory (device = -1)"));
  };
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return unavailable(error);
  if (ordinal < 0 || ordinal >= count) {
    return absl::InvalidArgumentError(absl::StrCat(what, "this process can use ", count, " (CUDA_VISIBLE_DEVICES may hide some)"));
  }
  char pci_bus_id[32] = {};
  error = cudaDeviceGetPCIBusId(pci_bus_id, sizeof(pci_bus_id), ordinal);
  if (error != cudaSuccess) return unavailable(error);
  DriverCalls driver;
  error = FindDriverCalls(driver);
  if (error != cudaSuccess) return unavailable(error);
  CUdevice handle = 0;
  error = ToRuntimeError(driver.device_get(&handle, ordinal));
  if (error != cudaSuccess) return unavailable(error);
  CUcontext context = nullptr;
  error = ToRuntimeError(driver.primary_retain(&context, handle));
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, "making its context: ", ErrorText(error), ". Other processes hold the GPU's memory"));
  }
  if (error != cudaSuccess) return unavailable(error);
  return std::make_shared<CudaDevice>(ordinal, absl::AsciiStrToLower(pci_bus_id), driver, handle, context);
}

}  // namespace penstock
