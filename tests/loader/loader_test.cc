#include "penstock/loader.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "penstock/order.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

std::vector<int64_t> Sorted(std::vector<int64_t> ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::vector<int64_t> Iota(int64_t count) {
  std::vector<int64_t> ids(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) ids[static_cast<size_t>(i)] = i;
  return ids;
}

}  // namespace

TEST_CASE("an epoch delivers every sample once with its own bytes under both engines and both ways to read", "[loader]") {
  DataSet data(700, 9000);
  for (const EngineOption engine : {EngineOption::kAuto, EngineOption::kThreads}) {
    for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
      LoaderOptions options = data.Options(32);
      options.engine = engine;
      options.io = io;
      options.tail = Tail::kPartial;
      options.streams = 3;
      auto loader = MustOpen(options);
      for (int epoch = 0; epoch < 3; ++epoch) {
        if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
        CHECK(loader->epoch() == epoch);
        CHECK(Sorted(TakeEpoch(*loader)) == Iota(700));
        const EpochReport report = loader->report();
        CHECK(report.delivered == 700);
        CHECK(report.taken == report.expected);
      }
    }
  }
}

TEST_CASE("batches come in the order of the order", "[loader]") {
  DataSet data(300);
  LoaderOptions options = data.Options(10);
  options.seed = 5;
  auto loader = MustOpen(options);
  OrderOptions order_options;
  order_options.seed = 5;
  const auto order = Order::Create(300, order_options);
  REQUIRE_OK(order);
  const std::vector<int64_t> ids = TakeEpoch(*loader);
  REQUIRE(ids.size() == 300);
  for (int64_t p = 0; p < 300; ++p) REQUIRE(ids[static_cast<size_t>(p)] == order->IdAt(0, p));
}

TEST_CASE("samples larger than a piece are read by several streams and delivered whole", "[loader]") {
  DataSet data(24, 400000);
  LoaderOptions options = data.Options(4);
  options.piece_bytes = 64 << 10;
  options.streams = 4;
  auto loader = MustOpen(options);
  CHECK(TakeEpoch(*loader).size() == 24);
}

TEST_CASE("a state goes on at another world size and batch size without losing or repeating a sample", "[loader]") {
  DataSet data(500, 200);
  LoaderOptions options = data.Options(20);
  options.tail = Tail::kPartial;
  options.next_epoch_prefetch = false;
  std::vector<int64_t> seen;
  std::string state;
  {
    auto loader = MustOpen(options);
    for (int i = 0; i < 7; ++i) {
      auto batch = loader->Next();
      REQUIRE_OK(batch);
      for (const int64_t id : CheckBatch(*loader, *batch)) seen.push_back(id);
    }
    state = loader->state();
  }
  CHECK(state.size() < 1024);
  size_t steps = 0;
  for (int rank = 0; rank < 3; ++rank) {
    LoaderOptions later = options;
    later.state = state;
    later.rank = rank;
    later.world_size = 3;
    later.batch_size = 13;
    auto loader = MustOpen(later);
    if (rank == 0) steps = static_cast<size_t>(loader->steps());
    CHECK(static_cast<size_t>(loader->steps()) == steps);
    for (const int64_t id : TakeEpoch(*loader)) seen.push_back(id);
    // After the epoch the state is the start of the next one.
    const auto after = State::FromJson(loader->state());
    REQUIRE_OK(after);
    CHECK(after->epoch == 1);
    CHECK(after->position == 0);
  }
  CHECK(Sorted(seen) == Iota(500));
}

TEST_CASE("a state of another data set is refused with both fingerprints", "[loader]") {
  DataSet data(50);
  DataSet other(51);
  const std::string state = MustOpen(data.Options())->state();
  LoaderOptions options = other.Options();
  options.state = state;
  const auto loader = Loader::Open(options);
  CHECK(loader.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(loader.status().message().find("fingerprint") != std::string::npos);
}

TEST_CASE("when all memory is lent Next names the batches and goes on after a release", "[loader]") {
  DataSet data(400, -30000);
  LoaderOptions options = data.Options(40);
  options.memory_bytes = 12 << 20;
  auto loader = MustOpen(options);
  std::vector<Batch> held;
  absl::Status status;
  while (true) {
    auto batch = loader->Next();
    if (!batch.ok()) {
      status = batch.status();
      break;
    }
    held.push_back(*std::move(batch));
  }
  REQUIRE(status.code() == absl::StatusCode::kResourceExhausted);
  REQUIRE(!held.empty());
  CHECK(status.message().find("ids " + std::to_string(held[0].ids()[0])) != std::string::npos);
  held.front().Release();
  auto batch = loader->Next();
  REQUIRE_OK(batch);
  CHECK(batch->step() == static_cast<int64_t>(held.size()));
  CheckBatch(*loader, *batch);
}

TEST_CASE("a batch that cannot fit is refused at Open with the largest sample and the bytes needed", "[loader]") {
  DataSet data(64, -300000);
  LoaderOptions options = data.Options(64);
  options.memory_bytes = 16 << 20;
  const auto loader = Loader::Open(options);
  REQUIRE(loader.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK(loader.status().message().find(".bin") != std::string::npos);
  CHECK(loader.status().message().find("memory_bytes must be at least") != std::string::npos);
}

TEST_CASE("a batch outlives its loader", "[loader]") {
  DataSet data(100);
  auto loader = MustOpen(data.Options());
  auto batch = loader->Next();
  REQUIRE_OK(batch);
  const auto manifest = loader->manifest();
  loader.reset();
  for (int64_t i = 0; i < batch->size(); ++i) {
    const auto bytes = batch->sample(i);
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    CHECK((text == DataSet::Content(manifest->Name(batch->ids()[static_cast<size_t>(i)]), bytes.size())));
  }
}

TEST_CASE("Stop ends a Next in another thread", "[loader]") {
  DataSet data(400, -30000);
  LoaderOptions options = data.Options(40);
  options.next_epoch_prefetch = false;
  auto loader = MustOpen(options);
  std::thread stopper([&] { loader->Stop(); });
  absl::Status status;
  while (status.ok()) {
    auto batch = loader->Next();
    status = batch.status();
    if (EpochEnded(batch)) status = loader->StartEpoch();
  }
  stopper.join();
  CHECK(status.code() == absl::StatusCode::kCancelled);
}

TEST_CASE("a forked child is refused and its parent goes on", "[loader]") {
  DataSet data(200);
  auto loader = MustOpen(data.Options());
  auto held = loader->Next();
  REQUIRE_OK(held);
  const pid_t child = ::fork();
  if (child == 0) {
    const bool refused = loader->Next().status().code() == absl::StatusCode::kFailedPrecondition && loader->state().empty();
    held->Release();
    loader.reset();
    ::_exit(refused ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CheckBatch(*loader, *held);
  held->Release();
  CHECK(TakeEpoch(*loader).size() == 200 / 16 * 16 - 16);
}

TEST_CASE("a training and a validation loader share a runtime", "[loader]") {
  DataSet data(300);
  auto runtime = Runtime::Create();
  auto train = MustOpen(data.Options(), runtime);
  LoaderOptions options = data.Options(50);
  options.shuffle = false;
  options.tail = Tail::kPartial;
  auto validate = MustOpen(options, runtime);
  CHECK(train->manifest() == validate->manifest());
  for (int i = 0; i < 5; ++i) {
    auto batch = train->Next();
    REQUIRE_OK(batch);
    CheckBatch(*train, *batch);
    CHECK(TakeEpoch(*validate) == Iota(300));
    REQUIRE_OK(validate->StartEpoch());
  }
}

TEST_CASE("jumping to another epoch gives up what was read ahead", "[loader]") {
  DataSet data(320);
  auto loader = MustOpen(data.Options(32));
  REQUIRE_OK(loader->Next());
  REQUIRE_OK(loader->StartEpoch(7));
  OrderOptions order_options;
  const auto order = Order::Create(320, order_options);
  const std::vector<int64_t> ids = TakeEpoch(*loader);
  REQUIRE(ids.size() == 320);
  for (int64_t p = 0; p < 320; ++p) REQUIRE(ids[static_cast<size_t>(p)] == order->IdAt(7, p));
  REQUIRE_OK(loader->StartEpoch(0));
  CHECK(TakeEpoch(*loader).size() == 320);
}

TEST_CASE("ids give a custom order", "[loader]") {
  DataSet data(100);
  LoaderOptions options = data.Options(5);
  options.ids = {9, 8, 7, 6, 5, 50, 51, 52, 53, 99};
  options.shuffle = false;
  auto loader = MustOpen(options);
  const std::vector<int64_t> ids = TakeEpoch(*loader);
  CHECK(ids.size() == 10);
  CHECK(Sorted(ids) == Sorted(options.ids));
}

TEST_CASE("dense batches have one stride and batch order", "[loader]") {
  DataSet data(128, -784);
  LoaderOptions options = data.Options(16);
  options.layout = Layout::kDense;
  auto loader = MustOpen(options);
  auto batch = loader->Next();
  REQUIRE_OK(batch);
  CHECK(batch->stride() == 832);
  for (int64_t i = 0; i < 16; ++i) CHECK(batch->offsets()[static_cast<size_t>(i)] == i * 832);
  CheckBatch(*loader, *batch);
}

TEST_CASE("a dense batch without samples or without one that can be read has the stride of the others", "[loader]") {
  const DataSet data(5, -800);
  LoaderOptions options = data.Options(1);
  options.layout = Layout::kDense;
  options.tail = Tail::kPartial;
  options.shuffle = false;
  options.rank = 3;
  options.world_size = 4;
  {
    const auto loader = MustOpen(options);
    const auto first = loader->Next();
    REQUIRE_OK(first);
    CHECK(first->size() == 1);
    const auto empty = loader->Next();
    REQUIRE_OK(empty);
    CHECK_FALSE(empty->end_of_epoch());
    CHECK(empty->size() == 0);
    CHECK(empty->bytes() == 0);
    CHECK(empty->stride() == first->stride());
    CHECK(empty->stride() == 832);
    CHECK(empty->sample_bytes() == 800);
  }
  Index(options);
  const auto manifest = Manifest::Open(data.root());
  REQUIRE_OK(manifest);
  std::filesystem::remove(data.root() + "/" + (*manifest)->Name(3));
  options.policy = ErrorPolicy::kSkip;
  options.skip_share_max = 1;
  const auto skipping = MustOpen(options);
  const auto skipped = skipping->Next();
  REQUIRE_OK(skipped);
  CHECK(skipped->size() == 1);
  CHECK(skipped->valid()[0] == 0);
  CHECK(skipped->stride() == 832);
  CHECK(skipped->bytes() == 832);
  CHECK(skipped->sample_bytes() == 800);
}

TEST_CASE("packed samples of several ranges are delivered from a manifest built by hand", "[loader]") {
  DataSet data(3, -20000, 1);
  ManifestBuilder builder(data.root());
  std::vector<std::string> names;
  for (int o = 0; o < 3; ++o) {
    names.push_back("class0/" + std::to_string(1000000 + o) + ".bin");
    REQUIRE_OK(builder.AddObject(names.back(), 20000));
  }
  for (int s = 0; s < 300; ++s) {
    std::vector<Range> ranges = {Range{static_cast<uint32_t>(s % 3), static_cast<uint64_t>(s / 3) * 190, 180, 180, 0}};
    if (s % 5 == 0) ranges.push_back(Range{static_cast<uint32_t>((s + 1) % 3), static_cast<uint64_t>(s), 33, 33, 1});
    REQUIRE_OK(builder.AddSample(s % 7, ranges));
  }
  LoaderOptions options = data.Options(30);
  std::filesystem::create_directories(data.root() + "/.penstock");
  options.manifest_path = data.root() + "/.penstock/packed.manifest";
  REQUIRE_OK(builder.Write(options.manifest_path));
  auto loader = MustOpen(options);
  REQUIRE(loader->manifest()->sample_count() == 300);
  int64_t seen = 0;
  for (int step = 0; step < 10; ++step) {
    auto batch = loader->Next();
    REQUIRE_OK(batch);
    for (int64_t i = 0; i < batch->size(); ++i, ++seen) {
      const int64_t id = batch->ids()[static_cast<size_t>(i)];
      std::string expected;
      for (int r = 0; r < loader->manifest()->RangeCount(id); ++r) {
        const Range range = loader->manifest()->RangeAt(id, r);
        expected += DataSet::Content(names[range.object], 20000).substr(range.offset_bytes, range.stored_bytes);
      }
      const auto bytes = batch->sample(i);
      REQUIRE((std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == expected));
    }
  }
  CHECK(seen == 300);
}

TEST_CASE("a data set too small for one step says what to change", "[loader]") {
  DataSet data(5);
  const auto loader = Loader::Open(data.Options(16));
  REQUIRE(loader.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(loader.status().message().find("tail=pad") != std::string::npos);
}
