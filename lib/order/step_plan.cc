#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/check.h"
#include "penstock/order.h"

namespace penstock {

absl::Status StepPlan::Validate() const {
  if (sample_count < 1 || sample_count > kOrderMax) {
    return absl::InvalidArgumentError(absl::StrCat("an epoch of ", sample_count, " positions: it must have from 1 to 2^56"));
  }
  if (origin < 0 || origin >= sample_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("position ", origin, " is not inside the epoch, which has the positions 0 to ", sample_count - 1,
                     ": the end of an epoch is position 0 of the next one"));
  }
  if (batch_size < 1 || world_size < 1 || batch_size > kOrderMax / world_size) {
    return absl::InvalidArgumentError(absl::StrCat("batch_size ", batch_size, " times world_size ", world_size,
                                                   ": both must be at least 1, and the product at most 2^56"));
  }
  return absl::OkStatus();
}

int64_t StepPlan::steps() const {
  const int64_t rest = sample_count - origin;
  return tail == Tail::kDrop ? rest / global_batch() : static_cast<int64_t>(CeilDiv(rest, global_batch()));
}

int64_t StepPlan::expected_samples() const { return tail == Tail::kPartial ? sample_count - origin : steps() * global_batch(); }

int64_t StepPlan::dropped() const { return std::max<int64_t>(0, sample_count - origin - expected_samples()); }

int64_t StepPlan::padded() const { return std::max<int64_t>(0, expected_samples() - (sample_count - origin)); }

void StepPlan::Positions(int64_t step, int64_t rank, std::vector<int64_t>& positions) const {
  PENSTOCK_CHECK(step >= 0 && step < steps() && rank >= 0 && rank < world_size, "a step or rank outside the plan");
  positions.clear();
  const int64_t begin = origin + step * global_batch();
  const int64_t end = tail == Tail::kPartial ? std::min(begin + global_batch(), sample_count) : begin + global_batch();
  // The first position p >= begin with p mod W = rank.
  const int64_t first = begin + (rank - begin % world_size + world_size) % world_size;
  for (int64_t position = first; position < end; position += world_size) positions.push_back(position);
}

void StepPlan::Advance(int64_t steps_taken, int64_t& epoch, int64_t& position) const {
  PENSTOCK_CHECK(steps_taken >= 0 && steps_taken <= steps(), "more steps than the epoch has");
  if (steps_taken == steps()) {
    ++epoch;
    position = 0;
  } else {
    position = origin + steps_taken * global_batch();
  }
}

}  // namespace penstock
