// The GPU as penstock uses it: one small interface in front of the CUDA runtime, so that order, reuse, sticky errors
// and events that never complete are tested without a GPU (scripted_device.h).
#ifndef PENSTOCK_TRANSFER_DEVICE_H_
#define PENSTOCK_TRANSFER_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transform/pixels.h"

struct CUstream_st;  // cudaStream_t is a pointer to it
struct CUevent_st;   // cudaEvent_t is a pointer to it

namespace penstock {

using CudaStream = CUstream_st*;
using CudaEvent = CUevent_st*;

// One GPU. Every call saves and restores the caller's current device. Thread-safe. Once a sticky error was seen (the context is
// lost), every later call returns the first one at once, without calling CUDA.
class Device {
 public:
  virtual ~Device() = default;

  virtual int index() const = 0;                 // CUDA device ordinal
  virtual std::string pci_bus_id() const = 0;    // "0000:1b:00.0", lower case
  virtual absl::StatusOr<std::byte*> Malloc(size_t bytes) = 0;
  virtual void Free(std::byte* device_memory) = 0;
  virtual absl::Status HostRegister(void* address, size_t bytes) = 0;
  virtual void HostUnregister(void* address) = 0;
  virtual absl::StatusOr<CudaStream> CreateStream() = 0;
  virtual void DestroyStream(CudaStream cuda_stream) = 0;
  virtual absl::StatusOr<CudaEvent> CreateEvent() = 0;   // timing disabled
  virtual void DestroyEvent(CudaEvent event) = 0;
  virtual absl::Status CopyToDevice(std::byte* device_memory, const std::byte* host, size_t bytes, CudaStream cuda_stream) = 0;
  // Enqueues the job, whose memory is this device's. Unimplemented where there are no kernels in this build.
  virtual absl::Status Transform(const PixelJob& job, CudaStream cuda_stream) = 0;
  virtual absl::Status Record(CudaEvent event, CudaStream cuda_stream) = 0;
  virtual absl::StatusOr<bool> Done(CudaEvent event) = 0;   // cudaEventQuery: never waits
  virtual absl::Status MakeWait(CudaStream cuda_stream, CudaEvent event) = 0;  // cudaStreamWaitEvent
  virtual absl::Status Synchronize(CudaStream cuda_stream) = 0;
  virtual absl::Status sticky() const = 0;  // OK, or the first error that lost the context
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSFER_DEVICE_H_
