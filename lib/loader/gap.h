// How many unwanted bytes are worth reading to save one read: as many as the store delivers in the time that one more read costs.
#ifndef PENSTOCK_LOADER_GAP_H_
#define PENSTOCK_LOADER_GAP_H_

#include <cstdint>
#include <memory>
#include <string>

#include "penstock/manifest.h"
#include "ring/engine.h"
#include "store/object_store.h"

namespace penstock {

struct GapChoice {
  int64_t gap_bytes = 0;
  double read_us = 0;     // what one more read costs with many in flight; 0: not measured
  double mb_per_s = 0;    // what the store gives beside that
  std::string why;
};

// From what small and large reads cost each, in nanoseconds with many in flight. Exposed for its test.
GapChoice GapFromCosts(double small_ns, double small_bytes, double large_ns, double large_bytes);

// Reads some small and some larger places of the data set, as the loader will, and compares. It takes some milliseconds, and gives up on a
// store that is slower than that: there any read that is saved is worth more than the largest gap.
GapChoice MeasureGap(const Manifest& manifest, const std::shared_ptr<const ObjectStore>& objects, Engine engine,
                     const std::shared_ptr<PreadPool>& pool, const RingOptions& options, uint64_t direct_alignment);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_GAP_H_
