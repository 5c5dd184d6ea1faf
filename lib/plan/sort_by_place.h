// Samples in the order in which they lie in their objects.
#ifndef PENSTOCK_PLAN_SORT_BY_PLACE_H_
#define PENSTOCK_PLAN_SORT_BY_PLACE_H_

#include <cstdint>

#include "absl/types/span.h"

namespace penstock {

struct PlaceKey {
  uint64_t offset_bytes;
  uint32_t object;
  uint32_t index;  // of the sample
};

// Stable. By digits, the last one first, and only by those that are not the same in all keys: comparisons of shuffled samples are what a
// processor cannot guess. For a batch of 256 records in blocks of 64, 1.8 % of the time of reading them from the page cache instead of 6.4
// % (perf record of `penstock bench`, a Xeon of 2026).
void SortByPlace(absl::Span<PlaceKey> keys);

}  // namespace penstock

#endif  // PENSTOCK_PLAN_SORT_BY_PLACE_H_
