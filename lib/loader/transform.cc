#include "penstock/transform.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "loader/lease.h"
#include "transform/pixels.h"

namespace penstock {
namespace {

PixelElement ElementOf(PixelType type) {
  switch (type) {
    case PixelType::kFloat32:
      return PixelElement::kFloat32;
    case PixelType::kFloat16:
      return PixelElement::kFloat16;
    case PixelType::kBfloat16:
      break;
  }
  return PixelElement::kBfloat16;
}

// Bytes of one sample's pixels; 0 where the numbers make no sense. Elements are counted in 32 bits on the device.
int64_t PixelBytes(const ImageTransform& transform) {
  constexpr int64_t kBytesMax = std::numeric_limits<int32_t>::max();
  if (transform.height < 1 || transform.width < 1 || transform.channels < 1 || transform.channels > kPixelChannelsMax) return 0;
  if (transform.height > kBytesMax / transform.width || transform.height * transform.width > kBytesMax / transform.channels) return 0;
  return transform.height * transform.width * transform.channels;
}

absl::Status FillJob(const ImageTransform& transform, PixelJob& job) {
  const int64_t bytes = PixelBytes(transform);
  if (bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("TransformImages: images of ", transform.height, " x ", transform.width, " pixels with ",
                                                   transform.channels, " channels: height and width must be at least 1, there are 1 to ",
                                                   kPixelChannelsMax, " channels, and an image has at most 2^31 - 1 bytes"));
  }
  if (transform.header_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("TransformImages: header_bytes is ", transform.header_bytes, "; it must not be negative"));
  }
  for (int32_t channel = 0; channel < transform.channels; ++channel) {
    const double mean = transform.mean[static_cast<size_t>(channel)];
    const double deviation = transform.deviation[static_cast<size_t>(channel)];
    const auto scale = static_cast<float>(1 / (255 * deviation));
    const auto bias = static_cast<float>(-mean / deviation);
    if (!(deviation > 0) || !std::isfinite(scale) || !std::isfinite(bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("TransformImages: channel ", channel, " has mean ", mean, " and deviation ", deviation,
                       ": the deviation must be above 0, and 1 / (255 * deviation) and mean / deviation finite in float"));
    }
    job.scale[channel] = scale;
    job.bias[channel] = bias;
  }
  job.header_bytes = transform.header_bytes;
  job.pixels = transform.height * transform.width;
  job.channels = transform.channels;
  job.element = ElementOf(transform.type);
  job.planar = transform.layout == ImageLayout::kChw;
  return absl::OkStatus();
}

// Every sample must be of the size that the transform says.
absl::Status CheckSizes(const Batch& batch, const ImageTransform& transform) {
  const int64_t sample_bytes = transform.header_bytes + PixelBytes(transform);
  for (size_t i = 0; i < static_cast<size_t>(batch.size()); ++i) {
    if (batch.valid()[i] == 0 || batch.lengths()[i] == sample_bytes) continue;
    return absl::InvalidArgumentError(absl::StrCat("TransformImages: sample ", i, " of the batch (id ", batch.ids()[i], ") has ",
                                                   batch.lengths()[i], " bytes, but a header of ", transform.header_bytes, " and ",
                                                   transform.height, " x ", transform.width, " x ", transform.channels, " pixels have ",
                                                   sample_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckOutput(const PixelJob& job, int64_t needed_bytes, int64_t output_bytes) {
  const int64_t element_bytes = ElementBytes(job.element);
  if (output_bytes < needed_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("TransformImages: the output has ", output_bytes, " bytes, but ", job.samples,
                                                   " images of ", job.pixels * job.channels, " elements of ", element_bytes, " bytes need ",
                                                   needed_bytes));
  }
  if (needed_bytes > 0 && (job.output == nullptr || reinterpret_cast<uintptr_t>(job.output) % static_cast<uintptr_t>(element_bytes) != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("TransformImages: the output must not be null, and be aligned to its elements of ",
                                                   element_bytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

// What needs to look into a Batch.
struct BatchTransform {
  static absl::Status Run(Batch& batch, const ImageTransform& transform, void* output, int64_t output_bytes, CUstream_st* cuda_stream) {
    if (!batch) return absl::FailedPreconditionError("TransformImages: the batch was released");
    if (batch.lease_->core->InForkedChild()) {
      return absl::FailedPreconditionError("TransformImages: the batch was taken before fork(): its memory is the parent's");
    }
    PixelJob job;
    if (absl::Status status = FillJob(transform, job); !status.ok()) return status;
    job.samples = batch.size();
    job.data = batch.data();
    job.output = static_cast<std::byte*>(output);
    if (absl::Status status = CheckSizes(batch, transform); !status.ok()) return status;
    if (absl::Status status = CheckOutput(job, TransformedBytes(transform, batch.size()), output_bytes); !status.ok()) return status;
    if (batch.size() == 0) return absl::OkStatus();
    if (!batch.on_device()) {
      job.offsets = batch.offsets().data();
      job.valid = batch.valid().data();
      TransformOnHost(job);
      return absl::OkStatus();
    }
    job.offsets = batch.device_offsets();
    job.valid = batch.device_valid();
    if (absl::Status status = batch.WaitOn(cuda_stream); !status.ok()) return status;
    if (absl::Status status = batch.lease_->attempt->device->device().Transform(job, cuda_stream); !status.ok()) return status;
    return batch.RecordUse(cuda_stream);
  }
};

int64_t TransformedBytes(const ImageTransform& transform, int64_t batch_size) {
  return batch_size < 0 ? 0 : batch_size * PixelBytes(transform) * ElementBytes(ElementOf(transform.type));
}

absl::Status TransformImages(Batch& batch, const ImageTransform& transform, void* output, int64_t output_bytes, CUstream_st* cuda_stream) {
  return BatchTransform::Run(batch, transform, output, output_bytes, cuda_stream);
}

}  // namespace penstock
