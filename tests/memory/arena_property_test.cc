// Random use of an arena against a model that knows nothing of extents: one owner per granule.
#include <algorithm>
#include <random>
#include <vector>

#include "memory/arena.h"
#include "support/status.h"

namespace penstock {
namespace {

// The longest free run of the model when `taken` granules from `first` were in use too.
int32_t LongestFree(const std::vector<int>& owner, int32_t first = 0, int32_t taken = 0) {
  int32_t longest = 0, length = 0;
  for (int32_t granule = 0; granule < static_cast<int32_t>(owner.size()); ++granule) {
    const bool free = owner[granule] == 0 && !(granule >= first && granule < first + taken);
    length = free ? length + 1 : 0;
    longest = std::max(longest, length);
  }
  return longest;
}

// Whether some place for the run leaves the reserve in one piece.
bool Possible(const std::vector<int>& owner, int32_t granules, int32_t reserve) {
  const int32_t count = static_cast<int32_t>(owner.size());
  for (int32_t first = 0; first + granules <= count; ++first) {
    if (std::any_of(owner.begin() + first, owner.begin() + first + granules, [](int value) { return value != 0; })) continue;
    if (LongestFree(owner, first, granules) >= reserve) return true;
  }
  return false;
}

struct Held {
  Run run;
  bool quarantined;
};

void RunAgainstModel(uint32_t seed, int32_t count, int32_t length_max, int32_t reserve_max, int steps) {
  std::mt19937 random(seed);
  const auto below = [&](int32_t bound) { return static_cast<int32_t>(random() % static_cast<uint32_t>(bound)); };
  auto created = Arena::Create({.bytes = count * kGranuleBytes});
  REQUIRE_OK(created);
  Arena& arena = **created;
  std::vector<int> owner(count, 0);
  std::vector<Held> held;
  int next_owner = 1;
  int refused = 0, granted = 0;
  for (int step = 0; step < steps; ++step) {
    const int32_t choice = below(10);
    if (choice < 5) {
      const int32_t granules = 1 + below(length_max);
      const int32_t reserve = below(reserve_max + 1);
      const Run run = arena.Allocate(granules, reserve);
      // Neither refused where a place was left, nor granted where none was.
      REQUIRE(run.valid() == Possible(owner, granules, reserve));
      if (!run.valid()) {
        ++refused;
        continue;
      }
      ++granted;
      REQUIRE(run.granules == granules);
      REQUIRE(run.bytes == granules * kGranuleBytes);
      REQUIRE(run.data == arena.base() + run.first_granule * kGranuleBytes);
      for (int32_t granule = run.first_granule; granule < run.first_granule + granules; ++granule) {
        REQUIRE(owner.at(granule) == 0);
        owner[granule] = next_owner;
      }
      REQUIRE(LongestFree(owner) >= reserve);
      *reinterpret_cast<int*>(run.data) = next_owner++;
      held.push_back({run, false});
    } else if (!held.empty()) {
      const size_t index = static_cast<size_t>(below(static_cast<int32_t>(held.size())));
      Held& one = held[index];
      REQUIRE(*reinterpret_cast<int*>(one.run.data) == owner[one.run.first_granule]);
      if (choice == 5 && !one.quarantined) {
        arena.Quarantine(one.run);
        one.quarantined = true;
        continue;
      }
      one.quarantined ? arena.Reclaim(one.run) : arena.Free(one.run);
      std::fill_n(owner.begin() + one.run.first_granule, one.run.granules, 0);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
    }
    int32_t quarantined = 0;
    for (const Held& one : held) quarantined += one.quarantined ? one.run.granules : 0;
    REQUIRE(arena.free_granules() == std::count(owner.begin(), owner.end(), 0));
    REQUIRE(arena.quarantined_granules() == quarantined);
  }
  CHECK(granted > 0);
  CHECK(refused > 0);
  for (const Held& one : held) one.quarantined ? arena.Reclaim(one.run) : arena.Free(one.run);
  CHECK(arena.free_granules() == count);
  const Run whole = arena.Allocate(count);
  CHECK(whole.valid());
  arena.Free(whole);
}

TEST_CASE("random use never overlaps or loses granules and keeps the reserve", "[memory]") {
  for (uint32_t seed = 1; seed <= 20; ++seed) RunAgainstModel(seed, /*count=*/24, /*length_max=*/6, /*reserve_max=*/6, /*steps=*/600);
}

TEST_CASE("random use of a tiny arena never overlaps or loses granules", "[memory]") {
  for (uint32_t seed = 100; seed <= 140; ++seed) RunAgainstModel(seed, /*count=*/3, /*length_max=*/3, /*reserve_max=*/2, /*steps=*/200);
}

TEST_CASE("runs of one length fill the arena to the last after any use of that length", "[memory]") {
  constexpr int32_t kCount = 32, kLength = 4;
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    std::mt19937 random(seed);
    auto arena = Arena::Create({.bytes = kCount * kGranuleBytes});
    REQUIRE_OK(arena);
    std::vector<Run> held;
    for (int step = 0; step < 300; ++step) {
      if (random() % 2 == 0) {
        const Run run = (*arena)->Allocate(kLength);
        // No place is lost between two runs: eight of them always fit.
        REQUIRE(run.valid() == (held.size() < kCount / kLength));
        if (run.valid()) held.push_back(run);
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        (*arena)->Free(held.back());
        held.pop_back();
      }
    }
    for (const Run& run : held) (*arena)->Free(run);
  }
}

}  // namespace
}  // namespace penstock
