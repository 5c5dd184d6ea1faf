// What the streams saw, added up per epoch.
#ifndef PENSTOCK_STREAM_READ_STATS_H_
#define PENSTOCK_STREAM_READ_STATS_H_

#include <cstdint>

namespace penstock {

// Least squares of a transfer's time over the bytes in flight when it was asked for: latency = floor + bytes / bandwidth. A store bound by
// latency answers in the floor's time however much is in flight; one bound by bandwidth takes longer the more there is.
struct LatencyFit {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;  // x: bytes in flight, y: ns

  void Add(double bytes, double ns) {
    n += 1;
    x += bytes;
    y += ns;
    xx += bytes * bytes;
    xy += bytes * ns;
  }
  void Merge(const LatencyFit& other) {
    n += other.n;
    x += other.x;
    y += other.y;
    xx += other.xx;
    xy += other.xy;
  }
  double slope() const {  // ns per byte, at least 0
    const double spread = n * xx - x * x;
    if (n < 16 || spread <= 1e-6 * n * xx) return 0;
    const double value = (n * xy - x * y) / spread;
    return value > 0 ? value : 0;
  }
  double floor_ns() const {
    const double value = n > 0 ? (y - slope() * x) / n : 0;
    return value > 0 ? value : 0;
  }
  double mean_ns() const { return n > 0 ? y / n : 0; }
};

struct ReadStats {
  int64_t requests = 0;
  int64_t kept_open = 0;     // of these, to files that were open
  int64_t memory_known = 0;  // of which the ring can tell whether their bytes were in the page cache
  int64_t from_memory = 0;   // and of these, whose were
  int64_t retries = 0;
  int64_t open_ns = 0;       // summed over requests
  int64_t transfer_ns = 0;
  int64_t idle_ns = 0;       // the stream had nothing to do: back-pressure
  int64_t blocked_ns = 0;    // it slept with requests in flight
  int64_t codec_wait_ns = 0; // it slept with only the codec at work
  int64_t codec_ns = 0;      // compute threads' time in the codec
  int64_t cpu_ns = 0;        // the stream thread's own CPU time
  int64_t late_reports = 0;
  LatencyFit fit;

  void Merge(const ReadStats& other) {
    requests += other.requests;
    kept_open += other.kept_open;
    memory_known += other.memory_known;
    from_memory += other.from_memory;
    retries += other.retries;
    open_ns += other.open_ns;
    transfer_ns += other.transfer_ns;
    idle_ns += other.idle_ns;
    blocked_ns += other.blocked_ns;
    codec_wait_ns += other.codec_wait_ns;
    codec_ns += other.codec_ns;
    cpu_ns += other.cpu_ns;
    late_reports += other.late_reports;
    fit.Merge(other.fit);
  }
};

}  // namespace penstock

#endif  // PENSTOCK_STREAM_READ_STATS_H_
