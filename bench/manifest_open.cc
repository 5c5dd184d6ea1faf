// How long does it take until a saved manifest can be asked, how long does one answer take, and how fast is a tree indexed?
//
// Opening is bound by page faults and, up to 64 MiB, by the checksum over all columns; answers by memory latency; indexing by
// statx(2). PENSTOCK_BENCH_TREE names a folder to index (compare with: time find FOLDER -type f -printf '%s %p\n' >/dev/null).
#include <benchmark/benchmark.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "penstock/log.h"
#include "penstock/manifest.h"

namespace {

using penstock::Manifest;
using penstock::ManifestBuilder;
using penstock::ManifestCheck;
using penstock::OpenSavedOptions;
using penstock::Range;

class Saved {
 public:
  Saved() {
    char name[] = "/tmp/penstock-bench-XXXXXX";
    if (::mkdtemp(name) == nullptr) std::abort();
    folder_ = name;
  }
  ~Saved() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  // A manifest of this many samples, 1000 in each folder.
  const std::string& Path(int64_t samples) {
    std::string& path = paths_[samples];
    if (!path.empty()) return path;
    ManifestBuilder builder(folder_);
    char name[64];
    for (int64_t i = 0; i < samples; ++i) {
      std::snprintf(name, sizeof name, "class_%06d/img_%010d.jpeg", static_cast<int>(i / 1000), static_cast<int>(i));
      const uint64_t bytes = 100'000 + static_cast<uint64_t>(i % 1000);
      const auto object = builder.AddObject(name, bytes, static_cast<uint64_t>(i) + 1);
      if (!object.ok() || !builder.AddSample(static_cast<int32_t>(i / 1000), {Range{*object, 0, bytes, bytes, 0}}).ok()) std::abort();
    }
    const std::string made = folder_ + "/" + std::to_string(samples);
    if (!builder.Write(made).ok()) std::abort();
    return path = made;
  }

 private:
  std::string folder_;
  std::map<int64_t, std::string> paths_;
};

Saved& TheSaved() {
  static Saved saved;
  return saved;
}

std::shared_ptr<const Manifest> MustOpen(const std::string& path, ManifestCheck check) {
  OpenSavedOptions options;
  options.check = check;
  auto manifest = Manifest::OpenSaved(path, options);
  if (!manifest.ok()) {
    std::fprintf(stderr, "%s\n", std::string(manifest.status().message()).c_str());
    std::abort();
  }
  return *std::move(manifest);
}

void Open(benchmark::State& state, ManifestCheck check) {
  const std::string& path = TheSaved().Path(state.range(0));
  uint64_t bytes = 0;
  for (auto _ : state) {
    const auto manifest = MustOpen(path, check);
    bytes = manifest->file_bytes();
    benchmark::DoNotOptimize(manifest->StoredBytes(state.range(0) / 2));
  }
  state.counters["bytes_per_sample"] = static_cast<double>(bytes) / static_cast<double>(state.range(0));
}
BENCHMARK_CAPTURE(Open, header, ManifestCheck::kHeader)->Arg(10'000)->Arg(1'000'000)->Arg(10'000'000)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(Open, by_size, ManifestCheck::kAuto)->Arg(10'000)->Arg(1'000'000)->Arg(10'000'000)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(Open, all_columns, ManifestCheck::kAll)->Arg(10'000'000)->Unit(benchmark::kMillisecond);

// In shuffled order, as a loader asks.
void Ask(benchmark::State& state) {
  const auto manifest = MustOpen(TheSaved().Path(state.range(0)), ManifestCheck::kHeader);
  const auto count = static_cast<uint64_t>(manifest->sample_count());
  uint64_t id = 1;
  uint64_t sum = 0;
  for (auto _ : state) {
    id = (id * 6364136223846793005u + 1442695040888963407u);
    const auto at = static_cast<int64_t>((id >> 33) % count);
    const Range range = manifest->RangeAt(at, 0);
    sum += range.stored_bytes + static_cast<uint64_t>(manifest->Label(at));
  }
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(Ask)->Arg(10'000)->Arg(10'000'000);

void Index(benchmark::State& state) {
  const char* tree = ::getenv("PENSTOCK_BENCH_TREE");
  if (tree == nullptr) {
    state.SkipWithError("set PENSTOCK_BENCH_TREE to a folder");
    return;
  }
  penstock::SetLogSink([](penstock::LogLevel, absl::string_view) {});
  penstock::IndexOptions options;
  options.threads = static_cast<int>(state.range(0));
  options.manifest_path = "/tmp/penstock-bench-index-" + std::to_string(::getpid());
  int64_t samples = 0;
  for (auto _ : state) {
    const auto result = Manifest::Build(tree, options);
    if (!result.ok()) {
      state.SkipWithError(std::string(result.status().message()).c_str());
      break;
    }
    samples += result->manifest->sample_count();
  }
  state.SetItemsProcessed(samples);
  ::unlink(options.manifest_path.c_str());
}
BENCHMARK(Index)->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
