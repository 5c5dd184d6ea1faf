// Is the order random enough? Chi-squared statistics over fixed seeds, each given as z: how many standard deviations it lies from what
// true randomness gives. The same statistics must see a cipher of too few rounds, else they prove nothing.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <vector>

#include <catch2/catch.hpp>

#include "order/permutation.h"
#include "penstock/order.h"

using penstock::Order;
using penstock::OrderOptions;

namespace {

using Function = std::function<int64_t(int64_t)>;

constexpr double kLimit = 4.5;  // fixed seeds: what is below stays below

// z of chi-squared for counts that should be equal. `share` is the drawn part of a finite whole: then they vary less by 1 - share.
double ZOf(const std::vector<int64_t>& counts, double share = 0) {
  double total = 0;
  for (const int64_t count : counts) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(counts.size());
  double chi_squared = 0;
  for (const int64_t count : counts) {
    const double error = static_cast<double>(count) - expected;
    chi_squared += error * error / expected;
  }
  const double freedom = static_cast<double>(counts.size() - 1);
  return (chi_squared / (1 - share) - freedom) / std::sqrt(2 * freedom);
}

int64_t Bin(int64_t value, int64_t n, int64_t bins) {
  return static_cast<int64_t>(static_cast<double>(value) / static_cast<double>(n) * static_cast<double>(bins));
}

// Are the images of the first positions spread evenly?
double UniformZ(const Function& f, int64_t n) {
  const int64_t drawn = std::min<int64_t>(n / 8, 200'000);
  std::vector<int64_t> counts(256, 0);
  for (int64_t p = 0; p < drawn; ++p) ++counts[static_cast<size_t>(Bin(f(p), n, 256))];
  return ZOf(counts, static_cast<double>(drawn) / static_cast<double>(n));
}

// Does the image of p say something about the one of p + distance? Cells of 32 x 32.
double PairZ(const Function& f, int64_t n, int64_t distance) {
  const int64_t drawn = std::min<int64_t>(n / 8, 100'000);
  std::vector<int64_t> counts(32 * 32, 0);
  for (int64_t i = 0; i < drawn; ++i) {
    const int64_t p = i / distance * 2 * distance + i % distance;  // no position in two pairs
    ++counts[static_cast<size_t>(Bin(f(p), n, 32) * 32 + Bin(f(p + distance), n, 32))];
  }
  return ZOf(counts);
}

// Is the step from the image of p to the one of p + distance spread evenly over the circle?
double DifferenceZ(const Function& f, int64_t n, int64_t distance) {
  const int64_t drawn = std::min<int64_t>(n / 8, 100'000);
  std::vector<int64_t> counts(1024, 0);
  for (int64_t i = 0; i < drawn; ++i) {
    const int64_t p = i / distance * 2 * distance + i % distance;
    ++counts[static_cast<size_t>(Bin((f(p + distance) - f(p) + n) % n, n, 1024))];
  }
  return ZOf(counts);
}

// Do the low bits of p say something about the low bits of its image?
double LowBitsZ(const Function& f, int64_t n) {
  const int64_t drawn = std::min<int64_t>(n / 8, 100'000) / 16 * 16;
  std::vector<int64_t> counts(16 * 16, 0);
  for (int64_t p = 0; p < drawn; ++p) ++counts[static_cast<size_t>(p % 16 * 16 + f(p) % 16)];
  return ZOf(counts);
}

// Do two orders have to do with each other?
double JointZ(const Function& f, const Function& g, int64_t n) {
  const int64_t drawn = std::min<int64_t>(n / 8, 100'000);
  std::vector<int64_t> counts(32 * 32, 0);
  for (int64_t p = 0; p < drawn; ++p) ++counts[static_cast<size_t>(Bin(f(p), n, 32) * 32 + Bin(g(p), n, 32))];
  return ZOf(counts);
}

const std::vector<int64_t> kSizes = {1 << 16, (1 << 16) + 1, 100'003, 1 << 17, 1'281'167, (1 << 24) + 1, int64_t{1} << 40};

Function EpochOf(const Order& order, int64_t epoch) {
  return [order, epoch](int64_t p) { return order.IdAt(epoch, p); };
}

template <int kRounds>
Function Walk(uint64_t key, int64_t n) {
  const penstock::FeistelCipher<kRounds> cipher(key, std::bit_width(static_cast<uint64_t>(n - 1)));
  return [cipher, n](int64_t p) {
    uint64_t y = static_cast<uint64_t>(p);
    do y = cipher.Encrypt(y);
    while (y >= static_cast<uint64_t>(n));
    return static_cast<int64_t>(y);
  };
}

}  // namespace

TEST_CASE("ids of an epoch's beginning are spread evenly over the data set", "[order]") {
  for (const int64_t n : kSizes) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      INFO("N " << n << ", seed " << seed);
      const Order order = *Order::Create(n, {.seed = seed});
      CHECK(std::abs(UniformZ(EpochOf(order, 0), n)) < kLimit);
      CHECK(std::abs(LowBitsZ(EpochOf(order, 0), n)) < kLimit);
    }
  }
}

TEST_CASE("neighbouring positions have ids that know nothing of each other", "[order]") {
  for (const int64_t n : kSizes) {
    for (const int64_t distance : {1, 2, 256, 4096}) {
      for (uint64_t seed = 0; seed < 3; ++seed) {
        INFO("N " << n << ", distance " << distance << ", seed " << seed);
        const Order order = *Order::Create(n, {.seed = seed});
        CHECK(std::abs(PairZ(EpochOf(order, 1), n, distance)) < kLimit);
        CHECK(std::abs(DifferenceZ(EpochOf(order, 1), n, distance)) < kLimit);
      }
    }
  }
}

TEST_CASE("successive epochs and neighbouring seeds have orders that know nothing of each other", "[order]") {
  for (const int64_t n : kSizes) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      INFO("N " << n << ", seed " << seed);
      const Order order = *Order::Create(n, {.seed = seed});
      const Order neighbour = *Order::Create(n, {.seed = seed + 1});
      CHECK(std::abs(JointZ(EpochOf(order, 0), EpochOf(order, 1), n)) < kLimit);
      CHECK(std::abs(JointZ(EpochOf(order, 7), EpochOf(order, 8), n)) < kLimit);
      CHECK(std::abs(JointZ(EpochOf(order, 1), EpochOf(neighbour, 0), n)) < kLimit);
    }
  }
}

// A random permutation has one fixed point on average, with variance 1; so has that which leads from one epoch to the next.
TEST_CASE("ids that keep their place from epoch to epoch are as many as chance gives", "[order]") {
  for (const int64_t n : {int64_t{1000}, int64_t{1} << 16, int64_t{70'001}}) {
    const Order order = *Order::Create(n, {.seed = 12});
    constexpr int64_t kEpochs = 100;
    int64_t fixed = 0, kept = 0;
    for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      for (int64_t p = 0; p < n; ++p) {
        fixed += order.IdAt(epoch, p) == p;
        kept += order.IdAt(epoch, p) == order.IdAt(epoch + 1, p);
      }
    }
    INFO("N " << n << ", fixed " << fixed << ", kept " << kept);
    CHECK(std::abs(static_cast<double>(fixed - kEpochs)) < kLimit * std::sqrt(kEpochs));
    CHECK(std::abs(static_cast<double>(kept - kEpochs)) < kLimit * std::sqrt(kEpochs));
  }
}

TEST_CASE("all orders of few samples are equally likely", "[order]") {
  for (int64_t n = 2; n <= 6; ++n) {
    std::map<std::vector<int64_t>, int64_t> seen;
    int64_t orders = 1;
    for (int64_t factor = 2; factor <= n; ++factor) orders *= factor;
    const Order order = *Order::Create(n, {.seed = 77});
    for (int64_t epoch = 0; epoch < orders * 100; ++epoch) {
      std::vector<int64_t> ids;
      for (int64_t p = 0; p < n; ++p) ids.push_back(order.IdAt(epoch, p));
      ++seen[ids];
    }
    REQUIRE(static_cast<int64_t>(seen.size()) == orders);
    std::vector<int64_t> counts;
    for (const auto& [ids, count] : seen) counts.push_back(count);
    INFO("n " << n);
    CHECK(std::abs(ZOf(counts)) < kLimit);
  }
}

TEST_CASE("each id of a small data set comes at each position equally often", "[order]") {
  constexpr int64_t kSamples = 40;
  const Order order = *Order::Create(kSamples, {.seed = 5});
  std::vector<int64_t> counts(kSamples * kSamples, 0);
  for (int64_t epoch = 0; epoch < 40'000; ++epoch) {
    for (int64_t p = 0; p < kSamples; ++p) ++counts[static_cast<size_t>(p * kSamples + order.IdAt(epoch, p))];
  }
  // Rows and columns have fixed sums: (n-1)^2 degrees of freedom out of n^2 - 1 counted ones.
  const double freedom = (kSamples - 1) * (kSamples - 1);
  double chi_squared = 0;
  for (const int64_t count : counts) chi_squared += (static_cast<double>(count) - 1000) * (static_cast<double>(count) - 1000) / 1000;
  // Each cell's variance is 1000 * (1 - 1/n), which the n/(n-1) below undoes for a doubly constrained table.
  const double z = (chi_squared - freedom * kSamples / (kSamples - 1)) / std::sqrt(2 * freedom);
  CHECK(std::abs(z) < kLimit);
}

TEST_CASE("windows are shuffled evenly", "[order]") {
  // One window per chunk over one block: the place of each sample in the window, over many epochs.
  constexpr int64_t kSamples = 100;
  for (const int64_t window : {50, 100}) {
    const Order order = *Order::Create(kSamples, {.block_samples = 50, .window_samples = window, .seed = 9});
    std::vector<int64_t> counts(kSamples, 0);
    for (int64_t epoch = 0; epoch < 20'000; ++epoch) ++counts[static_cast<size_t>(order.IdAt(epoch, 17))];
    INFO("window " << window);
    CHECK(std::abs(ZOf(counts)) < kLimit);
  }
}

TEST_CASE("the statistics see a cipher of two rounds", "[order]") {
  const int64_t n = 1'281'167;
  const Function weak = Walk<2>(1, n);
  CHECK(std::abs(UniformZ(weak, n)) > 2 * kLimit);
  CHECK(std::abs(PairZ(weak, n, 1)) > 2 * kLimit);
  CHECK(std::abs(DifferenceZ(weak, n, 1)) > 2 * kLimit);
  CHECK(std::abs(UniformZ(Walk<penstock::kFeistelRounds>(1, n), n)) < kLimit);
}
