// The arithmetic of penstock/transform.h without its types: one job, done by the host (pixels.cc) or by a GPU (pixels.cu), with the same
// bits. Includes nothing that a CUDA compiler has to digest.
#ifndef PENSTOCK_TRANSFORM_PIXELS_H_
#define PENSTOCK_TRANSFORM_PIXELS_H_

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace penstock {

inline constexpr int kPixelChannelsMax = 4;

enum class PixelElement : int32_t { kFloat32, kFloat16, kBfloat16 };
constexpr int64_t ElementBytes(PixelElement element) { return element == PixelElement::kFloat32 ? 4 : 2; }

// output[b][c][p] (or [b][p][c]) = fma(input[b][p][c], scale[c], bias[c]), cast to `element`. All pointers are the host's, or all the
// device's.
struct PixelJob {
  const std::byte* data = nullptr;
  const int64_t* offsets = nullptr;  // of the samples, in data
  const uint8_t* valid = nullptr;    // 0: zeros are written
  int64_t samples = 0;
  int64_t header_bytes = 0;          // of each sample, before its pixels
  int64_t pixels = 0;                // of each sample, `channels` bytes each
  int32_t channels = 0;
  PixelElement element = PixelElement::kFloat32;
  bool planar = false;
  float scale[kPixelChannelsMax] = {};  // finite, as is bias
  float bias[kPixelChannelsMax] = {};
  std::byte* output = nullptr;
};

void TransformOnHost(const PixelJob& job);

// The two ways of the host, with the same bits. The second is false, and does nothing, where the CPU or the type is not made for it.
void TransformByTable(const PixelJob& job);
bool TransformByFma(const PixelJob& job);

// To nearest, ties to even; beyond the largest: infinity. Not for NaN.
uint16_t FloatToHalf(float value);
uint16_t FloatToBfloat16(float value);

// Enqueues the job on a CUDA stream of the current context. Returns a cudaError_t. Only in a build with a CUDA compiler.
int LaunchTransform(const PixelJob& job, CUstream_st* cuda_stream);

}  // namespace penstock

#endif  // PENSTOCK_TRANSFORM_PIXELS_H_
