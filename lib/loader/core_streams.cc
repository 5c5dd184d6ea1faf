// What streams, codec and device meet of a loader: pieces claimed, finished, decoded and copied.
#include "loader/loader_core.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"

namespace penstock {

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
      const int32_t granules = GranulesFor(AlignUp(plan.scratch_bytes, kPlaceAlignment) + plan.bytes);
      if (memory == nullptr || memory->run().granules < granules) {
        // Without the lock: the first use of memory makes its pages and pins them. Meanwhile another stream may claim this piece.
        lock.unlock();
        memory.reset();
        const Run run = arena_->Allocate(std::max(granules, GranulesFor(plan_options_.piece_bytes)));
        if (run.valid()) memory = std::make_shared<PieceMemory>(arena_, run);
        lock.lock();
        if (memory == nullptr) break;
        continue;
      }
    }
    piece.attempt = slot->attempt;
    piece.piece = attempt.next_piece++;
    ++attempt.pieces_claimed;
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

void LoaderCore::PieceFinished(ClaimedPiece piece, const ReadStats& delta) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (std::shared_ptr<DeviceBatch> device = piece.attempt->device; device != nullptr && !piece.attempt->cancelled()) {
    const PiecePlan& planned = piece.attempt->plan().pieces[piece.piece];
    lock.unlock();
    const absl::Status status = device_path_->CopyPiece(device, static_cast<int64_t>(planned.offset), piece.places, std::move(piece.memory),
                                                        static_cast<int64_t>(planned.bytes));
    device.reset();
    lock.lock();
    if (!status.ok()) DeviceFailed(status);
  }
  totals_.reads.Merge(delta);
  Slot* slot = FindSlot(piece.attempt.get());
  if (slot != nullptr && slot->state == SlotState::kFilling) {
    PENSTOCK_CHECK(piece.attempt->pieces_left > 0, "a piece finishes once");
    if (--piece.attempt->pieces_left == 0) AttemptDone(*slot);
    // The reference goes before the lock does: the consumer may give the batch back at once, and then its memory must be free, since nobody
    // would tell the planner of it later.
    if (slot->attempt == piece.attempt) {
      --piece.attempt->pieces_claimed;
      return piece.attempt.reset();
    }
  }
  // Perhaps this is the last reference to a batch that was given up: its memory is wanted.
  if (!piece.attempt->returning) ++returning_pieces_;
  --piece.attempt->pieces_claimed;
  lock.unlock();
  piece = ClaimedPiece();
  lock.lock();
  --returning_pieces_;
  MemoryFreed();
  WakeStreams();
}

void LoaderCore::AddStats(const ReadStats& delta) {
  std::lock_guard<std::mutex> lock(mutex_);
  totals_.reads.Merge(delta);
}

LoaderCore::Slot* LoaderCore::FindSlot(const Attempt* attempt) {
  for (auto& slot : ahead_) {
    if (slot->attempt.get() == attempt) return slot.get();
  }
  return nullptr;
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
    fatal_ = absl::ResourceExhaustedError(absl::StrCat(int64_t{arena_->quarantined_granules()} * kGranuleBytes,
                                                       " bytes are held by reads that hang, more than max_quarantine_bytes (",
                                                       quarantine_max_bytes_, "). The last: ", failures.back().status.message()));
    ready_.notify_all();
    return;
  }
  ApplyPolicy(*slot, std::move(failures), true);
  WakeStreams();
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
  // The consumer waits for the oldest batch only.
  if (&slot == ahead_.front().get()) ready_.notify_all();
}

// Whether looking at the device may bring something: a copy that has ended, or memory of a batch that the consumer gave back, where it is
// wanted.
bool LoaderCore::DeviceMayFree() const {
  return device_path_ != nullptr && (device_path_->copying() || (memory_wanted_ && device_path_->releasing()));
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
    Log(LogLevel::kWarning,
        absl::StrCat("when a CUDA stream is done with a batch cannot be told, so that its memory is not used again: ", released.message()));
  }
  if (freed || !complete_.empty()) {
    MemoryFreed();
    WakeStreams();
  }
}

void LoaderCore::DecodePiece(const ClaimedPiece& piece) {
  const TraceRange range(TraceStage::kCodec);
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
  std::vector<Range> ranges;
  std::vector<RangeCrc> crcs;
  for (uint32_t n = planned.first_sample; n < planned.first_sample + planned.sample_count; ++n) {
    const uint32_t index = plan.laid_out[n];
    if (attempt.cancelled()) break;
    if (plan.valid[index] == 0 || std::find(failed.begin(), failed.end(), index) != failed.end()) continue;
    const int64_t id = plan.ids[index];
    const std::string name = manifest_->Name(id);
    crcs.clear();
    if (options_.codec.verify_crc) {
      ranges.clear();
      manifest_->AppendRanges(id, ranges);
      for (size_t r = 0; r < ranges.size(); ++r) {
        const uint32_t crc = manifest_->has_crc() ? manifest_->Crc(id, static_cast<int>(r)) : 0;
        crcs.push_back(RangeCrc{ranges[r].stored_bytes, manifest_->has_crc(), crc});
      }
    }
    SampleContext context;
    context.id = id;
    context.name = name;
    context.ranges = crcs;
    std::byte* const place = piece.places + (static_cast<uint64_t>(plan.offsets[index]) - planned.offset);
    const auto room = static_cast<size_t>(plan.lengths[index]);
    const absl::Span<const std::byte> stored =
        in_place ? absl::Span<const std::byte>(place, room)
                 : absl::Span<const std::byte>(piece.scratch + plan.stored[index].offset, plan.stored[index].bytes);
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

}  // namespace penstock
