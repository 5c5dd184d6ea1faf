// How long the loader waits before it says something, and a moment that tests need to hit. Not options: only tests change them.
#ifndef PENSTOCK_LOADER_INTERVALS_H_
#define PENSTOCK_LOADER_INTERVALS_H_

#include <cstdint>
#include <functional>

namespace penstock {

struct LoaderIntervals {
  int64_t report_ns = int64_t{30} * 1'000'000'000;       // a wait so long is reported in the log, and again after as long
  int64_t ring_patience_ns = int64_t{2} * 1'000'000'000;  // for locked memory that a process which has just ended still holds
  int64_t io_look_bytes = int64_t{64} << 20;  // a data set so large is looked at whether it is in the page cache
  // Called without the lock, after memory for a batch was looked for in vain and before the loader waits for some.
  std::function<void()> memory_refused;
  // Called without the lock by the thread that gives a batch back, after its memory was freed and before the loader is told.
  std::function<void()> batch_freed;
};

// What loaders that are opened from now on use. Set by one thread while no loader is being opened.
LoaderIntervals& Intervals();

}  // namespace penstock

#endif  // PENSTOCK_LOADER_INTERVALS_H_
