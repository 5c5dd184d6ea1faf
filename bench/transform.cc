// What does TransformImages() cost on the host? Images of 224 x 224 x 3 from a batch of 64, by type and layout, beside a fill of as many
// output bytes. The memory of the output bounds it where all cores do this; here one does.
#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "transform/pixels.h"

namespace penstock {
namespace {

constexpr int64_t kSamples = 64, kPixels = 224 * 224, kChannels = 3;

void Transform(benchmark::State& state) {
  const std::vector<std::byte> data(static_cast<size_t>(kSamples * kPixels * kChannels), std::byte{77});
  std::vector<int64_t> offsets;
  for (int64_t sample = 0; sample < kSamples; ++sample) offsets.push_back(sample * kPixels * kChannels);
  const std::vector<uint8_t> valid(kSamples, 1);
  PixelJob job;
  job.data = data.data();
  job.offsets = offsets.data();
  job.valid = valid.data();
  job.samples = kSamples;
  job.pixels = kPixels;
  job.channels = kChannels;
  job.element = static_cast<PixelElement>(state.range(0));
  job.planar = state.range(1) != 0;
  for (int channel = 0; channel < kChannels; ++channel) job.scale[channel] = 1.0F / 255;
  std::vector<std::byte> output(static_cast<size_t>(kSamples * kPixels * kChannels * ElementBytes(job.element)));
  job.output = output.data();
  for (auto _ : state) {
    if (state.range(2) == 0) {
      TransformByTable(job);
    } else {
      TransformOnHost(job);
    }
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kSamples);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(data.size() + output.size()));
}
// type: float, half, bfloat16. vectors 0: looked up on any CPU; 1: as TransformImages() does it.
BENCHMARK(Transform)->ArgNames({"type", "planar", "vectors"})->ArgsProduct({{0, 1, 2}, {0, 1}, {0, 1}})->Unit(benchmark::kMillisecond);

// The least that can be done: every output byte is written once.
void Fill(benchmark::State& state) {
  std::vector<std::byte> output(static_cast<size_t>(kSamples * kPixels * kChannels * state.range(0)));
  for (auto _ : state) {
    std::memset(output.data(), 1, output.size());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kSamples);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(output.size()));
}
BENCHMARK(Fill)->ArgName("element_bytes")->Arg(4)->Arg(2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace penstock

BENCHMARK_MAIN();
