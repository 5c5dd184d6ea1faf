// Open(): options, order, streams and engine resolved, and the streams started.
#include "loader/loader_core.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread_error.h"
#include "loader/gap.h"
#include "loader/mixture_option.h"
#include "penstock/loader_order.h"
#include "penstock/mixture.h"
#include "topology/cpu_list.h"

namespace penstock {
namespace {

constexpr int32_t kDepthPerStream = 64;  // reads in flight; facts: 64-256 keep an NVMe drive busy
constexpr int32_t kDepthMax = 256;       // nr_requests of most block devices

}  // namespace

absl::Status LoaderCore::ResolveOptions() {
  if (absl::Status status = ApplyEnvironment(options_); !status.ok()) return status;
  // The struct may have been filled by hand: what the table would refuse is refused here too.
  for (const OptionInfo& info : OptionTable()) {
    LoaderOptions scratch;
    const std::string value = GetOption(options_, info.name);
    if (absl::Status status = SetOption(scratch, info.name, value); !status.ok()) return status;
  }
  if (options_.mixture.empty()) {
    if (options_.root.empty()) return absl::InvalidArgumentError("option root is empty: name a folder of samples or a list file");
  } else if (!options_.root.empty() || !options_.manifest_path.empty()) {
    return absl::InvalidArgumentError(
        "option mixture names the data sets, each with its root and perhaps its manifest_path: leave the options root and manifest_path "
        "empty");
  }
  if (absl::Status status = CheckMixtureIsTheOrder(options_); !status.ok()) return status;
  if (!IsAligned(static_cast<uint64_t>(options_.piece_bytes), 4096)) {
    return absl::InvalidArgumentError(absl::StrCat("option piece_bytes = ", options_.piece_bytes, " is not a multiple of 4096"));
  }
  absl::StatusOr<RankInfo> rank =
      DiscoverRank(options_.rank, options_.world_size, [](const char* name) { return static_cast<const char*>(std::getenv(name)); },
                   options_.rank_source);
  if (!rank.ok()) return rank.status();
  setup_.rank = rank->rank;
  setup_.world_size = rank->world_size;
  setup_.local_rank = rank->local_rank;
  setup_.local_world_size = rank->local_world_size;
  setup_.rank_why = rank->ToText();
  // The first line of every loader: a job whose processes are all rank 0 of 1 is seen here before it has trained on the wrong data.
  Log(LogLevel::kInfo, absl::StrCat(options_.mixture.empty() ? EscapeName(options_.root) : "a mixture", ": ", setup_.rank_why));
  options_.rank = rank->rank;
  options_.world_size = rank->world_size;
  local_rank_ = rank->local_rank;
  local_world_size_ = rank->local_world_size;
  return absl::OkStatus();
}

absl::Status LoaderCore::ResolveDevice() {
  if (options_.device < 0) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<Device>> device = runtime_core_.OpenDevice(options_.device);
  if (!device.ok()) {
    return absl::Status(device.status().code(), absl::StrCat("option device = ", options_.device, ": ", device.status().message()));
  }
  device_ = *std::move(device);
  setup_.device = absl::StrCat("CUDA device ", device_->index(), " (", device_->pci_bus_id(), ")");
  return absl::OkStatus();
}

absl::Status LoaderCore::ResolveOrder() {
  fingerprint_ = manifest_->fingerprint();
  absl::StatusOr<LoaderOrder> order = OrderOfLoader(options_, manifest_.get());
  if (!order.ok()) return order.status();
  if (!Reaches(order->order, order->epoch)) {
    return absl::InvalidArgumentError(
        absl::StrCat("epoch ", order->epoch, " of ", order->order.size(), " positions ends behind position 2^56 of all epochs together: ",
                     "give a smaller epoch_samples"));
  }
  if (options_.disk_blocks && options_.mixture.empty() && manifest_->has_labels()) mixing_.emplace(*manifest_);
  order_.emplace(std::move(order->order));
  if (options_.policy == ErrorPolicy::kSubstitute) {
    substitute_ids_ = options_.ids;
    std::sort(substitute_ids_.begin(), substitute_ids_.end());
    substitute_ids_.erase(std::unique(substitute_ids_.begin(), substitute_ids_.end()), substitute_ids_.end());
  }
  WarnOfStateWeights();
  epoch_ = plan_epoch_ = first_epoch_ = order->epoch;
  origin_ = order->position;
  return absl::OkStatus();
}

// Weights are given with every mixture, since its roots are, and SetWeights() may have changed them before the state was taken: what differs
// is no error, and is said.
void LoaderCore::WarnOfStateWeights() {
  const Mixture* const mixture = order_->mixture();
  if (mixture == nullptr || options_.state.empty()) return;
  std::vector<int64_t> samples;
  std::vector<double> weights;
  std::vector<std::string> given, kept;
  for (int64_t d = 0; d < mixture->member_count(); ++d) {
    samples.push_back(mixture->sample_count(d));
    weights.push_back(options_.mixture[static_cast<size_t>(d)].weight);
    given.push_back(absl::StrCat(weights.back()));
    kept.push_back(absl::StrCat(mixture->count(d)));
  }
  const absl::StatusOr<Mixture> wanted = Mixture::Create(samples, weights, {OrderOptions(), mixture->period(), mixture->epoch_samples()});
  bool same = wanted.ok();
  for (int64_t d = 0; same && d < mixture->member_count(); ++d) same = wanted->count(d) == mixture->count(d);
  if (same) return;
  setup_.warnings.push_back(absl::StrCat("option mixture has the weights ", absl::StrJoin(given, ", "), ", and the state goes on with ",
                                         absl::StrJoin(kept, ", "), " of ", mixture->period(),
                                         " positions. The state's weights count; SetWeights() changes them"));
  Log(LogLevel::kWarning, setup_.warnings.back());
}

absl::Status LoaderCore::ResolveStreams() {
  absl::StatusOr<Topology> topology = ReadTopology(runtime_core_.topology());
  if (!topology.ok()) return topology.status();
  allowed_cpus_ = std::max<int>(1, static_cast<int>(topology->allowed_cpus.size()));
  PlacementOptions placement;
  placement.streams = options_.streams;
  placement.cpu_share = options_.cpu_share;
  // Several loaders of this process are to the cores what several local ranks are.
  seat_ = runtime_core_.TakeSeat();
  placement.local_rank = local_rank_ * runtime_core_.seats() + seat_;
  placement.local_world_size = local_world_size_ * runtime_core_.seats();
  if (device_ != nullptr) placement.gpu_pci_bus_id = device_->pci_bus_id();
  absl::StatusOr<std::vector<StreamPlacement>> placed = PlaceStreams(*topology, placement);
  if (!placed.ok()) return placed.status();
  placement_ = *std::move(placed);
  setup_.streams = static_cast<int32_t>(placement_.size());
  setup_.numa_node = placement_[0].numa_node;
  const bool pinned = options_.pin_cpus.value_or(placement.local_world_size > 1);
  setup_.streams_why = options_.streams > 0 ? "asked for"
                                            : absl::StrFormat("cpu_share = %g of %d cores%s; the trainer has the rest", options_.cpu_share, allowed_cpus_,
                                                              placement.local_world_size > 1
                                                                  ? absl::StrCat(", which ", placement.local_world_size, " loaders share out")
                                                                  : "");
  setup_.cpus_why = options_.pin_cpus.has_value() ? absl::StrCat("pin_cpus = ", *options_.pin_cpus ? "true" : "false")
                    : pinned                      ? absl::StrCat("loader ", placement.local_rank, " of the ", placement.local_world_size, " that share out this node's cores")
                                                  : "no launcher counts the processes of this node, and another job may use the same core";
  stream_cpus_.resize(placement_.size());
  for (size_t i = 0; i < placement_.size(); ++i) {
    const StreamPlacement& stream = placement_[i];
    setup_.cpus.push_back(pinned ? stream.cpu : -1);
    if (options_.pin_cpus == false) continue;
    if (pinned) {
      stream_cpus_[i] = {stream.cpu};
    } else if (topology->nodes.size() > 1) {
      for (const NumaNode& node : topology->nodes) {
        if (node.id == stream.numa_node) stream_cpus_[i] = Intersect(node.cpus, topology->allowed_cpus);
      }
    }
    if (stream.numa_node != setup_.numa_node) setup_.numa_node = -1;
  }
  if (topology->nodes.size() < 2) setup_.numa_node = -1;  // nothing to bind to
  if (device_ != nullptr) setup_.numa_node = MemoryNodeForGpu(*topology, device_->pci_bus_id());

  const EngineChoice choice = ProbeEnginePatiently(static_cast<Engine>(options_.engine), opened_ns_ + intervals_.ring_patience_ns);
  if (options_.engine == EngineOption::kUring && choice.engine != Engine::kUring) return absl::UnavailableError(choice.why);
  engine_ = choice.engine;
  setup_.engine = engine_ == Engine::kUring ? "uring" : "threads";
  setup_.engine_why = choice.why;
  if (engine_ == Engine::kThreads) {
    if (options_.engine == EngineOption::kAuto) {
      DegradeToThreads(choice.why);
    } else {
      pool_ = runtime_core_.Pool(IoWorkers());
    }
  }

  const int32_t streams = setup_.streams;
  const int32_t wanted = options_.queue_depth > 0 ? options_.queue_depth : std::min(kDepthMax, kDepthPerStream * streams);
  leased_depth_ = runtime_core_.LeaseDepth(std::max(wanted, streams), streams);
  if (options_.queue_depth > leased_depth_ && !runtime_core_.depth_was_set()) {
    // An explicit number is taken: only a budget that somebody set goes before it.
    beyond_budget_ = options_.queue_depth - leased_depth_;
    leased_depth_ = options_.queue_depth;
  }
  TakeLeasedDepth();
  ring_options_.read_bytes_max = static_cast<uint64_t>(options_.read_bytes_max);
  ring_options_.io_worker_max = IoWorkers();
  return absl::OkStatus();
}

void LoaderCore::ResolveOpenFiles() {
  OpenFilesLimit limit = FindOpenFilesLimit(options_.open_files, static_cast<int64_t>(manifest_->object_count()), DescriptorsForDepth(),
                                            manifest_->folder_count());
  if (options_.open_files > 0) {
    const int64_t asked = std::min(options_.open_files, static_cast<int64_t>(manifest_->object_count()));
    if (limit.files_max < asked) Warn(absl::StrCat("open_files = ", options_.open_files, " was asked for, but ", limit.why));
  }
  setup_.open_files_why = std::move(limit.why);
  if (limit.files_max > 0) ring_options_.open_files = runtime_core_.FilesOf(manifest_, direct_, limit.files_max);
}

void LoaderCore::ChooseGap() {
  if (!packed_) {
    setup_.coalesce_gap_why = "every file is one sample";
  } else if (plan_options_.hole_bytes_max == 0 || plan_options_.dense) {
    setup_.coalesce_gap_why = plan_options_.dense ? "dense places have no room for holes"
                                                  : "memory_bytes is too small for holes between neighbours, or a codec copies each sample";
  } else if (options_.coalesce_gap_bytes >= 0) {
    setup_.coalesce_gap_bytes = options_.coalesce_gap_bytes;
    setup_.coalesce_gap_why = "asked for";
  } else {
    const GapChoice choice = MeasureGap(*manifest_, objects_, engine_, pool_, ring_options_, plan_options_.direct_alignment);
    setup_.coalesce_gap_bytes = choice.gap_bytes;
    setup_.coalesce_gap_why = choice.why;
  }
  plan_options_.coalesce_gap_bytes = static_cast<uint64_t>(setup_.coalesce_gap_bytes);
}

absl::Status LoaderCore::OpenDataSet() {
  const auto open = [&](const std::string& root, const std::string& manifest_path) {
    absl::StatusOr<std::shared_ptr<const Manifest>> manifest = runtime_core_.OpenManifest(root, manifest_path, options_.deadline_s);
    if (manifest.ok() && (*manifest)->sample_count() == 0)
      manifest = absl::NotFoundError(absl::StrCat(EscapeName(root), " holds no samples"));
    return manifest;
  };
  absl::StatusOr<std::shared_ptr<const Manifest>> manifest = absl::UnknownError("");
  if (options_.mixture.empty()) {
    manifest = open(options_.root, options_.manifest_path);
  } else {
    std::vector<std::shared_ptr<const Manifest>> members;
    for (const MixtureMember& member : options_.mixture) {
      absl::StatusOr<std::shared_ptr<const Manifest>> opened = open(member.root, member.manifest_path);
      if (!opened.ok()) {
        return absl::Status(opened.status().code(),
                            absl::StrCat("data set ", members.size(), " of the mixture: ", opened.status().message()));
      }
      members.push_back(*std::move(opened));
    }
    manifest = runtime_core_.Join(members);
  }
  if (!manifest.ok()) return manifest.status();
  manifest_ = *std::move(manifest);
  return absl::OkStatus();
}

absl::Status LoaderCore::Open() {
  if (absl::Status status = ResolveOptions(); !status.ok()) return status;
  if (absl::Status status = OpenDataSet(); !status.ok()) return status;
  objects_ = manifest_->OpenObjects();
  setup_.fingerprint = manifest_->fingerprint();
  if (absl::Status status = ResolveDevice(); !status.ok()) return status;
  if (absl::Status status = ResolveOrder(); !status.ok()) return status;
  if (absl::Status status = ResolveStreams(); !status.ok()) return status;
  ChooseIo();
  ResolveOpenFiles();
  ChooseMemory();
  if (absl::Status status = ResolveMemory(); !status.ok()) return status;
  ChooseGap();
  const ArenaReport memory = arena_->report();
  setup_.arena_bytes = memory.bytes;
  if (!codec_->identity()) {
    ComputePoolOptions compute;
    compute_threads_ = std::max(1, static_cast<int>(std::lround(options_.cpu_share * allowed_cpus_ / runtime_core_.seats())));
    compute.threads = compute_threads_;
    absl::StatusOr<std::unique_ptr<ComputePool>> pool = ComputePool::Create(compute);
    if (!pool.ok()) return pool.status();
    compute_ = *std::move(pool);
  }
  if (StepsOf(epoch_).steps() == 0 && origin_ == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options_.mixture.empty() ? "the data set's " : "an epoch's ", order_->size(),
                     " samples do not fill one step of batch_size ", options_.batch_size, " on ", options_.world_size,
                     " ranks, and tail=drop leaves them out; lower batch_size, or use tail=pad or tail=partial"));
  }
  if (!options_.ledger_path.empty()) {
    const LedgerRun run{fingerprint_, options_.rank, options_.world_size, epoch_, origin_};
    absl::StatusOr<LedgerFile> ledger = LedgerFile::Open(absl::StrCat(options_.ledger_path, ".", options_.rank), run);
    if (!ledger.ok()) return ledger.status();
    ledger_.emplace(*std::move(ledger));
  }
  BeginTotals();
  return StartStreams();
}

// The rings of all streams are made before one of them reads: locked memory is counted per user, so that the last ring may be the one that
// is refused, and then it is not this stream that falls back but all of them, here and not in the middle of a run.
absl::Status LoaderCore::StartStreams() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (size_t i = 0; i < placement_.size(); ++i) threads_.push_back(std::make_unique<StreamThread>());
  for (size_t i = 0; i < placement_.size(); ++i) {
    try {
      threads_[i]->thread = std::thread([self = shared_from_this(), i] { self->StreamMain(i); });
    } catch (const std::system_error& error) {
      threads_[i]->started = threads_[i]->ended = true;
      threads_[i]->status = absl::ResourceExhaustedError(absl::StrCat(
          "stream ", i, " of ", placement_.size(), ": no thread: ", error.what(), "; ", ThreadCure()));
    }
  }
  const auto all_started = [this] { return std::all_of(threads_.begin(), threads_.end(), [](const auto& t) { return t->started; }); };
  ready_.wait(lock, all_started);
  const auto refused = [this] {
    return std::find_if(threads_.begin(), threads_.end(),
                        [](const auto& t) { return !t->ended && absl::IsResourceExhausted(t->status); });
  };
  const auto make_again = [&] {
    for (auto& thread : threads_) thread->started = thread->ended;
    ++ring_round_;
    rings_.notify_all();
    ready_.wait(lock, all_started);
  };
  if (engine_ == Engine::kUring && refused() != threads_.end() && depth_most_ > depth_first_) {
    // Room for more reads than there are at first is worth less than io_uring.
    depth_most_ = depth_first_;
    depth_why_ = "RLIMIT_MEMLOCK has no room for rings of more: raise it (ulimit -l)";
    make_again();
  }
  if (options_.engine == EngineOption::kAuto && engine_ == Engine::kUring && refused() != threads_.end()) {
    DegradeToThreads((*refused())->status.message());
    TakeLeasedDepth();
    reading_threads_ = 0;
    SizeRings();
    make_again();
  }
  for (const auto& thread : threads_) {
    if (!thread->status.ok()) return thread->status;
  }
  int64_t ring_capacity = std::numeric_limits<int64_t>::max();
  for (const auto& thread : threads_) {
    if (thread->stream != nullptr) ring_capacity = std::min(ring_capacity, thread->stream->capacity());
  }
  if (const auto wanted = static_cast<int64_t>(ring_options_.capacity); ring_capacity < wanted) {
    setup_.queue_depth = static_cast<int32_t>(ring_capacity) * setup_.streams;
    depth_first_ = std::min(depth_first_, setup_.queue_depth);
    ring_options_.capacity = static_cast<size_t>(ring_capacity);
  }
  BeginTuning(ring_capacity);
  TellDepthAskedFor();
  rings_agreed_ = true;
  // After the streams' rings, for the measurement's counts against the same limits.
  if (measures_io_) measuring_io_ = std::make_unique<Aside<IoCosts>>(IoMeasurement());
  rings_.notify_all();
  lock.unlock();
  StartWarmer(epoch_);
  return absl::OkStatus();
}

void LoaderCore::DegradeToThreads(absl::string_view why) {
  engine_ = Engine::kThreads;
  setup_.engine = "threads";
  setup_.engine_why = std::string(why);
  pool_ = runtime_core_.Pool(IoWorkers());
  setup_.warnings.push_back(absl::StrCat("engine=auto: all streams read with threads instead of io_uring: ", why));
  Log(LogLevel::kWarning, setup_.warnings.back());
}

}  // namespace penstock
