#include "transform/pixels.h"

#include <cmath>
#include <cstring>
#include <type_traits>

namespace penstock {
namespace {

// A pixel has 256 values, so the formula is worked out once for each and looked up: rounding is done by the C library there, exactly and
// on any CPU (fma() in a loop would be a call per pixel where there is no such instruction). About half as fast as by vectors.
template <typename Element>
struct Tables {
  explicit Tables(const PixelJob& job) {
    for (int32_t channel = 0; channel < job.channels; ++channel) {
      for (int value = 0; value < 256; ++value) {
        const float result = std::fma(static_cast<float>(value), job.scale[channel], job.bias[channel]);
        if constexpr (std::is_same_v<Element, float>) {
          of[channel][value] = result;
        } else {
          of[channel][value] = job.element == PixelElement::kFloat16 ? FloatToHalf(result) : FloatToBfloat16(result);
        }
      }
    }
  }
  Element of[kPixelChannelsMax][256];
};

template <typename Element, int kChannels>
void Planar(const uint8_t* input, int64_t pixels, const Tables<Element>& tables, Element* output) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int channel = 0; channel < kChannels; ++channel) {
      output[channel * pixels + pixel] = tables.of[channel][input[pixel * kChannels + channel]];
    }
  }
}

template <typename Element, int kChannels>
void Interleaved(const uint8_t* input, int64_t pixels, const Tables<Element>& tables, Element* output) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int channel = 0; channel < kChannels; ++channel) {
      output[pixel * kChannels + channel] = tables.of[channel][input[pixel * kChannels + channel]];
    }
  }
}

template <typename Element, int kChannels>
void Transform(const PixelJob& job) {
  const Tables<Element> tables(job);
  const int64_t elements = job.pixels * kChannels;
  auto* output = reinterpret_cast<Element*>(job.output);
  for (int64_t sample = 0; sample < job.samples; ++sample, output += elements) {
    if (job.valid[sample] == 0) {
      std::memset(output, 0, static_cast<size_t>(elements) * sizeof(Element));
      continue;
    }
    const auto* input = reinterpret_cast<const uint8_t*>(job.data) + job.offsets[sample] + job.header_bytes;
    if (job.planar) {
      Planar<Element, kChannels>(input, job.pixels, tables, output);
    } else {
      Interleaved<Element, kChannels>(input, job.pixels, tables, output);
    }
  }
}

template <typename Element>
void TransformAs(const PixelJob& job) {
  switch (job.channels) {
    case 1:
      return Transform<Element, 1>(job);
    case 2:
      return Transform<Element, 2>(job);
    case 3:
      return Transform<Element, 3>(job);
    default:
      return Transform<Element, 4>(job);
  }
}

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace

uint16_t FloatToHalf(float value) {
  const uint32_t bits = Bits(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and more: nearer to 65536 than to the largest half, 65504
  if (magnitude < 0x38800000) {
    // Below 2^-14 a half counts in steps of 2^-24. A float's own steps are finer there or the value is 0, so the product is exact.
    return sign | static_cast<uint16_t>(std::lrint(std::fabs(value) * 16777216.0f));
  }
  magnitude += 0xfff + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((magnitude - 0x38000000) >> 13);
}

uint16_t FloatToBfloat16(float value) {
  const uint32_t bits = Bits(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void TransformByTable(const PixelJob& job) {
  if (job.element == PixelElement::kFloat32) {
    TransformAs<float>(job);
  } else {
    TransformAs<uint16_t>(job);
  }
}

#ifndef PENSTOCK_TRANSFORM_FMA
bool TransformByFma(const PixelJob&) { return false; }
#endif

void TransformOnHost(const PixelJob& job) {
  if (!TransformByFma(job)) TransformByTable(job);
}

}  // namespace penstock
