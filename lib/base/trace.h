// The stages of a batch as ranges that a profiler shows (Nsight Systems: domain "penstock"), by NVTX, whose header finds the profiler at
// run time. In a build without that header, and in a process without a profiler, a range is one load and a branch.
#ifndef PENSTOCK_BASE_TRACE_H_
#define PENSTOCK_BASE_TRACE_H_

#include <atomic>
#include <cstdint>

namespace penstock {

// On the thread that does it. kRead is the handing over and taking back of requests, not the time that the store takes.
enum class TraceStage : uint8_t { kPlan, kClaim, kRead, kCodec, kCopy, kNext };
inline constexpr int kTraceStages = 6;

// Looks for a profiler, once per process; ranges before that are not seen. Threads: any.
void StartTrace();
// The name of the calling thread in the profiler's view, "stream 3".
void NameTraceThread(const char* kind, int index);

namespace trace_internal {
extern std::atomic<bool> on;
void Push(TraceStage stage);
void Pop();
}  // namespace trace_internal

class TraceRange {
 public:
  explicit TraceRange(TraceStage stage) : on_(trace_internal::on.load(std::memory_order_acquire)) {
    if (on_) trace_internal::Push(stage);
  }
  ~TraceRange() {
    if (on_) trace_internal::Pop();
  }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  const bool on_;
};

}  // namespace penstock

#endif  // PENSTOCK_BASE_TRACE_H_
