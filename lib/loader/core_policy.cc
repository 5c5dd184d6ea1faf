// What becomes of samples that cannot be read.
#include "loader/loader_core.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "loader/substitutes.h"

namespace penstock {

// All pieces of a batch have come.
void LoaderCore::AttemptDone(Slot& slot) {
  if (slot.attempt->failures.empty()) return BatchRead(slot);
  std::vector<SampleFailure> failures = std::move(slot.attempt->failures);
  slot.attempt->failures.clear();
  ApplyPolicy(slot, std::move(failures), false);
}

// One failure for each sample, in the order of the batch: a sample of several ranges may fail once for each, in any order. The first that
// was seen stays.
std::vector<SampleFailure> LoaderCore::BySample(std::vector<SampleFailure> failures) {
  std::stable_sort(failures.begin(), failures.end(), [](const auto& a, const auto& b) { return a.index < b.index; });
  failures.erase(std::unique(failures.begin(), failures.end(), [](const auto& a, const auto& b) { return a.index == b.index; }),
                 failures.end());
  return failures;
}

void LoaderCore::FailSlot(Slot& slot, absl::Status status) {
  slot.state = SlotState::kFailed;
  slot.error_seen = false;
  slot.error = std::move(status);
  GiveUp(slot.attempt);
  MemoryFreed();
  WakeStreams();
  ready_.notify_all();
}

// Decides what becomes of the samples that failed. The slot ends ready, failed, or filling without an attempt (to be read again).
void LoaderCore::ApplyPolicy(Slot& slot, std::vector<SampleFailure> failures, bool hung) {
  for (const SampleFailure& failure : failures) {
    // A codec function that wrote past its place may have damaged its neighbours: no policy for one sample covers that.
    if (absl::IsInternal(failure.status)) return FailSlot(slot, failure.status);
  }
  failures = BySample(std::move(failures));
  if (options_.policy == ErrorPolicy::kFail) {
    if (hung && slot.hung_tries < options_.retries) {
      ++slot.hung_tries;  // once more, into other memory, perhaps by another stream
      const auto hangs = std::find_if(failures.begin(), failures.end(), [](const auto& failure) { return failure.hung; });
      slot.hung = std::string((hangs == failures.end() ? failures.front() : *hangs).status.message());
      return;
    }
    std::string more = failures.size() > 1 ? absl::StrCat(" (and ", failures.size() - 1, " more samples of this batch)") : "";
    return FailSlot(slot, absl::Status(failures[0].status.code(), absl::StrCat(failures[0].status.message(), more)));
  }
  std::vector<int64_t> positions;
  StepsOf(slot.epoch).Positions(slot.step, options_.rank, positions);
  bool read_again = hung;
  for (SampleFailure& failure : failures) {
    auto decision = std::find_if(slot.decisions.begin(), slot.decisions.end(),
                                 [&](const Decision& known) { return known.index == failure.index; });
    if (decision == slot.decisions.end()) {
      decision = slot.decisions.insert(decision, Decision());
      decision->index = failure.index;
    }
    const int64_t position = positions[failure.index];
    const int64_t id = decision->substitute >= 0 ? decision->substitute : IdAt(slot.epoch, position);
    if (decision->tries == 0) decision->object = manifest_->RangeAt(id, 0).object;
    ++decision->tries;
    decision->cause = failure.status;
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
      broken_.insert(id);
      if (absl::Status status = ChooseSubstitute(slot, position, *decision); !status.ok()) return FailByLimit(slot, std::move(status));
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

// The next sample to try in the place of one that failed: the choice is a keyed function of seed, epoch, position and try, over the samples
// of this run and of the same data set, none of them twice. Samples that are known to be broken are passed over: to read them in vain
// would end with the same choice.
absl::Status LoaderCore::ChooseSubstitute(const Slot& slot, int64_t position, Decision& decision) {
  const auto refused = [&](absl::string_view what, absl::string_view cure) {
    return absl::Status(decision.cause.code(), absl::StrCat("policy=substitute, position ", position, " of epoch ", slot.epoch, ": ", what,
                                                            "; the last: ", decision.cause.message(), cure));
  };
  if (options_.skip_run_max > 0 && decision.tries > options_.skip_run_max) {
    return refused(absl::StrCat(decision.tries, " samples in a row could not be read, more than skip_run_max = ", options_.skip_run_max),
                   ". Look whether the data set is still there, or raise skip_run_max (0: no bound)");
  }
  if (decision.tries > options_.skip_max) {
    return refused(absl::StrCat("more than skip_max = ", options_.skip_max, " samples failed in this epoch"),
                   ". Mend the data set, or raise skip_max");
  }
  const int64_t own_id = IdAt(slot.epoch, position);
  int64_t first_id = 0;
  int64_t count = static_cast<int64_t>(substitute_ids_.size());
  if (substitute_ids_.empty()) {
    // Of the same data set, so that a mixture keeps its proportions.
    const int64_t member = manifest_->MemberOf(own_id);
    first_id = manifest_->FirstIdOf(member);
    count = manifest_->FirstIdOf(member + 1) - first_id;
  }
  const SubstituteWalk walk(*options_.seed, slot.epoch, position, count);
  while (decision.walked < count) {
    const int64_t at = walk.At(decision.walked++);
    const int64_t id = substitute_ids_.empty() ? first_id + at : substitute_ids_[static_cast<size_t>(at)];
    if (id == own_id || broken_.contains(id)) continue;
    decision.substitute = id;
    return absl::OkStatus();
  }
  return refused(absl::StrCat("none of the ", count, " samples of this run and data set can be read"),
                 ". Mend the data set, or use policy=skip");
}

// Whether a batch may go out: not where more samples failed than skip_max, skip_share_max and skip_run_max allow. Looked at when the
// batch is handed out, in the order of the batches, so that what is read ahead or given up does not count. `run` becomes the run of failed
// samples that the batch ends with.
absl::Status LoaderCore::CheckFailures(Slot& slot, FailedRun& run) const {
  std::sort(slot.decisions.begin(), slot.decisions.end(), [](const Decision& a, const Decision& b) { return a.index < b.index; });
  const int64_t failed_before = totals_.skipped + totals_.substituted;
  const int64_t samples = RankSamples(slot.epoch);
  int64_t failed = failed_before;
  uint32_t next_index = 0;
  for (const Decision& decision : slot.decisions) {
    const auto refused = [&](absl::string_view what, absl::string_view cure) {
      return absl::Status(decision.cause.code(), absl::StrCat(what, "; the last: ", decision.cause.message(), cure));
    };
    if (++failed > options_.skip_max) {
      return refused(absl::StrCat("more than skip_max = ", options_.skip_max, " samples failed in epoch ", slot.epoch),
                     ". Mend the data set, or raise skip_max");
    }
    if (static_cast<double>(failed) > options_.skip_share_max * static_cast<double>(samples)) {
      return refused(absl::StrCat(failed, " of the ", samples, " samples of epoch ", slot.epoch,
                                  " failed, more than skip_share_max = ", options_.skip_share_max),
                     ". Look whether the data set is still there, or raise skip_share_max");
    }
    // Neighbours in one object fail together: they count as one.
    if (decision.index != next_index) run = FailedRun();
    if (run.length == 0 || run.object != decision.object) ++run.length;
    run.object = decision.object;
    next_index = decision.index + 1;
    if (options_.skip_run_max > 0 && run.length > options_.skip_run_max) {
      return refused(absl::StrCat(run.length, " samples in a row could not be read, more than skip_run_max = ", options_.skip_run_max),
                     ". Look whether the data set is still there, or raise skip_run_max (0: no bound)");
    }
  }
  if (next_index < slot.attempt->plan().ids.size()) run = FailedRun();
  return absl::OkStatus();
}

// A batch that the bounds of the policy refuse. When Next() tries it again, all of it is read again, and the batches behind it too: the
// data set may have come back.
void LoaderCore::FailByLimit(Slot& slot, absl::Status status) {
  FailSlot(slot, std::move(status));
  slot.over_limit = true;
}

// The caller wants the batch that failed once more.
void LoaderCore::TryAgain(Slot& front) {
  if (std::exchange(front.over_limit, false)) {
    ++generation_;  // the planner may be about to add a batch
    DropBehind(front);
    front.decisions.clear();
    front.ledger.clear();
    broken_.clear();
    MemoryFreed();
  }
  front.state = SlotState::kFilling;
  front.hung_tries = 0;
  GiveUp(front.attempt);
  WakeStreams();
}

}  // namespace penstock
