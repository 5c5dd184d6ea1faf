// Reading in the order of the drive: blocks of neighbours, and what is read ahead into the page cache.
#include <algorithm>
#include <atomic>
#include <random>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/mixing.h"
#include "loader/residency.h"
#include "loader/warmer.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

std::shared_ptr<const Manifest> IndexByInode(const DataSet& data) {
  IndexOptions options;
  options.place = PlaceOrder::kInode;
  auto built = Manifest::Build(data.root(), options);
  REQUIRE_OK(built);
  return built->manifest;
}

std::vector<int64_t> Iota(int64_t count) {
  std::vector<int64_t> ids(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) ids[static_cast<size_t>(i)] = i;
  return ids;
}

std::vector<int64_t> Sorted(std::vector<int64_t> ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

LoaderOptions DiskBlocks(const DataSet& data, int64_t batch, int64_t block, int64_t window) {
  LoaderOptions options = data.Options(batch);
  REQUIRE_OK(SetOption(options, "shuffle", "disk-blocks"));
  options.block_samples = block;
  options.window_samples = window;
  options.tail = Tail::kPartial;
  return options;
}

}  // namespace

TEST_CASE("disk-blocks delivers every sample once, with both engines, both kinds of reads, read ahead or not", "[loader]") {
  DataSet data(700, 3000);
  IndexByInode(data);
  for (const EngineOption engine : {EngineOption::kAuto, EngineOption::kThreads}) {
    for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
      for (const WarmAhead warm : {WarmAhead::kOff, WarmAhead::kOn}) {
        LoaderOptions options = DiskBlocks(data, 32, 16, 64);
        options.engine = engine;
        options.io = io;
        options.warm = warm;
        auto loader = MustOpen(options);
        for (int epoch = 0; epoch < 3; ++epoch) {
          if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
          CHECK(Sorted(TakeEpoch(*loader)) == Iota(700));
        }
      }
    }
  }
}

TEST_CASE("a dense batch of disk-blocks is in batch order", "[loader]") {
  DataSet data(256, -1024);
  const auto manifest = IndexByInode(data);
  LoaderOptions options = DiskBlocks(data, 32, 16, 64);
  options.layout = Layout::kDense;
  options.seed = 9;
  auto loader = MustOpen(options);
  const Order order = *Order::Create(256, {.block_samples = 16, .window_samples = 64, .seed = 9});
  const std::vector<int64_t> ids = TakeEpoch(*loader);
  REQUIRE(ids.size() == 256);
  for (int64_t position = 0; position < 256; ++position) {
    CHECK(ids[static_cast<size_t>(position)] == manifest->IdAtPlace(order.IdAt(0, position)));
  }
}

TEST_CASE("a window of disk-blocks holds whole runs of neighbours on the drive", "[loader]") {
  DataSet data(640, 100);
  const auto manifest = IndexByInode(data);
  std::vector<int64_t> place_of(640);
  for (int64_t place = 0; place < 640; ++place) place_of[static_cast<size_t>(manifest->IdAtPlace(place))] = place;
  auto loader = MustOpen(DiskBlocks(data, 64, 16, 64));
  const std::vector<int64_t> ids = TakeEpoch(*loader);
  REQUIRE(ids.size() == 640);
  for (size_t window = 0; window < 10; ++window) {
    std::vector<int64_t> places;
    for (size_t i = 0; i < 64; ++i) places.push_back(place_of[static_cast<size_t>(ids[64 * window + i])]);
    std::sort(places.begin(), places.end());
    for (size_t i = 0; i < 64; ++i) CHECK(places[i] == places[i / 16 * 16] + static_cast<int64_t>(i % 16));
  }
}

TEST_CASE("a rank without the order of place refuses, with the cure", "[loader]") {
  DataSet data(50);
  const auto opened = Loader::Open(DiskBlocks(data, 10, 4, 8));
  CHECK(opened.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(opened.status().message().find("penstock index --place inode") != absl::string_view::npos);
}

TEST_CASE("disk-blocks goes on from its state, and refuses a manifest of another order", "[loader]") {
  DataSet data(300, 500);
  IndexByInode(data);
  auto whole = MustOpen(DiskBlocks(data, 20, 8, 32));
  const std::vector<int64_t> expected = TakeEpoch(*whole);
  std::string state;
  std::vector<int64_t> got;
  {
    auto first = MustOpen(DiskBlocks(data, 20, 8, 32));
    for (int i = 0; i < 5; ++i) {
      absl::StatusOr<Batch> batch = first->Next();
      REQUIRE_OK(batch);
      got.insert(got.end(), batch->ids().begin(), batch->ids().end());
    }
    state = first->state();
  }
  LoaderOptions options = data.Options(20);
  options.tail = Tail::kPartial;
  options.state = state;  // says disk-blocks by itself
  auto rest = MustOpen(options);
  for (const int64_t id : TakeEpoch(*rest)) got.push_back(id);
  CHECK(got == expected);
  rest.reset();
  whole.reset();  // loaders of a process share the manifest
  REQUIRE_OK(Manifest::Build(data.root()));
  CHECK_FALSE(Loader::Open(options).ok());
}

TEST_CASE("without a block, disk-blocks chooses one and the state has it", "[loader]") {
  DataSet data(300, 500);
  IndexByInode(data);
  auto loader = MustOpen(DiskBlocks(data, 20, 1, 1));
  const auto state = State::FromJson(loader->state());
  REQUIRE_OK(state);
  CHECK(state->disk_blocks);
  CHECK(state->block_samples > 1);
  CHECK(state->window_samples >= state->block_samples);
}

TEST_CASE("the report tells how well the labels are mixed", "[loader]") {
  // Files are made class by class, so that neighbours on the drive are of one class.
  DataSet data(0);
  for (int c = 0; c < 4; ++c) {
    std::filesystem::create_directories(data.root() + "/class" + std::to_string(c));
    for (int i = 0; i < 200; ++i) DataSet::Write(data.root() + "/class" + std::to_string(c) + "/" + std::to_string(1000 + i), 64);
  }
  const auto manifest = IndexByInode(data);
  const auto distance = [&](int64_t block, int64_t window) {
    auto loader = MustOpen(DiskBlocks(data, 40, block, window));
    CHECK(Sorted(TakeEpoch(*loader)) == Iota(800));
    const EpochReport report = loader->report();
    CHECK(report.label_distance_full_shuffle > 0.05);
    CHECK(report.label_distance_full_shuffle < 0.15);
    return report.label_distance;
  };
  // Each batch is one run, of one class where nobody else made files at the same time; a window over everything is a full shuffle.
  const double runs = distance(40, 40);
  const double mixed = distance(10, 800);
  CHECK(mixed < 0.2);
  CHECK(runs > mixed + 0.1);
}

TEST_CASE("the distance of a full shuffle is what drawing without regard of labels gives", "[loader]") {
  DataSet data(400, 10, 5);
  auto built = Manifest::Build(data.root());
  REQUIRE_OK(built);
  LabelMixing mixing(*built->manifest);
  REQUIRE(mixing.usable());
  std::mt19937_64 random(1);
  std::vector<int64_t> ids = Iota(400);
  for (int round = 0; round < 4000; ++round) {
    std::shuffle(ids.begin(), ids.end(), random);
    std::vector<int32_t> labels;
    for (size_t i = 0; i < 50; ++i) labels.push_back(built->manifest->Label(ids[i]));
    mixing.Add(labels);
  }
  CHECK(mixing.distance() == Approx(mixing.full_shuffle_distance()).epsilon(0.03));
  // All of the set is the set, and one label is all the rest away from it.
  mixing.Reset();
  std::vector<int32_t> all;
  for (int64_t id = 0; id < 400; ++id) all.push_back(built->manifest->Label(id));
  mixing.Add(all);
  CHECK(mixing.distance() == Approx(0).margin(1e-9));
  CHECK(mixing.full_shuffle_distance() == Approx(0).margin(1e-9));
  mixing.Reset();
  mixing.Add(std::vector<int32_t>(10, 2));
  CHECK(mixing.distance() == Approx(0.8));
}

TEST_CASE("a first epoch in shuffle order is read ahead as a whole, and delivers the same", "[loader]") {
  DataSet data(500, 2000);
  for (const EngineOption engine : {EngineOption::kAuto, EngineOption::kThreads}) {
    LoaderOptions options = data.Options(25);
    options.engine = engine;
    options.io = IoMode::kBuffered;
    options.seed = 4;
    options.warm = WarmAhead::kOff;
    const std::vector<int64_t> expected = TakeEpoch(*MustOpen(options));
    options.warm = WarmAhead::kOn;
    auto loader = MustOpen(options);
    CHECK(TakeEpoch(*loader) == expected);
    CHECK(loader->setup().warm.find("whole set") != std::string::npos);
  }
}

TEST_CASE("the warmer reads every sample of its runs once, and waits for the consumer", "[loader]") {
  DataSet data(300, -3000);
  auto built = Manifest::Build(data.root());
  REQUIRE_OK(built);
  WarmerOptions options;
  options.ring.capacity = 16;
  std::atomic<int64_t> runs{0};
  Warmer warmer(built->manifest, built->manifest->OpenObjects(), options, [&](int64_t run, std::vector<int64_t>& ids) {
    for (int64_t id = run * 100; id < std::min<int64_t>(300, (run + 1) * 100); ++id) ids.push_back(id);
    runs.store(run + 1);
    return run < 3;
  }, /*runs_ahead=*/1);
  while (warmer.bytes() < 200 * 3000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(runs.load() == 2);  // the third is more than one ahead
  warmer.AtRun(1);
  while (warmer.bytes() < 300 * 3000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(warmer.samples() == 300);
  warmer.AtRun(2);
  warmer.AtRun(3);
  while (!warmer.done()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(warmer.bytes() == 300 * 3000);
}

TEST_CASE("a warmer ends early when it is told to, and a file that is gone does not stop it", "[loader]") {
  DataSet data(300, -3000);
  auto built = Manifest::Build(data.root());
  REQUIRE_OK(built);
  REQUIRE(std::filesystem::remove(data.root() + "/" + built->manifest->Name(7)));
  const auto objects = built->manifest->OpenObjects();
  WarmerOptions options;
  options.ring.capacity = 4;
  {
    Warmer endless(built->manifest, objects, options, [](int64_t, std::vector<int64_t>& ids) { ids = Iota(300); return true; }, 1 << 30);
    while (endless.bytes() < 300 * 3000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::vector<Range> ranges;
  for (int64_t id = 8; id < 300; id += 20) ranges.push_back(built->manifest->RangeAt(id, 0));
  const double cached = CachedShare(*objects, ranges);
  CHECK((cached == -1 || cached > 0.5));
}
