#include "order/permutation.h"

#include <algorithm>
#include <vector>

#include <catch2/catch.hpp>

using penstock::FeistelCipher;
using penstock::kTableDomainEnd;
using penstock::Permutation;

namespace {

// Whether every number of [0, n) comes out once, and Invert() leads back.
bool IsBijection(const Permutation& permutation) {
  std::vector<bool> seen(static_cast<size_t>(permutation.size()), false);
  for (int64_t x = 0; x < permutation.size(); ++x) {
    const int64_t y = permutation.Apply(x);
    if (y < 0 || y >= permutation.size() || seen[static_cast<size_t>(y)] || permutation.Invert(y) != x) return false;
    seen[static_cast<size_t>(y)] = true;
  }
  return true;
}

}  // namespace

TEST_CASE("a permutation is a bijection for every small domain and around the border to the cipher", "[order]") {
  for (int64_t n = 1; n <= 300; ++n) {
    INFO("n = " << n);
    REQUIRE(IsBijection(Permutation(static_cast<uint64_t>(n), n)));
  }
  for (const int64_t n : {kTableDomainEnd - 1, kTableDomainEnd, kTableDomainEnd + 1, 2 * kTableDomainEnd - 1, 2 * kTableDomainEnd,
                          2 * kTableDomainEnd + 1, int64_t{1'281'167}}) {
    INFO("n = " << n);
    REQUIRE(IsBijection(Permutation(7, n)));
  }
}

TEST_CASE("the cipher is a bijection for even and odd widths", "[order]") {
  for (int bits = 2; bits <= 14; ++bits) {
    const FeistelCipher<penstock::kFeistelRounds> cipher(99, bits);
    std::vector<bool> seen(size_t{1} << bits, false);
    for (uint64_t x = 0; x < seen.size(); ++x) {
      const uint64_t y = cipher.Encrypt(x);
      REQUIRE(y < seen.size());
      REQUIRE_FALSE(seen[y]);
      seen[y] = true;
      REQUIRE(cipher.Decrypt(y) == x);
    }
  }
}

TEST_CASE("many values at once are permuted like one by one", "[order]") {
  for (const int64_t n : {int64_t{1000}, kTableDomainEnd, kTableDomainEnd + 1, (int64_t{1} << 40) + 1}) {
    const Permutation permutation(5, n);
    for (const size_t count : {0, 1, 255, 256, 257, 1000}) {
      std::vector<int64_t> values;
      for (size_t i = 0; i < count; ++i) values.push_back(static_cast<int64_t>(i * i * 77) % n);  // some of them more than once
      std::vector<int64_t> expected;
      for (const int64_t value : values) expected.push_back(permutation.Apply(value));
      permutation.ApplyAll(absl::MakeSpan(values));
      INFO("n = " << n << ", count = " << count);
      CHECK(values == expected);
    }
  }
}

TEST_CASE("keys differ between seeds, epochs, blocks and windows", "[order]") {
  std::vector<uint64_t> keys;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (int64_t epoch = 0; epoch < 4; ++epoch) {
      keys.push_back(penstock::BlockKey(seed, epoch));
      for (int64_t chunk = 0; chunk < 4; ++chunk) {
        for (int64_t window = 0; window < 4; ++window) keys.push_back(penstock::WindowKey(seed, epoch, chunk, window));
      }
    }
  }
  std::sort(keys.begin(), keys.end());
  CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
}
