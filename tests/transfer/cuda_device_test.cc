#include "transfer/cuda_device.h"

#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "penstock/log.h"
#include "support/status.h"
#include "transfer/fake_cuda_runtime.h"

namespace penstock {
namespace {

using testing::fake_cuda;
using testing::FakeCuda;

const CUcontext kCallersContext = reinterpret_cast<CUcontext>(uintptr_t{0x7777});
const CUcontext kOurContext = reinterpret_cast<CUcontext>(uintptr_t{0x1001});  // of device 1

bool Contains(const absl::Status& status, const std::string& text) { return std::string(status.message()).find(text) != std::string::npos; }

// A fake runtime as new, the caller's context current, and device 1 open.
struct Rig {
  Rig() {
    fake_cuda() = FakeCuda{};
    fake_cuda().current = kCallersContext;
    absl::StatusOr<std::shared_ptr<Device>> opened = OpenCudaDevice(1);
    REQUIRE_OK(opened);
    device = std::move(*opened);
    fake_cuda().calls.clear();
    SetLogSink([this](LogLevel, absl::string_view message) { messages.emplace_back(message); });
  }
  ~Rig() {
    device.reset();
    SetLogSink({});
  }
  std::shared_ptr<Device> device;
  std::vector<std::string> messages;
  std::byte* const memory = reinterpret_cast<std::byte*>(uintptr_t{0x20000});
  const CudaEvent event = reinterpret_cast<CudaEvent>(uintptr_t{0x40000});
};

TEST_CASE("a transform runs in the device's context, and a GPU that its kernels were not compiled for is named so", "[transfer]") {
  Rig rig;
  PixelJob job;
  job.samples = 1;
  REQUIRE_OK(rig.device->Transform(job, nullptr));
  CHECK(fake_cuda().current_in_call == kOurContext);
  CHECK(fake_cuda().current == kCallersContext);
  fake_cuda().errors["LaunchTransform"] = cudaErrorNoKernelImageForDevice;
  const absl::Status status = rig.device->Transform(job, nullptr);
  CHECK(absl::IsUnimplemented(status));
  CHECK(Contains(status, "PENSTOCK_CUDA_ARCHITECTURES"));
  CHECK(fake_cuda().last_error == cudaSuccess);
}

TEST_CASE("opening a CUDA device leaves the caller's context current", "[transfer]") {
  fake_cuda() = FakeCuda{};
  fake_cuda().current = kCallersContext;
  {
    absl::StatusOr<std::shared_ptr<Device>> device = OpenCudaDevice(1);
    REQUIRE_OK(device);
    CHECK((*device)->index() == 1);
    CHECK((*device)->pci_bus_id() == "0000:1c:00.0");
    CHECK(fake_cuda().current == kCallersContext);
    CHECK(fake_cuda().retained == 1);
  }
  CHECK(fake_cuda().retained == 0);
}

TEST_CASE("without a driver opening a CUDA device is Unavailable with the cure", "[transfer]") {
  fake_cuda() = FakeCuda{};
  fake_cuda().errors["cudaGetDeviceCount"] = cudaErrorInsufficientDriver;
  const absl::Status status = OpenCudaDevice(0).status();
  CHECK(status.code() == absl::StatusCode::kUnavailable);
  CHECK(Contains(status, "device = -1"));
  CHECK(fake_cuda().last_error == cudaSuccess);
  CHECK(CudaDeviceCount() == 0);
}

TEST_CASE("an ordinal that does not exist is refused with the number of devices", "[transfer]") {
  fake_cuda() = FakeCuda{};
  CHECK(CudaDeviceCount() == 2);
  CHECK(OpenCudaDevice(2).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(OpenCudaDevice(2).status(), "can use 2"));
  CHECK(OpenCudaDevice(-1).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("a full GPU is ResourceExhausted when its context cannot be made", "[transfer]") {
  fake_cuda() = FakeCuda{};
  fake_cuda().errors["cuDevicePrimaryCtxRetain"] = cudaErrorMemoryAllocation;
  CHECK(OpenCudaDevice(0).status().code() == absl::StatusCode::kResourceExhausted);
}

TEST_CASE("every CUDA call runs in the device's context and gives the caller's back", "[transfer]") {
  Rig rig;
  const std::vector<std::function<bool()>> calls = {
      [&] { return rig.device->Malloc(8).ok(); },
      [&] { return rig.device->Free(rig.memory), true; },
      [&] { return rig.device->HostRegister(rig.memory, 8).ok(); },
      [&] { return rig.device->HostUnregister(rig.memory), true; },
      [&] { return rig.device->CreateStream().ok(); },
      [&] { return rig.device->DestroyStream(reinterpret_cast<CudaStream>(rig.event)), true; },
      [&] { return rig.device->CreateEvent().ok(); },
      [&] { return rig.device->DestroyEvent(rig.event), true; },
      [&] { return rig.device->CopyToDevice(rig.memory, rig.memory, 8, nullptr).ok(); },
      [&] { return rig.device->Record(rig.event, nullptr).ok(); },
      [&] { return rig.device->Done(rig.event).ok(); },
      [&] { return rig.device->MakeWait(nullptr, rig.event).ok(); },
      [&] { return rig.device->Synchronize(nullptr).ok(); },
  };
  for (const auto& call : calls) {
    fake_cuda().calls.clear();
    fake_cuda().current_in_call = nullptr;
    CHECK(call());
    REQUIRE(fake_cuda().calls.size() == 3);
    CHECK(fake_cuda().calls.front() == "cuCtxPushCurrent");
    CHECK(fake_cuda().calls.back() == "cuCtxPopCurrent");
    INFO(fake_cuda().calls[1]);
    CHECK(fake_cuda().current_in_call == kOurContext);
    CHECK(fake_cuda().current == kCallersContext);
  }
}

TEST_CASE("a failed CUDA call gives the caller's context back and leaves no last error", "[transfer]") {
  Rig rig;
  fake_cuda().errors["cudaMemcpyAsync"] = cudaErrorInvalidValue;
  const absl::Status status = rig.device->CopyToDevice(rig.memory, rig.memory, 4096, nullptr);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(status, "4096 bytes"));
  CHECK(Contains(status, "0000:1c:00.0"));
  CHECK(fake_cuda().current == kCallersContext);
  CHECK(fake_cuda().last_error == cudaSuccess);
  CHECK(rig.device->sticky().ok());
}

TEST_CASE("an event that is not done is no error and leaves no last error", "[transfer]") {
  Rig rig;
  CHECK(*rig.device->Done(rig.event));
  fake_cuda().errors["cudaEventQuery"] = cudaErrorNotReady;
  CHECK_FALSE(*rig.device->Done(rig.event));
  CHECK(fake_cuda().last_error == cudaSuccess);
}

TEST_CASE("device memory that is used up is ResourceExhausted with the numbers and not sticky", "[transfer]") {
  Rig rig;
  fake_cuda().errors["cudaMalloc"] = cudaErrorMemoryAllocation;
  const absl::Status status = rig.device->Malloc(4096).status();
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK(Contains(status, "cudaMalloc of 4096 bytes"));
  CHECK(Contains(status, "111 of 222 bytes"));
  CHECK(Contains(status, "device_bytes"));
  fake_cuda().errors.clear();
  CHECK(rig.device->Malloc(4096).ok());
}

TEST_CASE("errors that lose the context are latched and CUDA is not called again", "[transfer]") {
  for (int number : {214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 810, 911}) {
    INFO(number);
    Rig rig;
    fake_cuda().errors["cudaEventQuery"] = static_cast<cudaError_t>(number);
    const absl::Status first = rig.device->Done(rig.event).status();
    CHECK(first.code() == absl::StatusCode::kInternal);
    CHECK(Contains(first, ", " + std::to_string(number) + ")"));
    CHECK(Contains(first, "restart the process"));
    CHECK(rig.device->sticky() == first);
    fake_cuda().calls.clear();
    CHECK(rig.device->Malloc(8).status() == first);
    CHECK(rig.device->CopyToDevice(rig.memory, rig.memory, 8, nullptr) == first);
    CHECK(rig.device->CopyToDevice(rig.memory, rig.memory, 0, nullptr) == first);
    CHECK(rig.device->Record(rig.event, nullptr) == first);
    CHECK(rig.device->Synchronize(nullptr) == first);
    rig.device->Free(rig.memory);
    rig.device->HostUnregister(rig.memory);
    rig.device->DestroyEvent(rig.event);
    rig.device.reset();
    CHECK(fake_cuda().calls.empty());
    CHECK(rig.messages.empty());
  }
}

TEST_CASE("errors of one call only are not latched", "[transfer]") {
  for (int number : {1, 2, 46, 201, 400, 712, 801}) {
    INFO(number);
    Rig rig;
    fake_cuda().errors["cudaEventRecord"] = static_cast<cudaError_t>(number);
    CHECK_FALSE(rig.device->Record(rig.event, nullptr).ok());
    fake_cuda().errors.clear();
    CHECK(rig.device->Record(rig.event, nullptr).ok());
  }
}

TEST_CASE("a context that cannot be made current is an error of the call", "[transfer]") {
  Rig rig;
  fake_cuda().errors["cuCtxPushCurrent"] = cudaErrorContextIsDestroyed;
  CHECK(rig.device->Record(rig.event, nullptr).code() == absl::StatusCode::kInternal);
  CHECK_FALSE(rig.device->sticky().ok());
  CHECK(fake_cuda().current == kCallersContext);
}

TEST_CASE("a runtime that is being unloaded is tolerated in silence", "[transfer]") {
  Rig rig;
  fake_cuda().errors["cudaFree"] = cudaErrorCudartUnloading;
  rig.device->Free(rig.memory);
  CHECK(rig.messages.empty());
  fake_cuda().calls.clear();
  CHECK(rig.device->Record(rig.event, nullptr).code() == absl::StatusCode::kCancelled);
  rig.device->DestroyEvent(rig.event);
  rig.device.reset();
  CHECK(fake_cuda().calls.empty());
}

TEST_CASE("an error while giving something back is reported to the log", "[transfer]") {
  Rig rig;
  fake_cuda().errors["cudaHostUnregister"] = cudaErrorInvalidValue;
  rig.device->HostUnregister(rig.memory);
  REQUIRE(rig.messages.size() == 1);
  CHECK(rig.messages[0].find("cudaHostUnregister") != std::string::npos);
}

TEST_CASE("a forked child makes no CUDA call and the parent goes on", "[transfer]") {
  Rig rig;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    bool right = rig.device->Record(rig.event, nullptr).code() == absl::StatusCode::kFailedPrecondition;
    right = right && rig.device->Malloc(8).status().code() == absl::StatusCode::kFailedPrecondition;
    rig.device->Free(rig.memory);
    right = right && CudaDeviceCount() == 0;
    right = right && OpenCudaDevice(0).status().code() == absl::StatusCode::kFailedPrecondition;
    rig.device.reset();
    right = right && fake_cuda().calls.empty();
    ::_exit(right ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(rig.device->Record(rig.event, nullptr).ok());
}

}  // namespace
}  // namespace penstock
