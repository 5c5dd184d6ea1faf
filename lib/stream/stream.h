// One I/O stream: a thread that claims pieces and keeps its ring full over piece and batch borders.
//
//   Claim --> extents --> ring --> completions --> [codec, on compute threads] --> PieceFilled
#ifndef PENSTOCK_STREAM_STREAM_H_
#define PENSTOCK_STREAM_STREAM_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "codec/compute_pool.h"
#include "memory/piece_memory.h"
#include "ring/ring.h"
#include "stream/attempt.h"
#include "stream/read_stats.h"

namespace penstock {

// A piece given to a stream, and where its bytes go.
struct ClaimedPiece {
  std::shared_ptr<Attempt> attempt;
  uint32_t piece = 0;
  std::byte* places = nullptr;   // memory of the piece's places
  std::byte* scratch = nullptr;  // memory of the piece's scratch
  std::shared_ptr<PieceMemory> memory;  // device path: what these lie in; null: they lie in the attempt's run

  // A read into it hangs: the memory that it may still write to is counted as given up.
  void Quarantine() const { memory != nullptr ? memory->Quarantine() : attempt->Quarantine(); }
};

// What a stream works for. Implemented by the loader; thread-safe.
class PieceSource {
 public:
  virtual ~PieceSource() = default;
  // The next piece in order for stream `stream`, or false where there is nothing to do now: too far ahead, no memory, the end. Then `seen`
  // is what to give to WaitForWork; a stream that waits on its ring instead is woken (Stream::Wake) once there is something.
  virtual bool Claim(int32_t stream, ClaimedPiece& piece, int64_t& seen) = 0;
  // How long a stream to which Claim gave nothing may wait on its ring before it asks again: shorter than usual where that finds memory
  // that nobody else looks for (copies to a device which have ended).
  virtual int64_t StarvedWaitNs() const = 0;
  // Sleeps until Claim may succeed where it did not, Stop, or the deadline (MonotonicNs). Returns at once if that has happened since
  // `seen`.
  virtual void WaitForWork(int64_t seen, int64_t deadline_ns) = 0;
  // All extents of the piece have come (or failed, or were dropped, where the attempt was cancelled). The stream is done with its memory.
  virtual void PieceFinished(ClaimedPiece piece, const ReadStats& delta) = 0;
  virtual void SampleFailed(Attempt& attempt, SampleFailure failure) = 0;
  // Called by each stream some ten times a second, whatever it does.
  virtual void Tick(int64_t now_ns) = 0;
  // Statistics that belong to no piece.
  virtual void AddStats(const ReadStats& delta) = 0;
  virtual bool stopping() const = 0;
  // Runs the codec over the samples of a piece whose extents have come. On a compute thread.
  virtual void DecodePiece(const ClaimedPiece& piece) = 0;
  // The object's name, for messages.
  virtual std::string ObjectName(uint32_t object) const = 0;
  // When the object was modified last, as it was indexed; kNoMtime where that is not known. Asked with StreamOptions::verify_stat only.
  virtual int64_t ObjectMtime(uint32_t object) const = 0;
};

// The request that a stream has waited for longest.
struct OldestRequest {
  int64_t since_ns = 0;  // when it was asked for; 0: nothing is in flight
  int64_t epoch = 0;     // of its batch
  int64_t step = 0;
  std::string text;      // "open or read of <object>, bytes [0, 8000), sample 4, stream 1"
};

// What a stream has done since it began.
struct StreamProgress {
  int64_t requests = 0;    // that have come, and were still wanted
  int64_t bytes = 0;       // of these
  int64_t starved_ns = 0;  // it waited, and Claim had given it nothing
};

struct StreamOptions {
  int32_t index = 0;
  int64_t depth = 0;                // requests in flight; 0: what the ring takes
  int32_t retries = 1;              // of a failed read
  int64_t deadline_ns = 0;          // of one request
  int64_t report_ns = 0;            // age at which a request is reported
  bool verify_stat = false;         // an object with another mtime than it was indexed with is an error
  ComputePool* compute = nullptr;   // for the codec; null: no codec. Outlives the stream
};

class Stream {
 public:
  Stream(PieceSource& source, std::unique_ptr<Ring> ring, const StreamOptions& options);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // The thread's work. Returns after source.stopping(), when the kernel has let go of every request: also hours later, where one hangs.
  void Run();

  // Ends the ring's wait. Any thread, while Run() has not returned.
  void Wake() { ring_->Wake(); }

  // Requests that the kernel holds. Any thread.
  int64_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }
  int64_t capacity() const { return static_cast<int64_t>(ring_->capacity()); }

  // Allows so many requests in flight, as far as the ring takes them. Those beyond come as they come. Any thread.
  void SetDepth(int64_t depth) { depth_.store(depth, std::memory_order_relaxed); }

  // Any thread.
  StreamProgress progress() const {
    return {done_requests_.load(std::memory_order_relaxed), done_bytes_.load(std::memory_order_relaxed),
            starved_ns_.load(std::memory_order_relaxed)};
  }

  // The request that has been in flight for longest, as of the last look at the clock (every 100 ms). Where the thread itself has not come
  // round for a second, the object that it handed over last: the call for it hangs, or one just before. Any thread.
  OldestRequest Oldest(int64_t now_ns) const;

 private:
  class Task;
  struct Op;

  bool Fill();
  bool EnqueueNext();
  bool EnqueueOp(Op& op);
  void Finish(const Completion& completion, int64_t now_ns);
  void OpFailed(Op& op, absl::Status status, bool retry);
  void OpDone(Op& op);
  void CheckAges(int64_t now_ns);
  uint32_t SampleOf(const Op& op) const;
  std::string Describe(const Op& op, const char* operation) const;
  void DropCancelled();
  void TaskMaybeDone(Task& task);
  void Deliver(Task& task);
  void CollectCodec();
  absl::Status Describe(const Op& op, const Completion& completion) const;
  Op* NewOp();
  void FreeOp(Op& op);
  void FlushStats(int64_t now_ns);

  PieceSource& source_;
  std::unique_ptr<Ring> ring_;
  const StreamOptions options_;
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::atomic<int64_t> in_flight_{0};
  std::atomic<int64_t> depth_;
  // Written by the stream's thread only, once a turn.
  std::atomic<int64_t> done_requests_{0};
  std::atomic<int64_t> done_bytes_{0};
  std::atomic<int64_t> starved_ns_{0};

  std::atomic<int64_t> turn_ns_{0};        // when the thread last came round; 0: it sleeps for want of work, or has ended
  std::atomic<uint32_t> last_object_{0};   // enqueued
  mutable std::mutex oldest_mutex_;
  OldestRequest oldest_;
};

}  // namespace penstock

#endif  // PENSTOCK_STREAM_STREAM_H_
