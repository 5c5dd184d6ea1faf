#include "transfer/cuda_device.h"

#include "absl/strings/str_cat.h"

namespace penstock {

int CudaDeviceCount() { return 0; }

absl::StatusOr<std::shared_ptr<Device>> OpenCudaDevice(int ordinal) {
  return absl::UnimplementedError(absl::StrCat("cannot open CUDA device ", ordinal,
                                               ": this penstock was built without CUDA. Configure it with -DPENSTOCK_CUDA=ON, or take "
                                               "batches in host memory (device = -1)"));
}

}  // namespace penstock
