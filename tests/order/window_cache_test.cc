#include "order/window_cache.h"

#include <catch2/catch.hpp>

using penstock::Permutation;
using penstock::WindowCache;
using penstock::WindowId;

TEST_CASE("the cache of windows stays within its bound", "[order]") {
  WindowCache cache(1 << 20);
  for (int64_t window = 0; window < 1000; ++window) {
    cache.Get(1, {.epoch = window % 3, .chunk = window % 7, .window = window}, 1000 + window);
    REQUIRE(cache.bytes() <= 1 << 20);
  }
  CHECK(cache.bytes() > 1 << 19);
}

TEST_CASE("a window that is in use stays in the cache and the longest unused one leaves", "[order]") {
  WindowCache cache(20'000);  // four tables of 1000 numbers
  const auto first = cache.Get(1, {.window = 0}, 1000);
  const auto second = cache.Get(1, {.window = 1}, 1000);
  for (int64_t window = 2; window < 50; ++window) {
    cache.Get(1, {.window = window}, 1000);
    REQUIRE(cache.Get(1, {.window = 0}, 1000) == first);
  }
  CHECK(cache.Get(1, {.window = 1}, 1000) != second);
}

TEST_CASE("a table that was handed out stays valid when it leaves the cache", "[order]") {
  WindowCache cache(1);
  const auto kept = cache.Get(1, {.window = 0}, 500);
  cache.Get(1, {.window = 1}, 500);
  const Permutation again(penstock::WindowKey(1, 0, 0, 0), 500);
  for (int64_t x = 0; x < 500; ++x) REQUIRE(kept->Apply(x) == again.Apply(x));
}
