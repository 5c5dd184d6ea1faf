// Through the page cache or past it: found out at Open, and again when an epoch is planned.
#include "loader/loader_core.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "topology/memory.h"

namespace penstock {
namespace {

constexpr int64_t kProbePatienceNs = 10 * kNsPerSecond;  // for the store's answer to a direct read
constexpr int64_t kSampled = 32;                         // samples looked at, whether they are in the page cache
constexpr int64_t kMeasured = 8 * 16;                    // samples read to measure what a read costs: half of them direct

}  // namespace

// Spread over the data set, others in each epoch.
std::vector<Range> LoaderCore::SomeRanges(int64_t epoch, int64_t count) const {
  std::vector<Range> ranges;
  const int64_t size = options_.ids.empty() ? manifest_->sample_count() : order_->size();
  count = std::min(count, size);
  const int64_t stride = size / count;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = stride * i + epoch * 7919 % stride;
    ranges.push_back(manifest_->RangeAt(options_.ids.empty() ? at : order_->IdAt(epoch, at), 0));
  }
  return ranges;
}

IoFacts LoaderCore::FactsOf(int64_t epoch) const {
  IoFacts facts;
  facts.data_bytes = residency_.data_bytes;
  facts.available_bytes = residency_.available_bytes;
  facts.direct_alignment = residency_.direct_alignment;
  facts.direct_why = residency_.direct_why;
  facts.cached_share = residency_.cached_share;
  facts.last_epoch = IsLastEpoch(epoch);
  facts.costs = io_costs_;
  facts.measuring = measures_io_;
  facts.direct_now = plan_options_.direct_alignment != 0;
  return facts;
}

void LoaderCore::ChooseIo() {
  const int64_t patience_ns = std::min(kProbePatienceNs, static_cast<int64_t>(options_.deadline_s * 1e9));
  const bool looks = LooksAtPageCache();
  residency_ = LookAtResidency(*manifest_, objects_, looks ? SomeRanges(epoch_, kSampled) : std::vector<Range>(),
                               options_.io == IoMode::kDirect, patience_ns);
  const bool one_range = manifest_->range_count() == manifest_->sample_count();
  if (looks && one_range && CostsDecide(FactsOf(epoch_))) {
    // Beside the first batches; but whether anything is read ahead has to be known before them.
    if (options_.warm == WarmAhead::kOff) {
      measures_io_ = true;
    } else {
      io_costs_ = IoMeasurement()();
    }
  }
  IoDecision decision = DecideIo(FactsOf(epoch_));
  may_switch_io_ = looks && one_range && residency_.direct_alignment > 0;
  if (options_.io == IoMode::kBuffered) {
    decision = {false, "asked for"};
  } else if (options_.io == IoMode::kDirect) {
    decision = {residency_.direct_alignment > 0, "asked for"};
    if (!decision.direct) {
      decision.why = absl::StrCat("direct was asked for, but ", residency_.direct_why);
      setup_.warnings.push_back(decision.why);
    }
  }
  // Small files come from the page cache, where a thread of its own brings whole windows in the order of the drive.
  if (options_.io == IoMode::kAuto && options_.disk_blocks && options_.warm == WarmAhead::kOn && manifest_->record_bytes() == 0 &&
      SmallSamples()) {
    may_switch_io_ = false;
    if (decision.direct) {
      decision = {false, absl::StrCat(decision.why, ", but windows of small files are read ahead into it in the order of place")};
    }
  }
  // Direct reads begin at an aligned byte; samples of several ranges are packed without holes, which that forbids.
  if (decision.direct && !one_range) decision = {false, "samples of several ranges are read buffered"};
  direct_ = decision.direct;
  measures_io_ = measures_io_ && direct_;
  SizeRings();
  plan_options_.direct_alignment = direct_ ? static_cast<uint64_t>(residency_.direct_alignment) : 0;
  setup_.io = direct_ ? "direct" : "buffered";
  setup_.io_why = decision.why;
  epoch_io_.push_back({epoch_, direct_, decision.why});
}

std::function<IoCosts()> LoaderCore::IoMeasurement() const {
  return [objects = objects_, engine = engine_, pool = pool_, ring_options = ring_options_,
          alignment = static_cast<uint64_t>(residency_.direct_alignment), ranges = SomeRanges(epoch_ + 1, kMeasured)] {
    return MeasureIo(objects, engine, pool, ring_options, alignment, ranges);
  };
}

// Only where it is `auto`, and where a set is large enough that looking at some of its files costs nothing beside reading it.
bool LoaderCore::LooksAtPageCache() const {
  return options_.io == IoMode::kAuto && static_cast<int64_t>(manifest_->total_bytes()) >= intervals_.io_look_bytes;
}

// What the planner does before it plans the first batch of another epoch: memory, and what the page cache holds, may be others by now.
IoFacts LoaderCore::LookAgain(int64_t epoch) {
  IoFacts facts = FactsOf(epoch);
  facts.available_bytes = ReadMemoryLeft(runtime_core_.topology()).bytes;
  facts.cached_share = CachedShareWithin(objects_, SomeRanges(epoch, kSampled), kCachedSharePatienceNs);
  // What this rank and its neighbours on the node have brought in. Of a mixture that is not known by the number of samples: a set of little
  // weight is hardly read, a small one many times.
  const bool counts = options_.mixture.empty();
  const int64_t positions = options_.ids.empty() ? manifest_->sample_count() : static_cast<int64_t>(options_.ids.size());
  const double read_share = std::min(1.0, static_cast<double>(buffered_samples_ * local_world_size_) / static_cast<double>(positions));
  page_cache_lost_ = page_cache_lost_ || (counts && !facts.direct_now && facts.cached_share >= 0 && facts.cached_share < read_share / 2);
  facts.not_kept = page_cache_lost_;
  return facts;
}

void LoaderCore::TakeIoCosts() {
  if (const IoCosts* const costs = measuring_io_->Within(0); costs != nullptr) {
    io_costs_ = *costs;
  } else {
    io_costs_.why_not = absl::StrCat("no thread: ", measuring_io_->no_thread());
  }
  measuring_io_.reset();
  measures_io_ = false;
}

IoDecision LoaderCore::PlanBy(const IoFacts& facts) {
  IoDecision decision = DecideIo(facts);
  plan_options_.direct_alignment = decision.direct ? static_cast<uint64_t>(residency_.direct_alignment) : 0;
  plan_options_.sort_by_place = SortsByPlace();
  return decision;
}

// Among the files of one batch there are neighbours only where the order brings them together, and a direct read always meets the drive.
bool LoaderCore::SortsByPlace() const {
  const bool direct = plan_options_.direct_alignment != 0;
  return !packed_ && (options_.disk_blocks || (direct && manifest_->place_hint(0) != 0));
}

}  // namespace penstock
