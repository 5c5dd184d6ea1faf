#include "loader/probe.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace penstock {
namespace {

constexpr int64_t kReapNs = 2 * kNsPerSecond;  // for what is still in flight when the time is up
constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<Probe>> Probe::Make(const std::shared_ptr<const ObjectStore>& objects, Engine engine,
                                                   const std::shared_ptr<PreadPool>& pool, const RingOptions& options, size_t depth,
                                                   uint64_t bytes_max) {
  RingOptions ring_options = options;
  ring_options.capacity = depth;
  absl::StatusOr<std::unique_ptr<Ring>> ring = MakeRing(engine, *objects, ring_options, pool);
  if (!ring.ok()) return ring.status();
  std::unique_ptr<Probe> probe(new Probe());
  probe->objects_ = objects;
  probe->ring_ = *std::move(ring);
  probe->depth_ = std::min(depth, probe->ring_->capacity());
  probe->bytes_max_ = bytes_max;
  probe->memory_bytes_ = depth * bytes_max;
  void* const memory = ::mmap(nullptr, probe->memory_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return absl::ResourceExhaustedError("no memory for it");
  probe->memory_ = static_cast<std::byte*>(memory);
  // As the arena has it: into small pages some drives are several times slower (each page is a segment of the read).
  if (probe->memory_bytes_ >= kHugePage) ::madvise(memory, probe->memory_bytes_, MADV_HUGEPAGE);
  for (size_t at = 0; at < probe->memory_bytes_; at += 4096) probe->memory_[at] = std::byte{0};
  return probe;
}

Probe::~Probe() {
  ring_.reset();
  if (memory_ != nullptr) ::munmap(memory_, memory_bytes_);
}

void Probe::End(std::unique_ptr<Probe> probe) {
  if (probe->ring_->in_flight() == 0) return;
  probe->ring_->Cancel();
  Log(LogLevel::kWarning, "measuring the cost of a read: the store does not answer; what was asked for is left to it");
  static_cast<void>(probe.release());  // the kernel may still write there
}

double Probe::CostNs(int count, int enough, int64_t patience_ns, const std::function<bool(Request&)>& next) {
  std::vector<Completion> completions(depth_);
  std::vector<uint64_t> free;
  for (size_t i = 0; i < depth_; ++i) free.push_back(i);
  int enqueued = 0;
  int done = 0;
  bool failed = false;
  const int64_t begin_ns = MonotonicNs();
  int64_t last_ns = begin_ns;
  while (!failed) {
    bool any = false;
    while (enqueued < count && !free.empty() && MonotonicNs() - begin_ns < patience_ns) {
      Request request;
      if (!next(request)) {
        failed = true;
        break;
      }
      PENSTOCK_CHECK(request.length_bytes <= bytes_max_, "a probe's read fits into its place");
      request.cookie = free.back();
      request.destination = memory_ + free.back() * bytes_max_;
      if (!ring_->Enqueue(request)) break;
      free.pop_back();
      ++enqueued;
      any = true;
    }
    if (any) failed = failed || !ring_->Submit().ok();
    if (ring_->in_flight() == 0) break;
    if (!ring_->Wait(begin_ns + patience_ns + kReapNs).ok()) failed = true;
    const size_t reaped = ring_->Reap(absl::MakeSpan(completions));
    const int64_t now_ns = MonotonicNs();
    for (size_t i = 0; i < reaped; ++i) {
      free.push_back(completions[i].cookie);
      failed = failed || completions[i].error_number != 0;
      ++done;
      last_ns = now_ns;
    }
    if (now_ns > begin_ns + patience_ns + kReapNs) failed = true;
  }
  return failed || done < std::min(count, enough) ? 0 : static_cast<double>(last_ns - begin_ns) / done;
}

}  // namespace penstock
