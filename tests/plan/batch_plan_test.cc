// Properties of a planned batch: nothing overlaps, nothing is missing, every limit is kept.
#include "plan/batch_plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include "base/align.h"
#include "support/status.h"

using namespace penstock;

namespace {

struct Input {
  std::vector<PlanSample> samples;
  std::vector<Range> ranges;

  void Add(std::vector<Range> own, bool whole_object = false) {
    PlanSample sample;
    sample.id = static_cast<int64_t>(samples.size()) + 1000;
    sample.position = static_cast<int64_t>(samples.size());
    sample.first_range = static_cast<uint32_t>(ranges.size());
    sample.range_count = static_cast<uint32_t>(own.size());
    sample.whole_object = whole_object;
    for (const Range& range : own) {
      sample.delivered_bytes += range.stored_bytes;
      ranges.push_back(range);
    }
    samples.push_back(sample);
  }
  void AddFile(uint64_t bytes) { Add({Range{static_cast<uint32_t>(samples.size()), 0, bytes, bytes, 0}}, true); }
};

// Simulates the reads: byte k of object o has the value Byte(o, k). Then every sample must be found at its place.
uint8_t Byte(uint32_t object, uint64_t offset) { return static_cast<uint8_t>((offset * 131 + object * 29 + (offset >> 8)) & 0xFF); }

void CheckPlan(const Input& input, const PlanOptions& options, const BatchPlan& plan) {
  const uint64_t alignment = std::max(kPlaceAlignment, options.direct_alignment);
  REQUIRE(plan.offsets.size() == input.samples.size());
  REQUIRE(plan.laid_out.size() == input.samples.size());
  std::vector<int> memory(plan.bytes, -1);  // -1: a hole
  std::vector<int> scratch(plan.scratch_bytes, -1);
  uint64_t next_piece = 0;
  uint64_t next_scratch = 0;
  uint32_t next_extent = 0;
  uint32_t next_sample = 0;
  for (const PiecePlan& piece : plan.pieces) {
    REQUIRE(piece.offset == next_piece);
    REQUIRE(piece.scratch_offset == next_scratch);
    REQUIRE(piece.first_extent == next_extent);
    REQUIRE(piece.first_sample == next_sample);
    if (options.split_large) {
      REQUIRE(piece.bytes <= options.piece_bytes);
    } else if (piece.bytes > options.piece_bytes) {
      REQUIRE(piece.sample_count == 1);
    }
    next_piece += piece.bytes;
    next_scratch += piece.scratch_bytes;
    next_extent += piece.extent_count;
    next_sample += piece.sample_count;
    for (uint32_t e = piece.first_extent; e < piece.first_extent + piece.extent_count; ++e) {
      const Extent& extent = plan.extents[e];
      REQUIRE((extent.need_bytes > 0 || extent.ask_beyond));
      REQUIRE(extent.length_bytes >= extent.need_bytes);
      REQUIRE(extent.use_count > 0);
      std::vector<int>& target = options.scratch ? scratch : memory;
      const uint64_t base = options.scratch ? piece.scratch_offset : piece.offset;
      const uint64_t room = options.scratch ? piece.scratch_bytes : piece.bytes;
      REQUIRE(extent.destination + extent.length_bytes <= room);
      if (options.direct_alignment > 0) {
        REQUIRE(IsAligned(extent.offset_bytes, options.direct_alignment));
        REQUIRE(IsAligned(extent.length_bytes, options.direct_alignment));
        REQUIRE(IsAligned(base + extent.destination, options.direct_alignment));
      }
      for (uint64_t k = 0; k < extent.length_bytes; ++k) {
        int& cell = target[base + extent.destination + k];
        REQUIRE(cell == -1);  // nothing overlaps
        cell = Byte(extent.object, extent.offset_bytes + k);
      }
    }
  }
  REQUIRE(next_piece == plan.bytes);
  REQUIRE(next_scratch == plan.scratch_bytes);
  REQUIRE(next_extent == plan.extents.size());
  REQUIRE(next_sample == input.samples.size());

  std::vector<std::pair<uint64_t, uint64_t>> places;
  for (size_t i = 0; i < input.samples.size(); ++i) {
    const PlanSample& sample = input.samples[i];
    const auto offset = static_cast<uint64_t>(plan.offsets[i]);
    REQUIRE(plan.lengths[i] == static_cast<int64_t>(sample.skip ? 0 : sample.delivered_bytes));
    if (plan.lengths[i] > 0) places.emplace_back(offset, offset + static_cast<uint64_t>(plan.lengths[i]));
    if (options.dense) REQUIRE(offset == i * plan.stride);
    if (sample.skip) continue;
    uint64_t at = options.scratch ? plan.pieces[plan.stored[i].piece].scratch_offset + plan.stored[i].offset : offset;
    const std::vector<int>& target = options.scratch ? scratch : memory;
    for (uint32_t r = 0; r < sample.range_count; ++r) {
      const Range& range = input.ranges[sample.first_range + r];
      for (uint64_t k = 0; k < range.stored_bytes; ++k, ++at) {
        REQUIRE(at < target.size());
        REQUIRE(target[at] == Byte(range.object, range.offset_bytes + k));  // nothing is missing
      }
    }
    if (sample.range_count == 1 && !options.sort_by_object && options.direct_alignment == 0) CHECK(IsAligned(offset, alignment));
  }
  std::sort(places.begin(), places.end());
  for (size_t i = 1; i < places.size(); ++i) REQUIRE(places[i - 1].second <= places[i].first);
}

}  // namespace

TEST_CASE("whole files are laid out without overlap and completely", "[plan]") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 60; ++round) {
    Input input;
    const int count = static_cast<int>(random() % 40);
    for (int i = 0; i < count; ++i) input.AddFile(random() % 5 == 0 ? 0 : random() % (round % 3 == 0 ? 40000 : 3000));
    PlanOptions options;
    options.piece_bytes = 16384;
    options.direct_alignment = round % 2 == 0 ? 0 : 512;
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CheckPlan(input, options, plan);
  }
}

TEST_CASE("packed samples are merged and still found whole", "[plan]") {
  std::mt19937_64 random(2);
  for (int round = 0; round < 60; ++round) {
    Input input;
    std::map<uint32_t, uint64_t> end;
    for (int i = 0; i < 60; ++i) {
      const auto object = static_cast<uint32_t>(random() % 3);
      const uint64_t bytes = random() % 900;
      input.Add({Range{object, end[object], bytes, bytes, 0}});
      end[object] += bytes + random() % 300;
    }
    std::shuffle(input.samples.begin(), input.samples.end(), random);
    PlanOptions options;
    options.piece_bytes = 8192;
    options.sort_by_object = true;
    options.coalesce_gap_bytes = static_cast<uint64_t>(round % 4) * 100;
    options.hole_bytes_max = uint64_t{1} << 40;
    options.direct_alignment = round % 2 == 0 ? 0 : 512;
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CheckPlan(input, options, plan);
    if (options.coalesce_gap_bytes >= 300 && options.direct_alignment == 0) CHECK(plan.extents.size() < 20);
  }
}

TEST_CASE("a gap larger than allowed is not read", "[plan]") {
  Input input;
  input.Add({Range{0, 0, 100, 100, 0}});
  input.Add({Range{0, 300, 100, 100, 0}});
  PlanOptions options;
  options.sort_by_object = true;
  options.coalesce_gap_bytes = 199;
  options.hole_bytes_max = uint64_t{1} << 40;
  BatchPlan plan;
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  CHECK(plan.extents.size() == 2);
  options.coalesce_gap_bytes = 200;
  options.hole_bytes_max = uint64_t{1} << 40;
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  REQUIRE(plan.extents.size() == 1);
  CHECK(plan.extents[0].need_bytes == 400);
  CHECK(plan.extents[0].use_count == 2);
}

TEST_CASE("a sample twice in a batch is read twice and not merged with itself", "[plan]") {
  Input input;
  input.Add({Range{0, 64, 100, 100, 0}});
  input.Add({Range{0, 64, 100, 100, 0}});
  PlanOptions options;
  options.sort_by_object = true;
  options.coalesce_gap_bytes = 1000;
  options.hole_bytes_max = uint64_t{1} << 40;
  BatchPlan plan;
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  CheckPlan(input, options, plan);
  CHECK(plan.extents.size() == 2);
}

TEST_CASE("samples of several ranges are delivered in one run of bytes", "[plan]") {
  std::mt19937_64 random(3);
  for (int round = 0; round < 30; ++round) {
    Input input;
    for (int i = 0; i < 20; ++i) {
      std::vector<Range> ranges;
      for (uint32_t r = 0; r < 1 + random() % 3; ++r) {
        const uint64_t bytes = random() % 2000;
        ranges.push_back(Range{static_cast<uint32_t>(random() % 5), random() % 10000, bytes, bytes, static_cast<uint16_t>(r)});
      }
      input.Add(ranges);
    }
    PlanOptions options;
    options.piece_bytes = 4096;
    options.scratch = round % 2 == 1;
    options.sort_by_object = round % 3 == 0;
    options.split_large = !options.scratch;
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CheckPlan(input, options, plan);
  }
}

TEST_CASE("a sample larger than a piece is cut so that several streams read it", "[plan]") {
  for (const uint64_t alignment : {uint64_t{0}, uint64_t{512}}) {
    Input input;
    input.AddFile(100);
    input.AddFile(70001);
    input.AddFile(100);
    PlanOptions options;
    options.piece_bytes = 16384;
    options.direct_alignment = alignment;
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CheckPlan(input, options, plan);
    CHECK(plan.pieces.size() >= 6);
  }
}

TEST_CASE("a codec gets each sample in one piece however large", "[plan]") {
  Input input;
  for (int i = 0; i < 10; ++i) input.AddFile(static_cast<uint64_t>(i) * 9000);
  for (PlanSample& sample : input.samples) sample.delivered_bytes *= 3;
  PlanOptions options;
  options.piece_bytes = 16384;
  options.scratch = true;
  options.split_large = false;
  BatchPlan plan;
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  CheckPlan(input, options, plan);
}

TEST_CASE("dense batches have one stride and refuse unequal sizes", "[plan]") {
  Input input;
  for (int i = 0; i < 9; ++i) input.AddFile(1000);
  PlanOptions options;
  options.dense = true;
  options.piece_bytes = 4096;
  BatchPlan plan;
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  CHECK(plan.stride == 1024);
  CheckPlan(input, options, plan);
  input.samples[3].skip = true;
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  CHECK(plan.valid[3] == 0);
  CheckPlan(input, options, plan);
  input.AddFile(999);
  const absl::Status status = PlanBatch(input.samples, input.ranges, options, plan);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()).find("1009") != std::string::npos);
}

TEST_CASE("growth of a whole file is asked for in its place, or in the ring's where that is full", "[plan]") {
  Input input;
  input.AddFile(100);
  input.AddFile(128);
  input.AddFile(0);
  PlanOptions options;
  BatchPlan plan;
  for (const bool dense : {false, true}) {
    for (const uint64_t alignment : {0, 512}) {
      Input equal;
      for (int i = 0; i < 3; ++i) equal.AddFile(1024);
      options.dense = dense;
      options.direct_alignment = alignment;
      REQUIRE_OK(PlanBatch(equal.samples, equal.ranges, options, plan));
      for (const Extent& extent : plan.extents) {
        CHECK(extent.length_bytes == 1024);  // its place is full to the last byte
        CHECK(extent.ask_beyond);
      }
    }
  }
  options = PlanOptions();
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  REQUIRE(plan.extents.size() == 3);
  CHECK(plan.extents[0].length_bytes == 101);
  CHECK_FALSE(plan.extents[0].ask_beyond);
  CHECK(plan.extents[1].length_bytes == 128);
  CHECK(plan.extents[1].ask_beyond);
  CHECK(plan.extents[2].need_bytes == 0);
  CHECK(plan.extents[2].ask_beyond);
}

TEST_CASE("the bound on a batch holds for every batch", "[plan]") {
  std::mt19937_64 random(4);
  for (int round = 0; round < 40; ++round) {
    Input input;
    uint64_t sum = 0;
    for (int i = 0; i < 30; ++i) {
      const uint64_t bytes = random() % 5000;
      sum += bytes;
      input.AddFile(bytes);
    }
    PlanOptions options;
    options.piece_bytes = 8192;
    options.direct_alignment = round % 2 == 0 ? 0 : 4096;
    options.scratch = round % 4 >= 2;
    options.split_large = !options.scratch;
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CHECK(plan.bytes + plan.scratch_bytes <= PlanBytesBound(30, sum, sum, options));
  }
}

TEST_CASE("holes between neighbours stay within their bound, and the bound on a batch holds with them", "[plan]") {
  std::mt19937_64 random(14);
  for (int round = 0; round < 200; ++round) {
    Input input;
    const uint64_t record = 1 + random() % 300;
    for (int i = 0; i < 60; ++i) input.Add({Range{static_cast<uint32_t>(random() % 2), random() % 500 * record, record, record, 0}});
    PlanOptions options;
    options.piece_bytes = 16384;
    options.sort_by_object = true;
    options.coalesce_gap_bytes = random() % 8192;
    options.hole_bytes_max = random() % 3 * 5000;
    options.direct_alignment = round % 2 == 0 ? 0 : 512;
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CHECK(plan.bytes <= PlanBytesBound(60, 60 * record, 60 * record, options));
    uint64_t need = 0;
    for (const Extent& extent : plan.extents) need += extent.need_bytes;
    CHECK(plan.read_bytes == need);
    CHECK(need <= 60 * record + options.hole_bytes_max + (options.direct_alignment == 0 ? 0 : plan.extents.size() * 512));
  }
}

TEST_CASE("dense neighbours share a read only where their places follow as their bytes do", "[plan]") {
  PlanOptions options;
  options.dense = options.sort_by_object = true;
  options.piece_bytes = 8192;
  const auto extents = [&](uint64_t record, std::vector<uint64_t> order) {
    Input input;
    for (const uint64_t i : order) input.Add({Range{0, i * record, record, record, 0}});
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CheckPlan(input, options, plan);
    return plan.extents.size();
  };
  CHECK(extents(1024, {0, 1, 2, 3}) == 1);
  CHECK(extents(1024, {0, 1, 3, 2}) == 3);
  CHECK(extents(1000, {0, 1, 2, 3}) == 4);        // the stride is 1024
  CHECK(extents(4096, {0, 1, 2, 3, 4}) == 3);     // pieces of two
}

TEST_CASE("what belongs to no sample is poisoned, and nothing else", "[plan]") {
  Input input;
  for (const uint64_t i : {0, 3, 4, 9}) input.Add({Range{0, i * 100, 100, 100, 0}});
  PlanOptions options;
  options.sort_by_object = true;
  options.coalesce_gap_bytes = options.hole_bytes_max = 1000;
  BatchPlan plan;
  REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
  REQUIRE(plan.extents.size() == 1);
  std::vector<std::byte> memory(plan.bytes, std::byte{1});
  PoisonHoles(plan, memory.data());
  size_t kept = 0;
  for (size_t i = 0; i < 4; ++i) {
    for (int64_t at = plan.offsets[i]; at < plan.offsets[i] + plan.lengths[i]; ++at) {
      kept += memory[static_cast<size_t>(at)] == std::byte{1} ? 1 : 0;
    }
  }
  CHECK(kept == 400);
  CHECK(std::count(memory.begin(), memory.end(), std::byte{kHolePoison}) == static_cast<int64_t>(plan.bytes) - 400);
}

TEST_CASE("samples are asked for in the order of their places on the drive", "[plan]") {
  for (const bool dense : {false, true}) {
    Input input;
    std::vector<uint64_t> places = {7, 3, 9, 1, 8, 2};
    for (size_t i = 0; i < places.size(); ++i) input.AddFile(1000);
    for (size_t i = 0; i < places.size(); ++i) input.samples[i].place = places[i];
    PlanOptions options;
    options.sort_by_place = true;
    options.dense = dense;
    BatchPlan plan;
    REQUIRE_OK(PlanBatch(input.samples, input.ranges, options, plan));
    CheckPlan(input, options, plan);
    std::vector<uint64_t> asked;
    for (const Extent& extent : plan.extents) asked.push_back(input.samples[plan.uses[extent.first_use]].place);
    CHECK(asked == std::vector<uint64_t>{1, 2, 3, 7, 8, 9});
  }
}

TEST_CASE("an empty batch has a plan without pieces", "[plan]") {
  BatchPlan plan;
  REQUIRE_OK(PlanBatch({}, {}, PlanOptions(), plan));
  CHECK(plan.pieces.empty());
  CHECK(plan.bytes == 0);
}
