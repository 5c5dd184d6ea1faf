// What a loader says of itself: what it waits for, an epoch's figures, what was chosen.
#include "loader/loader_core.h"

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/thread_demand.h"
#include "loader/verdict.h"
#include "penstock/mixture.h"

namespace penstock {
void LoaderCore::BeginTotals() {
  totals_ = EpochTotals();
  ended_.reset();
  if (!options_.mixture.empty()) totals_.member_samples.assign(options_.mixture.size(), 0);
  totals_.process_cpu_begin_s = ProcessCpuSeconds();
  totals_.stream_demand_begin_ns = StreamDemandNs();
  if (pool_ != nullptr) totals_.pool_begin = pool_->usage();
  depth_since_ns_ = totals_begun_ns_ = MonotonicNs();
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
  for (const auto& [lease, name] : lent_names_) absl::StrAppend(&names, names.empty() ? "" : "; ", name);
  const std::string memory = device_path_ == nullptr
                                 ? absl::StrCat("all memory (memory_bytes = ", options_.memory_bytes, ", one batch in reserve)")
                                 : absl::StrCat("all device memory (device_bytes = ", options_.device_bytes, ")");
  return absl::ResourceExhaustedError(absl::StrCat(memory, " is in ", lent_names_.size(), " batches that were not released: ", names,
                                                   ". Release batches before taking more, or raise ",
                                                   device_path_ == nullptr ? "memory_bytes" : "device_bytes"));
}

EpochReport LoaderCore::report() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ended_.has_value() ? *ended_ : MakeReport();
}

// With the lock held.
EpochReport LoaderCore::MakeReport() const {
  EpochReport report;
  const StepPlan steps = StepsOf(epoch_);
  report.epoch = epoch_;
  report.expected = RankSamples(epoch_);
  report.delivered = totals_.delivered;
  report.substituted = totals_.substituted;
  report.skipped = totals_.skipped;
  report.passed = totals_.passed;
  report.taken = report.delivered + report.substituted + report.skipped + report.passed;
  report.dropped = steps.dropped();
  report.padded = steps.padded();
  report.batches = totals_.batches;
  report.bytes = totals_.bytes;
  report.member_samples = totals_.member_samples;
  const int64_t now_ns = MonotonicNs();
  report.wall_s = totals_.begin_ns == 0 ? 0 : 1e-9 * static_cast<double>(std::max<int64_t>(0, now_ns - totals_.begin_ns));
  report.wait_s = 1e-9 * static_cast<double>(totals_.wait_ns);
  report.first_batch_s = 1e-9 * static_cast<double>(totals_.first_batch_ns);
  std::vector<float> next = totals_.next_us;
  if (!next.empty()) {
    std::sort(next.begin(), next.end());
    report.next_p50_us = next[next.size() / 2];
    report.next_p99_us = next[std::min(next.size() - 1, next.size() * 99 / 100)];
  }
  const ReadStats& reads = totals_.reads;
  const double span_s = 1e-9 * static_cast<double>(std::max<int64_t>(1, now_ns - totals_begun_ns_));  // since Open() or StartEpoch()
  const double depth_s = totals_.depth_s + setup_.queue_depth * 1e-9 * static_cast<double>(now_ns - depth_since_ns_);
  const double depth = std::max(1.0, depth_s / span_s);
  report.stream_cpu_s = 1e-9 * static_cast<double>(reads.cpu_ns);
  report.open_s = 1e-9 * static_cast<double>(reads.open_ns) / depth;
  report.transfer_s = 1e-9 * static_cast<double>(reads.transfer_ns) / depth;
  report.idle_s = 1e-9 * static_cast<double>(reads.idle_ns);
  report.codec_s = 1e-9 * static_cast<double>(reads.codec_ns);
  report.copy_s = 1e-9 * static_cast<double>(totals_.copy_wait_ns);
  report.reads = totals_.planned_reads;
  report.read_bytes = totals_.read_bytes;
  const int64_t handed_out = report.taken - report.passed;
  if (handed_out > 0) report.reads_per_sample = static_cast<double>(report.reads) / static_cast<double>(handed_out);
  if (report.bytes > 0) report.read_bytes_per_byte = static_cast<double>(report.read_bytes) / static_cast<double>(report.bytes);
  if (mixing_.has_value()) {
    report.label_distance = mixing_->distance();
    report.label_distance_full_shuffle = mixing_->full_shuffle_distance();
  }
  for (const EpochIo& io : epoch_io_) {
    if (io.epoch != epoch_) continue;
    report.io = io.direct ? "direct" : "buffered";
    report.io_why = io.why;
  }
  report.queue_depth = setup_.queue_depth;
  report.io_workers = setup_.io_workers;
  report.queue_depth_why = DepthWhy();
  report.warmed_samples = warmer_ == nullptr ? 0 : warmer_->samples();
  report.warmed_bytes = warmer_ == nullptr ? 0 : warmer_->bytes();
  report.requests = reads.requests;
  report.kept_open = reads.kept_open;
  report.memory_known = reads.memory_known;
  report.from_memory = reads.from_memory;
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
  if (tuner_ != nullptr && tuner_->most_tried() > depth_first_) figures.tuned = tuner_->why();
  if (reads.memory_known > 0) figures.memory_share = static_cast<double>(reads.from_memory) / static_cast<double>(reads.memory_known);
  figures.codec_threads = compute_ == nullptr ? 0 : compute_threads_;
  figures.process_cpu_share = (ProcessCpuSeconds() - totals_.process_cpu_begin_s) / (span_s * allowed_cpus_);
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
  setup.queue_depth_why = DepthWhy();
  if (warmer_ != nullptr && warmer_->was_cached()) setup.warm = "nothing is read ahead: half of it and more is in the page cache";
  const ArenaReport memory = arena_->report();
  if (ring_options_.open_files != nullptr) {
    setup.open_files_max = ring_options_.open_files->files_max();
    setup.open_files = ring_options_.open_files->count();
  }
  if (const Mixture* const mixture = order_->mixture(); mixture != nullptr) {
    for (int64_t d = 0; d < mixture->member_count(); ++d) {
      const Manifest& member = manifest_->member(d);
      setup.members.push_back({member.root(), member.fingerprint(), member.sample_count(), mixture->first_id(d), mixture->count(d)});
    }
    setup.mixture_period = mixture->period();
  }
  setup.epoch_samples = order_->size();
  setup.pages = memory.pages;
  setup.binding = memory.binding;
  setup.pinning = memory.pinning;
  setup.quarantined_bytes = int64_t{arena_->quarantined_granules()} * kGranuleBytes;
  return setup;
}

}  // namespace penstock
