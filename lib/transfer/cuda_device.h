// A real GPU behind Device, over the CUDA runtime. A build without CUDA has the same functions (no_cuda.cc): no device is found,
// and opening one says how to get a build that has it.
#ifndef PENSTOCK_TRANSFER_CUDA_DEVICE_H_
#define PENSTOCK_TRANSFER_CUDA_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "transfer/device.h"

namespace penstock {

// GPUs that this process can use: 0 without a driver, without a GPU, in a build without CUDA, and in a child forked after CUDA was
// first used. Makes no CUDA context.
int CudaDeviceCount();

// Opens GPU `ordinal` as CUDA counts them (CUDA_VISIBLE_DEVICES applies), in its primary context: the one that frameworks use too.
//
// Errors: Unimplemented    this build has no CUDA.
//         Unavailable      no driver, no GPU, or the driver is older than the CUDA this was built with.
//         InvalidArgument  no such ordinal.
absl::StatusOr<std::shared_ptr<Device>> OpenCudaDevice(int ordinal);

}  // namespace penstock

#endif  // PENSTOCK_TRANSFER_CUDA_DEVICE_H_
