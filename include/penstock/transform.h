// From the bytes of images of one size to what a network takes: gathered, cast, normalised, in the layout that it wants.
#ifndef PENSTOCK_TRANSFORM_H_
#define PENSTOCK_TRANSFORM_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "penstock/batch.h"
#include "penstock/export.h"

namespace penstock {

/// What the elements of the output are.
enum class PixelType { kFloat32, kFloat16, kBfloat16 };

/// How the output is laid out. The samples themselves are interleaved: height, width, channels.
enum class ImageLayout {
  kChw,  ///< [B, channels, height, width]
  kHwc,  ///< [B, height, width, channels]
};

/// What every sample of a batch is, and what is made of it.
struct ImageTransform {
  int64_t height = 0;
  int64_t width = 0;
  int32_t channels = 3;      ///< 1 to 4, 8 bits each
  int64_t header_bytes = 0;  ///< of each sample before its pixels (PGM, PPM), skipped unread
  PixelType type = PixelType::kFloat32;
  ImageLayout layout = ImageLayout::kChw;
  std::array<float, 4> mean = {0, 0, 0, 0};       ///< by channel, of pixels between 0 and 1
  std::array<float, 4> deviation = {1, 1, 1, 1};  ///< by channel, above 0
};

/// Bytes that TransformImages() writes for `batch_size` samples; 0 where the transform's numbers make no sense.
PENSTOCK_EXPORT int64_t TransformedBytes(const ImageTransform& transform, int64_t batch_size);

/// Writes (pixel / 255 - mean) / deviation of every pixel of the batch to `output`, samples in batch order and without holes.
///
/// With scale = 1 / (255 * deviation) and bias = -mean / deviation, both rounded to float, each value is fma(pixel, scale, bias) in float,
/// rounded once more for the smaller types (to nearest, ties to even). The GPU's bits and the host's are the same. With mean 0 and
/// deviation 1 a value differs from pixel / 255 in the last place at most.
///
/// Shape:    batch.size() images, whether the batch is ragged or dense: each sample has header_bytes + height * width * channels bytes.
///           A skipped sample (valid 0) becomes zeros.
/// Units:    output_bytes: how much there is at `output`, at least TransformedBytes(transform, batch.size()). Aligned to its elements.
/// Errors:   InvalidArgument     a number of the transform, a sample of another size (the first is named), an output too small.
///           FailedPrecondition  the batch is empty (released), or was taken before a fork.
///           Unimplemented       a batch in device memory, in a penstock that was built without a CUDA compiler.
///           the device's        as Batch::WaitOn.
/// Lifetime: on the host path all is done on return. With a batch in device memory `output` is memory of the same device (or that it can
///           write), and the work is only enqueued on `cuda_stream`, behind the batch's copies and as a use of it: release the batch
///           whenever you like. On the host path `cuda_stream` is ignored.
/// Threads:  one thread per batch; on the host path the work is done by the calling thread.
PENSTOCK_EXPORT absl::Status TransformImages(Batch& batch, const ImageTransform& transform, void* output, int64_t output_bytes,
                                             CUstream_st* cuda_stream);

}  // namespace penstock

#endif  // PENSTOCK_TRANSFORM_H_
