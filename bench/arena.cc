// What does memory cost: a run from the arena, its first touch, and a run that is not in the cache?
// Bound by the lock (allocate), by the kernel's clearing of pages (first touch) and by the caches and memory (fill).
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "memory/arena.h"

namespace penstock {
namespace {

std::shared_ptr<Arena> MakeArena(int64_t granules, bool huge_pages = true) {
  auto arena = Arena::Create({.bytes = granules * kGranuleBytes, .huge_pages = huge_pages});
  if (!arena.ok()) {
    std::fprintf(stderr, "%s\n", arena.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(arena);
}

// A piece of 4 MiB out and back, with the threads as streams: the steady state of the GPU path.
void BM_AllocateFree(benchmark::State& state) {
  static std::shared_ptr<Arena> arena;
  if (state.thread_index() == 0) arena = MakeArena(64);
  for (auto _ : state) {
    const Run run = arena->Allocate(2);
    benchmark::DoNotOptimize(run.data);
    if (run.valid()) arena->Free(run);
  }
  state.SetItemsProcessed(state.iterations());
  if (state.thread_index() == 0) arena.reset();
}
BENCHMARK(BM_AllocateFree)->Threads(1)->Threads(2)->Threads(8)->UseRealTime();

// The same while every fourth granule is free and the rest is held, so that the list of free extents is as long as it gets.
void BM_AllocateFreeFragmented(benchmark::State& state) {
  const int64_t holes = state.range(0);
  auto arena = MakeArena(holes * 4, /*huge_pages=*/false);
  std::vector<Run> held, hole_runs;
  for (int64_t index = 0; index < holes * 4; ++index) (index % 4 < 3 ? held : hole_runs).push_back(arena->Allocate(1));
  for (const Run& run : hole_runs) arena->Free(run);
  for (auto _ : state) {
    const Run run = arena->Allocate(1, 1);
    benchmark::DoNotOptimize(run.data);
    arena->Free(run);
  }
  for (const Run& run : held) arena->Free(run);
}
BENCHMARK(BM_AllocateFreeFragmented)->Arg(4)->Arg(64);

// First use of 64 MiB.
void BM_FirstTouch(benchmark::State& state) {
  std::string pages;
  for (auto _ : state) {
    auto arena = MakeArena(32, state.range(0) != 0);
    const Run run = arena->Allocate(32);
    benchmark::DoNotOptimize(run.data);
    arena->Free(run);
    pages = arena->report().pages;
  }
  state.SetBytesProcessed(state.iterations() * 32 * kGranuleBytes);
  state.SetLabel(pages);
}
BENCHMARK(BM_FirstTouch)->ArgName("huge_pages")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

// Filling pieces of 4 MiB, `lent` of them in use at a time: with one, the last freed comes back and is still in the cache.
void BM_Fill(benchmark::State& state) {
  auto arena = MakeArena(256);
  arena->Free(arena->Allocate(256));  // the first touch is another question
  std::deque<Run> lent;
  for (auto _ : state) {
    const Run run = arena->Allocate(2);
    std::memset(run.data, 1, static_cast<size_t>(run.bytes));
    lent.push_back(run);
    if (static_cast<int64_t>(lent.size()) == state.range(0)) {
      arena->Free(lent.front());
      lent.pop_front();
    }
  }
  for (const Run& run : lent) arena->Free(run);
  state.SetBytesProcessed(state.iterations() * 2 * kGranuleBytes);
}
BENCHMARK(BM_Fill)->ArgName("lent")->Arg(1)->Arg(4)->Arg(128);

// Batches of 10 to 14 granules given back in order, as many at a time as there is room for: the share of the arena that is in use
// when the next one is refused. 100 % would need batches that can be moved.
void BM_Occupancy(benchmark::State& state) {
  const int32_t granules = static_cast<int32_t>(state.range(0));
  auto arena = MakeArena(granules, /*huge_pages=*/false);
  arena->Free(arena->Allocate(granules));
  std::mt19937 random(1);
  std::deque<Run> lent;
  int64_t used = 0, refusals = 0, used_at_refusals = 0;
  for (auto _ : state) {
    const int32_t wanted = 10 + static_cast<int32_t>(random() % 5);
    Run run = arena->Allocate(wanted);
    while (!run.valid()) {
      ++refusals;
      used_at_refusals += used;
      used -= lent.front().granules;
      arena->Free(lent.front());
      lent.pop_front();
      run = arena->Allocate(wanted);
    }
    used += run.granules;
    lent.push_back(run);
  }
  for (const Run& run : lent) arena->Free(run);
  if (refusals > 0) {
    state.counters["used_percent"] = 100.0 * static_cast<double>(used_at_refusals) / static_cast<double>(refusals) / granules;
  }
}
BENCHMARK(BM_Occupancy)->ArgName("granules")->Arg(64)->Arg(256)->Iterations(20000);

}  // namespace
}  // namespace penstock

BENCHMARK_MAIN();
