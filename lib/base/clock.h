// The monotonic clock, in nanoseconds. Deadlines never use the wall clock, which may be stepped.
#ifndef PENSTOCK_BASE_CLOCK_H_
#define PENSTOCK_BASE_CLOCK_H_

#include <time.h>

#include <cstdint>

namespace penstock {

inline constexpr int64_t kNsPerSecond = 1'000'000'000;
inline constexpr int64_t kNsPerMs = 1'000'000;

inline int64_t MonotonicNs() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * kNsPerSecond + now.tv_nsec;
}

// CPU time of the calling thread.
inline int64_t ThreadCpuNs() {
  timespec now;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * kNsPerSecond + now.tv_nsec;
}

// Sleeps for so long, or until a signal.
inline void SleepNs(int64_t ns) {
  const timespec duration{static_cast<time_t>(ns / kNsPerSecond), static_cast<long>(ns % kNsPerSecond)};
  ::nanosleep(&duration, nullptr);
}

}  // namespace penstock

#endif  // PENSTOCK_BASE_CLOCK_H_
