// Threads that work while the caller reports progress.
#ifndef PENSTOCK_MANIFEST_WORKERS_H_
#define PENSTOCK_MANIFEST_WORKERS_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/cancel.h"

namespace penstock {

// Whoever gives up the caller's work gives up that of the threads (base/cancel.h).
// Runs `work` on `threads` threads until all have returned, and calls `tick` about ten times a second on the calling thread.
// Where no thread can be had, the caller does the work itself.
template <typename Work>
void RunWorkers(int threads, const Work& work, const std::function<void()>& tick) {
  std::mutex mutex;
  std::condition_variable returned;
  int running = 0;
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) {
    try {
      std::lock_guard<std::mutex> lock(mutex);
      pool.emplace_back([&, flag = CurrentCancel()] {
        const CancelScope scope(flag);
        work();
        std::lock_guard<std::mutex> ended(mutex);
        if (--running == 0) returned.notify_all();
      });
      ++running;
    } catch (const std::system_error&) {
      break;
    }
  }
  if (pool.empty()) work();
  {
    std::unique_lock<std::mutex> lock(mutex);
    while (!returned.wait_for(lock, std::chrono::milliseconds(100), [&] { return running == 0; })) {
      lock.unlock();
      if (tick) tick();
      lock.lock();
    }
  }
  for (std::thread& thread : pool) thread.join();
  if (tick) tick();
}

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_WORKERS_H_
