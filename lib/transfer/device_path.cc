#include "transfer/device_path.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"

namespace penstock {
namespace {

constexpr int64_t kDrainNs = kNsPerSecond;   // at the end, for copies and for the consumer's recorded work
constexpr int64_t kColumnAlignment = 256;    // what cudaMalloc gives, and enough for any vector load
constexpr int32_t kCopyEvents = 128;

}  // namespace

DeviceLayout DeviceLayout::Of(int64_t place_bytes, int64_t batch_size) {
  const auto column = [](int64_t bytes) { return static_cast<int64_t>(AlignUp(static_cast<uint64_t>(bytes), kColumnAlignment)); };
  DeviceLayout layout;
  layout.offsets = column(place_bytes);
  layout.lengths = layout.offsets + column(batch_size * 8);
  layout.ids = layout.lengths + column(batch_size * 8);
  layout.labels = layout.ids + column(batch_size * 8);
  layout.valid = layout.labels + column(batch_size * 4);
  layout.bytes = layout.valid + column(std::max<int64_t>(batch_size, 1));  // an empty batch has a copy that says when it is there, too
  layout.columns_bytes = layout.bytes - layout.offsets;
  return layout;
}

DevicePath::DevicePath(std::shared_ptr<Device> device, std::shared_ptr<Arena> arena, const DevicePathOptions& options)
    : device_(std::move(device)),
      arena_(std::move(arena)),
      options_(options),
      columns_bytes_(DeviceLayout::Of(0, options.batch_size).columns_bytes) {}

absl::StatusOr<std::unique_ptr<DevicePath>> DevicePath::Create(std::shared_ptr<Device> device, std::shared_ptr<Arena> arena,
                                                               const DevicePathOptions& options) {
  std::unique_ptr<DevicePath> path(new DevicePath(std::move(device), std::move(arena), options));
  absl::StatusOr<std::unique_ptr<DeviceRing>> ring = DeviceRing::Create(path->device_, options.device_bytes);
  if (!ring.ok()) return ring.status();
  path->ring_ = *std::move(ring);
  CopierOptions copier_options;
  copier_options.events = kCopyEvents;
  copier_options.report_after_ns = options.report_ns;
  copier_options.deadline_ns = options.deadline_ns;
  absl::StatusOr<std::unique_ptr<Copier>> copier = Copier::Create(path->device_, copier_options);
  if (!copier.ok()) return copier.status();
  path->copier_ = *std::move(copier);

  const int32_t granules =
      static_cast<int32_t>(CeilDiv(static_cast<uint64_t>(path->columns_bytes_ * std::max(1, options.batches)), kGranuleBytes));
  const Run run = path->arena_->Allocate(granules);
  if (!run.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the columns of ", options.batches, " batches of ", options.batch_size, " samples need ", int64_t{granules} * kGranuleBytes,
        " bytes of host memory, but memory_bytes holds ", int64_t{path->arena_->granules()} * kGranuleBytes, "; raise memory_bytes"));
  }
  path->columns_memory_ = std::make_shared<PieceMemory>(path->arena_, run);
  for (int32_t slot = static_cast<int32_t>(run.bytes / path->columns_bytes_); slot-- > 0;) path->free_columns_.push_back(slot);
  return path;
}

DevicePath::~DevicePath() {
  if (copier_ == nullptr) return;
  const int64_t deadline_ns = MonotonicNs() + kDrainNs;
  std::vector<const DeviceBatch*> complete;
  bool freed = false;
  bool broken = false;
  while (copying() || releasing()) {
    broken = !Poll(complete, freed).ok() || !PollReleased(freed).ok();
    if (broken || MonotonicNs() >= deadline_ns) break;
    SleepNs(200'000);
  }
  std::vector<CopyEntry> left;
  for (CopyEntry& entry : entries_) {
    if (entry.batch != nullptr) left.push_back(std::move(entry));
  }
  if (!left.empty() || !released_.empty()) {
    Log(LogLevel::kWarning, absl::StrCat("CUDA device ", device_->index(), ": ", left.size(), " copies and the consumer's work on ",
                                         released_.size(), " batches have not ended; their memory stays as it is until the process ends"));
  }
  for (CopyEntry& entry : left) Abandon(std::move(entry));
  for (const auto& batch : released_) batch->Keep();
}

void DevicePath::Abandon(CopyEntry entry) {
  if (entry.memory != nullptr) entry.memory->Quarantine();
  entry.batch->Keep();
  // Its events are the copier's, which keeps them as long as copies are pending. The host memory, and with it the arena, stays for good.
  entry.batch.reset();
  static std::mutex* const mutex = new std::mutex;
  static auto* const kept = new std::vector<CopyEntry>;
  std::lock_guard<std::mutex> lock(*mutex);
  kept->push_back(std::move(entry));
}

absl::StatusOr<std::shared_ptr<DeviceBatch>> DevicePath::Place(const BatchPlan& plan) {
  const DeviceLayout layout = DeviceLayout::Of(static_cast<int64_t>(plan.bytes), static_cast<int64_t>(plan.ids.size()));
  absl::StatusOr<DeviceBuffer> buffer = ring_->Allocate(layout.bytes);
  if (!buffer.ok()) return buffer.status();
  if (!buffer->valid()) return std::shared_ptr<DeviceBatch>();
  return std::make_shared<DeviceBatch>(*ring_, *copier_, *buffer, layout);
}

uint64_t DevicePath::NewEntry(CopyEntry entry) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (free_entries_.empty()) {
    free_entries_.push_back(entries_.size());
    entries_.emplace_back();
  }
  const uint64_t cookie = free_entries_.back();
  free_entries_.pop_back();
  entries_[cookie] = std::move(entry);
  return cookie;
}

DevicePath::CopyEntry DevicePath::TakeEntry(uint64_t cookie) {
  std::lock_guard<std::mutex> lock(mutex_);
  CopyEntry entry = std::exchange(entries_[cookie], CopyEntry());
  free_entries_.push_back(cookie);
  if (entry.columns_slot >= 0) free_columns_.push_back(entry.columns_slot);
  return entry;
}

absl::Status DevicePath::Copy(uint64_t cookie, std::byte* target, const std::byte* source, int64_t bytes) {
  absl::Status status = copier_->Copy(target, source, static_cast<size_t>(bytes), cookie).status();
  if (status.ok()) return status;
  CopyEntry entry = TakeEntry(cookie);
  // After a lost context nobody can tell whether the device reads or writes these any more.
  if (!device_->sticky().ok()) Abandon(std::move(entry));
  return status;
}

absl::Status DevicePath::CopyPiece(const std::shared_ptr<DeviceBatch>& batch, int64_t offset, const std::byte* places,
                                   std::shared_ptr<PieceMemory> memory, int64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  const TraceRange range(TraceStage::kCopy);
  CopyEntry entry;
  entry.batch = batch;
  entry.memory = std::move(memory);
  return Copy(NewEntry(std::move(entry)), batch->data() + offset, places, bytes);
}

absl::Status DevicePath::CopyColumns(const std::shared_ptr<DeviceBatch>& batch, const BatchPlan& plan) {
  const TraceRange range(TraceStage::kCopy);
  const DeviceLayout& layout = batch->layout;
  CopyEntry entry;
  entry.batch = batch;
  entry.last = true;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!free_columns_.empty()) {
      entry.columns_slot = free_columns_.back();
      free_columns_.pop_back();
    }
  }
  // Jumps from epoch to epoch can leave more batches under way than there are slots. Their columns are then copied from ordinary memory,
  // which the driver stages.
  if (entry.columns_slot < 0) {
    entry.columns.resize(static_cast<size_t>(layout.columns_bytes));
  } else {
    entry.memory = columns_memory_;
  }
  std::byte* const columns =
      entry.columns_slot < 0 ? entry.columns.data() : columns_memory_->run().data + entry.columns_slot * columns_bytes_;
  const auto put = [&](int64_t column, const void* values, size_t bytes) {
    if (bytes > 0) std::memcpy(columns + (column - layout.offsets), values, bytes);
  };
  put(layout.offsets, plan.offsets.data(), plan.offsets.size() * 8);
  put(layout.lengths, plan.lengths.data(), plan.lengths.size() * 8);
  put(layout.ids, plan.ids.data(), plan.ids.size() * 8);
  put(layout.labels, plan.labels.data(), plan.labels.size() * 4);
  put(layout.valid, plan.valid.data(), plan.valid.size());
  const uint64_t cookie = NewEntry(std::move(entry));
  if (absl::Status status = Copy(cookie, batch->data() + layout.offsets, columns, layout.columns_bytes); !status.ok()) return status;
  return batch->events.RecordReady();
}

absl::Status DevicePath::Poll(std::vector<const DeviceBatch*>& complete, bool& freed) {
  std::vector<uint64_t> cookies;
  absl::Status status = copier_->Poll(cookies).status();
  for (const uint64_t cookie : cookies) {
    const CopyEntry entry = TakeEntry(cookie);
    freed = freed || !entry.last;
    if (entry.last) complete.push_back(entry.batch.get());
  }
  return status;
}

void DevicePath::Release(std::shared_ptr<DeviceBatch> batch) {
  const absl::StatusOr<bool> done = batch->events.UsesDone();
  if (done.ok() && *done) return;
  std::lock_guard<std::mutex> lock(mutex_);
  released_.push_back(std::move(batch));
}

bool DevicePath::releasing() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !released_.empty();
}

absl::Status DevicePath::PollReleased(bool& freed) {
  std::vector<std::shared_ptr<DeviceBatch>> done_batches;  // freed after the lock
  absl::Status status;
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < released_.size();) {
    const absl::StatusOr<bool> done = released_[i]->events.UsesDone();
    if (!done.ok()) {
      // Nobody knows when its use ends: the memory is not used again.
      status.Update(done.status());
      released_[i]->Keep();
    }
    if (!done.ok() || *done) {
      freed = freed || done.ok();
      done_batches.push_back(std::move(released_[i]));
      released_.erase(released_.begin() + static_cast<int64_t>(i));
    } else {
      ++i;
    }
  }
  return status;
}

}  // namespace penstock
