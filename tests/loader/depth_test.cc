// How many reads are in flight, found out while running: on a real mounted file system that takes its time.
//
// No time is asserted. A read takes far longer than all that a busy machine adds to it, and a trial that noise decides is followed by
// others.
#include <chrono>
#include <functional>
#include <thread>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/runtime.h"
#include "support/fault_fs.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr std::chrono::seconds kPatience(90);
constexpr int kFiles = 600;

LoaderOptions OptionsFor(const FaultFs& fs, EngineOption engine) {
  LoaderOptions options = OptionsOf(fs.mounted(), 50);
  options.manifest_path = fs.backing() + "/../manifest";
  options.memory_bytes = 256 << 20;
  options.engine = engine;
  options.streams = 2;
  options.pin_cpus = false;  // others use this machine too
  options.cpu_share = 1;
  options.open_files = 0;
  return options;
}

// What a store that answers late is bounded by: the threads that wait for it.
int32_t AtOnce(const SetupReport& setup) { return setup.engine == "uring" ? setup.queue_depth : setup.io_workers; }

// Reads on until `enough`; false: it did not come in time.
bool ReadUntil(Loader& loader, const std::function<bool(const SetupReport&)>& enough) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < end) {
    absl::StatusOr<Batch> batch = loader.Next();
    if (EpochEnded(batch)) {
      REQUIRE_OK(loader.StartEpoch());
      continue;
    }
    REQUIRE_OK(batch);
    CheckBatch(loader, *batch);
    if (enough(loader.setup())) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("a store that answers late is asked for more at once, and the report says what that brought", "[depth]") {
  for (const EngineOption engine : Engines()) {
    FaultFs fs;
    DataSet::Fill(fs.backing(), kFiles, -4096, 3);
    const LoaderOptions options = OptionsFor(fs, engine);
    Index(options);
    fs.Set("* direct\n* delay 50000\n");
    auto loader = MustOpen(options, Runtime::Create());
    const SetupReport first = loader->setup();
    CAPTURE(first.engine);
    CHECK(AtOnce(first) == (first.engine == "uring" ? 32 : 16));
    const bool more = ReadUntil(*loader, [&](const SetupReport& setup) { return setup.queue_depth_why.find(" -> ") != std::string::npos; });
    const SetupReport setup = loader->setup();
    CAPTURE(setup.queue_depth_why);
    CHECK(more);
    CHECK(AtOnce(setup) >= 2 * AtOnce(first));
    CHECK(setup.queue_depth_why.find(" times the reads a second") != std::string::npos);
    const EpochReport report = loader->report();
    CHECK(report.io_workers >= first.io_workers);
    CHECK(report.queue_depth_why.find(" -> ") != std::string::npos);
  }
}

TEST_CASE("a store that serves one read after the other keeps its first depth", "[depth]") {
  for (const EngineOption engine : Engines()) {
    FaultFs fs;
    DataSet::Fill(fs.backing(), kFiles, -4096, 3);
    const LoaderOptions options = OptionsFor(fs, engine);
    Index(options);
    fs.Set("* direct\n* bandwidth 1228800\n");  // 300 files a second
    auto loader = MustOpen(options, Runtime::Create());
    const SetupReport first = loader->setup();
    int32_t most = 0;
    const bool back = ReadUntil(*loader, [&](const SetupReport& setup) {
      most = std::max(most, AtOnce(setup));
      return setup.queue_depth_why.find("brought") != std::string::npos && AtOnce(setup) == AtOnce(first);
    });
    CAPTURE(first.engine, loader->setup().queue_depth_why);
    CHECK(most == 2 * AtOnce(first));  // it was tried
    CHECK(back);
  }
}

TEST_CASE("a loader that has gone deeper gives up what hangs at its deadline, and ends at once", "[depth]") {
  for (const EngineOption engine : Engines()) {
    FaultFs fs;
    DataSet::Fill(fs.backing(), kFiles, -4096, 3);
    LoaderOptions options = OptionsFor(fs, engine);
    Index(options);
    fs.Set("* direct\n* delay 50000\n");
    options.policy = ErrorPolicy::kSkip;
    options.retries = 0;
    options.deadline_s = 6;
    auto loader = MustOpen(options, Runtime::Create());
    CAPTURE(loader->setup().engine);
    const int32_t first = AtOnce(loader->setup());
    REQUIRE(ReadUntil(*loader, [&](const SetupReport& setup) { return AtOnce(setup) > first; }));
    fs.Set("* direct\n* delay 50000\n*1000004.bin hanghard\n");
    // Its sample is skipped: once in each epoch.
    bool skipped = false;
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!skipped && std::chrono::steady_clock::now() < end) {
      absl::StatusOr<Batch> batch = loader->Next();
      skipped = loader->report().skipped > 0;
      if (EpochEnded(batch)) REQUIRE_OK(loader->StartEpoch());
    }
    CHECK(skipped);
    fs.Set("* direct\n* hanghard\n");
    std::this_thread::sleep_for(std::chrono::milliseconds(300));  // all are in the kernel now
    const auto begin = std::chrono::steady_clock::now();
    loader.reset();
    // Not a timing test: the bound is the promise, and a loader that waited for the reads would never return.
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
    fs.Clear();
  }
}

TEST_CASE("what was asked for is not tuned", "[depth]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 60, -4096, 3);
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = OptionsFor(fs, engine);
    Index(options);
    options.io_workers = 16;
    CHECK(MustOpen(options, Runtime::Create())->setup().queue_depth_why.find("io_workers = 16 was asked for") == 0);
    options.io_workers = 0;
    options.queue_depth = 16;
    CHECK(MustOpen(options, Runtime::Create())->setup().queue_depth_why == "asked for");
    // The other half of it is found out: the workers, up to the depth.
    options.queue_depth = 64;
    CHECK(MustOpen(options, Runtime::Create())->setup().queue_depth_why.find("up to 64") != std::string::npos);
    // So is the budget of all loaders.
    options.queue_depth = 0;
    RuntimeOptions runtime;
    runtime.queue_depth = 100;
    CHECK(MustOpen(options, Runtime::Create(runtime))->setup().queue_depth_why.find("up to 100") != std::string::npos);
    runtime.queue_depth = 0;
    CHECK(MustOpen(options, Runtime::Create(runtime))->setup().queue_depth_why.find("up to 1024") != std::string::npos);
    runtime.loaders = 4;
    CHECK(MustOpen(options, Runtime::Create(runtime))->setup().queue_depth_why.find("up to 256") != std::string::npos);
  }
}

TEST_CASE("reads beyond the first ones have a budget of their own, and come back", "[depth]") {
  RuntimeCore runtime({});
  REQUIRE(runtime.depth_most() == 1024);
  REQUIRE(runtime.LeaseDepth(128, 2) == 128);
  CHECK(runtime.LeaseDeeper(128, 384) == 384);
  CHECK(runtime.LeaseDeeper(512, 4096) == 512);  // no more than one may have
  CHECK(runtime.LeaseDeeper(1024, 1) == 0);
  // Who opens later finds its first reads, and no further ones.
  CHECK(runtime.LeaseDepth(128, 2) == 128);
  CHECK(runtime.LeaseDeeper(128, 128) == 0);
  runtime.ReturnDeeper(896);
  CHECK(runtime.LeaseDeeper(128, 128) == 128);
}

TEST_CASE("a budget that was set is one for all reads", "[depth]") {
  RuntimeOptions options;
  options.queue_depth = 200;
  RuntimeCore runtime(options);
  REQUIRE(runtime.LeaseDepth(128, 2) == 128);
  CHECK(runtime.LeaseDeeper(128, 128) == 72);
  CHECK(runtime.LeaseDepth(64, 2) == 2);  // what a loader cannot do without
  runtime.ReturnDeeper(72);
  CHECK(runtime.LeaseDepth(64, 2) == 64);
  options.loaders = 4;
  RuntimeCore shared(options);
  REQUIRE(shared.LeaseDepth(128, 2) == 50);
  CHECK(shared.LeaseDeeper(50, 50) == 0);
}

TEST_CASE("where reads return at once the depth is what it was", "[depth]") {
  DataSet data(60, -4096);
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = data.Options();
    options.streams = 2;
    options.engine = engine;
    const SetupReport setup = MustOpen(options, Runtime::Create())->setup();
    CHECK(setup.queue_depth == 128);
    CHECK(setup.io_workers == 16);
    CHECK(setup.queue_depth_why.find("answers at once") != std::string::npos);
  }
}

TEST_CASE("reads in flight that are asked for are taken, or the report says how many are there and why", "[depth]") {
  DataSet data(60, -4096);
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = data.Options(20);
    options.streams = 2;
    options.engine = engine;
    options.queue_depth = 1024;
    {
      auto loader = MustOpen(options, Runtime::Create());
      CHECK(loader->setup().queue_depth == 1024);
      CHECK(loader->setup().queue_depth_why == "asked for");
      CHECK(loader->setup().warnings.empty());
      CHECK(TakeEpoch(*loader).size() == 60);
    }
    {
      // What one asked for takes nothing from those that did not.
      const auto runtime = Runtime::Create();
      auto first = MustOpen(options, runtime);
      LoaderOptions second = options;
      second.queue_depth = 0;
      CHECK(MustOpen(second, runtime)->setup().queue_depth >= 2);
      CHECK(first->setup().queue_depth == 1024);
    }
    RuntimeOptions runtime;
    runtime.queue_depth = 200;
    {
      const SetupReport setup = MustOpen(options, Runtime::Create(runtime))->setup();
      CHECK(setup.queue_depth == 200);
      CHECK(setup.queue_depth_why.find("200 instead of the 1024 asked for: RuntimeOptions::queue_depth") == 0);
      REQUIRE(setup.warnings.size() == 1);
      CHECK(setup.warnings[0].find("queue_depth: 200 instead of the 1024") == 0);
    }
    options.queue_depth = 1;
    CHECK(MustOpen(options, Runtime::Create())->setup().queue_depth_why.find("2 instead of the 1 asked for: each of 2 streams") == 0);
    options.queue_depth = 101;
    CHECK(MustOpen(options, Runtime::Create())->setup().queue_depth_why.find("100 instead of the 101 asked for") == 0);
  }
}

TEST_CASE("a loader that asks for more threads than the shared pool has gets them", "[depth]") {
  DataSet data(60, -4096);
  const auto runtime = Runtime::Create();
  LoaderOptions options = data.Options();
  options.engine = EngineOption::kThreads;
  auto first = MustOpen(options, runtime);
  options.io_workers = 40;
  auto second = MustOpen(options, runtime);
  CHECK(second->setup().io_workers == 40);
  CHECK(second->setup().warnings.empty());
  options.io_workers = 8;
  const SetupReport fewer = MustOpen(options, runtime)->setup();
  CHECK(fewer.io_workers == 40);
  REQUIRE(fewer.warnings.size() == 1);
  CHECK(fewer.warnings[0].find("io_workers = 8 was asked for") == 0);
}
