// Skip(): a loader that passes over batches stands where one stands that took them and threw them away.
#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "loader/data_set.h"
#include "loader/runtime.h"
#include "penstock/order.h"
#include "transfer/scripted_device.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int kSamples = 103;

LoaderOptions Shaped(const DataSet& data, int32_t rank, int32_t world_size, Tail tail) {
  LoaderOptions options = data.Options(4);
  options.rank = rank;
  options.world_size = world_size;
  options.tail = tail;
  options.seed = 7;
  return options;
}

std::vector<int64_t> Take(Loader& loader) {
  absl::StatusOr<Batch> batch = loader.Next();
  REQUIRE_OK(batch);
  return {batch->ids().begin(), batch->ids().end()};
}

}  // namespace

TEST_CASE("after Skip a loader stands where one stands that took the batches", "[loader]") {
  const DataSet data(kSamples);
  for (const Tail tail : {Tail::kDrop, Tail::kPad, Tail::kPartial}) {
    for (const int32_t world_size : {1, 3}) {
      const int32_t rank = world_size - 1;
      for (const auto& [before, passed] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {0, 8}, {1, 1}, {2, 3}, {5, 0}, {3, 5}}) {
        INFO("tail " << static_cast<int>(tail) << ", world " << world_size << ", " << passed << " after " << before);
        const auto taker = MustOpen(Shaped(data, rank, world_size, tail));
        const auto skipper = MustOpen(Shaped(data, rank, world_size, tail));
        for (int64_t i = 0; i < before; ++i) REQUIRE(Take(*taker) == Take(*skipper));
        for (int64_t i = 0; i < passed; ++i) Take(*taker);
        const int64_t sum = taker->report().taken;
        REQUIRE_OK(skipper->Skip(passed));
        CHECK(skipper->step() == taker->step());
        CHECK(skipper->state() == taker->state());
        CHECK(skipper->report().taken == sum);
        // The rest of this epoch and the beginning of the next are the same, too.
        CHECK(TakeEpoch(*skipper) == TakeEpoch(*taker));
        const EpochReport report = skipper->report();
        CHECK(report.passed + report.delivered == report.expected);
        REQUIRE_OK(taker->StartEpoch());
        REQUIRE_OK(skipper->StartEpoch());
        CHECK(Take(*skipper) == Take(*taker));
        CHECK(skipper->state() == taker->state());
      }
    }
  }
}

TEST_CASE("Skip to the end of an epoch stands at the next one", "[loader]") {
  const DataSet data(kSamples);
  for (const Tail tail : {Tail::kDrop, Tail::kPad, Tail::kPartial}) {
    for (const int64_t before : {0, 2}) {
      const auto loader = MustOpen(Shaped(data, 1, 2, tail));
      for (int64_t i = 0; i < before; ++i) Take(*loader);
      REQUIRE_OK(loader->Skip(loader->steps() - before));
      CHECK(EpochEnded(loader->Next()));
      CHECK(loader->report().taken == loader->report().expected);
      const auto state = State::FromJson(loader->state());
      REQUIRE_OK(state);
      CHECK(state->epoch == 1);
      CHECK(state->position == 0);
      REQUIRE_OK(loader->StartEpoch());
      const auto other = MustOpen(Shaped(data, 1, 2, tail));
      REQUIRE_OK(other->StartEpoch(1));
      CHECK(TakeEpoch(*loader) == TakeEpoch(*other));
    }
  }
}

TEST_CASE("Skip past the end of the epoch is refused with the numbers and changes nothing", "[loader]") {
  const DataSet data(kSamples);
  const auto loader = MustOpen(Shaped(data, 0, 1, Tail::kDrop));  // 25 steps
  for (int i = 0; i < 5; ++i) Take(*loader);
  const std::string state = loader->state();
  const absl::Status status = loader->Skip(21);
  CHECK(absl::IsOutOfRange(status));
  for (const char* number : {"Skip(21)", "epoch 0", "25 steps", "5 were taken", "20 are left"}) {
    INFO(status.ToString());
    CHECK(absl::StrContains(status.message(), number));
  }
  CHECK(absl::IsOutOfRange(loader->Skip(INT64_MAX)));
  CHECK(absl::IsInvalidArgument(loader->Skip(-1)));
  CHECK(loader->state() == state);
  REQUIRE_OK(loader->Skip(20));
  CHECK(absl::IsOutOfRange(loader->Skip(1)));
}

TEST_CASE("an epoch that no number can hold is refused and changes nothing", "[loader]") {
  const DataSet data(kSamples);
  for (const Tail tail : {Tail::kDrop, Tail::kPad, Tail::kPartial}) {
    const auto loader = MustOpen(Shaped(data, 0, 1, tail));
    const std::string state = loader->state();
    for (const int64_t epoch : {INT64_MAX, INT64_MAX - 1, kEpochMax, int64_t{-1}, INT64_MIN}) {
      CHECK(absl::IsInvalidArgument(loader->StartEpoch(epoch)));
      CHECK(loader->state() == state);
    }
    REQUIRE_OK(loader->StartEpoch(kEpochMax - 1));
    std::vector<int64_t> ids = TakeEpoch(*loader);
    CHECK(ids.size() >= 100);
    CHECK(absl::IsFailedPrecondition(loader->StartEpoch()));
    REQUIRE_OK(loader->StartEpoch(0));
    CHECK(Take(*loader).size() == 4);
    // Nor does a state stand there.
    State far = *State::FromJson(state);
    far.epoch = kEpochMax;
    CHECK(absl::IsInvalidArgument(State::FromJson(far.ToJson()).status()));
  }
}

TEST_CASE("Skip from a restored state counts from there", "[loader]") {
  const DataSet data(kSamples);
  const auto first = MustOpen(Shaped(data, 0, 1, Tail::kPartial));
  for (int i = 0; i < 3; ++i) Take(*first);
  LoaderOptions options = Shaped(data, 0, 1, Tail::kPartial);
  options.state = first->state();
  options.batch_size = 10;
  const auto second = MustOpen(options);
  REQUIRE_OK(second->Skip(2));
  CHECK(State::FromJson(second->state())->position == 32);
  const auto third = MustOpen(options);
  Take(*third);
  Take(*third);
  CHECK(TakeEpoch(*second) == TakeEpoch(*third));
}

TEST_CASE("a batch that cannot be read can be passed over", "[loader]") {
  const DataSet data(40, -100);
  LoaderOptions options = data.Options(10);
  options.shuffle = false;
  Index(options);
  const auto manifest = Manifest::Open(data.root());
  REQUIRE_OK(manifest);
  std::filesystem::remove(data.root() + "/" + (*manifest)->Name(13));
  const auto loader = MustOpen(options);
  Take(*loader);
  CHECK(!loader->Next().ok());
  REQUIRE_OK(loader->Skip(1));
  CHECK(Take(*loader).front() == 20);
  CHECK(TakeEpoch(*loader).size() == 10);
  CHECK(loader->report().passed == 10);
}

TEST_CASE("Skip in the middle of reading ahead, again and again, loses no memory", "[loader]") {
  const DataSet data(2000, -3000);
  LoaderOptions options = data.Options(10);
  options.memory_bytes = 12 << 20;
  for (const EngineOption engine : Engines()) {
    options.engine = engine;
    const auto loader = MustOpen(options);
    const Order order = *Order::Create(2000, {});
    uint32_t random = 1;
    for (int64_t step = 0; step < 200;) {
      random = random * 1664525u + 1013904223u;
      const int64_t passed = std::min<int64_t>(random >> 29, 199 - step);
      REQUIRE_OK(loader->Skip(passed));
      step += passed;
      REQUIRE(Take(*loader).front() == order.IdAt(0, 10 * step));
      ++step;
    }
    CHECK(EpochEnded(loader->Next()));
  }
}

TEST_CASE("batches on their way to a device are passed over, too", "[loader]") {
  const DataSet data(400, -3000);
  const auto device = std::make_shared<ScriptedDevice>(ScriptedDeviceOptions());
  LoaderOptions options = data.Options(10);
  options.device = 0;
  options.device_bytes = 16 << 20;
  options.memory_bytes = 16 << 20;
  options.piece_bytes = 64 << 10;
  const auto runtime = RuntimeCore::MakeRuntime({}, [device](int) -> absl::StatusOr<std::shared_ptr<Device>> { return device; });
  const auto loader = MustOpen(options, runtime);
  const Order order = *Order::Create(400, {});
  for (int64_t step = 0; step < 40; step += 4) {
    CHECK(Take(*loader).front() == order.IdAt(0, 10 * step));
    REQUIRE_OK(loader->Skip(3));
  }
  CHECK(EpochEnded(loader->Next()));
  CHECK(loader->report().passed == 300);
  REQUIRE_OK(loader->StartEpoch());
  CHECK(Take(*loader).front() == order.IdAt(1, 0));
}
