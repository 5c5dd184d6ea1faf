#include "penstock/mixture.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "base/crc32c.h"
#include "nlohmann/json.hpp"
#include "order/permutation.h"
#include "support/status.h"

using penstock::Mixture;
using penstock::MixtureOptions;
using penstock::Order;
using penstock::OrderOptions;
using penstock::StepPlan;

namespace {

Mixture Make(const std::vector<int64_t>& samples, const std::vector<double>& weights, int64_t period, int64_t epoch_samples = 1000,
             uint64_t seed = 5) {
  MixtureOptions options;
  options.period = period;
  options.epoch_samples = epoch_samples;
  options.order.seed = seed;
  absl::StatusOr<Mixture> mixture = Mixture::Create(samples, weights, options);
  REQUIRE_OK(mixture);
  return *std::move(mixture);
}

Mixture::Place AtGlobal(const Mixture& mixture, int64_t global) {
  return mixture.At(global / mixture.epoch_samples(), global % mixture.epoch_samples());
}

std::vector<int64_t> Counts(const Mixture& mixture) {
  std::vector<int64_t> counts;
  for (int64_t d = 0; d < mixture.member_count(); ++d) counts.push_back(mixture.count(d));
  return counts;
}

// That from `begin` on, over `length` positions, each member gives its own samples one after the other from what it had given before, each
// id is that of its own order, and the inverse finds the way back. Returns what does not hold.
std::string Broken(const Mixture& mixture, int64_t begin, int64_t length, const OrderOptions& order) {
  std::vector<Order> orders;
  std::vector<int64_t> next;
  for (int64_t d = 0; d < mixture.member_count(); ++d) {
    OrderOptions own = order;
    own.seed = penstock::MemberSeed(order.seed, d);
    orders.push_back(*Order::Create(mixture.sample_count(d), own));
    next.push_back(mixture.GivenBefore(d, begin / mixture.epoch_samples(), begin % mixture.epoch_samples()));
  }
  for (int64_t global = begin; global < begin + length; ++global) {
    const Mixture::Place place = AtGlobal(mixture, global);
    const auto d = static_cast<size_t>(place.member);
    const int64_t own = place.epoch * mixture.sample_count(place.member) + place.position;
    if (own != next[d]++) return "position " + std::to_string(global) + ": a member's samples do not come one after the other";
    if (place.id != mixture.first_id(place.member) + orders[d].IdAt(place.epoch, place.position)) return "the id is not the member's own";
    if (mixture.PositionOf(place.member, place.epoch, place.position) != global) return "the inverse";
  }
  return "";
}

}  // namespace

TEST_CASE("weights become counts of whole samples that sum to the period", "[mixture]") {
  const std::vector<int64_t> three = {10, 10, 10};
  CHECK(Counts(Make(three, {1, 1, 1}, 10)) == std::vector<int64_t>{4, 3, 3});
  CHECK(Counts(Make(three, {0.5, 0.3, 0.2}, 10)) == std::vector<int64_t>{5, 3, 2});
  CHECK(Counts(Make(three, {50, 30, 20}, 1000)) == std::vector<int64_t>{500, 300, 200});
  CHECK(Counts(Make(three, {0.7, 0, 0.3}, 10)) == std::vector<int64_t>{7, 0, 3});
  CHECK(Counts(Make(three, {1e300, 1e300, 2e300}, 4)) == std::vector<int64_t>{1, 1, 2});
  CHECK(Counts(Make(three, {0.1, 0.2, 0.7}, 65536)) == std::vector<int64_t>{6554, 13107, 45875});
  // No count is off its share by one or more, whatever the weights.
  uint64_t state = 1;
  for (int i = 0; i < 500; ++i) {
    std::vector<double> weights;
    double sum = 0;
    for (int d = 0; d < 7; ++d) {
      state = penstock::Mix64(state + 1);
      weights.push_back(0.1 + static_cast<double>(state >> 40));
      sum += weights.back();
    }
    const absl::StatusOr<Mixture> mixture = Mixture::Create(std::vector<int64_t>(7, 5), weights, {{}, 60'000, 10});
    if (!mixture.ok()) continue;  // a weight too small for the period
    int64_t total = 0;
    for (int64_t d = 0; d < 7; ++d) {
      total += mixture->count(d);
      REQUIRE(std::abs(static_cast<double>(mixture->count(d)) - 60'000 * weights[static_cast<size_t>(d)] / sum) < 1);
    }
    REQUIRE(total == 60'000);
  }
}

TEST_CASE("every period has each member exactly as often as its weight says", "[mixture]") {
  const Mixture mixture = Make({1000, 50, 7}, {6, 3, 1}, 20);
  for (int64_t block = 0; block < 300; ++block) {
    std::vector<int64_t> seen(3, 0);
    for (int64_t i = 0; i < 20; ++i) ++seen[static_cast<size_t>(AtGlobal(mixture, block * 20 + i).member)];
    REQUIRE(seen == std::vector<int64_t>{12, 6, 2});
  }
  // And not in the same places.
  std::set<std::vector<int64_t>> patterns;
  for (int64_t block = 0; block < 100; ++block) {
    std::vector<int64_t> pattern;
    for (int64_t i = 0; i < 20; ++i) pattern.push_back(AtGlobal(mixture, block * 20 + i).member);
    patterns.insert(pattern);
  }
  CHECK(patterns.size() == 100);
}

TEST_CASE("each member is read in its own order, epoch after epoch, and every place has its position", "[mixture]") {
  for (const std::vector<int64_t>& samples : std::vector<std::vector<int64_t>>{{1}, {3, 1}, {5, 8, 1}, {100, 3, 40, 2}}) {
    for (int64_t period = static_cast<int64_t>(samples.size()); period < 30; ++period) {
      for (const bool even : {false, true}) {
        std::vector<double> weights(samples.size(), 1);
        if (!even) weights[0] = 2;
        MixtureOptions options;
        options.period = period;
        options.epoch_samples = 37;
        options.order.seed = static_cast<uint64_t>(period);
        options.order.block_samples = even ? 1 : 2;
        options.order.window_samples = even ? 1 : 4;
        const absl::StatusOr<Mixture> mixture = Mixture::Create(samples, weights, options);
        if (!mixture.ok()) continue;  // more members than the period has places for
        REQUIRE(Broken(*mixture, 0, 400, options.order) == "");
      }
    }
  }
}

TEST_CASE("in the epochs of a member every one of its samples comes once", "[mixture]") {
  const Mixture mixture = Make({11, 23}, {2, 5}, 7, 100);
  std::map<std::pair<int64_t, int64_t>, std::multiset<int64_t>> ids;
  for (int64_t global = 0; global < 2300; ++global) {
    const Mixture::Place place = AtGlobal(mixture, global);
    ids[{place.member, place.epoch}].insert(place.id);
  }
  std::multiset<int64_t> first(ids[{0, 4}]), second(ids[{1, 4}]);
  CHECK(first.size() == 11);
  CHECK(std::set<int64_t>(first.begin(), first.end()).size() == 11);
  CHECK(*first.rbegin() == 10);
  CHECK(second.size() == 23);
  CHECK(std::set<int64_t>(second.begin(), second.end()).size() == 23);
  CHECK(*second.begin() == 11);
  CHECK(*second.rbegin() == 33);
  CHECK(mixture.first_id(2) == 34);
}

TEST_CASE("two copies of one data set do not come in the same order", "[mixture]") {
  const Mixture mixture = Make({1000, 1000}, {1, 1}, 2, 2000);
  std::vector<int64_t> first, second;
  for (int64_t global = 0; global < 2000; ++global) {
    const Mixture::Place place = AtGlobal(mixture, global);
    (place.member == 0 ? first : second).push_back(place.id - mixture.first_id(place.member));
  }
  CHECK(first != second);
}

TEST_CASE("new weights lose and repeat no sample, wherever they begin", "[mixture]") {
  OrderOptions order;
  order.seed = 5;
  for (int64_t change = 0; change <= 45; ++change) {
    const Mixture before = Make({30, 9, 4}, {3, 2, 1}, 13, 17);
    const auto after = before.WithWeights(change / 17, change % 17, {1, 0, 4}, 11);
    REQUIRE_OK(after);
    CHECK(Counts(*after) == std::vector<int64_t>{2, 0, 9});
    CHECK(after->first_position() == change);
    int64_t given = 0;
    for (int64_t d = 0; d < 3; ++d) {
      REQUIRE(after->GivenBefore(d, change / 17, change % 17) == before.GivenBefore(d, change / 17, change % 17));
      given += after->GivenBefore(d, change / 17, change % 17);
    }
    REQUIRE(given == change);
    REQUIRE(Broken(before, 0, change, order) == "");
    REQUIRE(Broken(*after, change, 100, order) == "");
    // And again, while the second segment is under way, from what a state says of it.
    const auto restored = Mixture::FromText(after->ToText(), {30, 9, 4}, order);
    REQUIRE_OK(restored);
    const auto third = restored->WithWeights((change + 7) / 17, (change + 7) % 17, {1, 1, 1});
    REQUIRE_OK(third);
    REQUIRE(Broken(*third, change + 7, 60, order) == "");
    // What was read before is known only to what was before.
    CHECK(!third->Covers((change + 6) / 17, (change + 6) % 17));
    CHECK(third->WithWeights(0, 0, {1, 2, 3}).status().code() == absl::StatusCode::kFailedPrecondition);
    if (third->GivenBefore(0, (change + 7) / 17, (change + 7) % 17) > 0) CHECK(third->PositionOf(0, 0, 0) == -1);
  }
}

TEST_CASE("weights that come to the same counts change nothing", "[mixture]") {
  const Mixture mixture = Make({30, 9}, {3, 1}, 8);
  const auto same = mixture.WithWeights(0, 5, {0.75, 0.25});
  REQUIRE_OK(same);
  CHECK(same->ToText() == mixture.ToText());
  CHECK(same->first_position() == 0);
}

TEST_CASE("a mixture comes back from its text as it was", "[mixture]") {
  const Mixture mixture = *Make({1'000'000'000, 9, 70'000}, {3, 2, 2}, 1000, 12345).WithWeights(81, 5, {1, 2, 3});
  OrderOptions order;
  order.seed = 5;
  const auto back = Mixture::FromText(mixture.ToText(), {1'000'000'000, 9, 70'000}, order);
  REQUIRE_OK(back);
  CHECK(back->ToText() == mixture.ToText());
  CHECK(back->first_position() == 81 * 12345 + 5);
  for (int64_t position = 0; position < 3000; ++position) REQUIRE(back->At(82, position) == mixture.At(82, position));
  // Eight members that have read for long are within what a state of 1 KiB has room for.
  CHECK(Make(std::vector<int64_t>(8, 1000), std::vector<double>(8, 1), 1000, 1000)
            .WithWeights(1'000'000'000, 0, {1, 2, 3, 4, 5, 6, 7, 8})
            ->ToText()
            .size() <= 240);
}

TEST_CASE("a text that is no mixture is refused", "[mixture]") {
  const std::vector<int64_t> samples = {30, 9};
  const nlohmann::json good = nlohmann::json::parse(Make(samples, {3, 1}, 8).ToText());
  REQUIRE(Mixture::FromText(good.dump(), samples, {}).ok());
  const std::vector<std::pair<const char*, nlohmann::json>> cases = {{"begin", -1},
                                                                     {"begin", "0"},
                                                                     {"begin", 1},
                                                                     {"begin", nullptr},
                                                                     {"counts", {6, 2, 1}},
                                                                     {"counts", nlohmann::json::array()},
                                                                     {"counts", {0, 0}},
                                                                     {"counts", 6},
                                                                     {"counts", {6, -2}},
                                                                     {"counts", {70000}},
                                                                     {"counts", {60000, 60000}},
                                                                     {"given", {0}},
                                                                     {"given", {1, 0}},
                                                                     {"given", {0, 0.5}},
                                                                     {"epoch", 0},
                                                                     {"epoch", 1e30},
                                                                     {"epoch", {1, 2}},
                                                                     {"something", 1}};
  for (const auto& [name, value] : cases) {
    nlohmann::json bad = good;
    bad[name] = value;
    INFO(bad.dump());
    CHECK(Mixture::FromText(bad.dump(), samples, {}).status().code() == absl::StatusCode::kInvalidArgument);
  }
  for (const char* text : {"", "[]", "{", "null", "{\"begin\":0}"})
    CHECK(Mixture::FromText(text, samples, {}).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Mixture::FromText(good.dump(), {30, 9, 1}, {}).status().code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("a mixture that cannot be is refused with the reason", "[mixture]") {
  const auto refused = [](const std::vector<int64_t>& samples, const std::vector<double>& weights, int64_t period, int64_t epoch_samples,
                          const std::string& words) {
    const absl::Status status = Mixture::Create(samples, weights, {{}, period, epoch_samples}).status();
    INFO(status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(absl::StrContains(status.message(), words));
  };
  refused({}, {}, 10, 10, "0 data sets");
  refused({5, 5}, {1}, 10, 10, "1 weights");
  refused({5, 0}, {1, 1}, 10, 10, "member 1");
  refused({5, 5}, {1, -1}, 10, 10, "weight 1");
  refused({5, 5}, {1, std::numeric_limits<double>::quiet_NaN()}, 10, 10, "weight 1");
  refused({5, 5}, {1, std::numeric_limits<double>::infinity()}, 10, 10, "weight 1");
  refused({5, 5}, {0, 0}, 10, 10, "all 0");
  refused({5, 5}, {1e308, 1e308}, 10, 10, "too large");
  refused({5, 5}, {1, 0.01}, 10, 10, "longer period");
  refused({5, 5}, {1, 1}, 0, 10, "period is 0");
  refused({5, 5}, {1, 1}, 65537, 10, "65537");
  refused({5, 5}, {1, 1}, 10, 0, "epoch_samples");
  refused({penstock::kOrderMax, 5}, {1, 1}, 10, 10, "2^56");
  refused(std::vector<int64_t>(257, 5), std::vector<double>(257, 1), 1000, 10, "257");
}

TEST_CASE("the longest period and the most members work", "[mixture]") {
  const Mixture mixture = Make(std::vector<int64_t>(256, 300), std::vector<double>(256, 1), 65536, 200'000);
  OrderOptions order;
  order.seed = 5;
  CHECK(Broken(mixture, 0, 140'000, order) == "");
  const Mixture single = Make({70'000}, {1}, 65536, 200'000);
  CHECK(Broken(single, 0, 140'000, order) == "");
}

TEST_CASE("the ids of many positions are those of each", "[mixture]") {
  const Mixture mixture = Make({100, 7, 70'000}, {5, 1, 4}, 50, 1003);
  const Order order = Order::FromMixture(mixture);
  CHECK(order.size() == 1003);
  REQUIRE(order.mixture() != nullptr);
  for (const int64_t world : {1, 3, 8}) {
    StepPlan plan;
    plan.sample_count = order.size();
    plan.batch_size = 40;
    plan.world_size = world;
    plan.tail = penstock::Tail::kPartial;
    std::vector<int64_t> all(static_cast<size_t>(order.size()), -1);
    for (int64_t step = 0; step < plan.steps(); ++step) {
      for (int64_t rank = 0; rank < world; ++rank) {
        std::vector<int64_t> positions;
        plan.Positions(step, rank, positions);
        std::vector<int64_t> ids(positions.size());
        order.IdsAt(3, positions, absl::MakeSpan(ids));
        for (size_t i = 0; i < ids.size(); ++i) all[static_cast<size_t>(positions[i])] = ids[i];
      }
    }
    for (int64_t p = 0; p < order.size(); ++p) {
      REQUIRE(all[static_cast<size_t>(p)] == mixture.At(3, p).id);
      REQUIRE(order.IdAt(3, p) == mixture.At(3, p).id);
    }
  }
}

TEST_CASE("threads that ask one mixture get what one thread gets", "[mixture]") {
  const Mixture mixture = Make({100, 7, 70'000}, {5, 1, 4}, 50, 100'000);
  std::vector<std::vector<int64_t>> seen(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < seen.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int64_t p = static_cast<int64_t>(t); p < 20'000; p += 7) seen[t].push_back(mixture.At(0, p).id);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < seen.size(); ++t) {
    for (size_t i = 0; i < seen[t].size(); ++i) REQUIRE(seen[t][i] == mixture.At(0, static_cast<int64_t>(t + 7 * i)).id);
  }
}

TEST_CASE("a mixture is asked only for positions that it knows", "[mixture]") {
  const Mixture mixture = Make({5}, {1}, 4, 100);
  CHECK(mixture.Covers(0, 0));
  CHECK(mixture.Covers(penstock::kOrderMax / 100 - 1, 99));
  CHECK(!mixture.Covers(penstock::kOrderMax / 100 + 1, 0));
  CHECK(!mixture.Covers(INT64_MAX, 0));
  CHECK(!mixture.Covers(-1, 0));
  CHECK(!mixture.Covers(0, 100));
  CHECK(!mixture.Covers(0, -1));
  CHECK(mixture.At(penstock::kOrderMax / 100 - 1, 99).member == 0);
}

TEST_CASE("the mixture is the one of version 1", "[mixture]") {
  REQUIRE(penstock::kOrderVersion == 1);
  struct Golden {
    std::vector<int64_t> samples;
    std::vector<double> weights;
    int64_t period;
    uint64_t seed;
    int64_t epoch;
    std::vector<int64_t> first_ids;  // at the positions 0 to 7
    uint32_t crc;                    // CRC-32C of the ids at the positions 0 to 9,999 as little-endian 64-bit integers
  };
  const std::vector<Golden> goldens = {
      {{10, 20}, {1, 1}, 2, 0, 0, {3, 14, 26, 2, 15, 8, 23, 7}, 0x10197df3u},
      {{1281167, 50000, 10}, {7, 2, 1}, 1000, 42, 3, {1327851, 480656, 1094510, 1198152, 546872, 478989, 521126, 528111}, 0x9597e217u},
      {{1000000000, 70000},
       {0.9, 0.1},
       65536,
       7,
       90,
       {993086162, 54096000, 855562844, 829767685, 174782690, 23943080, 892060709, 558134880},
       0xbf2e6bc9u},
  };
  for (const Golden& golden : goldens) {
    const Mixture mixture = Make(golden.samples, golden.weights, golden.period, 1'000'000, golden.seed);
    std::vector<int64_t> first_ids;
    for (int64_t p = 0; p < 8; ++p) first_ids.push_back(mixture.At(golden.epoch, p).id);
    uint32_t crc = 0;
    for (int64_t p = 0; p < 10'000; ++p) {
      const int64_t id = mixture.At(golden.epoch, p).id;
      crc = penstock::Crc32c(&id, sizeof id, crc);
    }
    CHECK(first_ids == golden.first_ids);
    CHECK(crc == golden.crc);
  }
}

TEST_CASE("the positions of a padded step wrap, and of a mixture go on", "[mixture]") {
  const Mixture mixture = Make({7, 5}, {2, 1}, 3, 10, 1);
  const penstock::Order mixed = penstock::Order::FromMixture(mixture);
  auto order = penstock::Order::Create(10, {});
  REQUIRE(order.ok());
  // Of one rank of two; more than an epoch beyond the end.
  const std::vector<int64_t> positions = {5, 7, 9, 11, 13, 19, 21, 35};
  std::vector<int64_t> ids(positions.size());
  order->IdsOfPlan(3, positions, absl::MakeSpan(ids));
  for (size_t i = 0; i < positions.size(); ++i) CHECK(ids[i] == order->IdAt(3, positions[i] % 10));
  mixed.IdsOfPlan(3, positions, absl::MakeSpan(ids));
  for (size_t i = 0; i < positions.size(); ++i) {
    CHECK(ids[i] == mixture.At(3 + positions[i] / 10, positions[i] % 10).id);
    CHECK(ids[i] == mixed.IdOfPlan(3, positions[i]));
  }
}
