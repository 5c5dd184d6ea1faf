// What does laying out a batch cost per sample, before its first byte is read? Bound by the processor: a few vectors written in order, and
// for packed samples a sort by place, whose input no longer fits into the nearest caches when batches are large.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "plan/batch_plan.h"

namespace {

using penstock::BatchPlan;
using penstock::PlanOptions;
using penstock::PlanSample;
using penstock::Range;

struct Input {
  std::vector<PlanSample> samples;
  std::vector<Range> ranges;

  void Add(const Range& range, bool whole_object) {
    PlanSample sample;
    sample.id = static_cast<int64_t>(samples.size());
    sample.position = sample.id;
    sample.whole_object = whole_object;
    sample.first_range = static_cast<uint32_t>(ranges.size());
    sample.range_count = 1;
    sample.delivered_bytes = range.stored_bytes;
    samples.push_back(sample);
    ranges.push_back(range);
  }
};

// A file per sample, in shuffled order: the main job.
Input Files(int64_t count, uint64_t bytes) {
  std::mt19937_64 random(1);
  Input input;
  for (int64_t i = 0; i < count; ++i) {
    const auto object = static_cast<uint32_t>(random() % 1'000'000);
    input.Add(Range{object, 0, bytes, bytes, 0}, /*whole_object=*/true);
  }
  return input;
}

// Samples of 4 KiB in shards of 1 GiB, where a block of `neighbours` lies together.
Input Packed(int64_t count, int64_t neighbours) {
  constexpr uint64_t kBytes = 4096;
  std::mt19937_64 random(1);
  Input input;
  uint64_t place = 0;
  uint32_t shard = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i % neighbours == 0) {
      shard = static_cast<uint32_t>(random() % 64);
      place = random() % 200'000;
    }
    input.Add(Range{shard, (place + static_cast<uint64_t>(i % neighbours)) * kBytes, kBytes, kBytes, 0}, /*whole_object=*/false);
  }
  return input;
}

void Plan(benchmark::State& state, const Input& input, const PlanOptions& options) {
  BatchPlan plan;
  for (auto _ : state) {
    const absl::Status status = penstock::PlanBatch(input.samples, input.ranges, options, plan);
    if (!status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      std::abort();
    }
    benchmark::DoNotOptimize(plan.offsets.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(input.samples.size()));
  state.counters["extents"] = static_cast<double>(plan.extents.size());
  state.counters["pieces"] = static_cast<double>(plan.pieces.size());
}

void SmallFiles(benchmark::State& state) { Plan(state, Files(state.range(0), 4096), {}); }
void SmallFilesDirect(benchmark::State& state) { Plan(state, Files(state.range(0), 5000), {.direct_alignment = 512}); }
void SmallFilesDense(benchmark::State& state) { Plan(state, Files(state.range(0), 784), {.dense = true}); }
void SmallFilesThroughCodec(benchmark::State& state) { Plan(state, Files(state.range(0), 4096), {.scratch = true, .split_large = false}); }
// 16 pieces each.
void LargeFiles(benchmark::State& state) { Plan(state, Files(state.range(0), 64 << 20), {}); }
const PlanOptions kPacked = {.coalesce_gap_bytes = 4096, .sort_by_object = true};
void PackedAlone(benchmark::State& state) { Plan(state, Packed(state.range(0), 1), kPacked); }
void PackedBlocksOf64(benchmark::State& state) { Plan(state, Packed(state.range(0), 64), kPacked); }

BENCHMARK(SmallFiles)->Arg(256)->Arg(8192);
BENCHMARK(SmallFilesDirect)->Arg(256);
BENCHMARK(SmallFilesDense)->Arg(256);
BENCHMARK(SmallFilesThroughCodec)->Arg(256);
BENCHMARK(LargeFiles)->Arg(16);
BENCHMARK(PackedAlone)->Arg(256)->Arg(8192);
BENCHMARK(PackedBlocksOf64)->Arg(256)->Arg(8192);

}  // namespace

BENCHMARK_MAIN();
