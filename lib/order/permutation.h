// Keyed permutations of [0, n): what the order is made of. Frozen by tests/order/golden_test.cc: any change of an output is a new
// kOrderVersion, and the old one stays readable.
//
// From 2^16 on a cycle-walking Feistel cipher with unbalanced halves, O(1) in n. Below, a keyed Fisher-Yates table: Feistel ciphers of
// small domains reach only a small part of all permutations, and uniformity tests see it.
#ifndef PENSTOCK_ORDER_PERMUTATION_H_
#define PENSTOCK_ORDER_PERMUTATION_H_

#include <array>
#include <bit>
#include <cstdint>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace penstock {

// Domains below this have a table: two of uint16_t, so at most 256 KiB.
inline constexpr int64_t kTableDomainEnd = int64_t{1} << 16;

// A bijection of the 64-bit integers which mixes all bits into all bits: the finaliser of SplitMix64, with Stafford's constants
// "Mix13" (https://prng.di.unimi.it/splitmix64.c).
constexpr uint64_t Mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The keys of one order: what is shuffled, under which seed, in which epoch.
uint64_t BlockKey(uint64_t seed, int64_t epoch);
uint64_t WindowKey(uint64_t seed, int64_t epoch, int64_t chunk, int64_t window);
// Those of a mixture: which places of a block are whose, in the segment that begins at a position; and the seed of a member's own order.
uint64_t MixtureKey(uint64_t seed, int64_t segment_begin, int64_t block);
uint64_t MemberSeed(uint64_t seed, int64_t member);

// The numbers of `bits` bits (2..62), permuted: they are cut into two halves, the left one the smaller if `bits` is odd, and each round
// adds a keyed function of one half to the other, without swapping them.
//
// kRounds is a parameter so that the tests can show that their statistics see a cipher of too few rounds.
template <int kRounds>
class FeistelCipher {
 public:
  FeistelCipher() = default;
  FeistelCipher(uint64_t key, int bits) : left_bits_(bits / 2), right_bits_(bits - bits / 2) {
    for (int round = 0; round < kRounds; ++round) {
      round_keys_[round] = Mix64(key + (static_cast<uint64_t>(round) + 1) * 0x9e3779b97f4a7c15u);
    }
  }

  uint64_t Encrypt(uint64_t x) const {
    uint64_t left = x >> right_bits_;
    uint64_t right = x & ((uint64_t{1} << right_bits_) - 1);
    for (int round = 0; round < kRounds; ++round) {
      if (round % 2 == 0) {
        left ^= Function(right, round_keys_[round], left_bits_);
      } else {
        right ^= Function(left, round_keys_[round], right_bits_);
      }
    }
    return left << right_bits_ | right;
  }

  uint64_t Decrypt(uint64_t x) const {
    uint64_t left = x >> right_bits_;
    uint64_t right = x & ((uint64_t{1} << right_bits_) - 1);
    for (int round = kRounds - 1; round >= 0; --round) {
      if (round % 2 == 0) {
        left ^= Function(right, round_keys_[round], left_bits_);
      } else {
        right ^= Function(left, round_keys_[round], right_bits_);
      }
    }
    return left << right_bits_ | right;
  }

 private:
  // The top bits of a product depend on all bits of its factors; two products with a fold between them make every input bit count.
  static uint64_t Function(uint64_t half, uint64_t key, int bits) {
    uint64_t h = (half ^ key) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 32)) * 0x94d049bb133111ebu;
    return h >> (64 - bits);
  }

  int left_bits_ = 1;
  int right_bits_ = 1;
  std::array<uint64_t, kRounds> round_keys_{};
};

// At n = 1,281,167 two rounds fail chi-squared and pair tests, three the pairs, four pass (tests/order/statistics_test.cc); two more are
// the margin.
inline constexpr int kFeistelRounds = 6;

// Fills `table` with a keyed permutation of [0, size), by Fisher and Yates. 1 <= size <= 2^16.
template <typename Number>
void FillShuffled(uint64_t key, absl::Span<Number> table) {
  std::iota(table.begin(), table.end(), Number{0});
  uint64_t counter = key;
  for (uint64_t i = table.size() - 1; i > 0; --i) {
    counter += 0x9e3779b97f4a7c15u;
    // 48 random bits times i+1 <= 2^16 fit into 64. A place is off from uniform by less than 2^-32, which no run can see.
    const uint64_t j = ((Mix64(counter) >> 16) * (i + 1)) >> 48;
    std::swap(table[i], table[j]);
  }
}

// A keyed permutation of [0, n), n >= 1. Immutable; any thread.
class Permutation {
 public:
  Permutation(uint64_t key, int64_t n);
  Permutation(const Permutation&) = delete;
  Permutation& operator=(const Permutation&) = delete;

  int64_t size() const { return n_; }

  // 0 <= x < n. Cycle walking: a number outside the domain is permuted again. It ends, since x itself is on the cycle and inside; it
  // takes two steps at most on average, since n is more than half of the cipher's domain.
  int64_t Apply(int64_t x) const {
    if (!forward_.empty()) return forward_[static_cast<size_t>(x)];
    const uint64_t n = static_cast<uint64_t>(n_);
    uint64_t y = static_cast<uint64_t>(x);
    do y = cipher_.Encrypt(y);
    while (y >= n);
    return static_cast<int64_t>(y);
  }

  // Replaces each value by its image. Values that must be permuted again are gathered, which spares the processor a branch that it
  // cannot predict: a third of the time where n is just above a power of two (bench/order.cc).
  void ApplyAll(absl::Span<int64_t> values) const;

  // Invert(Apply(x)) == x.
  int64_t Invert(int64_t y) const;

 private:
  int64_t n_;
  FeistelCipher<kFeistelRounds> cipher_;
  std::vector<uint16_t> forward_;  // empty: the cipher
  mutable std::once_flag inverse_once_;
  mutable std::vector<uint16_t> inverse_;  // made at the first Invert(), which a run hardly ever calls
};

}  // namespace penstock

#endif  // PENSTOCK_ORDER_PERMUTATION_H_
