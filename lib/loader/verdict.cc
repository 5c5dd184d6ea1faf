#include "loader/verdict.h"

#include <algorithm>

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

void Judge(EpochReport& report, int streams, int queue_depth, double process_cpu_share, double blocked_s) {
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
    report.verdict = absl::StrFormat("consumer: it waited %.1f %% of the time for data; the loader waited for it %.0f %% of its own. Nothing to change here",
                                     100 * wait_share, 100 * std::min(1.0, report.idle_s / stream_time));
    if (report.bound == Bound::kNothing) report.verdict = absl::StrFormat("nothing: the consumer waited %.1f %% of the time for data", 100 * wait_share);
    return;
  }
  const double cpu_share = std::min(1.0, report.stream_cpu_s / stream_time);
  const double codec = report.codec_s / stream_time;
  const double blocked = blocked_s / stream_time;
  const std::string wait = absl::StrFormat("the consumer waited %.0f %% of the time", 100 * wait_share);
  if (report.codec_s > blocked_s && codec > cpu_share) {
    report.bound = Bound::kCodec;
    report.verdict = absl::StrFormat("codec: %s; the codec's threads were at it for %.1f s of %.1f s. Raise cpu_share, or make the function cheaper", wait,
                                     report.codec_s, wall);
    return;
  }
  if (report.copy_s > 0.5 * report.wait_s) {
    report.bound = Bound::kCopy;
    report.verdict = absl::StrFormat("copy: %s, %.1f s of it for copies to the device. See bench/gpu, and that memory is pinned", wait, report.copy_s);
    return;
  }
  if (cpu_share > 0.6 || (process_cpu_share > 0.9 && blocked < 0.6)) {
    report.bound = Bound::kCpu;
    report.verdict = absl::StrFormat("cpu: %s; the %d streams' cores were busy %.0f %%, the process used %.0f %% of its cores. Raise cpu_share (more streams), or pack small files",
                                     wait, streams, 100 * cpu_share, 100 * process_cpu_share);
    return;
  }
  if (report.open_s > report.transfer_s) {
    report.bound = Bound::kOpen;
    report.verdict = absl::StrFormat("open: %s; opening a file took %.0f us, reading it %.0f us. Metadata is cold or far away: raise queue_depth and io_workers, keep files in fewer folders, or pack them",
                                     wait, report.open_latency_us, report.read_latency_us);
    return;
  }
  // A transfer's time is its floor (paid also with nothing else in flight) and a part that grows with the bytes in flight.
  if (report.latency_floor_us > 0.5 * report.read_latency_us) {
    report.bound = Bound::kStoreLatency;
    report.verdict = absl::StrFormat("store latency: %s; a read took %.0f us, of which %.0f us however little was in flight. Raise queue_depth (now %d), or bring the store nearer", wait,
                                     report.read_latency_us, report.latency_floor_us, queue_depth);
  } else {
    report.bound = Bound::kStoreBandwidth;
    report.verdict = absl::StrFormat("store bandwidth: %s; a read took %.0f us, of which only %.0f us with nothing else in flight: the store gives %.0f MB/s. Use a faster store, or fewer bytes per sample",
                                     wait, report.read_latency_us, report.latency_floor_us, report.bandwidth_mb_per_s);
  }
}

}  // namespace penstock
