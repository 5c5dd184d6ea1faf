// Through the page cache or past it: what decides, apart from how it is found out.
#ifndef PENSTOCK_LOADER_IO_CHOICE_H_
#define PENSTOCK_LOADER_IO_CHOICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"
#include "penstock/manifest.h"
#include "ring/engine.h"
#include "store/object_store.h"

namespace penstock {

// What a sample costs each way, all streams together. 0: not measured.
struct IoCosts {
  double direct_us = 0;    // past the page cache
  double buffered_us = 0;  // through it, not being there
  double cached_us = 0;    // being there
  std::string why_not;     // they were not measured
  double worst_ratio = 0;  // of buffered to direct, in the round that was the worst for it
};

// What is known when an epoch begins.
struct IoFacts {
  int64_t data_bytes = 0;
  int64_t available_bytes = 0;   // 0: not known, and taken to be enough
  int64_t direct_alignment = 0;  // 0: the file system has no direct reads, for the reason beside
  std::string direct_why;
  double cached_share = -1;      // of the samples looked at, in the page cache already; -1: not known
  bool last_epoch = false;       // no epoch follows for which the page cache would be worth filling
  bool not_kept = false;         // an epoch was read through the page cache, which does not have it any more
  IoCosts costs;
  bool measuring = false;        // they will be known soon
  bool direct_now = false;       // how it was read up to now: costs that hardly differ change nothing
};

struct IoDecision {
  bool direct = false;
  std::string why;
};

// A set that fits in memory is read through the page cache, so that its next epoch finds it there; one that does not fit goes past it. In
// the last epoch nothing is gained by filling it, and the cheaper way is taken.
IoDecision DecideIo(const IoFacts& facts);

// Whether the costs are what DecideIo() would decide by, so that they are worth measuring.
bool CostsDecide(const IoFacts& facts);

// Below four fifths of the available memory, the page cache can hold the set beside the trainer's own growth.
bool FitsInMemory(int64_t data_bytes, int64_t available_bytes);

// Opens the files of `ranges`, reads half of them direct and the others buffered, and these again, in four rounds: some tens of
// milliseconds where the store is quick. What could not be measured is 0.
IoCosts MeasureIo(const std::shared_ptr<const ObjectStore>& objects, Engine engine, const std::shared_ptr<PreadPool>& pool,
                  const RingOptions& options, uint64_t direct_alignment, absl::Span<const Range> ranges);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_IO_CHOICE_H_
