#include "loader/substitutes.h"

#include <numeric>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace penstock {

SubstituteWalk::SubstituteWalk(uint64_t seed, int64_t epoch, int64_t position, int64_t count) : count_(static_cast<uint64_t>(count)) {
  const uint64_t key[3] = {seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(position)};
  const XXH128_hash_t hash = XXH3_128bits(key, sizeof key);
  start_ = hash.low64 % count_;
  // A stride without a factor of `count` meets every number before it comes back to the first one.
  stride_ = 1 + hash.high64 % count_;
  while (std::gcd(stride_, count_) != 1) stride_ = stride_ % count_ + 1;
}

}  // namespace penstock
