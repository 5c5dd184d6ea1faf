#include "loader/loader_core.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "loader/lease.h"
#include "penstock/mixture.h"

namespace penstock {
namespace {

constexpr int64_t kShutdownNs = 3 * kNsPerSecond;  // for the streams; a loader ends within 5 s, whatever hangs
constexpr size_t kNextSamplesMax = 1 << 16;
constexpr size_t kIdsNamed = 4;  // of a lent batch, in a message
constexpr int64_t kCopyPollNs = 20'000;

void KeepThisThreadOn(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  }
  if (CPU_COUNT(&set) == 0) return;
  // A cpuset that changed since the map was read is no reason to fail: the thread runs where it may.
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

}  // namespace

LoaderIntervals& Intervals() {
  static LoaderIntervals intervals;
  return intervals;
}

LoaderCore::LoaderCore(LoaderOptions options, std::shared_ptr<Runtime> runtime, RuntimeCore& runtime_core)
    : options_(std::move(options)), runtime_(std::move(runtime)), runtime_core_(runtime_core), opened_ns_(MonotonicNs()) {}

LoaderCore::~LoaderCore() {
  if (seat_ >= 0) runtime_core_.LeaveSeat(seat_);
  ReturnDepth();
  if (leased_memory_) runtime_core_.ReturnMemory(options_.memory_bytes);
}

StepPlan LoaderCore::StepsOf(int64_t epoch) const {
  StepPlan steps;
  steps.sample_count = order_->size();
  steps.origin = epoch == first_epoch_ ? origin_ : 0;
  steps.batch_size = options_.batch_size;
  steps.world_size = options_.world_size;
  steps.tail = *options_.tail;
  return steps;
}

int64_t LoaderCore::RankSamples(int64_t epoch) const {
  const StepPlan steps = StepsOf(epoch);
  const int64_t count = steps.steps();
  if (options_.tail != Tail::kPartial || count == 0) return count * options_.batch_size;
  std::vector<int64_t> last;
  steps.Positions(count - 1, options_.rank, last);
  return (count - 1) * options_.batch_size + static_cast<int64_t>(last.size());
}

void LoaderCore::StreamMain(size_t index) {
  ::pthread_setname_np(::pthread_self(), absl::StrCat("penstock/", index).substr(0, 15).c_str());
  KeepThisThreadOn(stream_cpus_[index]);
  StreamThread& thread = *threads_[index];
  thread.tid.store(::gettid(), std::memory_order_relaxed);
  Stream* running = nullptr;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const int64_t round = ring_round_;
    const Engine engine = engine_;
    const std::shared_ptr<PreadPool> pool = pool_;
    const RingOptions ring_options = StreamRingOptions();
    lock.unlock();
    absl::StatusOr<std::unique_ptr<Ring>> ring =
        MakeRingPatiently(engine, *objects_, ring_options, pool, opened_ns_ + intervals_.ring_patience_ns);
    std::unique_ptr<Stream> stream;
    if (ring.ok()) {
      StreamOptions options;
      options.index = static_cast<int32_t>(index);
      options.depth = static_cast<int64_t>(ring_options_.capacity);
      options.retries = options_.retries;
      options.deadline_ns = static_cast<int64_t>(options_.deadline_s * 1e9);
      options.report_ns = intervals_.report_ns;
      options.verify_stat = options_.verify == Verify::kStat;
      options.compute = compute_.get();
      stream = std::make_unique<Stream>(*this, *std::move(ring), options);
    }
    running = stream.get();
    lock.lock();
    thread.status = ring.ok() ? absl::OkStatus()
                              : absl::Status(ring.status().code(),
                                             absl::StrCat("stream ", index, " of ", placement_.size(), ": ", ring.status().message()));
    thread.stream = std::move(stream);
    thread.started = true;
    ready_.notify_all();
    rings_.wait(lock, [&] { return rings_agreed_ || stopping() || round != ring_round_; });
    if (rings_agreed_ || stopping()) break;
    stream = std::move(thread.stream);
    lock.unlock();
    stream.reset();
    lock.lock();
  }
  lock.unlock();
  if (running != nullptr) running->Run();
  {
    // The ring belongs to this thread and ends with it.
    std::unique_ptr<Stream> ended;
    std::lock_guard<std::mutex> end_lock(mutex_);
    ended = std::move(thread.stream);
    thread.ended = true;
    ready_.notify_all();
    ended.reset();
  }
}

absl::StatusOr<Batch> LoaderCore::Next(int64_t within_ns) {
  const int64_t begin_ns = MonotonicNs();
  std::unique_lock<std::mutex> lock(mutex_);
  if (waiting_since_ns_ == 0) {
    waiting_since_ns_ = begin_ns;
    report_ns_ = begin_ns + intervals_.report_ns;
  }
  const absl::StatusOr<Front> front = WaitForFront(lock, within_ns < 0 ? std::numeric_limits<int64_t>::max() : begin_ns + within_ns);
  const int64_t now_ns = MonotonicNs();
  if (!ended_.has_value()) totals_.wait_ns += now_ns - begin_ns;
  if (front.ok() && *front == Front::kNotYet) return Batch();
  const int64_t waited_ns = EndWait(now_ns);
  if (!front.ok()) return front.status();
  if (*front == Front::kEndOfEpoch) return Batch::EndOfEpoch();
  if (totals_.batches == 0) totals_.first_batch_ns = epoch_ == first_epoch_ ? now_ns - opened_ns_ : waited_ns;
  const auto us = static_cast<float>(waited_ns) / 1000.0f;
  if (totals_.next_us.size() < kNextSamplesMax) {
    totals_.next_us.push_back(us);
  } else {
    totals_.next_us[static_cast<size_t>(totals_.batches) % kNextSamplesMax] = us;
  }
  absl::StatusOr<Batch> batch = TakeFront();
  lock.unlock();
  if (!ledger_pending_.empty()) WriteLedger();
  return batch;
}

int64_t LoaderCore::EndWait(int64_t now_ns) {
  if (waiting_since_ns_ == 0) return 0;
  const int64_t waited_ns = now_ns - std::exchange(waiting_since_ns_, 0);
  waited_ns_ += waited_ns;
  return waited_ns;
}

void LoaderCore::WriteLedger() {
  const absl::Status status = ledger_->Append(ledger_pending_);
  if (!status.ok()) {
    Log(LogLevel::kWarning, absl::StrCat(ledger_pending_.size(), " entries are missing in the ledger: ", status.message()));
  }
  ledger_pending_.clear();
}

absl::StatusOr<LoaderCore::Front> LoaderCore::WaitForFront(std::unique_lock<std::mutex>& lock, int64_t give_up_ns) {
  const int64_t deadline_ns = waiting_since_ns_ + static_cast<int64_t>(options_.deadline_s * 1e9) + kNsPerSecond;
  if (!fatal_.ok() && int64_t{arena_->quarantined_granules()} * kGranuleBytes <= quarantine_max_bytes_) {
    // The reads have come back meanwhile, and their memory with them.
    fatal_ = absl::OkStatus();
    WakeStreams();
  }
  if (totals_.begin_ns == 0) totals_.begin_ns = waiting_since_ns_;
  if (!ahead_.empty() && ahead_.front()->state == SlotState::kFailed && ahead_.front()->error_seen) {
    TryAgain(*ahead_.front());
  }
  int64_t poll_ns = kCopyPollNs;
  while (true) {
    if (stopping()) return absl::CancelledError("Stop() was called");
    PollDevice();
    if (!device_error_.ok()) return device_error_;
    if (!fatal_.ok()) return fatal_;
    if (step_ >= StepsOf(epoch_).steps()) return Front::kEndOfEpoch;
    if (!ahead_.empty()) {
      Slot& front = *ahead_.front();
      if (front.state == SlotState::kReady || front.state == SlotState::kFailed) {
        // Names of files are read from the manifest until the last of a batch is open.
        if (absl::Status intact = manifest_->CheckIntact(); !intact.ok()) {
          front.error_seen = true;
          return intact;
        }
      }
      if (front.state == SlotState::kReady && !front.decisions.empty()) {
        FailedRun run = failed_run_;
        if (absl::Status status = CheckFailures(front, run); !status.ok()) FailByLimit(front, std::move(status));
      }
      if (front.state == SlotState::kReady) return Front::kReady;
      if (front.state == SlotState::kFailed) {
        front.error_seen = true;
        return front.error;
      }
    }
    const bool unplaced = ahead_.empty() || (ahead_.front()->state == SlotState::kFilling && ahead_.front()->attempt == nullptr);
    if (unplaced && memory_wanted_ && !planning_ && !lent_names_.empty() && returning_pieces_ == 0) {
      // What is being copied, or is still in use by a CUDA stream, comes back by itself.
      if (!DeviceMayFree()) return AllLent();
    }
    const int64_t now_ns = MonotonicNs();
    if (now_ns >= deadline_ns) {
      return absl::DeadlineExceededError(
          absl::StrCat("Next() waited ", (now_ns - waiting_since_ns_) / kNsPerMs, " ms, past deadline_s: ", Waiting()));
    }
    if (now_ns >= give_up_ns) return Front::kNotYet;
    if (now_ns >= report_ns_) {
      ++totals_.reads.late_reports;
      const std::string waiting = Waiting();
      // The sink is the user's: the streams must not wait for it.
      lock.unlock();
      Log(LogLevel::kWarning, absl::StrCat("Next() has been waiting for ", (now_ns - waiting_since_ns_) / kNsPerMs, " ms: ", waiting));
      lock.lock();
      report_ns_ += intervals_.report_ns;
      continue;
    }
    int64_t until_ns = std::min({deadline_ns, report_ns_, give_up_ns});
    if (DeviceMayFree()) {
      // Copies end without a word: we look.
      until_ns = std::min(until_ns, now_ns + poll_ns);
      poll_ns = std::min(2 * poll_ns, kCopyPollMaxNs);
    }
    const bool copying = !ahead_.empty() && ahead_.front()->state == SlotState::kCopying;
    ready_.wait_for(lock, std::chrono::nanoseconds(until_ns - now_ns));
    if (copying) totals_.copy_wait_ns += MonotonicNs() - now_ns;
  }
}

absl::StatusOr<Batch> LoaderCore::TakeFront() {
  std::unique_ptr<Slot> slot = std::move(ahead_.front());
  ahead_.pop_front();
  PENSTOCK_CHECK(slot->epoch == epoch_ && slot->step == step_, "batches come in order");
  ++step_;
  const BatchPlan& plan = slot->attempt->plan();
  int64_t skipped = 0;
  int64_t bytes = 0;
  for (size_t i = 0; i < plan.ids.size(); ++i) {
    skipped += plan.valid[i] == 0 ? 1 : 0;
    bytes += plan.lengths[i];
    if (plan.valid[i] != 0 && !plan.members.empty()) ++totals_.member_samples[static_cast<size_t>(plan.members[i])];
  }
  if (!slot->decisions.empty()) {
    PENSTOCK_CHECK(CheckFailures(*slot, failed_run_).ok(), "what is handed out was looked at");
  } else if (!plan.ids.empty()) {
    failed_run_ = FailedRun();
  }
  int64_t substituted = 0;
  for (const Decision& decision : slot->decisions) substituted += !decision.skip && decision.substitute >= 0 ? 1 : 0;
  totals_.skipped += skipped;
  totals_.substituted += substituted;
  totals_.delivered += static_cast<int64_t>(plan.ids.size()) - skipped - substituted;
  totals_.bytes += bytes;
  totals_.planned_reads += static_cast<int64_t>(plan.extents.size());
  totals_.read_bytes += static_cast<int64_t>(plan.read_bytes);
  if (mixing_.has_value()) mixing_->Add(plan.labels);
  if (warmer_ != nullptr && warm_steps_ > 0) warmer_->AtRun(step_ / warm_steps_);
#ifndef NDEBUG
  if (device_path_ == nullptr) PoisonHoles(plan, slot->attempt->places());
#endif
  ++totals_.batches;
  if (ledger_.has_value()) ledger_pending_ = slot->ledger;
  for (LedgerEntry& entry : slot->ledger) {
    if (totals_.ledger.size() < kLedgerMax) totals_.ledger.push_back(std::move(entry));
  }
  std::string name =
      absl::StrCat("epoch ", slot->epoch, " step ", slot->step, " (ids ",
                   absl::StrJoin(plan.ids.begin(), plan.ids.begin() + static_cast<int64_t>(std::min(plan.ids.size(), kIdsNamed)), ", "),
                   plan.ids.size() > kIdsNamed ? ", ..." : "", ")");
  auto lease = std::make_unique<Batch::Lease>();
  lease->number = ++leases_;
  lent_names_.emplace_back(lease->number, std::move(name));
  lease->core = shared_from_this();
  lease->attempt = std::move(slot->attempt);
  if (step_ >= StepsOf(epoch_).steps()) ended_ = MakeReport();
  WakeStreams();
  return Batch(std::move(lease));
}

void LoaderCore::Released(int64_t lease, std::shared_ptr<DeviceBatch> device) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (device != nullptr) device_path_->Release(std::move(device));
  lent_names_.erase(std::remove_if(lent_names_.begin(), lent_names_.end(), [&](const auto& entry) { return entry.first == lease; }),
                    lent_names_.end());
  MemoryFreed();
  WakeStreams();
}

absl::Status LoaderCore::StartEpoch(int64_t epoch) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (stopping()) return absl::CancelledError("Stop() was called");
  EndWait(MonotonicNs());
  const int64_t next = epoch < 0 ? epoch_ + 1 : epoch;
  if (!Reaches(*order_, next)) {
    return absl::FailedPreconditionError(
        absl::StrCat("StartEpoch(", next, "): epochs are numbered below 2^40, and those of a mixture have 2^56 positions together; the "
                                          "epoch lies behind that"));
  }
  const bool continues = next == epoch_ + 1 && step_ >= StepsOf(epoch_).steps();
  if (const Mixture* const mixture = order_->mixture(); mixture != nullptr && !mixture->Covers(next, 0)) {
    return absl::FailedPreconditionError(absl::StrCat("StartEpoch(", next, "): the mixture's weights were changed at position ",
                                                      mixture->first_position(), " of all epochs together, ", mixture->epoch_samples(),
                                                      " each, and that epoch does not begin behind it; open a loader "
                                                      "with the old weights for it, or go on with a later epoch"));
  }
  if (!continues) {
    // The state of the restored epoch was a place in it; an epoch that is begun by name begins at its start.
    if (next == first_epoch_) origin_ = 0;
    DropAhead();
    plan_epoch_ = next;
    plan_step_ = 0;
  } else if (plan_epoch_ == epoch_) {
    plan_epoch_ = next;
    plan_step_ = 0;
  }
  epoch_ = next;
  step_ = 0;
  broken_.clear();
  failed_run_ = FailedRun();
  BeginTotals();
  if (mixing_.has_value()) mixing_->Reset();
  WakeStreams();
  // The windows of another epoch are others; the whole set is the same.
  std::unique_ptr<Warmer> ended;
  if (options_.disk_blocks || (warmer_ != nullptr && warmer_->done())) ended = std::move(warmer_);
  lock.unlock();
  ended.reset();
  if (options_.disk_blocks) StartWarmer(next);
  return absl::OkStatus();
}

absl::Status LoaderCore::Skip(int64_t steps) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping()) return absl::CancelledError("Stop() was called");
  if (steps < 0) return absl::InvalidArgumentError(absl::StrCat("Skip(", steps, "): the number of steps to pass over is below 0"));
  const StepPlan plan = StepsOf(epoch_);
  if (steps > plan.steps() - step_) {
    return absl::OutOfRangeError(absl::StrCat("Skip(", steps, "): epoch ", epoch_, " has ", plan.steps(), " steps",
                                              plan.origin > 0 ? absl::StrCat(" from position ", plan.origin, " on") : "", ", of which ", step_,
                                              " were taken, so that only ", plan.steps() - step_,
                                              " are left to pass over; StartEpoch() begins the next one"));
  }
  if (steps == 0) return absl::OkStatus();
  step_ += steps;
  EndWait(MonotonicNs());  // a wait that NextWithin() began was for a batch that is passed over
  totals_.passed += steps * options_.batch_size;
  if (step_ == plan.steps() && options_.tail == Tail::kPartial) {
    std::vector<int64_t> last;
    plan.Positions(step_ - 1, options_.rank, last);
    totals_.passed -= options_.batch_size - static_cast<int64_t>(last.size());
  }
  if (step_ == plan.steps()) ended_ = MakeReport();
  // Whoever plans at this moment plans what may be passed over now.
  ++generation_;
  while (!ahead_.empty() && ahead_.front()->epoch == epoch_ && ahead_.front()->step < step_) {
    GiveUp(ahead_.front()->attempt);
    ahead_.pop_front();
  }
  if (plan_epoch_ == epoch_ && plan_step_ < step_) {
    unplaced_.reset();
    PlanFrom(epoch_, step_);
  }
  if (warmer_ != nullptr && warm_steps_ > 0) warmer_->AtRun(step_ / warm_steps_);
  MemoryFreed();
  WakeStreams();
  return absl::OkStatus();
}

absl::Status LoaderCore::SetWeights(absl::Span<const double> weights) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping()) return absl::CancelledError("Stop() was called");
  const Mixture* const mixture = order_->mixture();
  if (mixture == nullptr) {
    return absl::FailedPreconditionError("SetWeights(): this loader reads one data set; give several by the option mixture");
  }
  int64_t epoch = epoch_;
  int64_t position = 0;
  StepsOf(epoch_).Advance(step_, epoch, position);
  absl::StatusOr<Mixture> changed = mixture->WithWeights(epoch, position, weights);
  if (!changed.ok()) return changed.status();
  EndWait(MonotonicNs());  // a wait that NextWithin() began was for a batch of the old weights
  DropAhead();
  order_.emplace(Order::FromMixture(*changed));
  PlanFrom(epoch_, step_);
  WakeStreams();
  return absl::OkStatus();
}

void LoaderCore::Stop() {
  std::lock_guard<std::mutex> lock(mutex_);
  stopping_.store(true, std::memory_order_release);
  rings_.notify_all();
  work_.notify_all();
  ready_.notify_all();
  for (auto& thread : threads_) {
    if (thread->stream != nullptr) thread->stream->Wake();
  }
}

void LoaderCore::Shutdown() {
  Stop();
  std::unique_ptr<Warmer> warmer;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    warmer = std::move(warmer_);
  }
  warmer.reset();
  // What is queued for the codec comes back at once, what runs within a second, or its stream stays behind like one whose read hangs.
  if (compute_ != nullptr) static_cast<void>(compute_->Stop(kNsPerSecond));
  std::unique_lock<std::mutex> lock(mutex_);
  DropAhead();
  const auto all_ended = [this] { return std::all_of(threads_.begin(), threads_.end(), [](const auto& t) { return t->ended; }); };
  ready_.wait_for(lock, std::chrono::nanoseconds(kShutdownNs), all_ended);
  int64_t hung = 0;
  std::vector<std::thread> ended;
  for (auto& thread : threads_) {
    if (!thread->thread.joinable()) continue;
    if (thread->ended) {
      ended.push_back(std::move(thread->thread));
    } else {
      // It keeps this object, its ring and the arena alive until the kernel has let go of its reads, and ends then.
      thread->thread.detach();
      ++hung;
    }
  }
  const int64_t held = int64_t{arena_ == nullptr ? 0 : arena_->quarantined_granules()} * kGranuleBytes;
  lock.unlock();
  for (std::thread& thread : ended) thread.join();
  if (hung > 0) {
    Log(LogLevel::kWarning, absl::StrCat(hung, " streams still have reads that hang; they and their memory (", held,
                                         " bytes known to hang) stay until the kernel lets go"));
  }
}

int64_t LoaderCore::epoch() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return epoch_;
}

int64_t LoaderCore::steps() const {
  std::lock_guard<std::mutex> lock(mutex_);
  StepPlan whole = StepsOf(epoch_);
  whole.origin = 0;
  return whole.steps();
}

int64_t LoaderCore::steps_left() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return StepsOf(epoch_).steps() - step_;
}

int64_t LoaderCore::step() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return step_;
}

std::string LoaderCore::state() const {
  std::lock_guard<std::mutex> lock(mutex_);
  State state;
  state.fingerprint = fingerprint_;
  state.seed = *options_.seed;
  state.shuffle = *options_.shuffle;
  state.disk_blocks = options_.disk_blocks;
  state.format_version = options_.disk_blocks ? 2 : 1;
  state.block_samples = *options_.block_samples;
  state.window_samples = *options_.window_samples;
  state.virtual_streams = *options_.virtual_streams;
  state.tail = *options_.tail;
  state.epoch = epoch_;
  StepsOf(epoch_).Advance(step_, state.epoch, state.position);
  if (!options_.ids.empty()) state.ids_hash = order_->ids_hash_text();
  if (order_->mixture() != nullptr) state.mixture = order_->mixture()->ToText();
  return state.ToJson();
}

}  // namespace penstock
