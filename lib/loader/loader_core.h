// One rank: its order, the batches ahead, the streams that fill them, and the consumer's waits.
//
// Everything here is guarded by mutex_, but for the planning of a batch and the handing out of memory, which the one thread that
// is `planning_` does without it. Streams meet the loader in Claim and PieceFinished and nowhere else.
#ifndef PENSTOCK_LOADER_LOADER_CORE_H_
#define PENSTOCK_LOADER_LOADER_CORE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/aside.h"
#include "base/fork_guard.h"
#include "codec/codec.h"
#include "codec/compute_pool.h"
#include "loader/depth_tuner.h"
#include "loader/intervals.h"
#include "loader/io_choice.h"
#include "loader/ledger_file.h"
#include "loader/mixing.h"
#include "loader/residency.h"
#include "loader/runtime.h"
#include "loader/warmer.h"
#include "memory/arena.h"
#include "penstock/batch.h"
#include "penstock/loader.h"
#include "penstock/order.h"
#include "penstock/topology.h"
#include "stream/stream.h"
#include "transfer/device_path.h"

namespace penstock {

class LoaderCore : public PieceSource, public std::enable_shared_from_this<LoaderCore> {
 public:
  LoaderCore(LoaderOptions options, std::shared_ptr<Runtime> runtime, RuntimeCore& runtime_core);
  ~LoaderCore() override;

  absl::Status Open();
  absl::StatusOr<Batch> Next(int64_t within_ns);  // -1: until the deadline; an empty batch where nothing came within that time, or
                                                  // Batch::EndOfEpoch()
  absl::Status StartEpoch(int64_t epoch);  // -1: the one after the current
  absl::Status Skip(int64_t steps);
  absl::Status SetWeights(absl::Span<const double> weights);
  void Stop();
  // Stops, waits for the streams (at most 5 s), and leaves those whose reads hang to end by themselves.
  void Shutdown();
  bool InForkedChild() const { return fork_guard_.InForkedChild(); }

  // One consumer at a time: a second one would make it a matter of luck who gets which batch.
  class Turn {
   public:
    explicit Turn(LoaderCore& core) : core_(core), taken_(!core.in_next_.exchange(true, std::memory_order_acquire)) {}
    ~Turn() {
      if (taken_) core_.in_next_.store(false, std::memory_order_release);
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    bool taken() const { return taken_; }

   private:
    LoaderCore& core_;
    const bool taken_;
  };

  int64_t epoch() const;
  int64_t steps() const;
  int64_t steps_left() const;
  int64_t step() const;
  std::string state() const;
  EpochReport report() const;
  SetupReport setup() const;
  std::shared_ptr<const Manifest> manifest() const { return manifest_; }

  // A batch came back: its host memory is free already, its device memory (null on the host path) is once the work recorded on it is done.
  void Released(int64_t lease, std::shared_ptr<DeviceBatch> device);

  // PieceSource
  bool Claim(int32_t stream, ClaimedPiece& piece, int64_t& seen) override;
  int64_t StarvedWaitNs() const override;
  void WaitForWork(int64_t seen, int64_t deadline_ns) override;
  void PieceFinished(ClaimedPiece piece, const ReadStats& delta) override;
  void SampleFailed(Attempt& attempt, SampleFailure failure) override;
  void Tick(int64_t now_ns) override;
  void AddStats(const ReadStats& delta) override;
  bool stopping() const override { return stopping_.load(std::memory_order_acquire); }
  void DecodePiece(const ClaimedPiece& piece) override;
  std::string ObjectName(uint32_t object) const override;
  int64_t ObjectMtime(uint32_t object) const override { return manifest_->mtime_ns(object); }

 private:
  static constexpr size_t kLedgerMax = 1000;             // entries, of an epoch
  static constexpr int64_t kCopyPollMaxNs = 500'000;     // a 4 MiB piece takes 75 us on PCIe 5

  // What the error policy decided about one sample of a batch.
  struct Decision {
    uint32_t index = 0;
    bool skip = false;
    int64_t substitute = -1;
    int64_t tries = 0;        // samples that failed at this position
    int64_t walked = 0;       // of the samples that may stand in its place
    uint32_t object = 0;      // of the sample itself
    absl::Status cause;       // of the last failure
  };
  // Samples in a row that failed, in the order of the positions; neighbours in one object count once.
  struct FailedRun {
    int64_t length = 0;
    uint32_t object = 0;
  };
  enum class SlotState { kFilling, kCopying, kReady, kFailed };  // kCopying: read, and on its way to the device
  // One batch ahead of the consumer.
  struct Slot {
    int64_t epoch = 0;
    int64_t step = 0;
    SlotState state = SlotState::kFilling;
    bool error_seen = false;      // kFailed: Next() has returned it
    bool over_limit = false;      // likewise: more failed than the policy allows
    absl::Status error;
    std::shared_ptr<Attempt> attempt;  // null while a new one is wanted
    std::vector<Decision> decisions;
    std::vector<LedgerEntry> ledger;
    int64_t hung_tries = 0;
    std::string hung;             // what hung in the last of them
  };
  // A piece in the codec; a function that hangs shows here.
  struct Decoding {
    std::atomic<int64_t> since_ns{0};
    std::atomic<int64_t> id{0};
  };
  struct StreamThread {
    std::thread thread;
    std::atomic<pid_t> tid{0};
    std::unique_ptr<Stream> stream;  // null until its ring is made
    absl::Status status;
    bool started = false;
    bool ended = false;
    bool starved = false;  // Claim gave it nothing, and nothing has come up since
  };

  absl::Status ResolveOptions();
  absl::Status OpenDataSet();
  absl::Status ResolveDevice();
  absl::Status ResolveOrder();
  void WarnOfStateWeights();
  void ChooseMemory();
  absl::Status ResolveMemory();
  absl::Status ResolveStreams();
  absl::Status StartStreams();
  void DegradeToThreads(absl::string_view why);
  void ResolveOpenFiles();
  void BeginTotals();
  bool SmallSamples() const;  // worth reading ahead: places bound them, not bytes
  void ChooseGap();
  // The place in the order of the drive that an epoch's position reads with disk_blocks, else the id; and the id.
  int64_t PlaceAt(int64_t epoch, int64_t position) const { return order_->IdOfPlan(epoch, position); }
  int64_t IdAt(int64_t epoch, int64_t position) const {
    return options_.disk_blocks ? manifest_->IdAtPlace(PlaceAt(epoch, position)) : PlaceAt(epoch, position);
  }
  // Begins to read ahead in the order of place, where that is worth it. On the consumer's thread, without the lock.
  void StartWarmer(int64_t epoch);
  void ChooseIo();
  bool LooksAtPageCache() const;
  bool SortsByPlace() const;
  void SizeRings();
  void TakeLeasedDepth();  // as what the rings have in flight
  void BoundDepth();
  RingOptions StreamRingOptions() const;
  int64_t DescriptorsForDepth() const;
  int IoWorkers() const;
  std::vector<Range> SomeRanges(int64_t epoch, int64_t count) const;
  IoFacts FactsOf(int64_t epoch) const;
  std::function<IoCosts()> IoMeasurement() const;  // holds all that it needs
  // The planner's, without the lock.
  IoFacts LookAgain(int64_t epoch);
  void TakeIoCosts();  // once they have come
  IoDecision PlanBy(const IoFacts& facts);
  // No epoch was announced that follows it.
  bool IsLastEpoch(int64_t epoch) const { return options_.epochs > 0 && epoch >= first_epoch_ + options_.epochs - 1; }
  void StreamMain(size_t index);
  StepPlan StepsOf(int64_t epoch) const;
  int64_t RankSamples(int64_t epoch) const;
  // Whether all steps of an epoch can be planned.
  bool Reaches(const Order& order, int64_t epoch) const { return order.Reaches(epoch, options_.batch_size * options_.world_size); }

  // With the lock held.
  void TellDepthAskedFor();
  void Warn(std::string warning);
  void BeginTuning(int64_t ring_capacity);
  void SetDepth();
  void SetPrefetch();
  void CountDepth(int64_t now_ns);
  std::string DepthWhy() const;
  void ReturnDepth();
  int64_t EndWait(int64_t now_ns);
  void PlanFrom(int64_t epoch, int64_t step);  // next; behind an epoch's last step lies the next epoch
  Slot* SlotToClaim();
  void DropBehind(const Slot& slot);
  void GiveUp(std::shared_ptr<Attempt>& attempt);
  void BatchRead(Slot& slot);
  void PollDevice();
  bool DeviceMayFree() const;
  void DeviceFailed(const absl::Status& status);
  bool PlanLocked(std::unique_lock<std::mutex>& lock);
  absl::Status PlanAttempt(const Order& order, const StepPlan& steps, int64_t epoch, int64_t step, const std::vector<Decision>& decisions,
                           Attempt& attempt);
  void AttemptDone(Slot& slot);
  void ApplyPolicy(Slot& slot, std::vector<SampleFailure> failures, bool hung);
  static std::vector<SampleFailure> BySample(std::vector<SampleFailure> failures);
  absl::Status ChooseSubstitute(const Slot& slot, int64_t position, Decision& decision);
  absl::Status CheckFailures(Slot& slot, FailedRun& run) const;
  void FailSlot(Slot& slot, absl::Status status);
  void FailByLimit(Slot& slot, absl::Status status);
  void TryAgain(Slot& front);
  void DropAhead();
  void MemoryFreed();
  // What a wait for the oldest batch ends with, beside an error.
  enum class Front { kReady, kNotYet, kEndOfEpoch };
  // Waits until the oldest batch is ready, until the epoch has none left, or until `give_up_ns`.
  absl::StatusOr<Front> WaitForFront(std::unique_lock<std::mutex>& lock, int64_t give_up_ns);
  absl::StatusOr<Batch> TakeFront();
  void WriteLedger();  // without the lock, on the consumer's thread
  std::string Waiting() const;
  EpochReport MakeReport() const;
  int64_t StreamDemandNs() const;
  absl::Status AllLent() const;
  Slot* FindSlot(const Attempt* attempt);
  void WakeStreams();
  void WakeStarved(int32_t count);

  LoaderOptions options_;
  const std::shared_ptr<Runtime> runtime_;
  RuntimeCore& runtime_core_;
  const ForkGuard fork_guard_;
  const int64_t opened_ns_;
  const LoaderIntervals intervals_ = Intervals();

  std::shared_ptr<const Manifest> manifest_;
  std::shared_ptr<const ObjectStore> objects_;
  std::string fingerprint_;
  std::optional<Order> order_;  // guarded by mutex_ after Open, with a mixture: SetWeights() puts another one here
  int64_t first_epoch_ = 0;  // the one that was restored into, with its origin
  int64_t origin_ = 0;
  bool packed_ = false;      // several samples lie in one object
  std::shared_ptr<const Codec> codec_;
  std::unique_ptr<ComputePool> compute_;
  PlanOptions plan_options_;
  bool direct_ = false;      // at Open; each plan says how its own reads are
  std::shared_ptr<Arena> arena_;
  const std::shared_ptr<SparePlans> spare_plans_ = std::make_shared<SparePlans>();
  int32_t reserve_granules_ = 0;
  std::shared_ptr<Device> device_;           // null: host path
  std::unique_ptr<DevicePath> device_path_;  // likewise
  int64_t quarantine_max_bytes_ = 0;
  int32_t seat_ = -1;  // of the runtime's; -1: not yet
  int32_t beyond_budget_ = 0;         // of leased_depth_: asked for explicitly, and not of the runtime's budget
  int32_t leased_depth_ = 0;
  bool leased_memory_ = false;
  std::vector<StreamPlacement> placement_;
  std::vector<std::vector<int>> stream_cpus_;  // on which each stream's thread may run; empty: wherever the process may
  RingOptions ring_options_;
  Engine engine_ = Engine::kAuto;
  std::shared_ptr<PreadPool> pool_;
  SetupReport setup_;
  Residency residency_;
  IoCosts io_costs_;
  bool may_switch_io_ = false;
  bool measures_io_ = false;                      // the planner's after Open: the costs are not known yet
  std::unique_ptr<Aside<IoCosts>> measuring_io_;  // likewise; null once they are
  int64_t buffered_samples_ = 0;          // the planner's: planned to be read through the page cache
  bool page_cache_lost_ = false;          // likewise
  std::optional<LabelMixing> mixing_;     // with disk_blocks and labels
  std::unique_ptr<Warmer> warmer_;
  int64_t warm_steps_ = 0;                // of one of its runs; 0: runs have nothing to do with steps
  int allowed_cpus_ = 1;
  int reading_threads_ = 0;  // > 0: io_workers, where the threads that do the reads are what bounds the reads in flight
  // How many reads are in flight: with threads as many as there are of these.
  int32_t depth_first_ = 0;
  int32_t depth_most_ = 0;   // the same: it is not tuned
  std::string depth_why_;
  int32_t prefetch_first_ = 0;
  int compute_threads_ = 0;
  int32_t local_rank_ = 0;
  bool memory_by_itself_ = false;  // memory_bytes was not given
  int64_t memory_half_ = 0;        // of what is left for this loader: as far as memory_bytes may grow by itself
  int32_t local_world_size_ = 1;

  mutable std::mutex mutex_;
  std::condition_variable work_;   // streams: something may be claimed
  int64_t work_version_ = 0;       // counts what may have made a Claim succeed, so that no wake-up is lost
  std::condition_variable
      ready_;  // the consumer: the oldest batch is ready, or one failed; Open and Shutdown: a stream has begun, or ended
  std::condition_variable rings_;  // streams that are being started: all have their ring, or are to make another
  bool rings_agreed_ = false;
  int64_t ring_round_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> in_next_{false};
  absl::Status fatal_;             // too much memory is with reads that hang; over when they have come back
  absl::Status device_error_;      // the device is lost, or a copy never ends
  std::vector<const DeviceBatch*> complete_;  // PollDevice's, reused
  bool device_watched_ = false;    // a stream without work looks for copies that have ended; one is enough
  std::deque<std::unique_ptr<Slot>> ahead_;
  std::unordered_set<int64_t> broken_;       // ids that failed since the epoch began: none of them is a substitute
  FailedRun failed_run_;                     // that the last batch handed out ended with
  std::vector<int64_t> substitute_ids_;      // policy=substitute and a list of ids: each of them once; const after Open
  std::vector<std::pair<int64_t, std::string>> lent_names_;  // by the number of the lease
  int64_t leases_ = 0;                                       // given out
  struct EpochIo {
    int64_t epoch = 0;
    bool direct = false;
    std::string why;
  };
  std::deque<EpochIo> epoch_io_;   // how the consumer's epoch and those after it are read
  bool planning_ = false;
  int64_t generation_ = 0;         // counts the jumps of StartEpoch: what was planned before one is thrown away
  int64_t plan_epoch_ = 0;         // the next batch to plan
  int64_t plan_step_ = 0;
  std::shared_ptr<Attempt> unplaced_;  // planned, but there is no memory for it yet
  bool memory_wanted_ = false;         // there was none when it was looked for, and none has come back since
  int64_t memory_frees_ = 0;           // counts what came back
  int64_t returning_pieces_ = 0;       // of batches that were given up: their memory comes back by itself, but where a read hangs
  int64_t epoch_ = 0;              // the consumer's
  int64_t step_ = 0;
  std::unique_ptr<DepthTuner> tuner_;  // null: the depth stays. Made before the streams run
  std::atomic<int64_t> next_look_ns_{0};
  int64_t tuned_generation_ = 0;
  int32_t leased_deeper_ = 0;
  int pool_workers_added_ = 0;
  int64_t depth_since_ns_ = 0;
  int64_t totals_begun_ns_ = 0;
  int64_t waited_ns_ = 0;          // by the consumer, since the beginning, without the present wait
  int64_t waiting_since_ns_ = 0;   // when the consumer began to wait for the batch; 0: it does not. Over several NextWithin()
  int64_t report_ns_ = 0;          // when that is reported next
  std::vector<std::unique_ptr<StreamThread>> threads_;
  int32_t starved_count_ = 0;      // of them
  std::vector<PlanSample> plan_samples_;  // the planner's, reused
  std::vector<Range> plan_ranges_;
  std::vector<int64_t> plan_positions_;
  std::vector<int64_t> plan_ids_;
  std::list<Decoding> decoding_;
  std::vector<int64_t> plan_places_;

  // The current epoch's figures.
  struct EpochTotals {
    int64_t delivered = 0, substituted = 0, skipped = 0, passed = 0, batches = 0, bytes = 0, planned_reads = 0, read_bytes = 0;
    int64_t begin_ns = 0, wait_ns = 0, copy_wait_ns = 0, first_batch_ns = 0;
    double process_cpu_begin_s = 0;
    double depth_s = 0;  // reads that could be in flight, times seconds, until depth_since_ns_
    int64_t stream_demand_begin_ns = 0;
    PreadPool::Usage pool_begin;
    std::vector<int64_t> member_samples;  // of a mixture
    std::vector<float> next_us;
    std::vector<LedgerEntry> ledger;
    ReadStats reads;
  };
  EpochTotals totals_;
  std::optional<EpochReport> ended_;  // the report of the current epoch, once its last batch was taken or passed over

  // Guarded by the consumer's turn.
  std::optional<LedgerFile> ledger_;
  std::vector<LedgerEntry> ledger_pending_;  // of the batch that is being handed out
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_LOADER_CORE_H_
