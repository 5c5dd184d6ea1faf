#include "loader/verdict.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace penstock {

const char* BoundName(Bound bound) {
  switch (bound) {
    case Bound::kNothing: return "nothing";
    case Bound::kConsumer: return "consumer";
    case Bound::kStoreLatency: return "store latency";
    case Bound::kStoreBandwidth: return "store bandwidth";
    case Bound::kOpen: return "open";
    case Bound::kCodec: return "codec";
    case Bound::kCopy: return "copy";
    case Bound::kCpu: return "cpu";
  }
  return "unknown";
}

void Judge(EpochReport& report, const JudgeFigures& figures) {
  const int streams = figures.streams;
  const double wall = std::max(report.wall_s, 1e-9);
  const double wait_share = std::min(1.0, report.wait_s / wall);
  const double stream_time = wall * std::max(1, streams);
  if (report.batches == 0) {
    report.bound = Bound::kNothing;
    report.verdict = "no batch was taken";
    return;
  }
  if (wait_share < 0.05) {
    report.bound = report.idle_s > 0.2 * stream_time || wait_share < 0.02 ? Bound::kConsumer : Bound::kNothing;
    report.verdict = absl::StrFormat("consumer: it waited %.1f %% of the time for data; the loader waited for it %.0f %% of its own. "
                                     "Nothing to change in the loader: the training step is what takes the time",
                                     100 * wait_share, 100 * std::min(1.0, report.idle_s / stream_time));
    if (report.bound == Bound::kNothing) {
      report.verdict = absl::StrFormat("nothing: the consumer waited %.1f %% of the time for data", 100 * wait_share);
    }
    return;
  }
  // A thread that waits for its core behind others is bound by the CPU as much as one that runs.
  const double cpu_share = std::min(1.0, std::max(report.stream_cpu_s, figures.stream_demand_s) / stream_time);
  const double blocked = figures.blocked_s / stream_time;
  const double codec = report.codec_s / (wall * std::max(1, figures.codec_threads));
  const std::string wait = absl::StrFormat("the consumer waited %.0f %% of the time", 100 * wait_share);
  // Each against what there is of it: one busy codec thread holds up many streams, which then sleep for part of the time.
  if (codec > blocked && codec > cpu_share && codec > 0.3) {
    report.bound = Bound::kCodec;
    report.verdict = absl::StrFormat("codec: %s; the codec's threads (%d) were at it for %.0f %% of theirs. Raise cpu_share (more "
                                     "threads), or make the function cheaper",
                                     wait, std::max(1, figures.codec_threads), 100 * std::min(1.0, codec));
    return;
  }
  if (report.copy_s > 0.5 * report.wait_s) {
    report.bound = Bound::kCopy;
    report.verdict =
        absl::StrFormat("copy: %s, %.1f s of it for copies to the device. See bench/gpu, and that memory is pinned", wait, report.copy_s);
    return;
  }
  if (cpu_share > 0.6 || figures.worker_cpu_share > 0.6 || (figures.process_cpu_share > 0.9 && blocked < 0.6)) {
    report.bound = Bound::kCpu;
    std::string workers;
    if (figures.worker_cpu_share > 0) {
      workers = absl::StrFormat(", the threads that read %.0f %% of their reads' time", 100 * std::min(1.0, figures.worker_cpu_share));
    }
    report.verdict = absl::StrFormat("cpu: %s; the %d streams ran or waited for their cores %.0f %% of it%s, the process used %.0f %% of "
                                     "its cores. Raise cpu_share (more streams), or pack small files",
                                     wait, streams, 100 * cpu_share, workers, 100 * figures.process_cpu_share);
    return;
  }
  // Where io_workers threads do the reads, more depth would only queue behind them. Opens that find nothing in the cache take such a
  // thread always.
  const bool by_workers = figures.io_workers > 0;
  std::string depth = absl::StrFormat("queue_depth (now %d)", figures.queue_depth);
  if (by_workers) {
    depth = absl::StrFormat("io_workers (now %d), which is what bounds the reads in flight here, and %s", figures.io_workers, depth);
  }
  const std::string tried = absl::StrCat("ore reads in flight were tried (", figures.tuned, ")");
  const std::string raise = by_workers ? depth : "queue_depth and io_workers";
  if (report.open_s > report.transfer_s) {
    report.bound = Bound::kOpen;
    report.verdict = absl::StrFormat("open: %s; opening a file took %.0f us, reading it %.0f us. Metadata is cold or far away: %s, "
                                     "keep files in fewer folders, or pack them",
                                     wait, report.open_latency_us, report.read_latency_us,
                                     figures.tuned.empty() ? "raise " + raise : "m" + tried);
    return;
  }
  if (figures.memory_share > 0.5) {
    // No store is behind these times, whatever their shape: a copy by a thread that gets too little of its core, or too few threads.
    report.bound = Bound::kCpu;
    report.verdict = absl::StrFormat("cpu: %s; %.0f %% of the reads found their bytes in the page cache, so that no store was waited for; the "
                                     "%d streams ran or waited for their cores %.0f %% of it. Raise cpu_share (more streams), or pack small "
                                     "files",
                                     wait, 100 * figures.memory_share, streams, 100 * cpu_share);
    return;
  }
  // A transfer's time is its floor (paid also with nothing else in flight) and a part that grows with the bytes in flight.
  if (report.latency_floor_us > 0.5 * report.read_latency_us) {
    report.bound = Bound::kStoreLatency;
    report.verdict = absl::StrFormat("store latency: %s; a read took %.0f us, of which %.0f us however little was in flight. %s, or "
                                     "bring the store nearer",
                                     wait, report.read_latency_us, report.latency_floor_us,
                                     figures.tuned.empty() ? "Raise " + depth : "M" + tried);
  } else {
    report.bound = Bound::kStoreBandwidth;
    report.verdict = absl::StrFormat(
        "store bandwidth: %s; a read took %.0f us, of which only %.0f us with nothing else in flight: the store gives %.0f MB/s. Use a "
        "faster store, or fewer bytes per sample",
        wait, report.read_latency_us, report.latency_floor_us, report.bandwidth_mb_per_s);
  }
}

}  // namespace penstock
