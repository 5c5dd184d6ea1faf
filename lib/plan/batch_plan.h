// One batch laid out before its first byte is read: where each sample goes, what is read into it, and in which pieces.
//
//   batch   |<------------- piece 0 ------------>|<--------- piece 1 --------->|
//           [sample 0  ][sample 1 ]..[sample 2   ][sample 3                 ]..
//   extents  read        read         read         read, cut where a sample is larger than a piece
//
// A piece is contiguous in the batch. Without a codec that changes bytes, extents go straight to their places; with one they go
// to the piece's scratch memory, and the codec writes the places.
#ifndef PENSTOCK_PLAN_BATCH_PLAN_H_
#define PENSTOCK_PLAN_BATCH_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "penstock/manifest.h"

namespace penstock {

inline constexpr int kHolePoison = 0xDB;         // see PoisonHoles()
inline constexpr uint64_t kPlaceAlignment = 64;  // a cache line; also what most kernels' vector loads want

// One sample to lay out.
struct PlanSample {
  int64_t id = 0;
  int64_t position = 0;
  int32_t label = -1;
  bool skip = false;           // has a place in the batch, but no bytes
  bool whole_object = false;   // its only range ends with its object: growth can be seen
  uint32_t first_range = 0;    // in the ranges given beside
  uint32_t range_count = 0;
  uint64_t place = 0;          // on the drive, for PlanOptions::sort_by_place
  uint64_t delivered_bytes = 0;  // bound of what the codec delivers; the stored bytes without one
};

struct PlanOptions {
  bool dense = false;                // equal sizes, batch order, one stride
  uint64_t dense_bytes = 0;          // dense: the size of a batch's samples where it has none with bytes (empty, or all are skipped)
  bool scratch = false;              // a codec writes the places; extents go to scratch
  uint64_t direct_alignment = 0;     // 0: buffered reads; else places, offsets and lengths suit O_DIRECT
  uint64_t piece_bytes = 4 << 20;    // no piece is larger, but for one sample of a codec that must not be split
  uint64_t coalesce_gap_bytes = 0;   // neighbours in one object so near become one extent
  uint64_t hole_bytes_max = 0;       // of unwanted bytes between neighbours in the whole batch: they take memory
  bool split_large = true;           // a sample larger than a piece gets several; false: one larger piece, for a codec
  bool sort_by_place = false;        // ask for the samples of a piece in the order of their places: what is submitted together merges
  bool sort_by_object = false;       // several samples lie in one object: lay them out in its order
};

// One contiguous read. `destination` counts from the piece's memory (scratch memory with PlanOptions::scratch).
struct Extent {
  uint32_t object = 0;
  uint32_t first_use = 0;     // in BatchPlan::uses: the samples it serves
  uint32_t use_count = 0;
  bool whole_object = false;
  bool ask_beyond = false;    // its place has no room for the byte more that shows a longer object: the ring has
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;  // to ask for
  uint64_t need_bytes = 0;    // that must come
  uint64_t destination = 0;
};

struct PiecePlan {
  uint64_t offset = 0;        // in the batch
  uint64_t bytes = 0;
  uint64_t scratch_offset = 0;  // in the batch's scratch memory
  uint64_t scratch_bytes = 0;
  uint32_t first_extent = 0;
  uint32_t extent_count = 0;
  uint32_t first_sample = 0;  // in BatchPlan::laid_out: samples that begin in this piece
  uint32_t sample_count = 0;
};

// Where a sample's stored bytes lie in its piece's scratch memory (only with PlanOptions::scratch).
struct StoredPlace {
  uint32_t piece = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Vectors are kept from batch to batch, so that planning does not allocate once they have grown, but for what a sort needs.
struct BatchPlan {
  std::vector<int64_t> ids, positions, offsets, lengths;
  std::vector<int32_t> labels;
  std::vector<uint8_t> valid;
  std::vector<int32_t> members;  // which data set each is of; the loader's, empty where there is but one
  std::vector<StoredPlace> stored;
  std::vector<uint32_t> laid_out;  // sample indices in the order of their places
  std::vector<uint32_t> uses;
  std::vector<Extent> extents;
  std::vector<PiecePlan> pieces;
  bool direct = false;         // its extents suit O_DIRECT, and are to be read so
  uint64_t bytes = 0;
  uint64_t scratch_bytes = 0;
  uint64_t stride = 0;         // dense only
  uint64_t dense_bytes = 0;    // likewise: of each sample; 0 with PlanOptions::scratch, where the codec says how many
  uint64_t sample_bytes = 0;   // sum of the lengths
  uint64_t read_bytes = 0;     // sum of what the extents need, holes between neighbours included

  void Clear();
};

// Lays out `samples`, whose ranges are slices of `ranges`.
//
// Errors: InvalidArgument  dense and the sizes differ (the first that does is named).
absl::Status PlanBatch(absl::Span<const PlanSample> samples, absl::Span<const Range> ranges, const PlanOptions& options, BatchPlan& plan);

// Overwrites every byte of a batch that belongs to no sample, so that whoever reads on behind a sample sees it: for debug builds.
void PoisonHoles(const BatchPlan& plan, std::byte* places);

// An upper bound of plan.bytes + plan.scratch_bytes for any `batch_size` samples, of which the largest hold
// `largest_stored` bytes in all (delivered: `largest_delivered`).
uint64_t PlanBytesBound(int64_t batch_size, uint64_t largest_stored, uint64_t largest_delivered, const PlanOptions& options);

}  // namespace penstock

#endif  // PENSTOCK_PLAN_BATCH_PLAN_H_
