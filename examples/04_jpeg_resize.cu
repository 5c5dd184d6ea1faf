#include "04_jpeg_resize.h"

#include <cuda_runtime_api.h>

namespace {

struct Normalisation {
  float scale[3];
  float bias[3];
};

// Blocks in y: images; threads in x: pixels of the output.
__global__ void Resize(const DecodedImage* images, int32_t count, int32_t side, Normalisation normalisation, float* output) {
  const int32_t area = side * side;
  for (int32_t index = blockIdx.y; index < count; index += gridDim.y) {
    const DecodedImage image = images[index];
    float* const planes = output + static_cast<int64_t>(index) * 3 * area;
    for (int32_t pixel = blockIdx.x * blockDim.x + threadIdx.x; pixel < area; pixel += gridDim.x * blockDim.x) {
      float value[3] = {0, 0, 0};
      if (image.pixels != nullptr) {
        const float x = fminf(fmaxf((pixel % side + 0.5f) * image.width / side - 0.5f, 0.0f), image.width - 1.0f);
        const float y = fminf(fmaxf((pixel / side + 0.5f) * image.height / side - 0.5f, 0.0f), image.height - 1.0f);
        const int32_t left = static_cast<int32_t>(x), top = static_cast<int32_t>(y);
        const int32_t right = min(left + 1, image.width - 1), below = min(top + 1, image.height - 1);
        const float along = x - left, down = y - top;
        for (int channel = 0; channel < 3; ++channel) {
          const auto at = [&](int32_t row, int32_t column) {
            return static_cast<float>(image.pixels[(static_cast<int64_t>(row) * image.width + column) * 3 + channel]);
          };
          const float upper = at(top, left) + along * (at(top, right) - at(top, left));
          const float lower = at(below, left) + along * (at(below, right) - at(below, left));
          value[channel] = (upper + down * (lower - upper)) * normalisation.scale[channel] + normalisation.bias[channel];
        }
      }
      for (int channel = 0; channel < 3; ++channel) planes[channel * area + pixel] = value[channel];
    }
  }
}

}  // namespace

int LaunchResize(const DecodedImage* images, int32_t count, int32_t side, const float mean[3], const float deviation[3], float* output,
                 CUstream_st* cuda_stream) {
  if (count == 0) return cudaSuccess;
  Normalisation normalisation;
  for (int channel = 0; channel < 3; ++channel) {
    normalisation.scale[channel] = 1 / (255 * deviation[channel]);
    normalisation.bias[channel] = -mean[channel] / deviation[channel];
  }
  const dim3 grid((side * side + 255) / 256, count < 65535 ? count : 65535);
  Resize<<<grid, 256, 0, cuda_stream>>>(images, count, side, normalisation, output);
  return cudaGetLastError();
}
