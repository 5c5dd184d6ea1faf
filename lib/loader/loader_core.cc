#include "loader/loader_core.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread_demand.h"
#include "base/unique_fd.h"
#include "loader/gap.h"
#include "loader/lease.h"
#include "loader/residency.h"
#include "loader/verdict.h"
#include "manifest/map_file.h"

namespace penstock {
namespace {

constexpr int64_t kShutdownNs = 3 * kNsPerSecond;      // for the streams; a loader ends within 5 s, whatever hangs
constexpr int64_t kProbePatienceNs = 10 * kNsPerSecond;  // for the store's answer to a direct read
constexpr int32_t kDepthPerStream = 64;                // reads in flight; facts: 64-256 keep an NVMe drive busy
constexpr int32_t kDepthMax = 256;                     // nr_requests of most block devices
constexpr size_t kLedgerMax = 1000;
constexpr double kHolesPerByte = 8;                    // unwanted bytes between neighbours of a batch, per byte of it
// b and w of shuffle=disk-blocks where none were given. Neighbours merge only while they are asked for together: in a window of many blocks
// they lie in different batches.
constexpr int64_t kDiskBlock = 64;
constexpr int64_t kDiskWindow = kDiskBlock;
constexpr int64_t kWarmBytesMax = 128 << 10;           // of a sample on average: larger ones are bound by bytes, not by places
constexpr int64_t kWarmRun = 1 << 15;                  // samples of one run over the whole set
constexpr int64_t kWarmDepth = 128;
constexpr int64_t kWarmSortMax = 8 << 20;              // ids that are sorted by inode, where no order was saved
constexpr size_t kNextSamplesMax = 1 << 16;
constexpr size_t kIdsNamed = 4;                        // of a lent batch, in a message
constexpr int64_t kCopyPollNs = 20'000;                // a 4 MiB piece takes 75 us on PCIe 5
constexpr int64_t kCopyPollMaxNs = 500'000;

int32_t Granules(uint64_t bytes) { return static_cast<int32_t>(std::max<uint64_t>(1, CeilDiv(bytes, kGranuleBytes))); }

double ProcessCpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void PinThisThread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
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
  if (leased_depth_ > 0) runtime_core_.ReturnDepth(leased_depth_);
  if (leased_memory_) runtime_core_.ReturnMemory(options_.memory_bytes);
}

absl::Status LoaderCore::ResolveOptions() {
  if (absl::Status status = ApplyEnvironment(options_); !status.ok()) return status;
  // The struct may have been filled by hand: what the table would refuse is refused here too.
  for (const OptionInfo& info : OptionTable()) {
    LoaderOptions scratch;
    const std::string value = GetOption(options_, info.name);
    if (absl::Status status = SetOption(scratch, info.name, value); !status.ok()) return status;
  }
  if (options_.root.empty()) return absl::InvalidArgumentError("option root is empty: name a folder of samples or a list file");
  if (!IsAligned(static_cast<uint64_t>(options_.piece_bytes), 4096)) {
    return absl::InvalidArgumentError(absl::StrCat("option piece_bytes = ", options_.piece_bytes, " is not a multiple of 4096"));
  }
  absl::StatusOr<RankInfo> rank = DiscoverRank(options_.rank, options_.world_size, [](const char* name) { return static_cast<const char*>(std::getenv(name)); });
  if (!rank.ok()) return rank.status();
  options_.rank = rank->rank;
  options_.world_size = rank->world_size;
  local_rank_ = rank->local_rank;
  local_world_size_ = rank->local_world_size;
  return absl::OkStatus();
}

absl::Status LoaderCore::ResolveDevice() {
  if (options_.device < 0) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<Device>> device = runtime_core_.OpenDevice(options_.device);
  if (!device.ok()) return absl::Status(device.status().code(), absl::StrCat("option device = ", options_.device, ": ", device.status().message()));
  device_ = *std::move(device);
  setup_.device = absl::StrCat("CUDA device ", device_->index(), " (", device_->pci_bus_id(), ")");
  return absl::OkStatus();
}

absl::Status LoaderCore::ResolveOrder() {
  fingerprint_ = manifest_->fingerprint();
  std::optional<State> state;
  if (!options_.state.empty()) {
    absl::StatusOr<State> parsed = State::FromJson(options_.state);
    if (!parsed.ok()) return parsed.status();
    state = *std::move(parsed);
    // The order is the state's: going on means the same order, whatever this program's defaults are.
    options_.seed = state->seed;
    options_.shuffle = state->shuffle;
    options_.disk_blocks = state->disk_blocks;
    options_.block_samples = state->block_samples;
    options_.window_samples = state->window_samples;
    options_.virtual_streams = state->virtual_streams;
    options_.tail = state->tail;
    first_epoch_ = state->epoch;
    origin_ = state->position;
  }
  if (options_.disk_blocks) {
    if (!options_.ids.empty() || !options_.shuffle) return absl::InvalidArgumentError("shuffle=disk-blocks goes neither with a list of ids nor without a shuffle; leave one of them out");
    if (!manifest_->has_place_order()) {
      return absl::FailedPreconditionError(absl::StrCat("shuffle=disk-blocks: the manifest ", EscapeName(manifest_->path()),
                                                        " has no order of place. Save it once (penstock index --place inode), and give every rank the same manifest"));
    }
    if (options_.block_samples == 1) {
      options_.block_samples = kDiskBlock;
      options_.window_samples = std::max(options_.window_samples / kDiskBlock * kDiskBlock, kDiskWindow);
    }
    if (manifest_->has_labels()) mixing_.emplace(*manifest_);
  }
  absl::StatusOr<Order> order = absl::UnknownError("");
  if (!options_.ids.empty()) {
    order = Order::FromIds(options_.ids, manifest_->sample_count());
  } else {
    OrderOptions order_options;
    order_options.block_samples = options_.block_samples;
    order_options.window_samples = options_.window_samples;
    order_options.virtual_streams = options_.virtual_streams;
    order_options.seed = options_.seed;
    order_options.shuffle = options_.shuffle;
    order = Order::Create(manifest_->sample_count(), order_options);
  }
  if (!order.ok()) return order.status();
  order_.emplace(*std::move(order));
  if (state.has_value()) {
    if (absl::Status status = state->Matches(fingerprint_, *order_); !status.ok()) return status;
  }
  if (origin_ >= order_->size()) {
    return absl::InvalidArgumentError(absl::StrCat("the state's position ", origin_, " is beyond the ", order_->size(), " samples of an epoch"));
  }
  epoch_ = plan_epoch_ = first_epoch_;
  return absl::OkStatus();
}

StepPlan LoaderCore::StepsOf(int64_t epoch) const {
  StepPlan steps;
  steps.sample_count = order_->size();
  steps.origin = epoch == first_epoch_ ? origin_ : 0;
  steps.batch_size = options_.batch_size;
  steps.world_size = options_.world_size;
  steps.tail = options_.tail;
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

void LoaderCore::ChooseIo() {
  const int64_t patience_ns = std::min(kProbePatienceNs, static_cast<int64_t>(options_.deadline_s * 1e9));
  residency_ = LookAtResidency(*manifest_, objects_, options_.io == IoMode::kDirect, patience_ns);
  const Residency& residency = residency_;
  std::string why = residency.why;
  direct_ = residency.prefer_direct;
  if (options_.io == IoMode::kBuffered) {
    direct_ = false;
    why = "asked for";
  } else if (options_.io == IoMode::kDirect) {
    direct_ = residency.direct_alignment > 0;
    why = direct_ ? "asked for" : absl::StrCat("direct was asked for, but ", residency.why);
    if (!direct_) setup_.warnings.push_back(why);
  }
  // Small files come from the page cache, where a thread of its own brings whole windows in the order of the drive.
  if (direct_ && options_.io == IoMode::kAuto && options_.disk_blocks && options_.warm == WarmAhead::kOn && manifest_->record_bytes() == 0 && SmallSamples()) {
    direct_ = false;
    why = absl::StrCat(why, ", but windows of small files are read ahead into it in the order of place");
  }
  // Direct reads begin at an aligned byte; samples of several ranges are packed without holes, which that forbids.
  if (direct_ && manifest_->range_count() > manifest_->sample_count()) {
    direct_ = false;
    why = "samples of several ranges are read buffered";
  }
  if (engine_ == Engine::kThreads) {
    if (pool_->worker_max() <= setup_.queue_depth) reading_threads_ = pool_->worker_max();
  } else if (!residency.answers_at_once) {
    // Each read holds one of io_uring's workers, of which a ring has io_workers. More would wait in the kernel's queue, where they age
    // towards deadline_s behind one that hangs, and where a read cannot be told from an open that takes long.
    if (static_cast<size_t>(options_.io_workers) <= ring_options_.capacity) reading_threads_ = options_.io_workers;
    ring_options_.capacity = std::min(ring_options_.capacity, static_cast<size_t>(options_.io_workers));
    setup_.queue_depth = static_cast<int32_t>(ring_options_.capacity) * setup_.streams;
  }
  plan_options_.direct_alignment = direct_ ? static_cast<uint64_t>(residency.direct_alignment) : 0;
  setup_.io = direct_ ? "direct" : "buffered";
  setup_.io_why = why;
}

void LoaderCore::ResolveOpenFiles() {
  OpenFilesLimit limit = FindOpenFilesLimit(options_.open_files, static_cast<int64_t>(manifest_->object_count()));
  setup_.open_files_why = std::move(limit.why);
  if (limit.files_max > 0) ring_options_.open_files = runtime_core_.FilesOf(manifest_, direct_, limit.files_max);
}

absl::Status LoaderCore::ResolveMemory() {
  absl::StatusOr<std::shared_ptr<const Codec>> codec = MakeCodec(options_.codec);
  if (!codec.ok()) return codec.status();
  if (options_.codec.verify_crc && !manifest_->has_crc()) {
    return absl::FailedPreconditionError(absl::StrCat("verify_crc: the manifest ", EscapeName(manifest_->path()), " has no checksums; make them with penstock index --crc"));
  }
  if (options_.verify == Verify::kStat && !manifest_->has_mtimes()) {
    return absl::FailedPreconditionError(absl::StrCat("verify=stat: the manifest ", EscapeName(manifest_->path()),
                                                   " has no times of modification; keep them with penstock index --stat"));
  }
  codec_ = *std::move(codec);
  packed_ = manifest_->object_count() < manifest_->sample_count() || manifest_->record_bytes() != 0;
  plan_options_.dense = options_.layout == Layout::kDense;
  plan_options_.scratch = !codec_->identity() && !codec_->in_place();
  plan_options_.split_large = codec_->identity();
  plan_options_.piece_bytes = static_cast<uint64_t>(options_.piece_bytes);
  plan_options_.sort_by_object = packed_;
  // Among the files of one batch there are neighbours only where the order brings them together, and a direct read always meets the drive.
  plan_options_.sort_by_place = !packed_ && (options_.disk_blocks || (direct_ && manifest_->place_hint(0) != 0));

  // The largest batch there can be: first by the largest sample, which costs nothing; if that is too much, by the batch_size largest.
  // On the host path it lies in the arena, as a whole, and one more is kept in reserve. On the device path it lies in device_bytes.
  const int64_t count = std::min(options_.batch_size, manifest_->sample_count());
  PlanOptions whole = plan_options_;
  if (device_ != nullptr) whole.scratch = false;  // scratch memory stays on the host, with its piece
  const auto bound = [&](uint64_t stored) {
    const uint64_t delivered = plan_options_.scratch ? codec_->DeliveredBound(stored, stored) : stored;
    const uint64_t places = PlanBytesBound(options_.batch_size, device_ != nullptr ? delivered : stored, delivered, whole);
    return device_ == nullptr ? places : static_cast<uint64_t>(DeviceLayout::Of(static_cast<int64_t>(places), options_.batch_size).bytes);
  };
  const auto unit = static_cast<uint64_t>(device_ == nullptr ? kGranuleBytes : DeviceRing::kAlignmentBytes);
  const auto budget = static_cast<uint64_t>(device_ == nullptr ? options_.memory_bytes : options_.device_bytes) / unit * unit;
  const uint64_t at_once = device_ == nullptr ? 2 : 1;
  // Holes between neighbours take memory as samples do: a small part of it, and some times what the batch has itself.
  if (packed_ && !plan_options_.scratch) {
    const double mean_batch = static_cast<double>(manifest_->total_bytes()) / static_cast<double>(manifest_->sample_count()) * static_cast<double>(options_.batch_size);
    if (mean_batch < static_cast<double>(budget) / 16) {
      plan_options_.hole_bytes_max = static_cast<uint64_t>(std::min(static_cast<double>(budget) / 32, std::max(kHolesPerByte * mean_batch, 65536.0)));
      whole.hole_bytes_max = plan_options_.hole_bytes_max;
    }
  }
  const uint64_t largest = manifest_->max_delivered_bytes();
  uint64_t batch_bytes = std::numeric_limits<uint64_t>::max();
  if (largest < budget) batch_bytes = bound(largest * static_cast<uint64_t>(options_.batch_size));
  if (AlignUp(std::min(batch_bytes, budget), unit) * 2 * at_once > budget) {
    using Entry = std::pair<uint64_t, int64_t>;  // bytes, id
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> top;
    for (int64_t id = 0; id < manifest_->sample_count(); ++id) {
      top.emplace(manifest_->StoredBytes(id), id);
      if (static_cast<int64_t>(top.size()) > count) top.pop();
    }
    uint64_t sum = 0;
    Entry biggest;
    for (; !top.empty(); top.pop()) {
      biggest = top.top();
      sum += biggest.first;
    }
    // A batch may hold a sample several times only with tail=pad or substitutes; the bound by the largest sample covers those where it is affordable.
    batch_bytes = bound(sum);
    if (AlignUp(batch_bytes, unit) * at_once > budget) {
      const char* const option = device_ == nullptr ? "memory_bytes" : "device_bytes";
      return absl::ResourceExhaustedError(absl::StrCat(
          "a batch of ", options_.batch_size, " samples may need ", batch_bytes, " bytes (the largest sample, ", EscapeName(manifest_->Name(biggest.second)), ", has ", biggest.first, ")",
          device_ == nullptr ? ", and one batch is kept in reserve" : "", ", so ", option, " must be at least ", at_once * AlignUp(batch_bytes, unit), ", but it is ",
          device_ == nullptr ? options_.memory_bytes : options_.device_bytes, "; raise ", option, " or lower batch_size"));
    }
  }
  setup_.batch_bytes_max = static_cast<int64_t>(batch_bytes);
  reserve_granules_ = Granules(batch_bytes);
  if (device_ != nullptr) {
    // The largest piece: several whole samples, or with a codec one sample that is larger and must not be split.
    const uint64_t sample = plan_options_.scratch ? PlanBytesBound(1, largest, codec_->DeliveredBound(largest, largest), plan_options_)
                                                  : (plan_options_.split_large ? 0 : PlanBytesBound(1, largest, largest, plan_options_));
    const uint64_t piece_bytes = std::min(std::max((plan_options_.scratch ? 2 : 1) * plan_options_.piece_bytes, sample), plan_options_.scratch ? 2 * batch_bytes : batch_bytes);
    const int64_t columns = DeviceLayout::Of(0, options_.batch_size).columns_bytes;
    const uint64_t needed = 2 * AlignUp(piece_bytes, kGranuleBytes) + AlignUp(static_cast<uint64_t>(columns), kGranuleBytes);
    if (needed > static_cast<uint64_t>(options_.memory_bytes) / kGranuleBytes * kGranuleBytes) {
      return absl::ResourceExhaustedError(absl::StrCat("a piece may need ", piece_bytes, " bytes of host memory, one is kept in reserve, and a batch's columns need ", columns,
                                                       " bytes, so memory_bytes must be at least ", needed, ", but it is ", options_.memory_bytes,
                                                       "; raise memory_bytes or lower piece_bytes"));
    }
  }
  quarantine_max_bytes_ = options_.max_quarantine_bytes > 0 ? options_.max_quarantine_bytes : options_.memory_bytes / 4;

  if (absl::Status status = runtime_core_.LeaseMemory(options_.memory_bytes); !status.ok()) return status;
  leased_memory_ = true;
  ArenaOptions arena;
  arena.bytes = options_.memory_bytes;
  arena.huge_pages = options_.huge_pages;
  arena.numa_node = setup_.numa_node;
  if (device_ != nullptr) {
    arena.pin = [device = device_](void* address, size_t bytes) { return device->HostRegister(address, bytes); };
    arena.unpin = [device = device_](void* address) { device->HostUnregister(address); };
  }
  absl::StatusOr<std::shared_ptr<Arena>> made = Arena::Create(arena);
  if (!made.ok()) return made.status();
  arena_ = *std::move(made);

  setup_.prefetch_batches = options_.prefetch_batches;
  if (setup_.prefetch_batches == 0) {
    // Enough pieces ahead that every stream has one in hand and one to go on with, and two batches for the consumer.
    const uint64_t mean = manifest_->total_bytes() / static_cast<uint64_t>(manifest_->sample_count()) + kPlaceAlignment;
    const uint64_t mean_batch = mean * static_cast<uint64_t>(options_.batch_size);
    const uint64_t pieces_per_batch = std::max<uint64_t>(1, mean_batch / plan_options_.piece_bytes);
    setup_.prefetch_batches = static_cast<int32_t>(2 + CeilDiv(2 * static_cast<uint64_t>(setup_.streams), pieces_per_batch));
  }
  if (device_ != nullptr) {
    DevicePathOptions path;
    path.device_bytes = options_.device_bytes;
    path.batch_size = options_.batch_size;
    // As many columns as may be on their way, as far as a sixteenth of the memory goes; beyond that they are staged by the driver.
    const int64_t columns = DeviceLayout::Of(0, options_.batch_size).columns_bytes;
    path.batches = static_cast<int32_t>(std::clamp<int64_t>(options_.memory_bytes / 16 / columns, 1, setup_.prefetch_batches + 1));
    path.report_ns = intervals_.report_ns;
    path.deadline_ns = static_cast<int64_t>(options_.deadline_s * 1e9);
    absl::StatusOr<std::unique_ptr<DevicePath>> made_path = DevicePath::Create(device_, arena_, path);
    if (!made_path.ok()) return made_path.status();
    device_path_ = *std::move(made_path);
    setup_.device_bytes = options_.device_bytes;
  }
  return absl::OkStatus();
}

void LoaderCore::ChooseGap() {
  if (!packed_) {
    setup_.coalesce_gap_why = "every file is one sample";
  } else if (plan_options_.hole_bytes_max == 0 || plan_options_.dense) {
    setup_.coalesce_gap_why = plan_options_.dense ? "dense places have no room for holes" : "memory_bytes is too small for holes between neighbours, or a codec copies each sample";
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

absl::Status LoaderCore::ResolveStreams() {
  absl::StatusOr<Topology> topology = ReadTopology();
  if (!topology.ok()) return topology.status();
  allowed_cpus_ = std::max<int>(1, static_cast<int>(topology->allowed_cpus.size()));
  PlacementOptions placement;
  placement.streams = options_.streams;
  placement.cpu_share = options_.cpu_share;
  placement.local_rank = local_rank_;
  placement.local_world_size = local_world_size_;
  if (device_ != nullptr) placement.gpu_pci_bus_id = device_->pci_bus_id();
  absl::StatusOr<std::vector<StreamPlacement>> placed = PlaceStreams(*topology, placement);
  if (!placed.ok()) return placed.status();
  placement_ = *std::move(placed);
  setup_.streams = static_cast<int32_t>(placement_.size());
  setup_.numa_node = placement_[0].numa_node;
  for (const StreamPlacement& stream : placement_) {
    setup_.cpus.push_back(options_.pin_cpus ? stream.cpu : -1);
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
      pool_ = runtime_core_.Pool(options_.io_workers);
    }
  }

  const int32_t streams = setup_.streams;
  const int32_t wanted = options_.queue_depth > 0 ? options_.queue_depth : std::min(kDepthMax, kDepthPerStream * streams);
  leased_depth_ = runtime_core_.LeaseDepth(std::max(wanted, streams), streams);
  setup_.queue_depth = leased_depth_;
  ring_options_.capacity = static_cast<size_t>(std::max(1, leased_depth_ / streams));
  ring_options_.read_bytes_max = static_cast<uint64_t>(options_.read_bytes_max);
  ring_options_.io_worker_max = options_.io_workers;
  return absl::OkStatus();
}

absl::Status LoaderCore::Open() {
  if (absl::Status status = ResolveOptions(); !status.ok()) return status;
  absl::StatusOr<std::shared_ptr<const Manifest>> manifest =
      runtime_core_.OpenManifest(options_.root, options_.manifest_path, options_.deadline_s);
  if (!manifest.ok()) return manifest.status();
  manifest_ = *std::move(manifest);
  if (manifest_->sample_count() == 0) return absl::NotFoundError(absl::StrCat(EscapeName(options_.root), " holds no samples"));
  objects_ = manifest_->OpenObjects();
  setup_.fingerprint = manifest_->fingerprint();
  if (absl::Status status = ResolveDevice(); !status.ok()) return status;
  if (absl::Status status = ResolveOrder(); !status.ok()) return status;
  if (absl::Status status = ResolveStreams(); !status.ok()) return status;
  ChooseIo();
  ResolveOpenFiles();
  if (absl::Status status = ResolveMemory(); !status.ok()) return status;
  ChooseGap();
  const ArenaReport memory = arena_->report();
  setup_.arena_bytes = memory.bytes;
  if (!codec_->identity()) {
    ComputePoolOptions compute;
    compute.threads = compute_threads_ = std::max(1, static_cast<int>(std::lround(options_.cpu_share * allowed_cpus_)));
    absl::StatusOr<std::unique_ptr<ComputePool>> pool = ComputePool::Create(compute);
    if (!pool.ok()) return pool.status();
    compute_ = *std::move(pool);
  }
  if (StepsOf(epoch_).steps() == 0 && origin_ == 0) {
    return absl::InvalidArgumentError(absl::StrCat("the data set's ", order_->size(), " samples do not fill one step of batch_size ", options_.batch_size, " on ", options_.world_size,
                                                   " ranks, and tail=drop leaves them out; lower batch_size, or use tail=pad or tail=partial"));
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
      threads_[i]->status = absl::ResourceExhaustedError(absl::StrCat("stream ", i, " of ", placement_.size(), ": no thread: ", error.what(), "; raise RLIMIT_NPROC or the pids cgroup's limit"));
    }
  }
  const auto all_started = [this] { return std::all_of(threads_.begin(), threads_.end(), [](const auto& t) { return t->started; }); };
  ready_.wait(lock, all_started);
  const auto refused = std::find_if(threads_.begin(), threads_.end(),
                                    [](const auto& t) { return !t->ended && absl::IsResourceExhausted(t->status); });
  if (options_.engine == EngineOption::kAuto && engine_ == Engine::kUring && refused != threads_.end()) {
    DegradeToThreads((*refused)->status.message());
    for (auto& thread : threads_) thread->started = thread->ended;
    ++ring_round_;
    rings_.notify_all();
    ready_.wait(lock, all_started);
  }
  for (const auto& thread : threads_) {
    if (!thread->status.ok()) return thread->status;
  }
  rings_agreed_ = true;
  rings_.notify_all();
  lock.unlock();
  StartWarmer(epoch_);
  return absl::OkStatus();
}

void LoaderCore::DegradeToThreads(absl::string_view why) {
  engine_ = Engine::kThreads;
  setup_.engine = "threads";
  setup_.engine_why = std::string(why);
  pool_ = runtime_core_.Pool(options_.io_workers);
  setup_.warnings.push_back(absl::StrCat("engine=auto: all streams read with threads instead of io_uring: ", why));
  Log(LogLevel::kWarning, setup_.warnings.back());
}

bool LoaderCore::SmallSamples() const {
  return manifest_->total_bytes() / static_cast<uint64_t>(manifest_->sample_count()) <= static_cast<uint64_t>(kWarmBytesMax);
}

void LoaderCore::StartWarmer(int64_t epoch) {
  const auto choose = [&]() -> std::string {
    if (options_.warm == WarmAhead::kOff) return "nothing is read ahead: asked for";
    if (direct_) return "nothing is read ahead: reads are direct";
    if (packed_) return "nothing is read ahead: neighbours in one file share reads";
    if (!options_.disk_blocks && epoch != first_epoch_) return "nothing is read ahead: the first epoch has done that";
    if (!options_.disk_blocks && manifest_->place_order() == PlaceOrder::kNone &&
        (manifest_->place_hint(0) == 0 || manifest_->sample_count() > kWarmSortMax)) {
      return "nothing is read ahead: where files lie is not known; penstock index --place inode tells";
    }
    if (options_.warm == WarmAhead::kOn) return "";
    const UniqueFd root(::open(manifest_->root().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (root.valid() && IsOnNetwork(root.get())) return "nothing is read ahead: the file system is on a network, and inodes say nothing of its drives";
    if (!options_.disk_blocks && (residency_.prefer_direct || residency_.available_bytes == 0)) return "nothing is read ahead: the set does not fit in memory";
    if (!SmallSamples()) return "nothing is read ahead: the files are large";
    return "";
  };
  std::string why = choose();
  std::unique_ptr<Warmer> made;
  int64_t steps_of_run = 0;
  if (why.empty()) {
    WarmerOptions options;
    options.engine = engine_;
    options.pool = pool_;
    options.ring = ring_options_;
    options.ring.capacity = kWarmDepth;
    options.unless_cached = options_.warm == WarmAhead::kAuto;
    if (options_.disk_blocks) {
      const StepPlan steps = StepsOf(epoch);
      const int64_t step_count = steps.steps();
      steps_of_run = std::max<int64_t>(1, static_cast<int64_t>(CeilDiv(static_cast<uint64_t>(options_.window_samples * options_.virtual_streams), static_cast<uint64_t>(steps.global_batch()))));
      // Only what does not change while the loader lives: the warmer's thread may be the last to let go of it.
      auto next = [order = *order_, manifest = manifest_, steps, step_count, steps_of_run, epoch, rank = options_.rank](int64_t run, std::vector<int64_t>& ids) {
        std::vector<int64_t> positions;
        for (int64_t step = run * steps_of_run; step < std::min(step_count, (run + 1) * steps_of_run); ++step) {
          steps.Positions(step, rank, positions);
          for (const int64_t position : positions) ids.push_back(order.IdAt(epoch, StepPlan::Wrap(position, order.size())));
        }
        std::sort(ids.begin(), ids.end());  // places until here
        for (int64_t& id : ids) id = manifest->IdAtPlace(id);
        return run * steps_of_run < step_count;
      };
      made = std::make_unique<Warmer>(manifest_, objects_, options, std::move(next), /*runs_ahead=*/2);
      why = absl::StrCat("windows of ", options_.window_samples, " samples are read ahead in the order of place");
    } else {
      // Each local rank takes its part of the drive; together they bring in the whole set.
      auto sorted = std::make_shared<std::vector<uint32_t>>();
      auto next = [sorted, manifest = manifest_, rank = int64_t{local_rank_}, world = int64_t{local_world_size_}](int64_t run, std::vector<int64_t>& ids) {
        const int64_t count = manifest->sample_count();
        const bool saved = manifest->place_order() != PlaceOrder::kNone;
        if (!saved && sorted->empty()) {
          sorted->resize(static_cast<size_t>(count));
          for (int64_t i = 0; i < count; ++i) (*sorted)[static_cast<size_t>(i)] = static_cast<uint32_t>(i);
          std::sort(sorted->begin(), sorted->end(), [&](uint32_t a, uint32_t b) { return manifest->place_hint(manifest->RangeAt(a, 0).object) < manifest->place_hint(manifest->RangeAt(b, 0).object); });
        }
        const int64_t begin = count / world * rank + std::min(rank, count % world);
        const int64_t end = begin + count / world + (rank < count % world ? 1 : 0);
        for (int64_t place = begin + run * kWarmRun; place < std::min(end, begin + (run + 1) * kWarmRun); ++place) {
          ids.push_back(saved ? manifest->IdAtPlace(place) : int64_t{(*sorted)[static_cast<size_t>(place)]});
        }
        return begin + run * kWarmRun < end;
      };
      made = std::make_unique<Warmer>(manifest_, objects_, options, std::move(next), /*runs_ahead=*/std::numeric_limits<int32_t>::max());
      why = "the whole set is read ahead in the order of place";
    }
  }
  std::lock_guard<std::mutex> lock(mutex_);
  setup_.warm = why;
  warm_steps_ = steps_of_run;
  warmer_ = std::move(made);
}

void LoaderCore::StreamMain(size_t index) {
  ::pthread_setname_np(::pthread_self(), absl::StrCat("penstock/", index).substr(0, 15).c_str());
  if (options_.pin_cpus && placement_[index].cpu >= 0) PinThisThread(placement_[index].cpu);
  StreamThread& thread = *threads_[index];
  thread.tid.store(::gettid(), std::memory_order_relaxed);
  Stream* running = nullptr;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const int64_t round = ring_round_;
    const Engine engine = engine_;
    const std::shared_ptr<PreadPool> pool = pool_;
    lock.unlock();
    absl::StatusOr<std::unique_ptr<Ring>> ring =
        MakeRingPatiently(engine, *objects_, ring_options_, pool, opened_ns_ + intervals_.ring_patience_ns);
    std::unique_ptr<Stream> stream;
    if (ring.ok()) {
      StreamOptions options;
      options.index = static_cast<int32_t>(index);
      options.retries = options_.retries;
      options.deadline_ns = static_cast<int64_t>(options_.deadline_s * 1e9);
      options.report_ns = intervals_.report_ns;
      options.direct = direct_;
      options.verify_stat = options_.verify == Verify::kStat;
      options.compute = compute_.get();
      stream = std::make_unique<Stream>(*this, *std::move(ring), options);
    }
    running = stream.get();
    lock.lock();
    thread.status = ring.ok() ? absl::OkStatus() : absl::Status(ring.status().code(), absl::StrCat("stream ", index, " of ", placement_.size(), ": ", ring.status().message()));
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

absl::Status LoaderCore::PlanAttempt(const StepPlan& steps, int64_t epoch, int64_t step, const std::vector<Decision>& decisions, Attempt& attempt) {
  plan_positions_.clear();
  steps.Positions(step, options_.rank, plan_positions_);
  plan_ids_.resize(plan_positions_.size());
  plan_places_.resize(plan_positions_.size());
  plan_samples_.clear();
  plan_ranges_.clear();
  // All at once: one by one, a window of the order would be shuffled again for each of them. Where the tail is padded they wrap.
  const int64_t size = order_->size();
  plan_wrapped_.resize(plan_positions_.size());
  std::transform(plan_positions_.begin(), plan_positions_.end(), plan_wrapped_.begin(),
                 [size](int64_t position) { return StepPlan::Wrap(position, size); });
  order_->IdsAt(epoch, plan_wrapped_, absl::MakeSpan(plan_places_));
  for (size_t i = 0; i < plan_positions_.size(); ++i) {
    plan_ids_[i] = options_.disk_blocks ? manifest_->IdAtPlace(plan_places_[i]) : plan_places_[i];
  }
  for (const Decision& decision : decisions) {
    if (!decision.skip && decision.substitute >= 0) plan_ids_[decision.index] = decision.substitute;
  }
  const bool one_range = manifest_->range_count() == manifest_->sample_count();
  for (size_t i = 0; i < plan_positions_.size(); ++i) {
    PlanSample sample;
    sample.id = plan_ids_[i];
    sample.position = plan_positions_[i];
    sample.label = manifest_->Label(sample.id);
    sample.first_range = static_cast<uint32_t>(plan_ranges_.size());
    sample.range_count = static_cast<uint32_t>(manifest_->RangeCount(sample.id));
    uint64_t stored = 0;
    for (int r = 0; r < static_cast<int>(sample.range_count); ++r) {
      plan_ranges_.push_back(manifest_->RangeAt(sample.id, r));
      stored += plan_ranges_.back().stored_bytes;
    }
    sample.whole_object = one_range && !packed_;
    if (plan_options_.sort_by_place) sample.place = options_.disk_blocks ? static_cast<uint64_t>(plan_places_[i]) : manifest_->place_hint(plan_ranges_[sample.first_range].object);
    sample.delivered_bytes = plan_options_.scratch ? codec_->DeliveredBound(stored, manifest_->DeliveredBytes(sample.id)) : stored;
    plan_samples_.push_back(sample);
  }
  for (const Decision& decision : decisions) plan_samples_[decision.index].skip = decision.skip;
  return PlanBatch(plan_samples_, plan_ranges_, plan_options_, attempt.plan());
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
    if (step >= StepsOf(epoch).steps()) return false;  // an epoch without steps: nothing follows (a batch larger than the data set)
    if (epoch != epoch_ && !options_.next_epoch_prefetch) return false;
    if (memory_wanted_) return false;  // until something is freed
  }

  // Memory that did not do for it a moment ago does not now.
  if (again != nullptr && device_path_ != nullptr && memory_wanted_) return false;

  planning_ = true;
  const int64_t generation = generation_;
  const StepPlan steps = StepsOf(epoch);  // StartEpoch may change the origin meanwhile
  std::shared_ptr<Attempt> attempt = again == nullptr ? std::move(unplaced_) : nullptr;
  unplaced_ = nullptr;
  lock.unlock();
  absl::Status status;
  if (attempt == nullptr) {
    attempt = std::make_shared<Attempt>(arena_, epoch, step);
    status = PlanAttempt(steps, epoch, step, decisions, *attempt);
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
    const Run run = arena_->Allocate(Granules(bytes), again == nullptr ? reserve_granules_ : 0);
    placed = run.valid();
    if (placed) attempt->set_run(run);
    attempt->pieces_left = static_cast<uint32_t>(attempt->plan().pieces.size());
  }
  lock.lock();
  planning_ = false;
  if (generation != generation_) return true;  // StartEpoch went elsewhere meanwhile
  if (again != nullptr) {
    again = nullptr;
    for (auto& slot : ahead_) {
      if (slot->epoch == epoch && slot->step == step && slot->attempt == nullptr) again = slot.get();
    }
    PENSTOCK_CHECK(again != nullptr, "a batch that is read again stays in the queue");
    if (status.ok() && !placed && device_path_ != nullptr) {
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
                                  : absl::ResourceExhaustedError(absl::StrCat("no memory to read step ", step, " of epoch ", epoch, " again: ", arena_->quarantined_granules(), " of ",
                                                                              arena_->granules(), " granules are held by reads that hang; raise memory_bytes"));
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
    ++plan_step_;
    if (plan_step_ >= StepsOf(plan_epoch_).steps()) {
      ++plan_epoch_;
      plan_step_ = 0;
    }
  }
  if (again->attempt->pieces_left == 0) AttemptDone(*again);  // an empty batch of tail=partial
  return true;
}

// The oldest batch with a piece that nobody has claimed.
LoaderCore::Slot* LoaderCore::SlotToClaim() {
  for (auto& slot : ahead_) {
    if (slot->state != SlotState::kFilling || slot->attempt == nullptr) continue;
    if (slot->attempt->next_piece < slot->attempt->plan().pieces.size()) return slot.get();
  }
  return nullptr;
}

bool LoaderCore::Claim(int32_t stream, ClaimedPiece& piece, int64_t& seen) {
  // Device path: the memory of the piece, had before the piece is.
  std::shared_ptr<PieceMemory> memory;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping()) {
    PollDevice();
    seen = work_version_;
    Slot* const slot = SlotToClaim();
    if (slot == nullptr) {
      if (PlanLocked(lock)) continue;
      break;
    }
    Attempt& attempt = *slot->attempt;
    const PiecePlan& plan = attempt.plan().pieces[attempt.next_piece];
    if (device_path_ != nullptr) {
      // Scratch comes first, where it is aligned for direct reads whatever the places' bytes are.
      const int32_t granules = Granules(AlignUp(plan.scratch_bytes, kPlaceAlignment) + plan.bytes);
      if (memory == nullptr || memory->run().granules < granules) {
        // Without the lock: the first use of memory makes its pages and pins them. Meanwhile another stream may claim this piece.
        lock.unlock();
        memory.reset();
        const Run run = arena_->Allocate(std::max(granules, Granules(plan_options_.piece_bytes)));
        if (run.valid()) memory = std::make_shared<PieceMemory>(arena_, run);
        lock.lock();
        if (memory == nullptr) break;
        continue;
      }
    }
    piece.attempt = slot->attempt;
    piece.piece = attempt.next_piece++;
    if (memory != nullptr) {
      piece.scratch = memory->run().data;
      piece.places = piece.scratch + AlignUp(plan.scratch_bytes, kPlaceAlignment);
      piece.memory = std::move(memory);
    } else {
      piece.places = attempt.places() + plan.offset;
      piece.scratch = attempt.scratch() + plan.scratch_offset;
    }
    // Others may sleep since there was nothing, or since this stream was planning: what is left of this batch, or the next, is theirs.
    ++work_version_;
    work_.notify_one();
    WakeStarved(1);
    return true;
  }
  StreamThread& thread = *threads_[static_cast<size_t>(stream)];
  starved_count_ += thread.starved ? 0 : 1;
  thread.starved = true;
  return false;
}

int64_t LoaderCore::StarvedWaitNs() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return DeviceMayFree() ? kCopyPollMaxNs : std::numeric_limits<int64_t>::max();
}

void LoaderCore::WaitForWork(int64_t seen, int64_t deadline_ns) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (stopping() || seen != work_version_) return;
  const int64_t now_ns = MonotonicNs();
  const bool watch = !device_watched_ && DeviceMayFree();
  if (watch) {
    device_watched_ = true;
    deadline_ns = std::min(deadline_ns, now_ns + kCopyPollMaxNs / 5);
  }
  if (deadline_ns > now_ns) work_.wait_for(lock, std::chrono::nanoseconds(deadline_ns - now_ns));
  if (watch) device_watched_ = false;
}

// Whether looking at the device may bring something: a copy that has ended, or memory of a batch that the consumer gave back, where it is
// wanted.
bool LoaderCore::DeviceMayFree() const {
  return device_path_ != nullptr && (device_path_->copying() || (memory_wanted_ && device_path_->releasing()));
}

LoaderCore::Slot* LoaderCore::FindSlot(const Attempt* attempt) {
  for (auto& slot : ahead_) {
    if (slot->attempt.get() == attempt) return slot.get();
  }
  return nullptr;
}

void LoaderCore::PieceFinished(ClaimedPiece piece, const ReadStats& delta) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (std::shared_ptr<DeviceBatch> device = piece.attempt->device; device != nullptr && !piece.attempt->cancelled()) {
    const PiecePlan& planned = piece.attempt->plan().pieces[piece.piece];
    lock.unlock();
    const absl::Status status = device_path_->CopyPiece(device, static_cast<int64_t>(planned.offset), piece.places, std::move(piece.memory), static_cast<int64_t>(planned.bytes));
    device.reset();
    lock.lock();
    if (!status.ok()) DeviceFailed(status);
  }
  totals_.reads.Merge(delta);
  Slot* slot = FindSlot(piece.attempt.get());
  if (slot != nullptr && slot->state == SlotState::kFilling) {
    PENSTOCK_CHECK(piece.attempt->pieces_left > 0, "a piece finishes once");
    if (--piece.attempt->pieces_left == 0) AttemptDone(*slot);
    if (slot->attempt == piece.attempt) return;
  }
  // Perhaps this is the last reference to a batch that was given up: its memory is wanted.
  lock.unlock();
  piece = ClaimedPiece();
  lock.lock();
  memory_wanted_ = false;
  WakeStreams();
}

void LoaderCore::AddStats(const ReadStats& delta) {
  std::lock_guard<std::mutex> lock(mutex_);
  totals_.reads.Merge(delta);
}

void LoaderCore::SampleFailed(Attempt& attempt, SampleFailure failure) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (attempt.cancelled()) return;
  Slot* slot = FindSlot(&attempt);
  if (slot == nullptr) return;
  if (!failure.hung) {
    attempt.failures.push_back(std::move(failure));
    return;
  }
  // The batch's memory may still be written to: it is given up, and the batch is read into another.
  attempt.Quarantine();
  std::vector<SampleFailure> failures = std::move(attempt.failures);
  failures.push_back(std::move(failure));
  GiveUp(slot->attempt);  // the streams that work on it hold it
  if (int64_t{arena_->quarantined_granules()} * kGranuleBytes > quarantine_max_bytes_) {
    fatal_ = absl::ResourceExhaustedError(absl::StrCat(int64_t{arena_->quarantined_granules()} * kGranuleBytes, " bytes are held by reads that hang, more than max_quarantine_bytes (",
                                                       quarantine_max_bytes_, "). The last: ", failures.back().status.message()));
    ready_.notify_all();
    return;
  }
  ApplyPolicy(*slot, std::move(failures), true);
  WakeStreams();
}

// A batch is given up: streams may hold it for as long as a read hangs, and copies for as long as they run, but its place on the device is
// free once these have ended.
void LoaderCore::GiveUp(std::shared_ptr<Attempt>& attempt) {
  if (attempt == nullptr) return;
  attempt->Cancel();
  attempt->device.reset();
  attempt.reset();
}

// Everything of a batch has been read, and what the policy decided about it is in its columns.
void LoaderCore::BatchRead(Slot& slot) {
  if (device_path_ == nullptr) {
    slot.state = SlotState::kReady;
  } else {
    slot.state = SlotState::kCopying;
    const absl::Status status = device_path_->CopyColumns(slot.attempt->device, slot.attempt->plan());
    if (!status.ok()) DeviceFailed(status);
  }
  ready_.notify_all();
}

void LoaderCore::DeviceFailed(const absl::Status& status) {
  if (!device_error_.ok()) return;
  device_error_ = status;
  Log(LogLevel::kError, status.message());
  ready_.notify_all();
}

// Lets go of what was copied, and of what the consumer's CUDA streams are done with.
void LoaderCore::PollDevice() {
  if (device_path_ == nullptr || !device_error_.ok() || (!device_path_->copying() && !device_path_->releasing())) return;
  complete_.clear();
  bool freed = false;
  const absl::Status copied = device_path_->Poll(complete_, freed);
  for (const DeviceBatch* batch : complete_) {
    for (auto& slot : ahead_) {
      if (slot->state != SlotState::kCopying || slot->attempt->device.get() != batch) continue;
      slot->state = SlotState::kReady;
      ready_.notify_all();
    }
  }
  const absl::Status released = device_path_->PollReleased(freed);
  if (!copied.ok()) {
    DeviceFailed(copied);
  } else if (!device_->sticky().ok()) {
    DeviceFailed(device_->sticky());
  } else if (!released.ok()) {
    Log(LogLevel::kWarning, absl::StrCat("when a CUDA stream is done with a batch cannot be told, so that its memory is not used again: ", released.message()));
  }
  if (freed || !complete_.empty()) {
    memory_wanted_ = false;
    WakeStreams();
  }
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
    memory_wanted_ = false;
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
      fail(absl::Status(failure.status.code(), absl::StrCat("more than skip_max = ", options_.skip_max, " samples failed in this epoch; the last: ", failure.status.message())));
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
      decision->substitute = static_cast<int64_t>(XXH3_64bits(key, sizeof key) % static_cast<uint64_t>(manifest_->sample_count()));
      entry.substitute = decision->substitute;
      read_again = true;
    }
    Log(LogLevel::kWarning, absl::StrCat(entry.substitute >= 0 ? "substituted: " : "skipped: ", entry.reason));
    if (slot.ledger.size() < kLedgerMax) slot.ledger.push_back(std::move(entry));
  }
  if (read_again) {
    GiveUp(slot.attempt);
    slot.state = SlotState::kFilling;
    memory_wanted_ = false;
    WakeStreams();
    return;
  }
  BatchRead(slot);
}

void LoaderCore::DecodePiece(const ClaimedPiece& piece) {
  const int64_t begin_ns = MonotonicNs();
  Attempt& attempt = *piece.attempt;
  BatchPlan& plan = attempt.plan();
  const PiecePlan& planned = plan.pieces[piece.piece];
  const bool in_place = codec_->in_place();
  std::vector<uint32_t> failed;
  std::list<Decoding>::iterator decoding;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const SampleFailure& failure : attempt.failures) failed.push_back(failure.index);
    decoding = decoding_.emplace(decoding_.end());
  }
  std::vector<RangeCrc> crcs;
  for (uint32_t n = planned.first_sample; n < planned.first_sample + planned.sample_count; ++n) {
    const uint32_t index = plan.laid_out[n];
    if (attempt.cancelled()) break;
    if (plan.valid[index] == 0 || std::find(failed.begin(), failed.end(), index) != failed.end()) continue;
    const int64_t id = plan.ids[index];
    const std::string name = manifest_->Name(id);
    crcs.clear();
    for (int r = 0; options_.codec.verify_crc && r < manifest_->RangeCount(id); ++r) {
      crcs.push_back(RangeCrc{manifest_->RangeAt(id, r).stored_bytes, manifest_->has_crc(), manifest_->has_crc() ? manifest_->Crc(id, r) : 0});
    }
    SampleContext context;
    context.id = id;
    context.name = name;
    context.ranges = crcs;
    std::byte* const place = piece.places + (static_cast<uint64_t>(plan.offsets[index]) - planned.offset);
    const auto room = static_cast<size_t>(plan.lengths[index]);
    const absl::Span<const std::byte> stored =
        in_place ? absl::Span<const std::byte>(place, room) : absl::Span<const std::byte>(piece.scratch + plan.stored[index].offset, plan.stored[index].bytes);
    decoding->id.store(id, std::memory_order_relaxed);
    decoding->since_ns.store(MonotonicNs(), std::memory_order_relaxed);
    absl::StatusOr<uint64_t> bytes = codec_->Decode(context, stored, absl::Span<std::byte>(place, room));
    if (bytes.ok()) {
      plan.lengths[index] = static_cast<int64_t>(*bytes);
    } else {
      SampleFailed(attempt, SampleFailure{index, bytes.status(), false});
    }
  }
  ReadStats delta;
  delta.codec_ns = MonotonicNs() - begin_ns;
  std::lock_guard<std::mutex> lock(mutex_);
  decoding_.erase(decoding);
  totals_.reads.Merge(delta);
}

std::string LoaderCore::ObjectName(uint32_t object) const { return objects_->Name(object); }

std::string LoaderCore::Waiting() const {
  const int64_t now_ns = MonotonicNs();
  int64_t in_flight = 0;
  OldestRequest oldest;  // of the batch that is waited for, if there is one
  bool is_front = false;
  for (const auto& thread : threads_) {
    if (thread->stream == nullptr) continue;
    in_flight += thread->stream->in_flight();
    OldestRequest request = thread->stream->Oldest(now_ns);
    if (request.since_ns == 0) continue;
    const bool front = request.epoch == epoch_ && request.step == step_;
    if (oldest.since_ns != 0 && (front != is_front ? is_front : oldest.since_ns <= request.since_ns)) continue;
    is_front = front;
    oldest = std::move(request);
  }
  std::string what = absl::StrCat("step ", step_, " of epoch ", epoch_, ": ");
  if (ahead_.empty()) {
    absl::StrAppend(&what, "nothing of it is being read");
  } else if (ahead_.front()->attempt == nullptr) {
    absl::StrAppend(&what, "no stream has begun to read it again");
  } else {
    const Attempt& attempt = *ahead_.front()->attempt;
    absl::StrAppend(&what, attempt.pieces_left, " of its ", attempt.plan().pieces.size(), " pieces are still to come");
  }
  absl::StrAppend(&what, ", ", in_flight, " reads in flight");
  if (oldest.since_ns != 0) absl::StrAppend(&what, "; for ", (now_ns - oldest.since_ns) / kNsPerMs, " ms: ", oldest.text);
  const Decoding* slowest = nullptr;
  for (const Decoding& decoding : decoding_) {
    const int64_t since_ns = decoding.since_ns.load(std::memory_order_relaxed);
    if (since_ns != 0 && (slowest == nullptr || since_ns < slowest->since_ns.load(std::memory_order_relaxed))) slowest = &decoding;
  }
  if (slowest != nullptr) {
    const int64_t id = slowest->id.load(std::memory_order_relaxed);
    const int64_t age_ns = now_ns - slowest->since_ns.load(std::memory_order_relaxed);
    absl::StrAppend(&what, "; for ", age_ns / kNsPerMs, " ms: the codec, with sample ", id, " (", EscapeName(manifest_->Name(id)), ")");
  }
  const int32_t quarantined = arena_->quarantined_granules();
  if (quarantined > 0) absl::StrAppend(&what, "; reads that hang hold ", int64_t{quarantined} * kGranuleBytes, " bytes");
  if (!ahead_.empty() && !ahead_.front()->hung.empty()) absl::StrAppend(&what, "; the try before this one: ", ahead_.front()->hung);
  return what;
}

absl::Status LoaderCore::AllLent() const {
  std::string names;
  for (const auto& [attempt, name] : lent_names_) absl::StrAppend(&names, names.empty() ? "" : "; ", name);
  const std::string memory = device_path_ == nullptr ? absl::StrCat("all memory (memory_bytes = ", options_.memory_bytes, ", one batch in reserve)")
                                                     : absl::StrCat("all device memory (device_bytes = ", options_.device_bytes, ")");
  return absl::ResourceExhaustedError(absl::StrCat(memory, " is in ", lent_names_.size(), " batches that were not released: ", names, ". Release batches before taking more, or raise ",
                                                   device_path_ == nullptr ? "memory_bytes" : "device_bytes"));
}

absl::StatusOr<Batch> LoaderCore::Next() {
  const int64_t begin_ns = MonotonicNs();
  const int64_t deadline_ns = begin_ns + static_cast<int64_t>(options_.deadline_s * 1e9) + kNsPerSecond;
  int64_t report_ns = begin_ns + intervals_.report_ns;
  std::unique_lock<std::mutex> lock(mutex_);
  if (!fatal_.ok() && int64_t{arena_->quarantined_granules()} * kGranuleBytes <= quarantine_max_bytes_) {
    // The reads have come back meanwhile, and their memory with them.
    fatal_ = absl::OkStatus();
    WakeStreams();
  }
  if (totals_.begin_ns == 0) totals_.begin_ns = begin_ns;
  if (!ahead_.empty() && ahead_.front()->state == SlotState::kFailed && ahead_.front()->error_seen) {
    // The caller wants the batch that failed once more.
    Slot& front = *ahead_.front();
    front.state = SlotState::kFilling;
    front.hung_tries = 0;
    GiveUp(front.attempt);
    WakeStreams();
  }
  int64_t poll_ns = kCopyPollNs;
  while (true) {
    if (stopping()) return absl::CancelledError("Stop() was called");
    PollDevice();
    if (!device_error_.ok()) return device_error_;
    if (!fatal_.ok()) return fatal_;
    if (step_ >= StepsOf(epoch_).steps()) return absl::OutOfRangeError(absl::StrCat("epoch ", epoch_, " has ended after ", step_, " steps; StartEpoch() begins the next one"));
    if (!ahead_.empty()) {
      Slot& front = *ahead_.front();
      if (front.state == SlotState::kReady) break;
      if (front.state == SlotState::kFailed) {
        front.error_seen = true;
        totals_.wait_ns += MonotonicNs() - begin_ns;
        return front.error;
      }
    }
    const bool unplaced = ahead_.empty() || (ahead_.front()->state == SlotState::kFilling && ahead_.front()->attempt == nullptr);
    if (unplaced && memory_wanted_ && !planning_ && !lent_names_.empty()) {
      // What is being copied, or is still in use by a CUDA stream, comes back by itself.
      if (!DeviceMayFree()) return AllLent();
    }
    const int64_t now_ns = MonotonicNs();
    if (now_ns >= deadline_ns) {
      totals_.wait_ns += now_ns - begin_ns;
      return absl::DeadlineExceededError(absl::StrCat("Next() waited ", (now_ns - begin_ns) / kNsPerMs, " ms, past deadline_s: ", Waiting()));
    }
    if (now_ns >= report_ns) {
      ++totals_.reads.late_reports;
      const std::string waiting = Waiting();
      // The sink is the user's: the streams must not wait for it.
      lock.unlock();
      Log(LogLevel::kWarning, absl::StrCat("Next() has been waiting for ", (now_ns - begin_ns) / kNsPerMs, " ms: ", waiting));
      lock.lock();
      report_ns += intervals_.report_ns;
      continue;
    }
    int64_t until_ns = std::min(deadline_ns, report_ns);
    if (DeviceMayFree()) {
      // Copies end without a word: we look.
      until_ns = std::min(until_ns, now_ns + poll_ns);
      poll_ns = std::min(2 * poll_ns, kCopyPollMaxNs);
    }
    const bool copying = !ahead_.empty() && ahead_.front()->state == SlotState::kCopying;
    ready_.wait_for(lock, std::chrono::nanoseconds(until_ns - now_ns));
    if (copying) totals_.copy_wait_ns += MonotonicNs() - now_ns;
  }
  const int64_t now_ns = MonotonicNs();
  totals_.wait_ns += now_ns - begin_ns;
  totals_.last_ns = now_ns;
  if (totals_.batches == 0) totals_.first_batch_ns = now_ns - (epoch_ == first_epoch_ ? opened_ns_ : begin_ns);
  const auto us = static_cast<float>(now_ns - begin_ns) / 1000.0f;
  if (totals_.next_us.size() < kNextSamplesMax) {
    totals_.next_us.push_back(us);
  } else {
    totals_.next_us[static_cast<size_t>(totals_.batches) % kNextSamplesMax] = us;
  }
  return TakeFront();
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
  for (LedgerEntry& entry : slot->ledger) {
    if (totals_.ledger.size() < kLedgerMax) totals_.ledger.push_back(std::move(entry));
  }
  std::string name = absl::StrCat("epoch ", slot->epoch, " step ", slot->step, " (ids ",
                                  absl::StrJoin(plan.ids.begin(), plan.ids.begin() + static_cast<int64_t>(std::min(plan.ids.size(), kIdsNamed)), ", "),
                                  plan.ids.size() > kIdsNamed ? ", ..." : "", ")");
  lent_names_.emplace_back(slot->attempt.get(), std::move(name));
  auto lease = std::make_unique<Batch::Lease>();
  lease->core = shared_from_this();
  lease->attempt = std::move(slot->attempt);
  WakeStreams();
  return Batch(std::move(lease));
}

void LoaderCore::Released(const Attempt* attempt, std::shared_ptr<DeviceBatch> device) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (device != nullptr) device_path_->Release(std::move(device));
  lent_names_.erase(std::remove_if(lent_names_.begin(), lent_names_.end(), [&](const auto& entry) { return entry.first == attempt; }), lent_names_.end());
  memory_wanted_ = false;
  WakeStreams();
}

// Streams without work look again: those that sleep, and those that wait on their ring for the few reads that they have.
void LoaderCore::WakeStreams() {
  ++work_version_;
  work_.notify_all();
  WakeStarved(starved_count_);
}

void LoaderCore::WakeStarved(int32_t count) {
  for (auto& thread : threads_) {
    if (count == 0 || starved_count_ == 0) return;
    if (!thread->starved) continue;
    thread->starved = false;
    --starved_count_;
    --count;
    if (thread->stream != nullptr) thread->stream->Wake();
  }
}

void LoaderCore::DropAhead() {
  ++generation_;
  for (auto& slot : ahead_) GiveUp(slot->attempt);
  ahead_.clear();
  unplaced_.reset();
  memory_wanted_ = false;
}

void LoaderCore::BeginTotals() {
  totals_ = EpochTotals();
  totals_.process_cpu_begin_s = ProcessCpuSeconds();
  totals_.stream_demand_begin_ns = StreamDemandNs();
  if (pool_ != nullptr) totals_.pool_begin = pool_->usage();
}

absl::Status LoaderCore::StartEpoch(int64_t epoch) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (stopping()) return absl::CancelledError("Stop() was called");
  const int64_t next = epoch < 0 ? epoch_ + 1 : epoch;
  const bool continues = next == epoch_ + 1 && step_ >= StepsOf(epoch_).steps();
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
  policy_count_ = 0;
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
    Log(LogLevel::kWarning, absl::StrCat(hung, " streams still have reads that hang; they and their memory (", held, " bytes known to hang) stay until the kernel lets go"));
  }
}

int64_t LoaderCore::epoch() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return epoch_;
}
int64_t LoaderCore::steps() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return StepsOf(epoch_).steps();
}
int64_t LoaderCore::step() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return step_;
}

std::string LoaderCore::state() const {
  std::lock_guard<std::mutex> lock(mutex_);
  State state;
  state.fingerprint = fingerprint_;
  state.seed = options_.seed;
  state.shuffle = options_.shuffle;
  state.disk_blocks = options_.disk_blocks;
  state.format_version = options_.disk_blocks ? 2 : 1;
  state.block_samples = options_.block_samples;
  state.window_samples = options_.window_samples;
  state.virtual_streams = options_.virtual_streams;
  state.tail = options_.tail;
  state.epoch = epoch_;
  StepsOf(epoch_).Advance(step_, state.epoch, state.position);
  if (!options_.ids.empty()) state.ids_hash = order_->ids_hash_text();
  return state.ToJson();
}

// What the streams' threads wanted of the CPU since they began; -1: not known.
int64_t LoaderCore::StreamDemandNs() const {
  int64_t sum_ns = -1;
  for (const auto& thread : threads_) {
    const pid_t tid = thread->ended ? 0 : thread->tid.load(std::memory_order_relaxed);
    const int64_t demand_ns = tid == 0 ? -1 : ThreadDemandNs(tid);
    if (demand_ns >= 0) sum_ns = std::max<int64_t>(0, sum_ns) + demand_ns;
  }
  return sum_ns;
}

EpochReport LoaderCore::report() const {
  std::lock_guard<std::mutex> lock(mutex_);
  EpochReport report;
  const StepPlan steps = StepsOf(epoch_);
  report.epoch = epoch_;
  report.expected = RankSamples(epoch_);
  report.delivered = totals_.delivered;
  report.substituted = totals_.substituted;
  report.skipped = totals_.skipped;
  report.taken = report.delivered + report.substituted + report.skipped;
  report.dropped = steps.dropped();
  report.padded = steps.padded();
  report.batches = totals_.batches;
  report.bytes = totals_.bytes;
  report.wall_s = totals_.begin_ns == 0 ? 0 : 1e-9 * static_cast<double>((totals_.last_ns == 0 ? MonotonicNs() : totals_.last_ns) - totals_.begin_ns);
  report.wait_s = 1e-9 * static_cast<double>(totals_.wait_ns);
  report.first_batch_s = 1e-9 * static_cast<double>(totals_.first_batch_ns);
  std::vector<float> next = totals_.next_us;
  if (!next.empty()) {
    std::sort(next.begin(), next.end());
    report.next_p50_us = next[next.size() / 2];
    report.next_p99_us = next[std::min(next.size() - 1, next.size() * 99 / 100)];
  }
  const ReadStats& reads = totals_.reads;
  const double depth = std::max(1, setup_.queue_depth);
  report.stream_cpu_s = 1e-9 * static_cast<double>(reads.cpu_ns);
  report.open_s = 1e-9 * static_cast<double>(reads.open_ns) / depth;
  report.transfer_s = 1e-9 * static_cast<double>(reads.transfer_ns) / depth;
  report.idle_s = 1e-9 * static_cast<double>(reads.idle_ns);
  report.codec_s = 1e-9 * static_cast<double>(reads.codec_ns);
  report.copy_s = 1e-9 * static_cast<double>(totals_.copy_wait_ns);
  report.reads = totals_.planned_reads;
  report.read_bytes = totals_.read_bytes;
  if (report.taken > 0) report.reads_per_sample = static_cast<double>(report.reads) / static_cast<double>(report.taken);
  if (report.bytes > 0) report.read_bytes_per_byte = static_cast<double>(report.read_bytes) / static_cast<double>(report.bytes);
  if (mixing_.has_value()) {
    report.label_distance = mixing_->distance();
    report.label_distance_full_shuffle = mixing_->full_shuffle_distance();
  }
  report.warmed_samples = warmer_ == nullptr ? 0 : warmer_->samples();
  report.warmed_bytes = warmer_ == nullptr ? 0 : warmer_->bytes();
  report.requests = reads.requests;
  report.kept_open = reads.kept_open;
  report.retries = reads.retries;
  report.late_reports = reads.late_reports;
  if (reads.requests > 0) {
    report.open_latency_us = 1e-3 * static_cast<double>(reads.open_ns) / static_cast<double>(reads.requests);
    report.read_latency_us = 1e-3 * static_cast<double>(reads.transfer_ns) / static_cast<double>(reads.requests);
  }
  report.latency_floor_us = 1e-3 * reads.fit.floor_ns();
  if (reads.fit.slope() > 0) report.bandwidth_mb_per_s = 1e3 / reads.fit.slope() * std::max(1, setup_.streams);
  report.ledger = totals_.ledger;
  JudgeFigures figures;
  figures.streams = setup_.streams;
  figures.queue_depth = setup_.queue_depth;
  figures.io_workers = reading_threads_;
  figures.codec_threads = compute_ == nullptr ? 0 : compute_threads_;
  figures.process_cpu_share = (ProcessCpuSeconds() - totals_.process_cpu_begin_s) / (std::max(report.wall_s, 1e-9) * allowed_cpus_);
  figures.blocked_s = 1e-9 * static_cast<double>(reads.blocked_ns);
  const int64_t demand_ns = StreamDemandNs();
  if (demand_ns >= 0) figures.stream_demand_s = 1e-9 * static_cast<double>(demand_ns - totals_.stream_demand_begin_ns);
  if (pool_ != nullptr) {
    const PreadPool::Usage usage = pool_->usage();
    const int64_t busy_ns = usage.busy_ns - totals_.pool_begin.busy_ns;
    if (usage.demand_ns >= 0 && busy_ns > 0) {
      const int64_t wanted_ns = usage.demand_ns - std::max<int64_t>(0, totals_.pool_begin.demand_ns);
      figures.worker_cpu_share = static_cast<double>(wanted_ns) / static_cast<double>(busy_ns);
    }
  }
  Judge(report, figures);
  return report;
}

SetupReport LoaderCore::setup() const {
  std::lock_guard<std::mutex> lock(mutex_);
  SetupReport setup = setup_;
  if (warmer_ != nullptr && warmer_->was_cached()) setup.warm = "nothing is read ahead: half of it and more is in the page cache";
  const ArenaReport memory = arena_->report();
  if (ring_options_.open_files != nullptr) {
    setup.open_files_max = ring_options_.open_files->files_max();
    setup.open_files = ring_options_.open_files->count();
  }
  setup.pages = memory.pages;
  setup.binding = memory.binding;
  setup.pinning = memory.pinning;
  setup.quarantined_bytes = int64_t{arena_->quarantined_granules()} * kGranuleBytes;
  return setup;
}

}  // namespace penstock
