// What becomes of samples that cannot be read.
#include "loader/loader_core.h"

#include <string>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace penstock {

// All pieces of a batch have come.
void LoaderCore::AttemptDone(Slot& slot) {
  if (slot.attempt->failures.empty()) return BatchRead(slot);
  std::vector<SampleFailure> failures = std::move(slot.attempt->failures);
  slot.attempt->failures.clear();
  ApplyPolicy(slot, std::move(failures), false);
}

// Decides what becomes of the samples that failed. The slot ends ready, failed, or filling without an attempt (to be read again).
void LoaderCore::ApplyPolicy(Slot& slot, std::vector<SampleFailure> failures, bool hung) {
  const auto fail = [&](absl::Status status) {
    slot.state = SlotState::kFailed;
    slot.error_seen = false;
    slot.error = std::move(status);
    GiveUp(slot.attempt);
    MemoryFreed();
    WakeStreams();
    ready_.notify_all();
  };
  if (options_.policy == ErrorPolicy::kFail) {
    if (hung && slot.hung_tries < options_.retries) {
      ++slot.hung_tries;  // once more, into other memory, perhaps by another stream
      slot.hung = std::string(failures[0].status.message());
      return;
    }
    std::string more = failures.size() > 1 ? absl::StrCat(" (and ", failures.size() - 1, " more samples of this batch)") : "";
    fail(absl::Status(failures[0].status.code(), absl::StrCat(failures[0].status.message(), more)));
    return;
  }
  for (const SampleFailure& failure : failures) {
    if (!absl::IsInternal(failure.status)) continue;
    // A codec function that wrote past its place may have damaged its neighbours: no policy for one sample covers that.
    fail(failure.status);
    return;
  }
  std::vector<int64_t> ids;
  std::vector<int64_t> positions;
  const StepPlan steps = StepsOf(slot.epoch);
  steps.Positions(slot.step, options_.rank, positions);
  bool read_again = hung;
  for (SampleFailure& failure : failures) {
    if (++policy_count_ > options_.skip_max) {
      fail(absl::Status(failure.status.code(), absl::StrCat("more than skip_max = ", options_.skip_max,
                                                            " samples failed in this epoch; the last: ", failure.status.message())));
      return;
    }
    Decision* decision = nullptr;
    for (Decision& known : slot.decisions) {
      if (known.index == failure.index) decision = &known;
    }
    if (decision == nullptr) {
      slot.decisions.push_back(Decision{failure.index, false, -1, 0});
      decision = &slot.decisions.back();
    }
    const int64_t position = positions[failure.index];
    const int64_t id = decision->substitute >= 0 ? decision->substitute : IdAt(slot.epoch, position);
    LedgerEntry entry;
    entry.epoch = slot.epoch;
    entry.position = position;
    entry.id = id;
    entry.reason = std::string(failure.status.message());
    if (options_.policy == ErrorPolicy::kSkip) {
      decision->skip = true;
      if (!read_again) {
        BatchPlan& plan = slot.attempt->plan();
        plan.valid[failure.index] = 0;
        plan.lengths[failure.index] = 0;
      }
    } else {
      // A keyed function of seed, epoch, position and try: every rank and every restart chooses the same.
      ++decision->tries;
      const int64_t key[4] = {static_cast<int64_t>(options_.seed), slot.epoch, position, decision->tries};
      // Of the same data set, so that a mixture keeps its proportions.
      const int64_t member = manifest_->MemberOf(id);
      const int64_t first_id = manifest_->FirstIdOf(member);
      decision->substitute = first_id + static_cast<int64_t>(XXH3_64bits(key, sizeof key) %
                                                             static_cast<uint64_t>(manifest_->FirstIdOf(member + 1) - first_id));
      entry.substitute = decision->substitute;
      read_again = true;
    }
    Log(LogLevel::kWarning, absl::StrCat(entry.substitute >= 0 ? "substituted: " : "skipped: ", entry.reason));
    if (slot.ledger.size() < kLedgerMax) slot.ledger.push_back(std::move(entry));
  }
  if (read_again) {
    GiveUp(slot.attempt);
    slot.state = SlotState::kFilling;
    MemoryFreed();
    WakeStreams();
    return;
  }
  BatchRead(slot);
}

}  // namespace penstock
