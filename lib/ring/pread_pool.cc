// Handing over costs more than a warm read if done badly: a wake-up is 2-5 us, an open-read-close of 4 KiB about 4 us. So
//  - a thread takes several requests at a time while reads are fast, and one at a time while they are slow;
//  - a ring's owner is woken for the first slow read, for many fast ones, or when nothing of its own is left to do;
//  - a sleeping thread is woken by one that finds more than it can take.
// Several requests in one hand must not wait behind one that hangs: a thread without work takes them out of the other's hand.
#include "ring/pread_pool.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/blocked_signals.h"
#include "base/clock.h"
#include "base/fork_guard.h"
#include "base/log.h"
#include "base/thread_demand.h"
#include "base/thread_error.h"
#include "ring/open_flags.h"
#include "ring/pool_ring_state.h"

namespace penstock {
namespace {

constexpr uint32_t kHandMax = 8;
constexpr int64_t kSlowNs = 40'000;                                // slower than this waits for a device or a server
constexpr int64_t kMemoryBytesPerNs = 2;                           // what a copy from the page cache does at least
constexpr auto kPatrol = std::chrono::milliseconds(10);            // how soon requests are taken out of a hung thread's hand
constexpr auto kEndPatience = std::chrono::milliseconds(500);      // how long the destructor waits for threads in a read

struct Hand {
  std::mutex mutex;
  std::shared_ptr<PoolRingState> ring;
  uint32_t slots[kHandMax];
  uint32_t begin = 0, end = 0;
  bool counted = false;  // in PreadPoolState::full_hands
};

// What a thread keeps from one request to the next.
struct Memory {
  std::string scratch;
  int64_t mean_ns = 0;  // of the last eight or so
};

// Whether a descriptor is one of a regular file; if not, the request has failed.
bool IsFile(int fd, Progress& progress) {
  uint32_t mode = 0;
  if (const int error_number = FileTypeOf(fd, mode); error_number != 0) {
    progress.Fail(error_number, RequestStage::kOpen);
    return false;
  }
  if (!S_ISREG(mode)) progress.FailAsNoFile(mode);
  return S_ISREG(mode);
}

// An open-pread-close of one request. Returns how long it took.
int64_t Perform(PoolRingState& ring, PoolSlot& slot, std::string& scratch) {
  const int64_t start_ns = MonotonicNs();
  Progress& progress = slot.progress;
  const auto cancelled = [&slot] { return slot.cancelled.load(std::memory_order_relaxed); };
  const int64_t read_before_ns = slot.transfer_ns;  // by the ring's owner, of a file that was open
  OpenFiles* const open_files = ring.open_files.get();
  int64_t opened_ns = slot.file >= 0 ? start_ns : 0;
  int64_t end_ns = start_ns;
  absl::StatusOr<OpenTarget> target = absl::UnknownError("");
  for (bool done = false; !done;) {
    if (slot.file < 0) {
      if (!target.ok()) target = ring.store.Target(progress.request().object, scratch);
      if (!target.ok()) {
        progress.Fail(StatusToErrno(target.status()), RequestStage::kOpen);
        return MonotonicNs() - start_ns;
      }
      do {
        slot.file =
            cancelled() ? -1 : ::openat(target->dir_fd, target->path, OpenFlags(progress.request().kind, progress.direct()) | O_CLOEXEC);
      } while (slot.file < 0 && !cancelled() &&
               (progress.OpenRetries(errno) || progress.OpenFallsBack(errno) ||
                ((errno == EMFILE || errno == ENFILE) && open_files != nullptr && open_files->Shed())));
      const int open_error = cancelled() ? ECANCELED : errno;
      end_ns = MonotonicNs();
      if (opened_ns == 0) opened_ns = end_ns;
      if (slot.file < 0) {
        progress.Fail(open_error, RequestStage::kOpen);
        break;
      }
      const bool keeps = MayKeep(open_files, progress.request()) && progress.direct() == open_files->direct() && open_files->Reserve();
      // The length of a whole object tells a device, and pread(2) refuses a FIFO and a socket: asking costs as much as a sixth of a warm
      // read of 4 KiB, so that it is done where the answer holds for many reads, or the length says nothing.
      if ((keeps || progress.request().check_type) && !IsFile(slot.file, progress)) {
        if (keeps) open_files->Unreserve();
        ::close(slot.file);
        slot.file = -1;
        break;
      }
      if (keeps) {
        slot.entry = open_files->Keep(progress.request().object, slot.file);
      }
    }
    const int fd = slot.file;
    done = !progress.HasTransfer();
    while (!done) {
      if (cancelled()) {
        progress.Fail(ECANCELED, RequestStage::kTransfer);
        done = true;
        break;
      }
      ssize_t result;
      if (progress.request().kind == RequestKind::kSync) {
        result = ::fsync(fd);
      } else {
        const Chunk chunk = progress.NextChunk(ring.read_bytes_max);
        const off_t offset = static_cast<off_t>(chunk.offset_bytes);
        const iovec places[] = {{chunk.address, chunk.length_bytes}, {BeyondPlace(), chunk.beyond_bytes}};
        result = progress.request().kind != RequestKind::kRead ? ::pwrite(fd, chunk.address, chunk.length_bytes, offset)
                 : chunk.beyond_bytes > 0                      ? ::preadv(fd, places, 2, offset)
                                                               : ::pread(fd, chunk.address, chunk.length_bytes, offset);
      }
      const Progress::Next next = progress.Advance(result < 0 ? -errno : result);
      done = next == Progress::Next::kDone;
      if (next == Progress::Next::kReopenBuffered) break;
    }
    end_ns = MonotonicNs();
    if (done && (progress.WantsMtime() || progress.Longer())) {
      struct stat attributes {};
      if (::fstat(fd, &attributes) != 0) {
        progress.Fail(errno, RequestStage::kTransfer);
      } else if (!S_ISREG(attributes.st_mode)) {
        progress.FailAsNoFile(attributes.st_mode);
      } else {
        progress.SetMtime(attributes.st_mtim.tv_sec, attributes.st_mtim.tv_nsec);
      }
    }
    if (slot.entry >= 0) {
      ring.LetGo(slot);
    } else {
      ::close(fd);
      slot.file = -1;
    }
  }
  slot.open_ns = opened_ns - start_ns;
  slot.transfer_ns = read_before_ns + (end_ns - opened_ns);
  const auto bytes = static_cast<int64_t>(progress.done_bytes());
  progress.SetInMemory(slot.transfer_ns < kSlowNs + bytes / kMemoryBytesPerNs);
  return end_ns - start_ns;
}

}  // namespace

struct PreadPoolState {
  explicit PreadPoolState(int worker_max) : worker_first(std::clamp(worker_max, 1, 4096)), worker_max(worker_first) {
    // Threads are started by whoever hands over work, often a thread bound to one CPU: they must not inherit that.
    has_affinity = ::sched_getaffinity(0, sizeof affinity, &affinity) == 0;
    cpu_count = has_affinity ? std::max(1, CPU_COUNT(&affinity)) : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    hands.reserve(static_cast<size_t>(worker_first));
  }

  struct Worker {
    std::thread thread;
    pid_t tid = 0;
    std::atomic<int64_t> busy_ns{0};  // written by the thread itself only
    bool ended = false;
  };

  const int worker_first;
  const ForkGuard fork_guard;
  cpu_set_t affinity;
  bool has_affinity = false;
  int cpu_count = 1;

  std::mutex mutex;
  std::condition_variable work;   // for the threads
  std::condition_variable rest;   // for threads beyond worker_max
  std::condition_variable ended;  // for the destructor
  std::deque<std::shared_ptr<PoolRingState>> rings;  // with pending slots
  uint32_t pending = 0;
  int worker_max;
  int idle = 0;
  int resting = 0;
  bool stopping = false;
  bool start_failed = false;
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<std::unique_ptr<Hand>> hands;      // one per worker
  int patrolling = 0;                            // idle ones that look up every kPatrol
  std::atomic<bool> slow{false};                 // reads take longer than kSlowNs, on the mean of the last ones
  std::atomic<int> full_hands{0};                // that hold requests not begun

  void StartWorker(const std::shared_ptr<PreadPoolState>& self);
  void MaybeGrow(const std::shared_ptr<PreadPoolState>& self, bool stuck);
  void Run(const std::shared_ptr<PreadPoolState>& self, size_t index);
  void Work(Worker& worker, Hand& hand, Memory& memory);
  void FailPending(PoolRingState& ring, int error_number);
  bool TakeFromOthers(Hand& own);
  void Emptied(Hand& hand);
};

void PreadPoolState::StartWorker(const std::shared_ptr<PreadPoolState>& self) {
  const size_t index = workers.size();
  hands.push_back(std::make_unique<Hand>());
  workers.push_back(std::make_unique<Worker>());
  const BlockedSignals blocked;
  try {
    workers.back()->thread = std::thread([self, index] { self->Run(self, index); });
  } catch (const std::system_error& error) {
    hands.pop_back();
    workers.pop_back();
    if (!start_failed) {
      Log(workers.empty() ? LogLevel::kError : LogLevel::kWarning,
          absl::StrCat("pread pool: no more than ", workers.size(), " of ", worker_max, " threads: ", error.what(), "; ", ThreadCure()));
    }
    start_failed = true;
  }
}

// More threads than CPUs help only while they wait for something.
void PreadPoolState::MaybeGrow(const std::shared_ptr<PreadPoolState>& self, bool stuck) {
  const int count = static_cast<int>(workers.size());
  if (idle > 0 || pending == 0 || count >= worker_max || stopping) return;
  if (count < cpu_count || stuck || slow.load(std::memory_order_relaxed)) StartWorker(self);
}

// The hand's lock is held.
void PreadPoolState::Emptied(Hand& hand) {
  if (std::exchange(hand.counted, false)) full_hands.fetch_sub(1, std::memory_order_relaxed);
}

bool PreadPoolState::TakeFromOthers(Hand& own) {
  for (const auto& other : hands) {
    if (other.get() == &own) continue;
    std::shared_ptr<PoolRingState> ring;
    uint32_t index;
    {
      std::lock_guard<std::mutex> lock(other->mutex);
      if (other->begin == other->end) continue;
      ring = other->ring;
      index = other->slots[--other->end];
      if (other->begin == other->end) Emptied(*other);
    }
    std::lock_guard<std::mutex> lock(own.mutex);
    own.ring = std::move(ring);
    own.slots[0] = index;
    own.begin = 0;
    own.end = 1;
    return true;
  }
  return false;
}

void PreadPoolState::Work(Worker& worker, Hand& hand, Memory& memory) {
  // The reference outlives the last PushDone, after which the owner may destroy its side.
  std::shared_ptr<PoolRingState> ring;
  while (true) {
    uint32_t index;
    {
      std::lock_guard<std::mutex> lock(hand.mutex);
      if (hand.begin == hand.end) {
        hand.ring.reset();
        return;
      }
      if (ring == nullptr) ring = hand.ring;
      index = hand.slots[hand.begin++];
      if (hand.begin == hand.end) Emptied(hand);
    }
    ring->slots[index].served_beside = ring->served.fetch_add(1, std::memory_order_relaxed);
    const int64_t took_ns = Perform(*ring, ring->slots[index], memory.scratch);
    ring->served.fetch_sub(1, std::memory_order_relaxed);
    worker.busy_ns.store(worker.busy_ns.load(std::memory_order_relaxed) + took_ns, std::memory_order_relaxed);
    // One long read is no sign: the thread may just have lost its CPU for a while.
    const int64_t counted_ns = std::min(took_ns, 4 * kSlowNs);
    memory.mean_ns = memory.mean_ns == 0 ? counted_ns : (7 * memory.mean_ns + counted_ns) / 8;
    const bool slow_now = memory.mean_ns > kSlowNs;
    if (slow_now != slow.load(std::memory_order_relaxed)) slow.store(slow_now, std::memory_order_relaxed);
    if (ring->PushDone(index) || took_ns > kSlowNs) ring->parker.Unpark();
  }
}

void PreadPoolState::Run(const std::shared_ptr<PreadPoolState>& self, size_t index) {
  ::pthread_setname_np(::pthread_self(), "penstock-read");
  if (has_affinity) ::sched_setaffinity(0, sizeof affinity, &affinity);
  Memory memory;
  std::unique_lock<std::mutex> lock(mutex);
  Hand& hand = *hands[index];
  Worker& worker = *workers[index];
  worker.tid = ::gettid();
  while (!stopping) {
    if (static_cast<int>(workers.size()) - resting > worker_max) {
      if (pending > 0 && idle > 0) work.notify_one();  // perhaps this one was woken for it
      ++resting;
      rest.wait(lock);
      --resting;
      continue;
    }
    if (rings.empty()) {
      if (full_hands.load(std::memory_order_relaxed) > 0 && TakeFromOthers(hand)) {
        lock.unlock();
        Work(worker, hand, memory);
        lock.lock();
        continue;
      }
      ++idle;
      if (full_hands.load(std::memory_order_relaxed) > 0 && patrolling == 0) {
        ++patrolling;
        work.wait_for(lock, kPatrol);
        --patrolling;
      } else {
        work.wait(lock);
      }
      --idle;
      continue;
    }
    const std::shared_ptr<PoolRingState> ring = rings.front();
    const bool slow_now = slow.load(std::memory_order_relaxed);
    const uint32_t share = static_cast<uint32_t>(ring->pending.size() / (2 * workers.size()));
    const uint32_t count = slow_now ? 1 : std::clamp(share, 1U, kHandMax);
    {
      std::lock_guard<std::mutex> hand_lock(hand.mutex);
      hand.ring = ring;
      hand.begin = hand.end = 0;
      while (hand.end < count && !ring->pending.empty()) hand.slots[hand.end++] = ring->pending.Pop();
      pending -= hand.end;
      hand.counted = hand.end > 1;
      if (hand.counted) full_hands.fetch_add(1, std::memory_order_relaxed);
    }
    rings.pop_front();
    if (ring->pending.empty()) {
      ring->queued = false;
    } else {
      rings.push_back(ring);  // in turn with the other rings
    }
    MaybeGrow(self, /*stuck=*/false);
    const bool wake = idle > 0 && (pending > (slow_now ? 0 : kHandMax / 2) || (count > 1 && patrolling == 0));
    lock.unlock();
    if (wake) work.notify_one();
    Work(worker, hand, memory);
    lock.lock();
  }
  worker.ended = true;
  ended.notify_all();
}

void PreadPoolState::FailPending(PoolRingState& ring, int error_number) {
  while (!ring.pending.empty()) {
    const uint32_t index = ring.pending.Pop();
    --pending;
    PoolSlot& slot = ring.slots[index];
    slot.open_ns = slot.transfer_ns = 0;
    slot.served_beside = 0;
    slot.progress.Fail(error_number, RequestStage::kOpen);
    ring.LetGo(slot);
    ring.PushDone(index);
  }
  const auto place = std::find_if(rings.begin(), rings.end(), [&ring](const auto& other) { return other.get() == &ring; });
  if (place != rings.end()) rings.erase(place);
  ring.queued = false;
}

PreadPool::PreadPool(int worker_max) : state_(std::make_shared<PreadPoolState>(worker_max)) {}

PreadPool::~PreadPool() {
  PreadPoolState& state = *state_;
  if (state.fork_guard.InForkedChild()) {
    // The threads are the parent's. A joinable std::thread must not be destroyed, so the state stays.
    new std::shared_ptr<PreadPoolState>(state_);
    return;
  }
  std::unique_lock<std::mutex> lock(state.mutex);
  state.stopping = true;
  state.work.notify_all();
  state.rest.notify_all();
  state.ended.wait_for(lock, kEndPatience, [&state] {
    return std::all_of(state.workers.begin(), state.workers.end(), [](const auto& w) { return w->ended; });
  });
  std::vector<std::thread> ended;
  for (const auto& worker : state.workers) {
    if (worker->ended) {
      ended.push_back(std::move(worker->thread));
    } else {
      worker->thread.detach();
    }
  }
  lock.unlock();
  for (std::thread& thread : ended) thread.join();
}

PreadPool::Usage PreadPool::usage() const {
  Usage usage;
  std::vector<pid_t> tids;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    for (const auto& worker : state_->workers) {
      usage.busy_ns += worker->busy_ns.load(std::memory_order_relaxed);
      if (worker->tid != 0 && !worker->ended) tids.push_back(worker->tid);
    }
  }
  for (const pid_t tid : tids) {
    const int64_t demand_ns = ThreadDemandNs(tid);
    if (demand_ns >= 0) usage.demand_ns = std::max<int64_t>(0, usage.demand_ns) + demand_ns;
  }
  return usage;
}

int PreadPool::worker_max() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->worker_max;
}

int PreadPool::worker_first() const { return state_->worker_first; }

void PreadPool::AddWorkers(int count) {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->worker_max = std::max(1, state_->worker_max + count);
  }
  // Whoever finds too many awake goes to rest; idle ones look, too.
  (count > 0 ? state_->rest : state_->work).notify_all();
}

int PreadPool::worker_count() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  return static_cast<int>(state_->workers.size());
}

void PreadPool::Push(const std::shared_ptr<PoolRingState>& ring, const uint32_t* slots, uint32_t count) {
  ring->submitted.fetch_add(count);
  bool wake;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    for (uint32_t i = 0; i < count; ++i) ring->pending.Push(slots[i]);
    state_->pending += count;
    if (!ring->queued) {
      ring->queued = true;
      state_->rings.push_back(ring);
    }
    wake = state_->idle > 0;
    state_->MaybeGrow(state_, /*stuck=*/false);
    if (state_->workers.empty()) state_->FailPending(*ring, EAGAIN);  // no thread could be started, and why was logged
  }
  if (wake) state_->work.notify_one();
}

void PreadPool::TakeBack(PoolRingState& ring) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->FailPending(ring, ECANCELED);
}

void PreadPool::Nudge() {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->MaybeGrow(state_, /*stuck=*/true);
  if (state_->idle > 0 && state_->pending > 0) state_->work.notify_one();
}

}  // namespace penstock
