#include "plan/batch_plan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/fixed_array.h"
#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/check.h"
#include "plan/sort_by_place.h"

namespace penstock {
namespace {

// Builds one plan from the front: places, pieces and extents are appended, nothing is moved afterwards.
class Planner {
 public:
  Planner(absl::Span<const PlanSample> samples, absl::Span<const Range> ranges, const PlanOptions& options, BatchPlan& plan)
      : samples_(samples),
        ranges_(ranges),
        options_(options),
        alignment_(std::max(kPlaceAlignment, options.direct_alignment)),
        plan_(plan) {}

  absl::Status Run() {
    plan_.Clear();
    const size_t count = samples_.size();
    plan_.ids.resize(count);
    plan_.positions.resize(count);
    plan_.labels.resize(count);
    plan_.valid.resize(count);
    plan_.offsets.resize(count);
    plan_.lengths.resize(count);
    if (options_.scratch) plan_.stored.resize(count);
    plan_.laid_out.resize(count);
    plan_.uses.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      const PlanSample& sample = samples_[i];
      plan_.laid_out[i] = static_cast<uint32_t>(i);
      plan_.ids[i] = sample.id;
      plan_.positions[i] = sample.position;
      plan_.labels[i] = sample.label;
      plan_.valid[i] = sample.skip ? 0 : 1;
      plan_.lengths[i] = sample.skip ? 0 : static_cast<int64_t>(sample.delivered_bytes);
      plan_.sample_bytes += static_cast<uint64_t>(plan_.lengths[i]);
    }
    if (options_.dense) {
      if (absl::Status status = CheckDense(); !status.ok()) return status;
    } else if (options_.sort_by_place) {
      std::stable_sort(plan_.laid_out.begin(), plan_.laid_out.end(),
                       [this](uint32_t a, uint32_t b) { return samples_[a].place < samples_[b].place; });
    } else if (options_.sort_by_object) {
      SortByObject();
    }
    for (uint32_t index : plan_.laid_out) LayOut(index);
    ClosePiece();
    plan_.bytes = cursor_;
    plan_.scratch_bytes = scratch_cursor_;
    for (const Extent& extent : plan_.extents) plan_.read_bytes += extent.need_bytes;
    return absl::OkStatus();
  }

 private:
  // Those without bytes come last, in their order.
  void SortByObject() {
    absl::FixedArray<PlaceKey> keys(samples_.size());
    for (uint32_t i = 0; i < keys.size(); ++i) {
      const PlanSample& sample = samples_[i];
      const bool has_bytes = sample.range_count > 0;
      keys[i].offset_bytes = has_bytes ? ranges_[sample.first_range].offset_bytes : UINT64_MAX;
      keys[i].object = has_bytes ? ranges_[sample.first_range].object : UINT32_MAX;
      keys[i].index = i;
    }
    SortByPlace(absl::MakeSpan(keys));
    for (size_t i = 0; i < keys.size(); ++i) plan_.laid_out[i] = keys[i].index;
  }

  absl::Status CheckDense() {
    uint64_t size = options_.dense_bytes;
    const PlanSample* sized = nullptr;
    for (const PlanSample& sample : samples_) {
      if (sample.skip) continue;
      if (sized == nullptr) {
        sized = &sample;
        size = sample.delivered_bytes;
      } else if (sample.delivered_bytes != size) {
        return absl::InvalidArgumentError(absl::StrCat("layout=dense needs samples of one size, but sample ", sample.id, " has ",
                                                       sample.delivered_bytes, " bytes and sample ", sized->id, " has ", size,
                                                       "; use layout=ragged, or a codec with a fixed output size"));
      }
    }
    plan_.stride = AlignUp(size, alignment_);
    plan_.dense_bytes = options_.scratch ? 0 : size;
    return absl::OkStatus();
  }

  void ClosePiece() {
    if (plan_.pieces.size() == open_piece_) return;
    PiecePlan& piece = plan_.pieces.back();
    piece.bytes = cursor_ - piece.offset;
    piece.scratch_bytes = scratch_cursor_ - piece.scratch_offset;
    piece.extent_count = static_cast<uint32_t>(plan_.extents.size()) - piece.first_extent;
    open_piece_ = plan_.pieces.size();
    merge_ = false;
    if (options_.dense && options_.sort_by_place) {
      // Places are in batch order; what is asked for first is free.
      std::stable_sort(plan_.extents.begin() + piece.first_extent, plan_.extents.end(), [this](const Extent& a, const Extent& b) {
        return samples_[plan_.uses[a.first_use]].place < samples_[plan_.uses[b.first_use]].place;
      });
    }
  }

  PiecePlan& Piece() {
    if (plan_.pieces.size() == open_piece_) {
      PiecePlan& piece = plan_.pieces.emplace_back();
      piece.offset = cursor_;
      piece.scratch_offset = scratch_cursor_;
      piece.first_extent = static_cast<uint32_t>(plan_.extents.size());
      piece.first_sample = laid_out_count_;
    }
    return plan_.pieces.back();
  }

  void LayOut(uint32_t index) {
    const PlanSample& sample = samples_[index];
    if (sample.skip || sample.range_count == 0) {
      plan_.offsets[index] = static_cast<int64_t>(cursor_);
      if (options_.dense) {
        plan_.offsets[index] = static_cast<int64_t>(cursor_);
        OpenFor(plan_.stride, 0);
        cursor_ += plan_.stride;
      }
      ++Piece().sample_count;
      ++laid_out_count_;
      return;
    }
    if (options_.scratch) {
      LayOutThroughScratch(index, sample);
    } else {
      LayOutInPlace(index, sample);
    }
  }

  // Closes the open piece if `bytes` of places and `scratch` of scratch would make it too large.
  void OpenFor(uint64_t bytes, uint64_t scratch) {
    if (plan_.pieces.size() == open_piece_) return;
    const PiecePlan& piece = plan_.pieces.back();
    if (cursor_ - piece.offset + bytes > options_.piece_bytes || scratch_cursor_ - piece.scratch_offset + scratch > options_.piece_bytes) {
      ClosePiece();
    }
  }

  uint64_t Head(const Range& range) const { return options_.direct_alignment == 0 ? 0 : range.offset_bytes % options_.direct_alignment; }

  void LayOutThroughScratch(uint32_t index, const PlanSample& sample) {
    uint64_t scratch = 0;
    for (uint32_t r = 0; r < sample.range_count; ++r) {
      const Range& range = ranges_[sample.first_range + r];
      scratch += AlignUp(Head(range) + range.stored_bytes, alignment_);
    }
    const uint64_t place = options_.dense ? plan_.stride : AlignUp(sample.delivered_bytes, alignment_);
    OpenFor(place, scratch);
    PiecePlan& piece = Piece();
    plan_.offsets[index] = static_cast<int64_t>(cursor_);
    cursor_ += place;
    StoredPlace& stored = plan_.stored[index];
    stored.piece = static_cast<uint32_t>(plan_.pieces.size() - 1);
    // The codec sees one span: ranges follow each other without holes, so only the first may have a head (direct reads are
    // planned for one-range samples only; the loader reads others buffered).
    const Range& first = ranges_[sample.first_range];
    stored.offset = scratch_cursor_ - piece.scratch_offset + Head(first);
    uint64_t at = scratch_cursor_ - piece.scratch_offset;
    for (uint32_t r = 0; r < sample.range_count; ++r) {
      const Range& range = ranges_[sample.first_range + r];
      if (range.stored_bytes > 0 || sample.whole_object) {
        AddExtent(index, range, range.offset_bytes, range.stored_bytes, at, sample.whole_object,
                  AlignUp(Head(range) + range.stored_bytes, alignment_));
      }
      at += range.stored_bytes;
      stored.bytes += range.stored_bytes;
    }
    scratch_cursor_ += scratch;
    ++piece.sample_count;
    ++laid_out_count_;
  }

  void LayOutInPlace(uint32_t index, const PlanSample& sample) {
    const Range& first = ranges_[sample.first_range];
    if (sample.range_count == 1 && Merge(index, first)) return;
    merge_ = false;
    const uint64_t head = Head(first);
    uint64_t stored = 0;
    for (uint32_t r = 0; r < sample.range_count; ++r) stored += ranges_[sample.first_range + r].stored_bytes;
    const uint64_t room = options_.dense ? plan_.stride : AlignUp(head + stored, alignment_);
    if (room > options_.piece_bytes && options_.split_large) {
      LayOutLarge(index, sample, head, room);
      return;
    }
    OpenFor(room, 0);
    PiecePlan& piece = Piece();
    plan_.offsets[index] = static_cast<int64_t>(cursor_ + head);
    uint64_t at = cursor_ - piece.offset;
    const uint64_t end = at + room;
    for (uint32_t r = 0; r < sample.range_count; ++r) {
      const Range& range = ranges_[sample.first_range + r];
      if (range.stored_bytes > 0 || sample.whole_object) AddExtent(index, range, range.offset_bytes, range.stored_bytes, at, sample.whole_object, end - at);
      at += range.stored_bytes;
    }
    cursor_ += room;
    ++piece.sample_count;
    ++laid_out_count_;
    merge_ = options_.sort_by_object && sample.range_count == 1 && first.stored_bytes > 0;
  }

  // Adds the sample to the last extent, if it follows in the same object near enough.
  bool Merge(uint32_t index, const Range& range) {
    if (!merge_ || range.stored_bytes == 0) return false;
    Extent& extent = plan_.extents.back();
    PiecePlan& piece = plan_.pieces.back();
    const uint64_t start = extent.offset_bytes;
    const uint64_t end = start + extent.need_bytes;
    if (range.object != extent.object || range.offset_bytes < end || range.offset_bytes - end > options_.coalesce_gap_bytes) return false;
    const uint64_t hole = range.offset_bytes - end;
    if (hole > options_.hole_bytes_max - hole_bytes_) return false;
    const uint64_t need = range.offset_bytes + range.stored_bytes - start;
    uint64_t room = AlignUp(need, alignment_);
    if (options_.dense) {
      // In batch order, and each at its stride: only what lies in the file as it is to lie in the batch can be read together.
      const uint64_t place = extent.destination + (range.offset_bytes - start);
      if (piece.offset + place != cursor_) return false;
      room = place + plan_.stride - extent.destination;
    }
    if (extent.destination + room > options_.piece_bytes) return false;
    hole_bytes_ += hole;
    extent.need_bytes = need;
    extent.length_bytes = options_.direct_alignment == 0 ? need : AlignUp(need, options_.direct_alignment);
    extent.whole_object = extent.ask_beyond = false;
    plan_.offsets[index] = static_cast<int64_t>(piece.offset + extent.destination + (range.offset_bytes - start));
    plan_.uses.push_back(index);
    ++extent.use_count;
    cursor_ = piece.offset + extent.destination + room;
    ++piece.sample_count;
    ++laid_out_count_;
    return true;
  }

  // A sample larger than a piece: pieces of its own, each full but the last, so that several streams read it.
  void LayOutLarge(uint32_t index, const PlanSample& sample, uint64_t head, uint64_t room) {
    ClosePiece();
    const uint64_t begin = cursor_;
    plan_.offsets[index] = static_cast<int64_t>(begin + head);
    Piece().sample_count = 1;
    ++laid_out_count_;
    uint64_t at = begin;  // of the next byte; the first extent of a direct read begins `head` bytes before its range
    for (uint32_t r = 0; r < sample.range_count; ++r) {
      const Range& range = ranges_[sample.first_range + r];
      const uint64_t range_head = r == 0 ? head : 0;
      uint64_t done = 0;  // counted from the aligned start
      const uint64_t total = range_head + range.stored_bytes;
      while (done < total) {
        const uint64_t filled = at - Piece().offset;
        if (filled == options_.piece_bytes) {
          cursor_ = at;
          ClosePiece();
          continue;
        }
        const uint64_t part = std::min(total - done, options_.piece_bytes - filled);
        const bool last = done + part == total;
        Extent& extent = plan_.extents.emplace_back();
        extent.object = range.object;
        extent.first_use = static_cast<uint32_t>(plan_.uses.size());
        extent.use_count = 1;
        extent.offset_bytes = range.offset_bytes - range_head + done;
        extent.need_bytes = part;
        const bool tail = last && r + 1 == sample.range_count;
        extent.whole_object = tail && sample.whole_object;
        extent.length_bytes = Ask(part, extent.whole_object, tail ? AlignUp(part, alignment_) : part);
        extent.ask_beyond = extent.whole_object && extent.length_bytes == extent.need_bytes;
        extent.destination = filled;
        plan_.uses.push_back(index);
        at += part;
        done += part;
        cursor_ = at;
      }
    }
    cursor_ = begin + room;
    ClosePiece();
  }

  // How many bytes to ask for where `need` must come and there is room for `room`: one more than the whole object shows that it grew.
  // Where the place has no room for that one, the ring has (Extent::ask_beyond).
  uint64_t Ask(uint64_t need, bool whole_object, uint64_t room) const {
    if (options_.direct_alignment != 0) return std::min(AlignUp(need, options_.direct_alignment), room);
    return whole_object && room > need ? need + 1 : need;
  }

  void AddExtent(uint32_t index, const Range& range, uint64_t offset, uint64_t bytes, uint64_t destination, bool whole_object,
                 uint64_t room) {
    const uint64_t head = Head(range);
    Extent& extent = plan_.extents.emplace_back();
    extent.object = range.object;
    extent.first_use = static_cast<uint32_t>(plan_.uses.size());
    extent.use_count = 1;
    extent.whole_object = whole_object;
    extent.offset_bytes = offset - head;
    extent.need_bytes = head + bytes;
    extent.length_bytes = Ask(head + bytes, whole_object, room);
    extent.ask_beyond = whole_object && extent.length_bytes == extent.need_bytes;
    extent.destination = destination;
    plan_.uses.push_back(index);
  }

  absl::Span<const PlanSample> samples_;
  absl::Span<const Range> ranges_;
  const PlanOptions& options_;
  const uint64_t alignment_;
  BatchPlan& plan_;
  uint64_t cursor_ = 0;          // next free byte of the batch
  uint64_t hole_bytes_ = 0;
  uint64_t scratch_cursor_ = 0;  // next free byte of the scratch memory
  size_t open_piece_ = 0;        // pieces.size() while none is open
  uint32_t laid_out_count_ = 0;
  bool merge_ = false;           // the last extent may take the next sample in
};

}  // namespace

void BatchPlan::Clear() {
  ids.clear();
  positions.clear();
  offsets.clear();
  lengths.clear();
  labels.clear();
  valid.clear();
  members.clear();
  stored.clear();
  laid_out.clear();
  uses.clear();
  extents.clear();
  pieces.clear();
  direct = false;
  bytes = scratch_bytes = stride = dense_bytes = sample_bytes = read_bytes = 0;
}

void PoisonHoles(const BatchPlan& plan, std::byte* places) {
  std::vector<std::pair<uint64_t, uint64_t>> used;  // offset, length
  used.reserve(plan.offsets.size());
  for (size_t i = 0; i < plan.offsets.size(); ++i) {
    used.emplace_back(static_cast<uint64_t>(plan.offsets[i]), static_cast<uint64_t>(plan.lengths[i]));
  }
  std::sort(used.begin(), used.end());
  uint64_t at = 0;
  const auto fill = [&](uint64_t end) {
    if (end > at) std::memset(places + at, kHolePoison, end - at);
  };
  for (const auto& [offset, length] : used) {
    fill(offset);
    at = std::max(at, offset + length);
  }
  fill(plan.bytes);
}

absl::Status PlanBatch(absl::Span<const PlanSample> samples, absl::Span<const Range> ranges, const PlanOptions& options, BatchPlan& plan) {
  PENSTOCK_CHECK(options.direct_alignment == 0 || IsPowerOfTwo(options.direct_alignment), "direct alignment is a power of two");
  PENSTOCK_CHECK(options.piece_bytes > 0 && IsAligned(options.piece_bytes, std::max(kPlaceAlignment, options.direct_alignment)),
                 "pieces are whole multiples of the place alignment");
  const absl::Status status = Planner(samples, ranges, options, plan).Run();
  plan.direct = options.direct_alignment != 0;
  return status;
}

uint64_t PlanBytesBound(int64_t batch_size, uint64_t largest_stored, uint64_t largest_delivered, const PlanOptions& options) {
  const uint64_t alignment = std::max(kPlaceAlignment, options.direct_alignment);
  // Each place is rounded up, and with direct reads begins up to one alignment before its first byte.
  const uint64_t slack = static_cast<uint64_t>(batch_size) * (alignment + (options.direct_alignment == 0 ? 0 : alignment));
  // Scratch has one extent per range, and with it no holes.
  const uint64_t holes = options.sort_by_object ? options.hole_bytes_max : 0;
  return options.scratch ? largest_delivered + largest_stored + 2 * slack : largest_stored + slack + holes;
}

}  // namespace penstock
