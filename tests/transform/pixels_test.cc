// Pixels by the host: every value of a byte, in every type and layout, against the formula in double; and how floats become smaller ones.
#include "transform/pixels.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <catch2/catch.hpp>

namespace penstock {
namespace {

// What the bits of a half or bfloat16 mean, by the definition of such formats.
double Decode(uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                                         : std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0 ? (bits >> 15 ? -INFINITY : INFINITY) : NAN;
  return bits >> 15 ? -magnitude : magnitude;
}
double DecodeHalf(uint16_t bits) { return Decode(bits, 5); }
double DecodeBfloat16(uint16_t bits) { return Decode(bits, 8); }

// Each finite value comes back as itself, what lies between two goes to the nearer, and the middle to the even one.
template <typename Encode, typename Decoded>
void CheckRounding(Encode encode, Decoded decode, uint16_t infinity) {
  for (uint32_t magnitude = 0; magnitude < infinity; ++magnitude) {
    for (const uint16_t sign : {uint16_t{0}, uint16_t{0x8000}}) {
      const auto bits = static_cast<uint16_t>(sign | magnitude);
      const auto next = static_cast<uint16_t>(bits + 1);
      const double value = decode(bits);
      // Beyond the largest lies what would come next if exponents went on.
      const double above = next == (sign | infinity) ? value + (value - decode(static_cast<uint16_t>(bits - 1))) : decode(next);
      const auto middle = static_cast<float>((value + above) / 2);
      const bool exact = static_cast<double>(middle) == (value + above) / 2;
      if (encode(static_cast<float>(value)) != bits || (exact && encode(middle) != (bits % 2 == 0 ? bits : next)) ||
          (exact && encode(std::nextafter(middle, static_cast<float>(value))) != bits) ||
          (exact && encode(std::nextafter(middle, static_cast<float>(above))) != next)) {
        CAPTURE(bits, value, above, middle);
        FAIL_CHECK("rounded wrongly");
        return;
      }
    }
  }
}

// The output's elements as doubles.
double ElementAt(const PixelJob& job, int64_t index) {
  uint16_t bits = 0;
  float value = 0;
  if (job.element == PixelElement::kFloat32) {
    std::memcpy(&value, job.output + index * 4, 4);
    return static_cast<double>(value);
  }
  std::memcpy(&bits, job.output + index * 2, 2);
  return job.element == PixelElement::kFloat16 ? DecodeHalf(bits) : DecodeBfloat16(bits);
}

// How far rounding may take a result of the formula from its exact value.
double Tolerance(PixelElement element, double product, double bias, double result) {
  const double in_float = std::ldexp(std::fabs(product) + std::fabs(bias) + std::fabs(result), -24) * 1.001;
  if (element == PixelElement::kFloat32) return in_float;
  return in_float + (element == PixelElement::kFloat16 ? std::ldexp(std::fabs(result), -11) + std::ldexp(1.0, -25)
                                                       : std::ldexp(std::fabs(result), -8));
}

constexpr float kMean[4] = {0.485F, 0.456F, 0.406F, 0.5F};
constexpr float kDeviation[4] = {0.229F, 0.224F, 0.225F, 1.0F / 3};

}  // namespace

TEST_CASE("a float becomes the nearest half, and of two the even one", "[transform]") {
  CheckRounding(FloatToHalf, DecodeHalf, 0x7c00);
  CHECK(FloatToHalf(1e30F) == 0x7c00);
  CHECK(FloatToHalf(-std::numeric_limits<float>::infinity()) == 0xfc00);
  CHECK(FloatToHalf(-0.0F) == 0x8000);
  CHECK(FloatToHalf(1e-30F) == 0);
}

TEST_CASE("a float becomes the nearest bfloat16, and of two the even one", "[transform]") {
  CheckRounding(FloatToBfloat16, DecodeBfloat16, 0x7f80);
  CHECK(FloatToBfloat16(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(FloatToBfloat16(-0.0F) == 0x8000);
}

TEST_CASE("every byte in every channel, type and layout is the formula's value, rounded", "[transform]") {
  const int channels = GENERATE(1, 2, 3, 4);
  const PixelElement element = GENERATE(PixelElement::kFloat32, PixelElement::kFloat16, PixelElement::kBfloat16);
  const bool planar = GENERATE(false, true);
  CAPTURE(channels, static_cast<int>(element), planar);
  constexpr int64_t kSamples = 3, kPixels = 259, kHeader = 13;  // no multiple of a vector
  // Samples behind each other in the wrong order, with holes; the second one is skipped.
  const std::vector<int64_t> offsets = {2 * 1280, 0, 1280};
  const std::vector<uint8_t> valid = {1, 0, 1};
  std::vector<uint8_t> data(3 * 1280, 0xDB);
  const auto pixel = [&](int64_t sample, int64_t index, int channel) { return static_cast<uint8_t>(index + 85 * channel + 7 * sample); };
  for (int64_t sample = 0; sample < kSamples; ++sample) {
    for (int64_t index = 0; index < kPixels; ++index) {
      for (int channel = 0; channel < channels; ++channel) {
        data[static_cast<size_t>(offsets[static_cast<size_t>(sample)] + kHeader + index * channels + channel)] =
            pixel(sample, index, channel);
      }
    }
  }
  const int64_t elements = kPixels * channels;
  std::vector<std::byte> output(static_cast<size_t>(kSamples * elements * ElementBytes(element)) + 1, std::byte{0x5A});
  PixelJob job;
  job.data = reinterpret_cast<const std::byte*>(data.data());
  job.offsets = offsets.data();
  job.valid = valid.data();
  job.samples = kSamples;
  job.header_bytes = kHeader;
  job.pixels = kPixels;
  job.channels = channels;
  job.element = element;
  job.planar = planar;
  for (int channel = 0; channel < channels; ++channel) {
    job.scale[channel] = static_cast<float>(1 / (255 * static_cast<double>(kDeviation[channel])));
    job.bias[channel] = static_cast<float>(-static_cast<double>(kMean[channel]) / static_cast<double>(kDeviation[channel]));
  }
  job.output = output.data();
  const bool by_table = GENERATE(true, false);
  if (by_table) {
    TransformByTable(job);
  } else if (!TransformByFma(job)) {
    return;  // this CPU, or this type, has one way only
  }
  CHECK(output.back() == std::byte{0x5A});
  for (int64_t sample = 0; sample < kSamples; ++sample) {
    for (int64_t index = 0; index < kPixels; ++index) {
      for (int channel = 0; channel < channels; ++channel) {
        const double got = ElementAt(job, sample * elements + (planar ? channel * kPixels + index : index * channels + channel));
        if (sample == 1) {
          REQUIRE(got == 0);
          continue;
        }
        const double bias = -static_cast<double>(kMean[channel]) / static_cast<double>(kDeviation[channel]);
        const double product = pixel(sample, index, channel) / (255 * static_cast<double>(kDeviation[channel]));
        CAPTURE(sample, index, channel, got, product + bias);
        REQUIRE(std::fabs(got - (product + bias)) <= Tolerance(element, product, bias, product + bias));
      }
    }
  }
}

TEST_CASE("looked up or worked out, a pixel has the same bits", "[transform]") {
  PixelJob job;
  job.channels = GENERATE(1, 2, 3, 4);
  job.element = GENERATE(PixelElement::kFloat32, PixelElement::kBfloat16);
  job.planar = GENERATE(false, true);
  job.pixels = 1021;
  job.samples = 1;
  const int64_t offset = 3;
  const uint8_t valid = 1;
  job.offsets = &offset;
  job.valid = &valid;
  std::vector<std::byte> data(3 + 1021 * 4), output(1021 * 4 * 4), other(output.size());
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  job.data = data.data();
  for (int round = 0; round < 50; ++round) {
    for (int channel = 0; channel < job.channels; ++channel) {
      job.scale[channel] = 0.0171F / static_cast<float>(round + 1) + 0.003F * static_cast<float>(channel);
      job.bias[channel] = -2.1F + 0.083F * static_cast<float>(round * (channel + 1));
    }
    job.output = output.data();
    if (!TransformByFma(job)) return;  // this CPU looks up everything
    job.output = other.data();
    TransformByTable(job);
    REQUIRE(std::memcmp(output.data(), other.data(), static_cast<size_t>(1021 * job.channels * ElementBytes(job.element))) == 0);
  }
}

}  // namespace penstock
