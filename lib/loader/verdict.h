// "Why is my GPU waiting": one line from an epoch's figures.
#ifndef PENSTOCK_LOADER_VERDICT_H_
#define PENSTOCK_LOADER_VERDICT_H_

#include "penstock/stats.h"

namespace penstock {

// Fills `bound` and `verdict` from the other fields. `streams` and `queue_depth` are the loader's; `process_cpu_share` is the CPU time that the
// process used, as a share of all its allowed cores.
void Judge(EpochReport& report, int streams, int queue_depth, double process_cpu_share, double blocked_s);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_VERDICT_H_
