// What the options of the order are where neither they nor a state were given.
#ifndef PENSTOCK_LOADER_ORDER_DEFAULTS_H_
#define PENSTOCK_LOADER_ORDER_DEFAULTS_H_

#include <cstdint>

#include "penstock/order.h"

namespace penstock {

inline constexpr uint64_t kDefaultSeed = 0;
inline constexpr bool kDefaultShuffle = true;
inline constexpr int64_t kDefaultBlock = 1;
inline constexpr int64_t kDefaultWindow = 1;
inline constexpr int64_t kDefaultVirtualStreams = 1;
inline constexpr Tail kDefaultTail = Tail::kDrop;
inline constexpr int64_t kDefaultPeriod = 1000;
inline constexpr int64_t kDefaultEpochSamples = 0;

}  // namespace penstock

#endif  // PENSTOCK_LOADER_ORDER_DEFAULTS_H_
