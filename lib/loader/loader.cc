#include "penstock/loader.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/trace.h"
#include "loader/loader_core.h"

namespace penstock {
namespace {

constexpr int64_t kWaitMsMax = int64_t{1} << 40;  // 35 years: no sum overflows

absl::Status Forked() {
  return absl::FailedPreconditionError(
      "this loader was opened before fork(): its threads and rings are the parent's. Open a loader in the child, or use threads");
}

absl::Status Taken() { return absl::FailedPreconditionError("another thread is in Next() of this loader: it has one consumer at a time"); }

}  // namespace

Loader::Loader(std::shared_ptr<LoaderCore> core) : core_(std::move(core)) {}

absl::StatusOr<std::unique_ptr<Loader>> Loader::Open(LoaderOptions options, std::shared_ptr<Runtime> runtime) {
  if (runtime == nullptr) runtime = Runtime::Default();
  StartTrace();
  RuntimeCore& runtime_core = *runtime->core_;
  if (runtime_core.InForkedChild()) {
    return absl::FailedPreconditionError(
        "this Runtime was made before fork(): its threads are the parent's. Make one in the child, or leave it out");
  }
  auto core = std::make_shared<LoaderCore>(std::move(options), std::move(runtime), runtime_core);
  absl::Status status = core->Open();
  if (!status.ok()) {
    core->Shutdown();
    return status;
  }
  return std::unique_ptr<Loader>(new Loader(std::move(core)));
}

Loader::~Loader() {
  if (core_->InForkedChild()) {
    // Nothing of it may be touched here: the locks may be held by threads that this process does not have.
    new std::shared_ptr<LoaderCore>(std::move(core_));
    return;
  }
  core_->Shutdown();
}

absl::StatusOr<Batch> Loader::Next() { return NextOf(*core_, -1); }

absl::StatusOr<Batch> Loader::NextWithin(int64_t wait_ms) {
  if (wait_ms < 0) return absl::InvalidArgumentError(absl::StrCat("NextWithin(", wait_ms, "): the wait is 0 ms or more"));
  return NextOf(*core_, std::min(wait_ms, kWaitMsMax) * kNsPerMs);
}

absl::StatusOr<Batch> Loader::NextOf(LoaderCore& core, int64_t within_ns) {
  const TraceRange range(TraceStage::kNext);
  if (core.InForkedChild()) return Forked();
  const LoaderCore::Turn turn(core);
  if (!turn.taken()) {
    return absl::FailedPreconditionError(
        "another thread is in Next() of this loader: it has one consumer at a time. Take batches on one thread, or let the threads take "
        "turns");
  }
  return core.Next(within_ns);
}

absl::Status Loader::StartEpoch() {
  if (core_->InForkedChild()) return Forked();
  const LoaderCore::Turn turn(*core_);
  if (!turn.taken()) return Taken();
  return core_->StartEpoch(-1);
}

absl::Status Loader::StartEpoch(int64_t epoch) {
  if (core_->InForkedChild()) return Forked();
  if (epoch < 0 || epoch >= kEpochMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("StartEpoch(", epoch, "): an epoch is a number from 0 to ", kEpochMax - 1, " (2^40 - 1)"));
  }
  const LoaderCore::Turn turn(*core_);
  if (!turn.taken()) return Taken();
  return core_->StartEpoch(epoch);
}

absl::Status Loader::Skip(int64_t steps) {
  if (core_->InForkedChild()) return Forked();
  const LoaderCore::Turn turn(*core_);
  if (!turn.taken()) return Taken();
  return core_->Skip(steps);
}

absl::Status Loader::SetWeights(absl::Span<const double> weights) {
  if (core_->InForkedChild()) return Forked();
  const LoaderCore::Turn turn(*core_);
  if (!turn.taken()) return Taken();
  return core_->SetWeights(weights);
}

void Loader::Stop() {
  if (!core_->InForkedChild()) core_->Stop();
}

int64_t Loader::epoch() const { return core_->InForkedChild() ? -1 : core_->epoch(); }
int64_t Loader::steps() const { return core_->InForkedChild() ? -1 : core_->steps(); }
int64_t Loader::steps_left() const { return core_->InForkedChild() ? -1 : core_->steps_left(); }
int64_t Loader::step() const { return core_->InForkedChild() ? -1 : core_->step(); }
std::string Loader::state() const { return core_->InForkedChild() ? std::string() : core_->state(); }
EpochReport Loader::report() const { return core_->InForkedChild() ? EpochReport() : core_->report(); }
SetupReport Loader::setup() const { return core_->InForkedChild() ? SetupReport() : core_->setup(); }
std::shared_ptr<const Manifest> Loader::manifest() const { return core_->manifest(); }

}  // namespace penstock
