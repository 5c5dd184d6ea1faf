#include "loader/warmer.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <tuple>

#include "base/blocked_signals.h"
#include "base/clock.h"
#include "base/log.h"
#include "loader/residency.h"

namespace penstock {
namespace {

constexpr uint64_t kSlotBytes = 128 << 10;   // of one read; longer samples take several
// How many slots have to be free before the next reads are handed over: what is submitted together merges.
constexpr size_t kSubmitBatch = 32;
constexpr int kAsked = 32;  // samples looked at, whether they are in the page cache
constexpr int64_t kTickNs = 50 * kNsPerMs;
constexpr auto kEndPatience = std::chrono::seconds(1);

}  // namespace

Warmer::Warmer(std::shared_ptr<const Manifest> manifest, std::shared_ptr<const ObjectStore> objects, const WarmerOptions& options,
               NextRun next, int64_t runs_ahead)
    : shared_(std::make_shared<Shared>()) {
  const BlockedSignals blocked;
  try {
    thread_ = std::thread(
        [shared = shared_, manifest = std::move(manifest), objects = std::move(objects), options, next = std::move(next), runs_ahead] {
          ::pthread_setname_np(::pthread_self(), "penstock-warm");
          Run(shared, manifest, objects, options, next, runs_ahead);
          std::lock_guard<std::mutex> lock(shared->mutex);
          shared->done.store(true);
          shared->ended = true;
          shared->changed.notify_all();
        });
  } catch (const std::system_error&) {
    shared_->done.store(true);  // it is a convenience: without it the streams read what they need
    shared_->ended = true;
  }
}

Warmer::~Warmer() {
  {
    std::unique_lock<std::mutex> lock(shared_->mutex);
    shared_->stopping.store(true);
    shared_->changed.notify_all();
    shared_->changed.wait_for(lock, kEndPatience, [this] { return shared_->ended; });
    if (!shared_->ended && thread_.joinable()) thread_.detach();
  }
  if (thread_.joinable()) thread_.join();
}

void Warmer::AtRun(int64_t run) {
  std::lock_guard<std::mutex> lock(shared_->mutex);
  if (run <= shared_->at_run) return;
  shared_->at_run = run;
  shared_->changed.notify_all();
}

void Warmer::Run(const std::shared_ptr<Shared>& shared, const std::shared_ptr<const Manifest>& manifest,
                 const std::shared_ptr<const ObjectStore>& objects, const WarmerOptions& options, const NextRun& next, int64_t runs_ahead) {
  // Here and not at Open: cold, each file that is looked at costs a look-up on the drive.
  if (options.unless_cached) {
    std::vector<Range> ranges;
    const int64_t count = std::min<int64_t>(kAsked, manifest->sample_count());
    for (int64_t i = 0; i < count; ++i) ranges.push_back(manifest->RangeAt(manifest->sample_count() / count * i, 0));
    const double cached = CachedShare(*objects, ranges);
    if (cached < 0 || cached >= 0.5) {
      shared->was_cached.store(true);
      return;
    }
  }
  absl::StatusOr<std::unique_ptr<Ring>> made = MakeRing(options.engine, *objects, options.ring, options.pool);
  if (!made.ok()) {
    Log(LogLevel::kWarning, std::string(made.status().message()));
    return;
  }
  Ring& ring = **made;
  const size_t capacity = ring.capacity();
  // All reads of one slot write the same memory, which stays in the processor's cache.
  void* const memory = ::mmap(nullptr, capacity * kSlotBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return;
  std::vector<uint64_t> free;
  for (size_t i = 0; i < capacity; ++i) free.push_back(i);
  std::vector<Completion> completions(capacity);
  const size_t batch = std::min(kSubmitBatch, std::max<size_t>(1, capacity / 2));

  std::vector<int64_t> ids;
  std::vector<Range> ranges;
  std::vector<std::tuple<uint32_t, uint64_t, uint64_t>> reads;  // object, offset, bytes
  const auto reap = [&](int64_t deadline_ns) {
    static_cast<void>(ring.Wait(deadline_ns));
    const size_t reaped = ring.Reap(absl::MakeSpan(completions));
    for (size_t i = 0; i < reaped; ++i) {
      // What fails here fails again in its stream, which says so.
      free.push_back(completions[i].cookie);
      shared->bytes.fetch_add(completions[i].bytes, std::memory_order_relaxed);
    }
  };
  for (int64_t run = 0; !shared->stopping.load(); ++run) {
    {
      std::unique_lock<std::mutex> lock(shared->mutex);
      const auto may_begin = [&] { return shared->stopping.load() || shared->at_run + runs_ahead >= run; };
      if (!may_begin()) {
        lock.unlock();
        while (ring.in_flight() > 0 && !shared->stopping.load()) reap(MonotonicNs() + kTickNs);
        lock.lock();
        shared->changed.wait(lock, may_begin);
      }
      if (shared->stopping.load()) break;
      // The consumer is there already: what it reads by itself need not be read twice.
      if (shared->at_run > run) continue;
    }
    ids.clear();
    if (!next(run, ids)) break;
    reads.clear();
    for (const int64_t id : ids) {
      ranges.clear();
      manifest->AppendRanges(id, ranges);
      for (const Range& range : ranges) {
        if (range.stored_bytes > 0) reads.emplace_back(range.object, range.offset_bytes, range.stored_bytes);
      }
    }
    int64_t run_bytes = 0;
    for (size_t i = 0; i < reads.size() && !shared->stopping.load();) {
      while (free.size() < batch && ring.in_flight() > 0 && !shared->stopping.load()) reap(MonotonicNs() + kTickNs);
      while (i < reads.size() && !free.empty()) {
        auto& [own_object, own_offset, own_bytes] = reads[i];
        Request request;
        request.object = own_object;
        request.offset_bytes = own_offset;
        request.length_bytes = request.need_bytes = std::min(own_bytes, kSlotBytes);
        request.destination = static_cast<std::byte*>(memory) + free.back() * kSlotBytes;
        request.cookie = free.back();
        if (!ring.Enqueue(request)) break;
        free.pop_back();
        own_offset += request.need_bytes;
        own_bytes -= request.need_bytes;
        run_bytes += static_cast<int64_t>(request.need_bytes);
        if (own_bytes > 0) continue;
        ++i;
        shared->samples.fetch_add(1, std::memory_order_relaxed);
      }
      if (!ring.Submit().ok()) break;
      if (options.bytes_max > 0 && run_bytes > options.bytes_max) break;
    }
  }
  if (shared->stopping.load()) ring.Cancel();
  while (ring.in_flight() > 0) reap(MonotonicNs() + kTickNs);  // hours, where one hangs: nobody waits for this thread then
  made->reset();
  ::munmap(memory, capacity * kSlotBytes);
}

}  // namespace penstock
