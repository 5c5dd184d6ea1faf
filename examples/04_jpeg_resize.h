// The kernel of 04_jpeg_gpu.cc.
#ifndef PENSTOCK_EXAMPLES_04_JPEG_RESIZE_H_
#define PENSTOCK_EXAMPLES_04_JPEG_RESIZE_H_

#include <cstdint>

struct CUstream_st;

// A decoded image in the GPU's memory, interleaved RGB; no pixels: nothing was decoded.
struct DecodedImage {
  const uint8_t* pixels;
  int32_t width;
  int32_t height;
};

// Resizes every image to side x side (bilinear) and writes (pixel / 255 - mean) / deviation as [count, 3, side, side]; zeros where there
// are no pixels. `images` and `output` are the GPU's memory; mean and deviation are the host's. Returns a cudaError_t.
int LaunchResize(const DecodedImage* images, int32_t count, int32_t side, const float mean[3], const float deviation[3], float* output,
                 CUstream_st* cuda_stream);

#endif  // PENSTOCK_EXAMPLES_04_JPEG_RESIZE_H_
