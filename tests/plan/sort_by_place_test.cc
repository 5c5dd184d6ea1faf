#include "plan/sort_by_place.h"

#include <algorithm>
#include <random>
#include <tuple>
#include <vector>

#include <catch2/catch.hpp>

using namespace penstock;

namespace {

std::tuple<uint32_t, uint64_t, uint32_t> Whole(const PlaceKey& key) { return {key.object, key.offset_bytes, key.index}; }

// As many objects and offsets as the masks allow.
void CheckSort(size_t count, uint32_t object_mask, uint64_t offset_mask) {
  std::mt19937_64 random(count + object_mask + offset_mask);
  std::vector<PlaceKey> keys(count);
  for (uint32_t i = 0; i < count; ++i) keys[i] = {random() & offset_mask, static_cast<uint32_t>(random()) & object_mask, i};
  std::vector<PlaceKey> expected = keys;
  std::sort(expected.begin(), expected.end(), [](const PlaceKey& a, const PlaceKey& b) { return Whole(a) < Whole(b); });
  SortByPlace(absl::MakeSpan(keys));
  CAPTURE(count, object_mask, offset_mask);
  REQUIRE(
      std::equal(keys.begin(), keys.end(), expected.begin(), [](const PlaceKey& a, const PlaceKey& b) { return Whole(a) == Whole(b); }));
}

}  // namespace

TEST_CASE("keys are sorted by object, offset and index", "[plan]") {
  for (const size_t count : {0, 1, 2, 3, 64, 255, 256, 257, 3000}) {
    for (const uint32_t object_mask : {0x0u, 0x1u, 0x3Fu, 0x101u, 0xFFFFFFFFu}) {
      for (const uint64_t offset_mask : {0x0ull, 0x7Full, 0xFFF000ull, 0xFF000000000000FFull, 0xFFFFFFFFFFFFFFFFull}) {
        CheckSort(count, object_mask, offset_mask);
      }
    }
  }
}

TEST_CASE("the largest offsets and objects come last", "[plan]") {
  std::vector<PlaceKey> keys = {
      {UINT64_MAX, UINT32_MAX, 0}, {UINT64_MAX, 0, 1}, {0, UINT32_MAX, 2}, {UINT64_MAX, UINT32_MAX, 3}, {5, 0, 4}};
  SortByPlace(absl::MakeSpan(keys));
  std::vector<uint32_t> order;
  for (const PlaceKey& key : keys) order.push_back(key.index);
  CHECK(order == std::vector<uint32_t>{4, 1, 2, 0, 3});
}
