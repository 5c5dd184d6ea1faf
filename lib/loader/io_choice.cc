#include "loader/io_choice.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "loader/probe.h"

namespace penstock {
namespace {

constexpr size_t kDepth = 32;
constexpr int kEnoughReads = 12;
constexpr size_t kRounds = 4;
constexpr uint64_t kBytesMax = 256 << 10;         // of one read: longer samples are judged by their beginnings
constexpr int64_t kPatienceNs = 50 * kNsPerMs;    // for each round of reads
constexpr double kAllCached = 0.9;                // the rest is worth no direct reads
constexpr double kWorthIt = 0.9;                  // of the other's cost: below that, a difference is more than noise

}  // namespace

bool FitsInMemory(int64_t data_bytes, int64_t available_bytes) { return available_bytes == 0 || data_bytes < available_bytes / 5 * 4; }

bool CostsDecide(const IoFacts& facts) {
  return facts.cached_share < kAllCached && FitsInMemory(facts.data_bytes, facts.available_bytes) && !facts.not_kept &&
         facts.direct_alignment > 0 && facts.last_epoch;
}

IoDecision DecideIo(const IoFacts& facts) {
  std::string sizes = absl::StrCat("the data set has ", FormatBytes(facts.data_bytes), ", memory available is ",
                                   FormatBytes(facts.available_bytes));
  if (facts.cached_share >= 0) absl::StrAppend(&sizes, absl::StrFormat(", %.0f %% of it is in the page cache", 100 * facts.cached_share));
  // What is there already is nowhere cheaper, however large the set is.
  if (facts.cached_share >= kAllCached) return {false, sizes};
  const bool fits = FitsInMemory(facts.data_bytes, facts.available_bytes);
  if (!fits || facts.not_kept) {
    const char* const why = fits ? ": the page cache did not keep what was read through it" : ": the page cache cannot hold it";
    if (facts.direct_alignment == 0) return {false, absl::StrCat(sizes, why, ", but ", facts.direct_why)};
    return {true, absl::StrCat(sizes, why)};
  }
  if (facts.direct_alignment == 0 || !facts.last_epoch) return {false, absl::StrCat(sizes, ": the page cache holds it")};
  const IoCosts& costs = facts.costs;
  // Files that are read cold are cheaper read direct on every drive seen so far: a better guess than the other way.
  if (facts.measuring) return {true, absl::StrCat(sizes, ", and no epoch follows that would find it there; until both ways are measured")};
  if (costs.direct_us == 0 || costs.buffered_us == 0) {
    return {false, absl::StrCat(sizes, ": the page cache holds it; no epoch follows, but direct reads were not measured",
                                costs.why_not.empty() ? "" : ": ", costs.why_not)};
  }
  const double share = std::max(0.0, facts.cached_share);
  const double buffered_us = share * costs.cached_us + (1 - share) * costs.buffered_us;
  // Beside direct reads that keep the drive busy, what is measured is mostly the wait for these, which is the same for both and never the
  // same twice. So the page cache has to be the cheaper way in each round before they end.
  const double surely_us = share * costs.cached_us + (1 - share) * std::max(costs.buffered_us, costs.worst_ratio * costs.direct_us);
  const bool direct = facts.direct_now ? surely_us >= kWorthIt * costs.direct_us : costs.direct_us < kWorthIt * buffered_us;
  return {direct,
          absl::StrFormat("%s, and no epoch follows that would find it there; measured: a sample costs %.0f us read direct, %.0f us "
                          "through the page cache",
                          sizes, costs.direct_us, buffered_us)};
}

IoCosts MeasureIo(const std::shared_ptr<const ObjectStore>& objects, Engine engine, const std::shared_ptr<PreadPool>& pool,
                  const RingOptions& options, uint64_t direct_alignment, absl::Span<const Range> ranges) {
  IoCosts costs;
  RingOptions closing = options;
  closing.open_files = nullptr;  // each way has to open its files
  absl::StatusOr<std::unique_ptr<Probe>> made = Probe::Make(objects, engine, pool, closing, kDepth, kBytesMax);
  if (!made.ok()) {
    costs.why_not = std::string(made.status().message());
    return costs;
  }
  Probe& probe = **made;
  const size_t group = ranges.size() / (2 * kRounds);
  // The first opens in cold folders cost more than any read, and either way as much.
  size_t opened = 0;
  probe.CostNs(static_cast<int>(ranges.size()), kEnoughReads, kPatienceNs, [&](Request& request) {
    request.object = ranges[opened++].object;
    return true;
  });
  const auto cost_us = [&](absl::Span<const Range> some, bool direct) {
    size_t next = 0;
    const double cost_ns = probe.CostNs(static_cast<int>(some.size()), kEnoughReads, kPatienceNs, [&](Request& request) {
      const Range& range = some[next++];
      request.object = range.object;
      request.offset_bytes = direct ? AlignDown(range.offset_bytes, direct_alignment) : range.offset_bytes;
      const uint64_t bytes = std::min<uint64_t>(kBytesMax, range.offset_bytes + range.stored_bytes - request.offset_bytes);
      request.need_bytes = bytes;
      request.length_bytes = direct ? AlignUp(bytes, direct_alignment) : bytes;
      request.direct = direct;
      return true;
    });
    return cost_ns / 1e3;
  };
  // Of the rounds the cheapest of each: whatever else the machine does can only add to it. Who comes first takes turns, since a queue that
  // is filling or emptying would favour one of them. No byte is read twice before its page is.
  const auto less = [](double known_us, double us) { return known_us == 0 ? us : std::min(known_us, us); };
  for (size_t round = 0; round < kRounds; ++round) {
    const absl::Span<const Range> some = ranges.subspan(2 * round * group, group);
    const absl::Span<const Range> others = ranges.subspan((2 * round + 1) * group, group);
    const bool direct_first = round == 0 || round == 3;
    double direct_us = direct_first ? cost_us(some, true) : 0;
    const double buffered_us = cost_us(others, false);
    if (!direct_first) direct_us = cost_us(some, true);
    const double cached_us = direct_us == 0 || buffered_us == 0 ? 0 : cost_us(others, false);
    if (cached_us == 0) break;
    costs.worst_ratio = std::max(costs.worst_ratio, buffered_us / direct_us);
    costs.direct_us = less(costs.direct_us, direct_us);
    costs.buffered_us = less(costs.buffered_us, buffered_us);
    costs.cached_us = less(costs.cached_us, cached_us);
  }
  if (costs.cached_us == 0) {
    costs = IoCosts();
    costs.why_not = "the store is too slow, or reads fail";
  }
  Probe::End(*std::move(made));
  return costs;
}

}  // namespace penstock
