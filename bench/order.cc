// What does the order cost per sample? Bound by arithmetic: two multiplications per Feistel round, and cycle walking where the sample
// count is just above a power of two. With windows the tables must fit into the processor's cache.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "penstock/order.h"

namespace {

using penstock::Order;
using penstock::OrderOptions;

constexpr int64_t kBatch = 256;

// The batches of one rank of eight, as a loader asks for them.
void Batches(benchmark::State& state, const OrderOptions& options) {
  const int64_t sample_count = state.range(0);
  const Order order = *Order::Create(sample_count, options);
  const penstock::StepPlan plan{.sample_count = sample_count, .batch_size = kBatch, .world_size = 8};
  std::vector<int64_t> positions, ids(kBatch);
  int64_t step = 0;
  for (auto _ : state) {
    plan.Positions(step++ % plan.steps(), 3, positions);
    order.IdsAt(0, positions, absl::MakeSpan(ids));
    benchmark::DoNotOptimize(ids.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}

void GlobalShuffle(benchmark::State& state) { Batches(state, {}); }
void BlocksOf8(benchmark::State& state) { Batches(state, {.block_samples = 8, .window_samples = 8}); }
void Windows4096(benchmark::State& state) { Batches(state, {.block_samples = 64, .window_samples = 4096, .virtual_streams = 64}); }
void WindowsLarge(benchmark::State& state) { Batches(state, {.block_samples = 64, .window_samples = 1 << 17, .virtual_streams = 64}); }

// One position at a time, each waiting for the one before.
void SingleIds(benchmark::State& state) {
  const int64_t sample_count = state.range(0);
  const Order order = *Order::Create(sample_count, {});
  int64_t position = 0;
  for (auto _ : state) position = order.IdAt(0, position);
  benchmark::DoNotOptimize(position);
  state.SetItemsProcessed(state.iterations());
}

void Inverse(benchmark::State& state) {
  const int64_t sample_count = state.range(0);
  const Order order = *Order::Create(sample_count, {});
  int64_t id = 0;
  for (auto _ : state) id = order.PositionOf(0, id);
  benchmark::DoNotOptimize(id);
  state.SetItemsProcessed(state.iterations());
}

// What a restored run does before its first id: O(1) in the sample count from 2^16 on.
void Restore(benchmark::State& state) {
  const int64_t sample_count = state.range(0);
  penstock::State saved;
  saved.fingerprint = "0123456789abcdef0123456789abcdef";
  saved.epoch = 41;
  saved.position = sample_count / 2;
  const std::string text = saved.ToJson();
  for (auto _ : state) {
    const penstock::State restored = *penstock::State::FromJson(text);
    const Order order = *Order::Create(sample_count, {.seed = restored.seed});
    benchmark::DoNotOptimize(order.IdAt(restored.epoch, restored.position));
  }
}

// 2^16+1 and 2^30+1 are the worst cases of cycle walking, 2^16 and 2^40 the best.
BENCHMARK(GlobalShuffle)->Arg(1 << 16)->Arg((1 << 16) + 1)->Arg(1'281'167)->Arg((1 << 30) + 1)->Arg(int64_t{1} << 40)->Arg(50'000);
BENCHMARK(SingleIds)->Arg((1 << 16) + 1)->Arg(1'281'167)->Arg(int64_t{1} << 40);
BENCHMARK(Inverse)->Arg(1'281'167);
BENCHMARK(BlocksOf8)->Arg(1'281'167);
BENCHMARK(Windows4096)->Arg(1'281'167);
BENCHMARK(WindowsLarge)->Arg(int64_t{1} << 30);
BENCHMARK(Restore)->Arg(50'000)->Arg(1'281'167)->Arg(int64_t{1} << 40);

}  // namespace

BENCHMARK_MAIN();
