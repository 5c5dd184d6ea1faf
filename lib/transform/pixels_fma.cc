// The job by vectors of 8, for x86-64 CPUs with AVX2 and FMA: compiled for these, and called only where they are. It includes nothing whose
// inline functions could reach the rest of the program in this form.
#include "transform/pixels.h"

#include <cstring>

namespace penstock {
namespace {

struct ToFloat {
  using Element = float;
  static Element Cast(float value) { return value; }
};
struct ToBfloat16 {
  using Element = uint16_t;
  static Element Cast(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
};

template <typename To, int kChannels>
void Planar(const uint8_t* __restrict input, const PixelJob& job, typename To::Element* __restrict output) {
  for (int channel = 0; channel < kChannels; ++channel) {
    const float scale = job.scale[channel], bias = job.bias[channel];
    auto* __restrict plane = output + channel * job.pixels;
    for (int64_t pixel = 0; pixel < job.pixels; ++pixel) {
      plane[pixel] = To::Cast(__builtin_fmaf(static_cast<float>(input[pixel * kChannels + channel]), scale, bias));
    }
  }
}

// By groups of elements that are whole pixels and whole vectors.
template <typename To, int kChannels>
void Interleaved(const uint8_t* __restrict input, const PixelJob& job, typename To::Element* __restrict output) {
  constexpr int kGroup = 8 * kChannels;
  float scale[kGroup], bias[kGroup];
  for (int i = 0; i < kGroup; ++i) {
    scale[i] = job.scale[i % kChannels];
    bias[i] = job.bias[i % kChannels];
  }
  const int64_t elements = job.pixels * kChannels;
  int64_t begin = 0;
  for (; begin + kGroup <= elements; begin += kGroup) {
    for (int i = 0; i < kGroup; ++i) output[begin + i] = To::Cast(__builtin_fmaf(static_cast<float>(input[begin + i]), scale[i], bias[i]));
  }
  const auto rest = static_cast<int>(elements - begin);
  for (int i = 0; i < rest && i < kGroup; ++i) {
    output[begin + i] = To::Cast(__builtin_fmaf(static_cast<float>(input[begin + i]), scale[i], bias[i]));
  }
}

template <typename To, int kChannels>
void Transform(const PixelJob& job) {
  const int64_t elements = job.pixels * kChannels;
  auto* output = reinterpret_cast<typename To::Element*>(job.output);
  for (int64_t sample = 0; sample < job.samples; ++sample, output += elements) {
    if (job.valid[sample] == 0) {
      std::memset(output, 0, static_cast<size_t>(elements) * sizeof *output);
      continue;
    }
    const auto* input = reinterpret_cast<const uint8_t*>(job.data) + job.offsets[sample] + job.header_bytes;
    if (job.planar) {
      Planar<To, kChannels>(input, job, output);
    } else {
      Interleaved<To, kChannels>(input, job, output);
    }
  }
}

template <typename To>
void TransformTo(const PixelJob& job) {
  switch (job.channels) {
    case 1:
      return Transform<To, 1>(job);
    case 2:
      return Transform<To, 2>(job);
    case 3:
      return Transform<To, 3>(job);
    default:
      return Transform<To, 4>(job);
  }
}

}  // namespace

bool TransformByFma(const PixelJob& job) {
  static const bool able = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!able) return false;
  switch (job.element) {
    case PixelElement::kFloat32:
      TransformTo<ToFloat>(job);
      return true;
    case PixelElement::kBfloat16:
      TransformTo<ToBfloat16>(job);
      return true;
    case PixelElement::kFloat16:
      break;  // rounding to half is cheaper looked up than worked out
  }
  return false;
}

}  // namespace penstock
