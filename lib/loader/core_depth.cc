// How many reads are in flight: sized at Open, and where that is not known beforehand found out while running.
#include "loader/loader_core.h"

#include <sys/resource.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread_demand.h"

namespace penstock {
namespace {

// Direct reads of files hold their place in the ring from the open on, and cold opens take as long as reads.
constexpr int32_t kDirectDepthPerStream = 128;
constexpr int32_t kDirectDepthMax = 256;
constexpr int kDirectIoWorkers = 64;  // cold opens wait in these
constexpr int kIoWorkers = 16;
constexpr int64_t kLookNs = 90 * kNsPerMs;             // less than the streams' own turn
constexpr int64_t kPatienceNs = 2 * kNsPerSecond;      // for a read, on the mean; a loader ends within 5 s
constexpr int64_t kPatiencesPerDeadline = 8;           // and none comes near its deadline
constexpr int32_t kPrefetchMost = 1024;

}  // namespace

int LoaderCore::IoWorkers() const { return options_.io_workers > 0 ? options_.io_workers : kIoWorkers; }

void LoaderCore::TakeLeasedDepth() {
  const int32_t each = std::max(1, leased_depth_ / setup_.streams);
  setup_.queue_depth = each * setup_.streams;
  ring_options_.capacity = static_cast<size_t>(each);
}

// How many requests and workers the rings have, by what the reads are.
void LoaderCore::SizeRings() {
  setup_.io_workers = IoWorkers();
  if (engine_ == Engine::kThreads) {
    setup_.io_workers = pool_->worker_max();
    if (pool_->worker_max() <= setup_.queue_depth) reading_threads_ = pool_->worker_max();
  } else if (!residency_.answers_at_once) {
    // Each read holds one of io_uring's workers, of which a ring has io_workers. More would wait in the kernel's queue, where they age
    // towards deadline_s behind one that hangs, and where a read cannot be told from an open that takes long.
    if (static_cast<size_t>(IoWorkers()) <= ring_options_.capacity) reading_threads_ = IoWorkers();
    ring_options_.capacity = std::min(ring_options_.capacity, static_cast<size_t>(IoWorkers()));
    setup_.queue_depth = static_cast<int32_t>(ring_options_.capacity) * setup_.streams;
  } else if (direct_ && !manifest_->packed() && manifest_->object_count() == manifest_->sample_count()) {
    if (options_.io_workers == 0) ring_options_.io_worker_max = setup_.io_workers = kDirectIoWorkers;
    const int32_t wanted = std::min(kDirectDepthMax, kDirectDepthPerStream * setup_.streams);
    if (options_.queue_depth == 0 && wanted > leased_depth_) {
      leased_depth_ += runtime_core_.LeaseDepth(wanted - leased_depth_, 0);
      TakeLeasedDepth();
    }
  }
  BoundDepth();
}

// How many reads may be in flight at most, where that is to be found out.
void LoaderCore::BoundDepth() {
  depth_first_ = engine_ == Engine::kThreads ? std::min(pool_->worker_first(), setup_.queue_depth) : setup_.queue_depth;
  depth_most_ = depth_first_;
  if (residency_.answers_at_once) {
    // A drive of this machine. What is in the page cache comes within the call that asks for it, so that depth is nothing to it; what is
    // not is asked of the drive at once, whose queue (nr_requests) is full with what the first depth is. Depth was measured here, and did
    // not help (lib/ring/README.md, "Tried, and not kept").
    depth_why_ = options_.queue_depth > 0 ? "asked for" : "the store answers at once what is in memory, and the rest fills a drive's queue";
    return;
  }
  // Here each read waits in a thread of ours for as long as a server takes, and how long nobody knows at Open: the depth is the rate.
  if (options_.io_workers > 0) {
    depth_why_ = absl::StrCat("io_workers = ", options_.io_workers, " was asked for, and each read takes one");
    return;
  }
  const int32_t share = std::max(1, local_world_size_);  // the other ranks of this node do the same
  const int32_t most = options_.queue_depth > 0 ? leased_depth_ : runtime_core_.depth_most() / share;
  depth_most_ = std::max(depth_first_, most / setup_.streams * setup_.streams);
  if (depth_most_ == depth_first_) {
    depth_why_ = options_.queue_depth > 0 ? "asked for" : "the budget of reads in flight (RuntimeOptions::queue_depth) has no more";
  }
}

RingOptions LoaderCore::StreamRingOptions() const {
  RingOptions options = ring_options_;
  if (depth_most_ == depth_first_) return options;
  options.capacity = std::max(options.capacity, static_cast<size_t>(depth_most_ / setup_.streams));
  // io-wq starts a worker only for a request that finds none free, so that there are no more than reads in flight, which the stream
  // bounds: nothing has to be registered again when it goes deeper.
  options.io_worker_max = std::max(options.io_worker_max, static_cast<int>(options.capacity));
  return options;
}

// That pread's threads would have open beside those of the first depth.
int64_t LoaderCore::DescriptorsForDepth() const { return engine_ == Engine::kThreads ? depth_most_ - depth_first_ : 0; }

// The rings are there; `ring_capacity` is the smallest of them.
void LoaderCore::BeginTuning(int64_t ring_capacity) {
  depth_since_ns_ = MonotonicNs();
  if (depth_most_ == depth_first_) return;
  const int64_t rings = ring_capacity * setup_.streams;
  int64_t most = std::min<int64_t>(depth_most_, rings);
  if (engine_ == Engine::kThreads) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const int64_t kept = ring_options_.open_files == nullptr ? 0 : ring_options_.open_files->files_max();
    const auto soft = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, 1 << 30));
    most = std::min(most, std::max<int64_t>(soft - kept - kDescriptorReserve, soft / 4));
  }
  depth_most_ = std::max(depth_first_, static_cast<int32_t>(most / setup_.streams) * setup_.streams);
  if (depth_most_ == depth_first_) {
    depth_why_ = "RLIMIT_NOFILE or RLIMIT_MEMLOCK allows no more";
    return;
  }
  DepthBounds bounds;
  bounds.first = depth_first_;
  bounds.most = depth_most_;
  bounds.cores_max = options_.cpu_share * allowed_cpus_ / runtime_core_.seats();
  bounds.patience_ns = std::min(kPatienceNs, static_cast<int64_t>(options_.deadline_s * 1e9) / kPatiencesPerDeadline);
  bounds.read_bytes = static_cast<double>(options_.read_bytes_max);
  tuner_ = std::make_unique<DepthTuner>(bounds);
  prefetch_first_ = setup_.prefetch_batches;
}

// What was asked for and is not what is there is said, and why.
void LoaderCore::TellDepthAskedFor() {
  const int32_t asked = options_.queue_depth;
  const int32_t have = residency_.answers_at_once ? setup_.queue_depth : depth_most_;
  if (asked > 0 && have != asked && options_.io_workers == 0) {
    const int32_t each = asked / setup_.streams;
    std::string why;
    if (leased_depth_ < asked) {
      why = absl::StrCat("RuntimeOptions::queue_depth is the budget of all loaders, and has ", leased_depth_, " for this one");
    } else if (each == 0) {
      why = absl::StrCat("each of ", setup_.streams, " streams has one at least");
    } else if (have == each * setup_.streams) {
      why = absl::StrCat("each of ", setup_.streams, " streams has ", each);
    } else {
      why = "the rings hold no more (RLIMIT_NOFILE, RLIMIT_MEMLOCK, or the largest that io_uring makes)";
    }
    depth_why_ = absl::StrCat(have, " instead of the ", asked, " asked for: ", why);
    if (have < each * setup_.streams) Warn(absl::StrCat("queue_depth: ", depth_why_));
  }
  if (options_.io_workers > 0 && setup_.io_workers != options_.io_workers) {
    Warn(absl::StrCat("io_workers = ", options_.io_workers, " was asked for, but the pool that all loaders of this runtime share has ",
                      setup_.io_workers, " threads"));
  }
}

void LoaderCore::Warn(std::string warning) {
  Log(LogLevel::kWarning, warning);
  setup_.warnings.push_back(std::move(warning));
}

void LoaderCore::Tick(int64_t now_ns) {
  if (tuner_ == nullptr || now_ns < next_look_ns_.load(std::memory_order_relaxed)) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if (now_ns < next_look_ns_.load(std::memory_order_relaxed) || stopping()) return;
  next_look_ns_.store(now_ns + kLookNs, std::memory_order_relaxed);
  DepthFigures figures;
  figures.now_ns = now_ns;
  for (const auto& thread : threads_) {
    if (thread->stream == nullptr) continue;
    const StreamProgress progress = thread->stream->progress();
    figures.requests += static_cast<double>(progress.requests);
    figures.bytes += static_cast<double>(progress.bytes);
    figures.starved_s += 1e-9 * static_cast<double>(progress.starved_ns) / setup_.streams;
  }
  const int64_t waits_ns = waiting_since_ns_ == 0 ? 0 : std::max<int64_t>(0, now_ns - waiting_since_ns_);
  figures.waited_s = 1e-9 * static_cast<double>(waited_ns_ + waits_ns);
  figures.cpu_s = ProcessCpuSeconds();
  // At an epoch's end, where nothing follows, there is less and less to read; after a jump what was read is for nothing.
  const bool at_end = plan_epoch_ != epoch_ && (!options_.next_epoch_prefetch || IsLastEpoch(plan_epoch_ - 1));
  figures.steady = !at_end && tuned_generation_ == generation_ && fatal_.ok() && device_error_.ok();
  tuned_generation_ = generation_;
  if (tuner_->Look(figures)) SetDepth();
  SetPrefetch();
}

// Does what the tuner says, as far as the budget goes.
void LoaderCore::SetDepth() {
  const int32_t streams = setup_.streams;
  const int32_t more = std::max(0, tuner_->depth() - leased_depth_);
  if (more > leased_deeper_) {
    leased_deeper_ += runtime_core_.LeaseDeeper(leased_depth_ + leased_deeper_, more - leased_deeper_);
    if (more > leased_deeper_) tuner_->Bound((leased_depth_ + leased_deeper_) / streams * streams);
  }
  const int32_t depth = tuner_->depth();
  if (const int32_t needed = std::max(0, depth - leased_depth_); needed < leased_deeper_) {
    runtime_core_.ReturnDeeper(leased_deeper_ - needed);
    leased_deeper_ = needed;
  }
  CountDepth(MonotonicNs());
  int32_t per_stream = static_cast<int32_t>(CeilDiv(static_cast<uint64_t>(depth), static_cast<uint64_t>(streams)));
  if (engine_ == Engine::kThreads) {
    // The pool's threads are what bounds the reads; what the streams have in flight beyond that waits for them.
    const int add = depth - depth_first_ - pool_workers_added_;
    pool_->AddWorkers(add);
    pool_workers_added_ += add;
    per_stream = std::max(per_stream, static_cast<int32_t>(ring_options_.capacity));
    setup_.io_workers = pool_->worker_max();
  } else {
    setup_.io_workers = std::max(IoWorkers(), per_stream);
  }
  if (reading_threads_ > 0) reading_threads_ = setup_.io_workers;
  setup_.queue_depth = per_stream * streams;
  for (const auto& thread : threads_) {
    if (thread->stream != nullptr) thread->stream->SetDepth(per_stream);
  }
}

// Batches ahead, so that there is enough to ask for: a batch is handed out when its last read has come, and meanwhile others must fill the
// places of those that have.
void LoaderCore::SetPrefetch() {
  if (options_.prefetch_batches > 0) return;
  const int32_t depth = tuner_->trying() ? tuner_->wanted() : tuner_->kept();
  int32_t batches = prefetch_first_;
  if (depth > depth_first_ && !ahead_.empty() && ahead_.front()->attempt != nullptr) {
    const uint64_t reads = std::max<uint64_t>(1, ahead_.front()->attempt->plan().extents.size());
    const uint64_t twice = CeilDiv(2 * static_cast<uint64_t>(depth), reads);
    batches = std::max(batches, 1 + static_cast<int32_t>(std::min<uint64_t>(twice, kPrefetchMost)));
  } else if (depth > depth_first_) {
    return;
  }
  if (batches == setup_.prefetch_batches) return;
  const bool more = batches > setup_.prefetch_batches;
  setup_.prefetch_batches = batches;
  if (more) WakeStreams();
}

// Reads that may have been in flight, times seconds.
void LoaderCore::CountDepth(int64_t now_ns) {
  totals_.depth_s += setup_.queue_depth * 1e-9 * static_cast<double>(now_ns - depth_since_ns_);
  depth_since_ns_ = now_ns;
}

std::string LoaderCore::DepthWhy() const { return tuner_ == nullptr ? depth_why_ : tuner_->why(); }

void LoaderCore::ReturnDepth() {
  if (leased_depth_ > beyond_budget_) runtime_core_.ReturnDepth(leased_depth_ - beyond_budget_);
  if (leased_deeper_ > 0) runtime_core_.ReturnDeeper(leased_deeper_);
  if (pool_workers_added_ > 0) pool_->AddWorkers(-pool_workers_added_);
}

}  // namespace penstock
