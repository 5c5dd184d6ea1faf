// Reads ahead into the page cache in the order of place, so that the streams' reads, in shuffle order, find their bytes there.
//
// What is submitted together merges in the block layer where it is neighbouring on the drive; shuffled files hardly ever are. So one thread
// with a ring of its own reads runs of samples sorted by place into memory that nobody looks at: the whole share of this rank, where the
// set fits in memory, or window after window of shuffle=disk-blocks.
//
// Off by default. The streams do not wait for it, and read in random order what it has not come to: 200,000 files of 4 KiB on two busy
// cores, metadata warm: 52,000 files/s with it and 64,000 without, 156,000 instead of 200,000 disk reads; windows of 4,096: 38,000. Fully
// cold 45,000 and 42,000 (one run each). Blocks read direct without it (w = b = 64): 134,000 and 12,900 disk reads.
#ifndef PENSTOCK_LOADER_WARMER_H_
#define PENSTOCK_LOADER_WARMER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "penstock/manifest.h"
#include "ring/engine.h"
#include "store/object_store.h"

namespace penstock {

struct WarmerOptions {
  Engine engine = Engine::kThreads;
  std::shared_ptr<PreadPool> pool;
  RingOptions ring;          // capacity: reads in flight
  int64_t bytes_max = 0;     // not more than so much is read ahead of the consumer, all runs together
  bool unless_cached = false;  // look first, and do nothing where half of the set is in the page cache
};

class Warmer {
 public:
  // The samples of run `k` in the order of place; false: there is no such run. Called on the warmer's thread.
  using NextRun = std::function<bool(int64_t run, std::vector<int64_t>& ids)>;

  // `runs_ahead`: run k is begun when AtRun(k - runs_ahead) was called.
  Warmer(std::shared_ptr<const Manifest> manifest, std::shared_ptr<const ObjectStore> objects, const WarmerOptions& options, NextRun next,
         int64_t runs_ahead);
  // Stops. A read that hangs stays behind with its memory; the destructor waits a second at most.
  ~Warmer();
  Warmer(const Warmer&) = delete;
  Warmer& operator=(const Warmer&) = delete;

  // The consumer has come to this run. Any thread.
  void AtRun(int64_t run);

  int64_t samples() const { return shared_->samples.load(std::memory_order_relaxed); }
  int64_t bytes() const { return shared_->bytes.load(std::memory_order_relaxed); }
  // It did nothing, since the page cache has the set already.
  bool was_cached() const { return shared_->was_cached.load(std::memory_order_relaxed); }
  bool done() const { return shared_->done.load(std::memory_order_relaxed); }

 private:
  // What the thread works on, which may outlive the warmer.
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    int64_t at_run = 0;
    std::atomic<bool> stopping{false};
    std::atomic<bool> done{false};
    std::atomic<bool> was_cached{false};
    bool ended = false;
    std::atomic<int64_t> samples{0};
    std::atomic<int64_t> bytes{0};
  };
  static void Run(const std::shared_ptr<Shared>& shared, const std::shared_ptr<const Manifest>& manifest,
                  const std::shared_ptr<const ObjectStore>& objects, const WarmerOptions& options, const NextRun& next, int64_t runs_ahead);

  std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_WARMER_H_
