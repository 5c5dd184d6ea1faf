// The loader's epochs against their definition: which samples each rank gets in which step, with every tail, and where a restored run
// goes on.
#include <cstdint>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "penstock/order.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int64_t kSamples = 103;

LoaderOptions Shaped(const DataSet& data, int64_t batch_size, int rank, int world_size, Tail tail) {
  LoaderOptions options = data.Options(batch_size);
  options.rank = rank;
  options.world_size = world_size;
  options.tail = tail;
  options.seed = 7;
  options.block_samples = 4;
  options.window_samples = 8;
  options.virtual_streams = 3;
  return options;
}

Order TheOrder() { return *Order::Create(kSamples, {.block_samples = 4, .window_samples = 8, .virtual_streams = 3, .seed = 7}); }

std::vector<int64_t> IdsOf(const Order& order, const StepPlan& plan, int64_t epoch, int64_t step, int64_t rank) {
  std::vector<int64_t> ids;
  plan.Positions(step, rank, ids);
  for (int64_t& id : ids) id = order.IdAt(epoch, StepPlan::Wrap(id, kSamples));
  return ids;
}

}  // namespace

TEST_CASE("every rank gets the batches of the step plan with every tail and all ranks the same state", "[loader]") {
  DataSet data(kSamples, 300);
  const Order order = TheOrder();
  for (const Tail tail : {Tail::kDrop, Tail::kPad, Tail::kPartial}) {
    for (const int world : {1, 3, 8}) {
      const StepPlan plan{.sample_count = kSamples, .batch_size = 5, .world_size = world, .tail = tail};
      std::vector<std::vector<std::string>> states(2 * static_cast<size_t>(plan.steps()));
      for (int rank = 0; rank < world; ++rank) {
        auto loader = MustOpen(Shaped(data, 5, rank, world, tail));
        for (int64_t epoch = 0; epoch < 2; ++epoch) {
          if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
          REQUIRE(loader->steps() == plan.steps());
          int64_t taken = 0;
          for (int64_t step = 0; step < plan.steps(); ++step) {
            auto batch = loader->Next();
            REQUIRE_OK(batch);
            const std::vector<int64_t> ids(batch->ids().begin(), batch->ids().end());
            REQUIRE(ids == IdsOf(order, plan, epoch, step, rank));
            CheckBatch(*loader, *batch);
            taken += batch->size();
            states[static_cast<size_t>(epoch * plan.steps() + step)].push_back(loader->state());
          }
          CHECK(EpochEnded(loader->Next()));
          const EpochReport report = loader->report();
          CHECK(report.taken == taken);
          CHECK(report.expected == taken);
          CHECK(report.dropped == plan.dropped());
          CHECK(report.padded == plan.padded());
          const auto state = State::FromJson(loader->state());
          REQUIRE_OK(state);
          CHECK(state->epoch == epoch + 1);
          CHECK(state->position == 0);
        }
      }
      for (const std::vector<std::string>& of_step : states) {
        for (const std::string& state : of_step) REQUIRE(state == of_step.front());
      }
    }
  }
}

TEST_CASE("a run whose world and batch change in mid-epoch goes on with exactly the rest", "[loader]") {
  DataSet data(kSamples, 300);
  const Order order = TheOrder();
  std::string state;
  int64_t position = 0;
  struct Shape {
    int world;
    int64_t batch;
    int64_t steps;
  };
  for (const Shape& shape : {Shape{2, 5, 3}, Shape{3, 4, 2}, Shape{1, 7, 1}, Shape{4, 3, 100}}) {
    const StepPlan plan{kSamples, position, shape.batch, shape.world, Tail::kPartial};
    const int64_t steps = std::min(shape.steps, plan.steps());
    std::string next;
    for (int rank = 0; rank < shape.world; ++rank) {
      LoaderOptions options = Shaped(data, shape.batch, rank, shape.world, Tail::kPartial);
      options.state = state;
      if (!state.empty()) options.seed.reset();  // it is the state's
      auto loader = MustOpen(options);
      // The whole epoch's, wherever this run goes on in it; and what is left.
      REQUIRE(loader->steps() == StepPlan{kSamples, 0, shape.batch, shape.world, Tail::kPartial}.steps());
      for (int64_t step = 0; step < steps; ++step) {
        REQUIRE(loader->steps_left() == plan.steps() - step);
        auto batch = loader->Next();
        REQUIRE_OK(batch);
        REQUIRE(std::vector<int64_t>(batch->ids().begin(), batch->ids().end()) == IdsOf(order, plan, 0, step, rank));
      }
      next = loader->state();
    }
    int64_t epoch = 0;
    plan.Advance(steps, epoch, position);
    state = next;
    const auto parsed = State::FromJson(state);
    REQUIRE_OK(parsed);
    CHECK(parsed->epoch == epoch);
    CHECK(parsed->position == position);
    CHECK(parsed->seed == 7);
  }
  CHECK(State::FromJson(state)->epoch == 1);
}

TEST_CASE("a restored epoch whose rest fills no step ends at once and the next one follows", "[loader]") {
  DataSet data(kSamples, 300);
  std::string state;
  {
    auto loader = MustOpen(Shaped(data, 20, 0, 1, Tail::kDrop));
    for (int step = 0; step < 4; ++step) REQUIRE_OK(loader->Next());
    state = loader->state();
  }
  LoaderOptions options = Shaped(data, 12, 1, 2, Tail::kDrop);  // 23 are left, a step is 24
  options.state = state;
  auto loader = MustOpen(options);
  CHECK(loader->steps_left() == 0);
  CHECK(loader->steps() == 4);
  CHECK(EpochEnded(loader->Next()));
  CHECK(loader->report().dropped == 23);
  CHECK(State::FromJson(loader->state())->epoch == 1);
  CHECK(State::FromJson(loader->state())->position == 0);
  REQUIRE_OK(loader->StartEpoch());
  CHECK(loader->epoch() == 1);
  CHECK(loader->steps() == 4);
  auto batch = loader->Next();
  REQUIRE_OK(batch);
  const StepPlan plan{.sample_count = kSamples, .batch_size = 12, .world_size = 2, .tail = Tail::kDrop};
  CHECK(std::vector<int64_t>(batch->ids().begin(), batch->ids().end()) == IdsOf(TheOrder(), plan, 1, 0, 1));
}
