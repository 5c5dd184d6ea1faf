#include "loader/gap.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "loader/probe.h"

namespace penstock {
namespace {

constexpr uint64_t kSmallBytes = 4096;
constexpr uint64_t kLargeBytes = 128 << 10;
constexpr int kSmallReads = 128;
constexpr int kLargeReads = 48;
constexpr size_t kDepth = 32;
constexpr int kRounds = 2;
constexpr int kEnoughReads = 16;
constexpr int64_t kPatienceNs = 10 * kNsPerMs;   // for each of them
// A page on each side comes along anyway; beyond a MiB, memory and the batch's pieces are worth more than a read.
constexpr int64_t kGapMin = 4096;
constexpr int64_t kGapMax = 1 << 20;

// A full-period generator is enough: places that are far apart and never the same.
uint64_t NextRandom(uint64_t& state) {
  state = state * 6364136223846793005ULL + 1442695040888963407ULL;
  return state >> 20;
}

// The next of the reads of `bytes` at random places. False: an object is smaller.
bool NextRead(const Manifest& manifest, uint64_t bytes, uint64_t alignment, uint64_t& random, Request& request) {
  request.object = static_cast<uint32_t>(NextRandom(random) % static_cast<uint64_t>(manifest.object_count()));
  const uint64_t size = manifest.ObjectBytes(request.object);
  if (size < bytes) return false;
  request.offset_bytes = AlignDown(NextRandom(random) % (size - bytes + 1), std::max(alignment, kSmallBytes));
  request.length_bytes = request.need_bytes = bytes;
  request.direct = alignment > 0;
  return true;
}

}  // namespace

GapChoice GapFromCosts(double small_ns, double small_bytes, double large_ns, double large_bytes) {
  GapChoice choice;
  // cost = read + bytes * per_byte
  const double per_byte = (large_ns - small_ns) / (large_bytes - small_bytes);
  double gap = kGapMax;
  if (per_byte > 0) {
    choice.mb_per_s = 1e3 / per_byte;
    choice.read_us = std::max(0.0, small_ns - small_bytes * per_byte) / 1e3;
    gap = choice.read_us * 1e3 / per_byte;
  } else {
    choice.read_us = small_ns / 1e3;
  }
  choice.gap_bytes = static_cast<int64_t>(AlignDown(static_cast<uint64_t>(std::clamp<double>(gap, kGapMin, kGapMax)), uint64_t{4096}));
  choice.why = choice.mb_per_s > 0 ? absl::StrFormat("measured: a read costs %.1f us, and the store gives %.0f MB/s beside that",
                                                     choice.read_us, choice.mb_per_s)
                                   : absl::StrFormat("measured: a read costs %.1f us however long it is", choice.read_us);
  return choice;
}

GapChoice MeasureGap(const Manifest& manifest, const std::shared_ptr<const ObjectStore>& objects, Engine engine,
                     const std::shared_ptr<PreadPool>& pool, const RingOptions& options, uint64_t direct_alignment) {
  GapChoice choice;
  choice.gap_bytes = 64 << 10;
  const auto unmeasured = [&](std::string why) {
    choice.why = std::move(why);
    return choice;
  };
  if (manifest.total_bytes() < uint64_t{kLargeReads} * kLargeBytes) return unmeasured("the data set is too small to measure");
  absl::StatusOr<std::unique_ptr<Probe>> probe = Probe::Make(objects, engine, pool, options, kDepth, kLargeBytes);
  if (!probe.ok()) return unmeasured(absl::StrCat("not measured: ", probe.status().message()));
  // The first reads open the files and wake whatever sleeps: their cost is not a read's.
  uint64_t random = 1;
  const auto cost_ns = [&](uint64_t bytes, int count) {
    return (*probe)->CostNs(count, kEnoughReads, kPatienceNs,
                            [&](Request& request) { return NextRead(manifest, bytes, direct_alignment, random, request); });
  };
  cost_ns(kSmallBytes, static_cast<int>(kDepth));
  double small_ns = 0;
  double large_ns = 0;
  for (int round = 0; round < kRounds; ++round) {
    // The cheaper one: whatever else the machine does can only add to it.
    const double small = cost_ns(kSmallBytes, kSmallReads);
    const double large = small == 0 ? 0 : cost_ns(kLargeBytes, kLargeReads);
    if (small == 0 || large == 0) break;
    small_ns = round == 0 ? small : std::min(small_ns, small);
    large_ns = round == 0 ? large : std::min(large_ns, large);
  }
  Probe::End(*std::move(probe));
  if (small_ns == 0 || large_ns == 0) {
    return unmeasured("the store is too slow, or its files too small, to be measured in some milliseconds");
  }
  return GapFromCosts(small_ns, kSmallBytes, large_ns, kLargeBytes);
}

}  // namespace penstock
