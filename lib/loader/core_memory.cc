// How much memory a batch may need, and the arena and device memory for it.
#include "loader/loader_core.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <queue>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/log.h"
#include "topology/memory.h"

namespace penstock {
namespace {

constexpr int64_t kMemoryMost = int64_t{1} << 30;  // by itself
constexpr int64_t kMemoryLeast = 16 << 20;

constexpr double kHolesPerByte = 8;  // unwanted bytes between neighbours of a batch, per byte of it

}  // namespace

// memory_bytes where the caller does not say it: an arena is filled up to its cap sooner or later, so that a cap above what the memory
// cgroup allows ends in a kill. A quarter leaves room for the program, for the page cache, and for a second loader.
void LoaderCore::ChooseMemory() {
  const MemoryLeft left = ReadMemoryLeft(runtime_core_.topology());
  if (options_.memory_bytes > 0) {
    setup_.memory_why = "asked for";
    if (left.bytes > 0 && options_.memory_bytes > left.bytes) {
      setup_.warnings.push_back(absl::StrCat("memory_bytes = ", FormatBytes(options_.memory_bytes), " is more than the ",
                                             FormatBytes(left.bytes), " that ", left.by,
                                             " leaves: the kernel may end this process (OOM) once the arena is filled; lower memory_bytes, "
                                             "or give the job more memory"));
      Log(LogLevel::kWarning, setup_.warnings.back());
    }
    return;
  }
  memory_by_itself_ = true;
  options_.memory_bytes = kMemoryMost;
  setup_.memory_why = "by default";
  if (left.bytes > 0) {
    const int64_t shares = int64_t{local_world_size_} * runtime_core_.seats();
    memory_half_ = left.bytes / 2 / shares;
    if (left.bytes / 4 / shares < kMemoryMost) {
      options_.memory_bytes = std::max(kMemoryLeast, static_cast<int64_t>(left.bytes / 4 / shares / kGranuleBytes * kGranuleBytes));
      setup_.memory_why = absl::StrCat("a quarter of the ", FormatBytes(left.bytes), " that ", left.by, " leaves",
                                       shares > 1 ? absl::StrCat(", divided by ", shares, " loaders of this node") : "");
    }
  }
  if (const int64_t most = runtime_core_.memory_most(); most > 0 && most < options_.memory_bytes) {
    options_.memory_bytes = most;
    memory_half_ = 0;
    setup_.memory_why = "the runtime's memory budget";
  }
}

absl::Status LoaderCore::ResolveMemory() {
  absl::StatusOr<std::shared_ptr<const Codec>> codec = MakeCodec(options_.codec);
  if (!codec.ok()) return codec.status();
  for (int64_t d = 0; d < manifest_->member_count(); ++d) {
    const Manifest& member = manifest_->member(d);
    if (options_.codec.verify_crc && !member.has_crc()) {
      return absl::FailedPreconditionError(
          absl::StrCat("verify_crc: the manifest ", EscapeName(member.path()), " has no checksums; make them with penstock index --crc"));
    }
    if (options_.verify == Verify::kStat && !member.has_mtimes()) {
      return absl::FailedPreconditionError(absl::StrCat("verify=stat: the manifest ", EscapeName(member.path()),
                                                        " has no times of modification; keep them with penstock index --stat"));
    }
  }
  codec_ = *std::move(codec);
  packed_ = manifest_->packed();
  plan_options_.dense = options_.layout == Layout::kDense;
  plan_options_.scratch = !codec_->identity() && !codec_->in_place();
  if (plan_options_.dense) {
    const int64_t id = options_.ids.empty() ? 0 : options_.ids[0];
    plan_options_.dense_bytes = plan_options_.scratch ? codec_->DeliveredBound(manifest_->StoredBytes(id), manifest_->DeliveredBytes(id))
                                                      : manifest_->StoredBytes(id);
  }
  plan_options_.split_large = codec_->identity();
  plan_options_.piece_bytes = static_cast<uint64_t>(options_.piece_bytes);
  plan_options_.sort_by_object = packed_;
  plan_options_.sort_by_place = SortsByPlace();

  // The largest batch there can be: first by the largest sample, which costs nothing; if that is too much, by the batch_size largest.
  // On the host path it lies in the arena, as a whole, and one more is kept in reserve. On the device path it lies in device_bytes.
  const int64_t count = std::min(options_.batch_size, manifest_->sample_count());
  PlanOptions whole = plan_options_;
  if (device_ != nullptr) whole.scratch = false;  // scratch memory stays on the host, with its piece
  const auto bound = [&](uint64_t stored, uint64_t delivered) {
    const uint64_t places = PlanBytesBound(options_.batch_size, device_ != nullptr ? delivered : stored, delivered, whole);
    return device_ == nullptr ? places : static_cast<uint64_t>(DeviceLayout::Of(static_cast<int64_t>(places), options_.batch_size).bytes);
  };
  const auto unit = static_cast<uint64_t>(device_ == nullptr ? kGranuleBytes : DeviceRing::kAlignmentBytes);
  const auto budget = static_cast<uint64_t>(device_ == nullptr ? options_.memory_bytes : options_.device_bytes) / unit * unit;
  const uint64_t at_once = device_ == nullptr ? 2 : 1;
  // Holes between neighbours take memory as samples do: a small part of it, and some times what the batch has itself.
  if (packed_ && !plan_options_.scratch) {
    const double mean_batch = static_cast<double>(manifest_->total_bytes()) / static_cast<double>(manifest_->sample_count()) *
                              static_cast<double>(options_.batch_size);
    if (mean_batch < static_cast<double>(budget) / 16) {
      plan_options_.hole_bytes_max =
          static_cast<uint64_t>(std::min(static_cast<double>(budget) / 32, std::max(kHolesPerByte * mean_batch, 65536.0)));
      whole.hole_bytes_max = plan_options_.hole_bytes_max;
    }
  }
  const uint64_t largest = manifest_->max_stored_bytes();
  const auto delivered_of = [&](uint64_t stored, uint64_t by_manifest) {
    return plan_options_.scratch ? codec_->DeliveredBound(stored, by_manifest) : stored;
  };
  const uint64_t largest_delivered = delivered_of(largest, manifest_->max_delivered_bytes());
  uint64_t batch_bytes = std::numeric_limits<uint64_t>::max();
  uint64_t batch_stored = 0;  // of the largest batch
  uint64_t batch_delivered = 0;
  if (!__builtin_mul_overflow(largest, static_cast<uint64_t>(options_.batch_size), &batch_stored) &&
      !__builtin_mul_overflow(largest_delivered, static_cast<uint64_t>(options_.batch_size), &batch_delivered) &&
      std::max(largest, largest_delivered) < budget) {
    batch_bytes = bound(batch_stored, batch_delivered);
  }
  if (AlignUp(std::min(batch_bytes, budget), unit) * 2 * at_once > budget) {
    using Entry = std::pair<uint64_t, int64_t>;  // bytes, id
    using Top = std::priority_queue<Entry, std::vector<Entry>, std::greater<>>;
    Top top_stored;
    Top top_delivered;
    const auto add = [&](Top& top, uint64_t bytes, int64_t id) {
      top.emplace(bytes, id);
      if (static_cast<int64_t>(top.size()) > count) top.pop();
    };
    for (int64_t id = 0; id < manifest_->sample_count(); ++id) {
      const uint64_t stored = manifest_->StoredBytes(id);
      add(top_stored, stored, id);
      if (plan_options_.scratch) add(top_delivered, delivered_of(stored, manifest_->DeliveredBytes(id)), id);
    }
    const auto sum_of = [](Top& top, Entry& biggest) {
      uint64_t sum = 0;
      for (; !top.empty(); top.pop()) {
        biggest = top.top();
        sum += std::min(biggest.first, std::numeric_limits<uint64_t>::max() / 4 - std::min(sum, std::numeric_limits<uint64_t>::max() / 4));
      }
      return sum;
    };
    Entry biggest;
    batch_stored = sum_of(top_stored, biggest);
    batch_delivered = plan_options_.scratch ? sum_of(top_delivered, biggest) : batch_stored;
    // A batch may hold a sample several times only with tail=pad or substitutes; the bound by the largest sample covers those where it is
    // affordable.
    batch_bytes = bound(batch_stored, batch_delivered);
    if (AlignUp(batch_bytes, unit) * at_once > budget) {
      // Large samples: up to half of what there is is taken before the caller is asked.
      if (const auto needed = static_cast<int64_t>(AlignUp(batch_bytes, unit) * at_once);
          device_ == nullptr && memory_by_itself_ && batch_bytes < uint64_t{1} << 60 && needed <= memory_half_) {
        memory_by_itself_ = false;
        options_.memory_bytes = needed;
        absl::StrAppend(&setup_.memory_why, ", raised to what two batches need");
        return ResolveMemory();
      }
      const char* const option = device_ == nullptr ? "memory_bytes" : "device_bytes";
      return absl::ResourceExhaustedError(
          absl::StrCat("a batch of ", options_.batch_size, " samples may need ", batch_bytes, " bytes (the largest sample, ",
                       EscapeName(manifest_->Name(biggest.second)), ", has ", biggest.first, ")",
                       device_ == nullptr ? ", and one batch is kept in reserve" : "", ", so ", option, " must be at least ",
                       at_once * AlignUp(batch_bytes, unit), ", but it is ",
                       device_ == nullptr ? options_.memory_bytes : options_.device_bytes,
                       device_ == nullptr ? absl::StrCat(" (", setup_.memory_why, ")") : "", "; raise ", option, " or lower batch_size"));
    }
  }
  if (may_switch_io_ && !direct_) {
    // An epoch may turn out to be better read direct, and then places are aligned for that.
    whole.direct_alignment = static_cast<uint64_t>(residency_.direct_alignment);
    const uint64_t aligned_bytes = bound(batch_stored, batch_delivered);
    may_switch_io_ = AlignUp(aligned_bytes, unit) * 2 * at_once <= budget;
    if (may_switch_io_) batch_bytes = aligned_bytes;
  }
  setup_.batch_bytes_max = static_cast<int64_t>(batch_bytes);
  reserve_granules_ = GranulesFor(batch_bytes);
  if (device_ != nullptr) {
    // The largest piece: several whole samples, or with a codec one sample that is larger and must not be split.
    const uint64_t sample = plan_options_.scratch ? PlanBytesBound(1, largest, largest_delivered, plan_options_)
                                                  : (plan_options_.split_large ? 0 : PlanBytesBound(1, largest, largest, plan_options_));
    const uint64_t piece_bytes = std::min(std::max((plan_options_.scratch ? 2 : 1) * plan_options_.piece_bytes, sample),
                                          plan_options_.scratch ? 2 * batch_bytes : batch_bytes);
    const int64_t columns = DeviceLayout::Of(0, options_.batch_size).columns_bytes;
    const uint64_t needed = 2 * AlignUp(piece_bytes, kGranuleBytes) + AlignUp(static_cast<uint64_t>(columns), kGranuleBytes);
    if (needed > static_cast<uint64_t>(options_.memory_bytes) / kGranuleBytes * kGranuleBytes) {
      return absl::ResourceExhaustedError(absl::StrCat("a piece may need ", piece_bytes,
                                                       " bytes of host memory, one is kept in reserve, and a batch's columns need ",
                                                       columns, " bytes, so memory_bytes must be at least ", needed, ", but it is ",
                                                       options_.memory_bytes, "; raise memory_bytes or lower piece_bytes"));
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

}  // namespace penstock
