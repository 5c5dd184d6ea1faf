#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include <catch2/catch.hpp>

#include "penstock/order.h"
#include "support/status.h"

using penstock::Order;
using penstock::StepPlan;
using penstock::Tail;

namespace {

constexpr Tail kTails[] = {Tail::kDrop, Tail::kPad, Tail::kPartial};

std::vector<int64_t> PositionsOf(const StepPlan& plan, int64_t step, int64_t rank) {
  std::vector<int64_t> positions = {-1, -2};  // what was in it before must not count
  plan.Positions(step, rank, positions);
  return positions;
}

// The positions of a step over all ranks, sorted.
std::vector<int64_t> StepOf(const StepPlan& plan, int64_t step) {
  std::vector<int64_t> all;
  for (int64_t rank = 0; rank < plan.world_size; ++rank) {
    const std::vector<int64_t> positions = PositionsOf(plan, step, rank);
    all.insert(all.end(), positions.begin(), positions.end());
  }
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<int64_t> Range(int64_t begin, int64_t end) {
  std::vector<int64_t> range;
  for (int64_t p = begin; p < end; ++p) range.push_back(p);
  return range;
}

// What the definition says about one plan. Returns what does not hold.
std::string Broken(const StepPlan& plan) {
  if (!plan.Validate().ok()) return "refused";
  const int64_t rest = plan.sample_count - plan.origin;
  const int64_t g = plan.batch_size * plan.world_size;
  const int64_t floor = rest / g, ceil = (rest + g - 1) / g;
  const int64_t steps = plan.tail == Tail::kDrop ? floor : ceil;
  const int64_t expected = plan.tail == Tail::kPartial ? rest : steps * g;
  if (plan.steps() != steps) return "steps";
  if (plan.expected_samples() != expected) return "expected_samples";
  if (plan.dropped() != (plan.tail == Tail::kDrop ? rest - floor * g : 0)) return "dropped";
  if (plan.padded() != (plan.tail == Tail::kPad ? ceil * g - rest : 0)) return "padded";
  int64_t covered = 0;
  for (int64_t step = 0; step < steps; ++step) {
    int64_t end = plan.origin + (step + 1) * g;
    if (plan.tail == Tail::kPartial) end = std::min(end, plan.sample_count);
    if (StepOf(plan, step) != Range(plan.origin + step * g, end)) return "a step's positions over all ranks";
    size_t least = SIZE_MAX, most = 0;
    for (int64_t rank = 0; rank < plan.world_size; ++rank) {
      const std::vector<int64_t> positions = PositionsOf(plan, step, rank);
      if (!std::is_sorted(positions.begin(), positions.end())) return "not ascending";
      for (const int64_t p : positions) {
        if (p % plan.world_size != rank) return "a position of another rank";
      }
      least = std::min(least, positions.size());
      most = std::max(most, positions.size());
      covered += static_cast<int64_t>(positions.size());
    }
    const bool full = least == static_cast<size_t>(plan.batch_size) && most == least;
    if (!full && !(plan.tail == Tail::kPartial && step == steps - 1 && most - least <= 1)) return "a rank's number of samples";
  }
  return covered == expected ? "" : "the number of samples over all steps";
}

}  // namespace

TEST_CASE("every small step plan covers what the definition says", "[order]") {
  for (int64_t n = 1; n <= 17; ++n) {
    for (int64_t origin = 0; origin < n; ++origin) {
      for (int64_t world_size = 1; world_size <= 6; ++world_size) {
        for (int64_t batch_size = 1; batch_size <= 5; ++batch_size) {
          for (const Tail tail : kTails) {
            const std::string broken = Broken({n, origin, batch_size, world_size, tail});
            if (broken.empty()) continue;
            FAIL("N " << n << ", P0 " << origin << ", B " << batch_size << ", W " << world_size << ", tail " << static_cast<int>(tail)
                      << ": " << broken);
          }
        }
      }
    }
  }
}

TEST_CASE("an unchanged global batch has the same steps for every world size", "[order]") {
  constexpr int64_t kGlobalBatch = 12;
  for (const Tail tail : kTails) {
    for (int64_t origin = 0; origin < 40; ++origin) {
      const StepPlan one{.sample_count = 101, .origin = origin, .batch_size = kGlobalBatch, .world_size = 1, .tail = tail};
      for (const int64_t world_size : {2, 3, 4, 6, 12}) {
        const StepPlan many{101, origin, kGlobalBatch / world_size, world_size, tail};
        REQUIRE(many.steps() == one.steps());
        for (int64_t step = 0; step < one.steps(); ++step) REQUIRE(StepOf(many, step) == StepOf(one, step));
      }
    }
  }
}

// The world and the batch may change at any step; then the origin is where the run before stood.
TEST_CASE("a run that goes on with other worlds and batches reads exactly the rest", "[order]") {
  for (int64_t n = 1; n <= 23; ++n) {
    for (const Tail tail : kTails) {
      for (int64_t world = 1; world <= 4; ++world) {
        for (int64_t batch = 1; batch <= 3; ++batch) {
          const StepPlan before{n, 0, batch, world, tail};
          for (int64_t taken = 0; taken <= before.steps(); ++taken) {
            for (int64_t new_world = 1; new_world <= 5; ++new_world) {
              for (int64_t new_batch = 1; new_batch <= 3; ++new_batch) {
                std::vector<int64_t> read;
                for (int64_t step = 0; step < taken; ++step) {
                  for (const int64_t p : StepOf(before, step)) read.push_back(p);
                }
                int64_t epoch = 4, position = -1;
                before.Advance(taken, epoch, position);
                if (taken == before.steps()) {
                  REQUIRE(epoch == 5);
                  REQUIRE(position == 0);
                  continue;
                }
                REQUIRE(epoch == 4);
                REQUIRE(position < n);
                const StepPlan after{n, position, new_batch, new_world, tail};
                REQUIRE_OK(after.Validate());
                for (int64_t step = 0; step < after.steps(); ++step) {
                  for (const int64_t p : StepOf(after, step)) read.push_back(p);
                }
                const int64_t end = tail == Tail::kPad ? n + after.padded() : n - after.dropped();
                if (read != Range(0, end)) {
                  FAIL("N " << n << ", W " << world << " -> " << new_world << ", B " << batch << " -> " << new_batch << ", after " << taken
                            << " steps, tail " << static_cast<int>(tail));
                }
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("ids over a run whose world changes twice in each epoch come exactly once per epoch", "[order]") {
  constexpr int64_t kSamples = 1003;
  const Order order = *Order::Create(kSamples, {.block_samples = 4, .window_samples = 16, .virtual_streams = 6, .seed = 3});
  std::map<int64_t, std::multiset<int64_t>> ids_by_epoch;
  int64_t epoch = 0, position = 0;
  const StepPlan shapes[] = {
      {kSamples, 0, 7, 8, Tail::kPartial}, {kSamples, 0, 5, 3, Tail::kPartial}, {kSamples, 0, 16, 4, Tail::kPartial}};
  for (int segment = 0; epoch < 3; ++segment) {
    StepPlan plan = shapes[segment % 3];
    plan.origin = position;
    const int64_t taken = std::min<int64_t>(plan.steps(), 9);
    for (int64_t step = 0; step < taken; ++step) {
      for (int64_t rank = 0; rank < plan.world_size; ++rank) {
        const std::vector<int64_t> positions = PositionsOf(plan, step, rank);
        std::vector<int64_t> ids(positions.size());
        order.IdsAt(epoch, positions, absl::MakeSpan(ids));
        ids_by_epoch[epoch].insert(ids.begin(), ids.end());
      }
    }
    plan.Advance(taken, epoch, position);
  }
  REQUIRE(ids_by_epoch.size() == 3);
  for (const auto& [number, ids] : ids_by_epoch) {
    INFO("epoch " << number);
    CHECK(std::vector<int64_t>(ids.begin(), ids.end()) == Range(0, kSamples));
  }
}

TEST_CASE("padding reads the same epoch again from its start", "[order]") {
  const StepPlan plan{.sample_count = 5, .origin = 3, .batch_size = 4, .world_size = 3, .tail = Tail::kPad};
  REQUIRE(plan.steps() == 1);
  CHECK(plan.padded() == 10);
  CHECK(PositionsOf(plan, 0, 0) == std::vector<int64_t>{3, 6, 9, 12});
  CHECK(StepPlan::Wrap(3, 5) == 3);
  CHECK(StepPlan::Wrap(6, 5) == 1);
  CHECK(StepPlan::Wrap(12, 5) == 2);
}

TEST_CASE("a dropped rest smaller than a step ends the epoch without a step", "[order]") {
  const StepPlan plan{.sample_count = 10, .origin = 8, .batch_size = 2, .world_size = 2, .tail = Tail::kDrop};
  CHECK(plan.steps() == 0);
  CHECK(plan.dropped() == 2);
  int64_t epoch = 3, position = 8;
  plan.Advance(0, epoch, position);
  CHECK(epoch == 4);
  CHECK(position == 0);
}

TEST_CASE("step plans of 2^40 samples and more keep their sums", "[order]") {
  for (const int64_t n : {(int64_t{1} << 40) + 7, penstock::kOrderMax}) {
    for (const Tail tail : kTails) {
      const StepPlan plan{n, n / 3, 256, 512, tail};
      REQUIRE_OK(plan.Validate());
      CHECK(plan.expected_samples() + plan.dropped() - plan.padded() == n - n / 3);
      const int64_t last = plan.steps() - 1;
      const std::vector<int64_t> step = StepOf(plan, last);
      CHECK(step.front() == plan.origin + last * 256 * 512);
      CHECK(step.back() == plan.origin + plan.expected_samples() - 1);
      CHECK(PositionsOf(plan, 0, 511).size() == 256);
    }
  }
}

TEST_CASE("step plans out of range are refused with the cure", "[order]") {
  const auto refused = [](const StepPlan& plan, const char* cure) {
    const absl::Status status = plan.Validate();
    INFO(status.ToString());
    return status.code() == absl::StatusCode::kInvalidArgument && status.message().find(cure) != absl::string_view::npos;
  };
  CHECK(refused({.sample_count = 0}, "0 positions"));
  CHECK(refused({.sample_count = 10, .origin = 10}, "position 0 of the next one"));
  CHECK(refused({.sample_count = 10, .origin = -1}, "position -1"));
  CHECK(refused({.sample_count = 10, .batch_size = 0}, "batch_size 0"));
  CHECK(refused({.sample_count = 10, .world_size = -2}, "world_size -2"));
  CHECK(refused({.sample_count = 10, .batch_size = int64_t{1} << 40, .world_size = 1 << 20}, "2^56"));
}

// What windows are for: a rank that reads its shard's blocks one after another shares none of its windows with another rank.
TEST_CASE("where the world divides V each window belongs to one rank and few blocks to several", "[order]") {
  constexpr int64_t kSamples = 5003, kBlock = 8, kWindow = 32, kStreams = 12;
  const Order order =
      *Order::Create(kSamples, {.block_samples = kBlock, .window_samples = kWindow, .virtual_streams = kStreams, .seed = 4});
  for (const int64_t world : {2, 3, 4, 12}) {
    const StepPlan plan{kSamples, 0, 5, world, Tail::kPartial};
    std::map<std::pair<int64_t, int64_t>, std::set<int64_t>> ranks_of_window;  // chunk and window
    std::map<int64_t, std::set<int64_t>> ranks_of_block;
    for (int64_t step = 0; step < plan.steps(); ++step) {
      for (int64_t rank = 0; rank < world; ++rank) {
        for (const int64_t p : PositionsOf(plan, step, rank)) {
          ranks_of_window[{p % kStreams, p / kStreams / kWindow}].insert(rank);
          ranks_of_block[order.IdAt(2, p) / kBlock].insert(rank);
        }
      }
    }
    INFO("W " << world);
    for (const auto& [window, ranks] : ranks_of_window) REQUIRE(ranks.size() == 1);
    const auto shared =
        std::count_if(ranks_of_block.begin(), ranks_of_block.end(), [](const auto& block) { return block.second.size() > 1; });
    CHECK(shared <= kStreams - 1);
    CHECK(ranks_of_block.size() == (kSamples + kBlock - 1) / kBlock);
  }
}
