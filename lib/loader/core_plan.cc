// The batches ahead of the consumer: planned, given memory, and given up.
#include "loader/loader_core.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/trace.h"

namespace penstock {

absl::Status LoaderCore::PlanAttempt(const Order& order, const StepPlan& steps, int64_t epoch, int64_t step,
                                     const std::vector<Decision>& decisions, Attempt& attempt) {
  plan_positions_.clear();
  steps.Positions(step, options_.rank, plan_positions_);
  plan_ids_.resize(plan_positions_.size());
  plan_places_.resize(plan_positions_.size());
  plan_samples_.clear();
  plan_ranges_.clear();
  // All at once: one by one, a window of the order would be shuffled again for each of them.
  order.IdsOfPlan(epoch, plan_positions_, absl::MakeSpan(plan_places_));
  for (size_t i = 0; i < plan_positions_.size(); ++i) {
    plan_ids_[i] = options_.disk_blocks ? manifest_->IdAtPlace(plan_places_[i]) : plan_places_[i];
  }
  for (const Decision& decision : decisions) {
    if (!decision.skip && decision.substitute >= 0) plan_ids_[decision.index] = decision.substitute;
  }
  for (size_t i = 0; i < plan_positions_.size(); ++i) {
    PlanSample& sample = plan_samples_.emplace_back();  // written where it stays: a copy of what was just written is slow
    sample.id = plan_ids_[i];
    sample.position = plan_positions_[i];
    sample.label = manifest_->Label(sample.id);
    sample.first_range = static_cast<uint32_t>(plan_ranges_.size());
    manifest_->AppendRanges(sample.id, plan_ranges_);
    sample.range_count = static_cast<uint32_t>(plan_ranges_.size()) - sample.first_range;
    uint64_t stored = 0;
    for (size_t r = sample.first_range; r < plan_ranges_.size(); ++r) stored += plan_ranges_[r].stored_bytes;
    sample.whole_object = sample.range_count == 1 && manifest_->EndsObject(plan_ranges_.back());
    if (plan_options_.sort_by_place) {
      sample.place =
          options_.disk_blocks ? static_cast<uint64_t>(plan_places_[i]) : manifest_->place_hint(plan_ranges_[sample.first_range].object);
    }
    sample.delivered_bytes = plan_options_.scratch ? codec_->DeliveredBound(stored, manifest_->DeliveredBytes(sample.id)) : stored;
  }
  for (const Decision& decision : decisions) plan_samples_[decision.index].skip = decision.skip;
  if (absl::Status status = PlanBatch(plan_samples_, plan_ranges_, plan_options_, attempt.plan()); !status.ok()) {
    const absl::Status cause = manifest_->CheckIntact();
    return cause.ok() ? status : cause;
  }
  if (!options_.mixture.empty()) {
    for (const int64_t id : attempt.plan().ids) attempt.plan().members.push_back(static_cast<int32_t>(manifest_->MemberOf(id)));
  }
  return manifest_->CheckIntact();
}

// Plans one batch more, or gives memory to the one that waits for it. True: something may be claimed now, or the caller should look again.
bool LoaderCore::PlanLocked(std::unique_lock<std::mutex>& lock) {
  if (planning_ || stopping() || !fatal_.ok() || !device_error_.ok()) return false;
  // A batch that was lost to a hung or failed read comes first.
  Slot* again = nullptr;
  for (auto& slot : ahead_) {
    if (slot->state == SlotState::kFilling && slot->attempt == nullptr) {
      again = slot.get();
      break;
    }
  }
  int64_t epoch = plan_epoch_;
  int64_t step = plan_step_;
  std::vector<Decision> decisions;
  if (again != nullptr) {
    epoch = again->epoch;
    step = again->step;
    decisions = again->decisions;
  } else {
    if (static_cast<int32_t>(ahead_.size()) >= setup_.prefetch_batches) return false;
    if (!Reaches(*order_, epoch)) return false;
    if (step >= StepsOf(epoch).steps()) return false;  // an epoch without steps: nothing follows (a batch larger than the data set)
    if (epoch != epoch_ && (!options_.next_epoch_prefetch || IsLastEpoch(epoch - 1))) return false;
    if (memory_wanted_) return false;  // until something is freed
  }

  // Memory that did not do for it a moment ago does not now.
  if (again != nullptr && device_path_ != nullptr && memory_wanted_) return false;

  planning_ = true;
  const bool look_again = may_switch_io_ && again == nullptr && epoch != epoch_io_.back().epoch;
  const bool costs_came = measuring_io_ != nullptr && again == nullptr && measuring_io_->done();
  const int64_t frees = memory_frees_;
  const int64_t generation = generation_;
  const StepPlan steps = StepsOf(epoch);  // StartEpoch may change the origin meanwhile
  const Order order = *order_;            // and SetWeights the order
  std::shared_ptr<Attempt> attempt = again == nullptr ? std::move(unplaced_) : nullptr;
  unplaced_ = nullptr;
  lock.unlock();
  absl::Status status;
  std::optional<EpochIo> io;
  if (costs_came) TakeIoCosts();
  if (look_again || costs_came) {
    IoDecision decision = PlanBy(look_again ? LookAgain(epoch) : FactsOf(epoch));
    io.emplace(EpochIo{epoch, decision.direct, std::move(decision.why)});
  }
  if (attempt == nullptr) {
    const TraceRange range(TraceStage::kPlan);
    attempt = std::make_shared<Attempt>(arena_, spare_plans_, epoch, step);
    status = PlanAttempt(order, steps, epoch, step, decisions, *attempt);
    if (!attempt->plan().direct) buffered_samples_ += static_cast<int64_t>(attempt->plan().ids.size());
  }
  bool placed = false;
  if (status.ok() && device_path_ != nullptr) {
    absl::StatusOr<std::shared_ptr<DeviceBatch>> device = device_path_->Place(attempt->plan());
    status = device.status();
    placed = status.ok() && *device != nullptr;
    if (placed) attempt->device = *std::move(device);
    attempt->pieces_left = static_cast<uint32_t>(attempt->plan().pieces.size());
  } else if (status.ok()) {
    const uint64_t bytes = attempt->plan().bytes + attempt->plan().scratch_bytes;
    const int64_t granules = GranulesFor(bytes);
    const int64_t reserved = again == nullptr ? reserve_granules_ : 0;
    const Run run = arena_->Allocate(granules, reserved);
    placed = run.valid();
    if (!placed && granules + reserved > arena_->granules()) {
      // No memory that is given back would do: a sample is larger than the manifest says of the largest, or comes several times.
      status = absl::ResourceExhaustedError(absl::StrCat(
          "step ", step, " of epoch ", epoch, " needs ", bytes, " bytes and the largest batch by its manifest ", setup_.batch_bytes_max,
          ", of memory_bytes ", options_.memory_bytes,
          "; raise memory_bytes, or look for a damaged manifest (penstock index makes it anew)"));
    }
    if (placed) attempt->set_run(run);
    attempt->pieces_left = static_cast<uint32_t>(attempt->plan().pieces.size());
  }
  if (!placed && status.ok() && intervals_.memory_refused != nullptr) intervals_.memory_refused();
  lock.lock();
  planning_ = false;
  if (io.has_value()) {
    if (epoch_io_.back().epoch == epoch) epoch_io_.pop_back();
    epoch_io_.push_back(*std::move(io));
  }
  while (epoch_io_.size() > 1 && epoch_io_[1].epoch <= epoch_) epoch_io_.pop_front();
  if (generation != generation_) return true;  // StartEpoch went elsewhere meanwhile
  if (again != nullptr) {
    again = nullptr;
    for (auto& slot : ahead_) {
      if (slot->epoch == epoch && slot->step == step && slot->attempt == nullptr) again = slot.get();
    }
    PENSTOCK_CHECK(again != nullptr, "a batch that is read again stays in the queue");
    if (status.ok() && !placed && device_path_ != nullptr) {
      if (frees != memory_frees_) return true;
      // The batches behind it have its memory. They are read again, too, rather than waited for: they wait for this one.
      DropBehind(*again);
      memory_wanted_ = true;
      ready_.notify_all();
      return false;
    }
    if (!status.ok() || !placed) {
      again->state = SlotState::kFailed;
      again->error_seen = false;
      again->error = !status.ok() ? status
                                  : absl::ResourceExhaustedError(absl::StrCat(
                                        "no memory to read step ", step, " of epoch ", epoch, " again: ", arena_->quarantined_granules(),
                                        " of ", arena_->granules(), " granules are held by reads that hang; raise memory_bytes"));
      ready_.notify_all();
      return false;
    }
    again->attempt = std::move(attempt);
  } else if (!status.ok()) {
    auto slot = std::make_unique<Slot>();
    slot->epoch = epoch;
    slot->step = step;
    slot->state = SlotState::kFailed;
    slot->error = status;
    ahead_.push_back(std::move(slot));
    ready_.notify_all();
    return false;
  } else if (!placed) {
    unplaced_ = std::move(attempt);
    // What was freed after we had looked for memory, and before we wanted it, would wake nobody: look again.
    if (frees != memory_frees_) return true;
    memory_wanted_ = true;
    ready_.notify_all();  // the consumer may hold all of it
    return false;
  } else {
    auto slot = std::make_unique<Slot>();
    slot->epoch = epoch;
    slot->step = step;
    slot->attempt = std::move(attempt);
    ahead_.push_back(std::move(slot));
    again = ahead_.back().get();
    PlanFrom(plan_epoch_, plan_step_ + 1);
  }
  if (again->attempt->pieces_left == 0) AttemptDone(*again);  // an empty batch of tail=partial
  return true;
}

void LoaderCore::PlanFrom(int64_t epoch, int64_t step) {
  const bool ended = step >= StepsOf(epoch).steps();
  plan_epoch_ = ended ? epoch + 1 : epoch;
  plan_step_ = ended ? 0 : step;
}

// Gives up the batches after `slot`: they are planned and read again.
void LoaderCore::DropBehind(const Slot& slot) {
  while (!ahead_.empty() && ahead_.back().get() != &slot) {
    plan_epoch_ = ahead_.back()->epoch;
    plan_step_ = ahead_.back()->step;
    GiveUp(ahead_.back()->attempt);
    ahead_.pop_back();
  }
  unplaced_.reset();
}

void LoaderCore::MemoryFreed() {
  ++memory_frees_;
  memory_wanted_ = false;
}

void LoaderCore::DropAhead() {
  ++generation_;
  for (auto& slot : ahead_) GiveUp(slot->attempt);
  ahead_.clear();
  unplaced_.reset();
  MemoryFreed();
}

// A batch is given up: streams may hold it for as long as a read hangs, and copies for as long as they run, but its place on the device is
// free once these have ended.
void LoaderCore::GiveUp(std::shared_ptr<Attempt>& attempt) {
  if (attempt == nullptr) return;
  attempt->Cancel();
  attempt->device.reset();
  if (!attempt->quarantined()) {
    attempt->returning = true;
    returning_pieces_ += attempt->pieces_claimed;
  }
  attempt.reset();
}

}  // namespace penstock
