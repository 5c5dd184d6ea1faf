// Moving bytes between objects and memory: the interface of all backends.
//
// A stream owns a ring and is the only thread to use it (but for Wake). Four verbs: Enqueue, Submit, Reap, Wait.
// Opening and closing belong to the backend, and are timed apart from the transfer.
//
//   Enqueue --> [open] --> transfer (in chunks of at most read_bytes_max, continued after a short one) --> [close] --> Completion
#ifndef PENSTOCK_RING_RING_H_
#define PENSTOCK_RING_RING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "ring/open_files.h"
#include "store/object_store.h"

namespace penstock {

inline constexpr int64_t kNoMtime = INT64_MIN;

enum class RequestKind : uint8_t { kRead, kWrite, kSync };

// Memory and request belong to the backend from Enqueue until this request's own completion is reaped.
struct Request {
  RequestKind kind = RequestKind::kRead;
  bool want_mtime = false;         // a read: once its bytes have come, ask for Completion::mtime_ns
  bool ask_beyond = false;         // a read: one byte behind `length_bytes` is asked for too, into memory of the ring, and counted
  bool check_type = false;         // a read of a part of its object, whose end does not tell: what was opened must be a regular file
  bool direct = false;             // O_DIRECT: offset, length and destination are aligned by the caller
  uint32_t object = 0;             // id in the ring's ObjectStore
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;       // room at `destination`; as many are asked for
  uint64_t need_bytes = 0;         // complete as soon as so many have come (<= length_bytes)
  std::byte* destination = nullptr;
  uint64_t cookie = 0;             // returned with the completion
};

// Whether a request's file may be found open, or be kept: `files` may be null. Where the time of modification is wanted the file's name is
// asked, not what was opened some time ago.
inline bool MayKeep(const OpenFiles* files, const Request& request) {
  return files != nullptr && !request.want_mtime && request.kind == RequestKind::kRead && request.direct == files->direct();
}

enum class RequestStage : uint8_t { kOpen, kTransfer, kClose };

struct Completion {
  uint64_t cookie = 0;
  int64_t bytes = 0;        // what has come, also where an error follows; < need_bytes without an error: the object ended
  int error_number = 0;     // 0, or a positive errno; ECANCELED after Cancel
  RequestStage stage = RequestStage::kTransfer;  // where the error arose
  int64_t open_ns = 0;      // from the start of the open to its completion
  int64_t transfer_ns = 0;  // from the first byte asked for to the last one come
  int64_t mtime_ns = kNoMtime;  // the object's st_mtime, asked for after the last byte came
  // Where a ring keeps requests in a queue of its own (threads): how many others were past it when this one's turn came; waiting in that
  // queue is in no time. -1: all that were in flight.
  int32_t served_beside = -1;
  // S_IFMT of what was opened where it is no regular file; its error_number is EISDIR or ESPIPE. 0: a regular file, or not known.
  uint32_t file_type = 0;
  int8_t in_memory = -1;   // 1: the bytes were in the page cache; 0: they were not; -1: not known
  bool kept_open = false;   // the object was open already
};

struct RingCounters {
  int64_t submissions = 0;       // calls that handed work to the kernel or the pool
  int64_t requests = 0;
  int64_t chunks = 0;            // reads or writes issued; more than requests where they were cut or continued
  int64_t retries = 0;           // EINTR and EAGAIN on a chunk
  int64_t busy = 0;              // EBUSY or EAGAIN from the submission itself
  int64_t direct_fallbacks = 0;  // requests that went on without O_DIRECT, which their file system refused
  int64_t kept_open = 0;         // requests that found their object open
};

class Ring {
 public:
  virtual ~Ring() = default;  // in_flight() must be 0: checked

  // A hint: requests for these objects will be enqueued soon.
  virtual void Prefetch(absl::Span<const uint32_t> /*objects*/) const {}
  // A hint: from now on the owner has no more than so many in flight, below capacity().
  virtual void Expect(size_t /*in_flight*/) {}

  // Takes a request, or returns false when capacity() are in flight.
  virtual bool Enqueue(const Request& request) = 0;
  // Hands over all that was enqueued. An error is one that no retry cures; the requests then complete with it.
  virtual absl::Status Submit() = 0;
  // Takes up to out.size() completions, without waiting.
  virtual size_t Reap(absl::Span<Completion> out) = 0;
  // Returns once something can be reaped, after Wake(), or at the deadline (MonotonicNs), whichever is first; submits before it sleeps.
  virtual absl::Status Wait(int64_t deadline_ns) = 0;
  // Ends a Wait, the current one or the next. Any thread.
  virtual void Wake() = 0;
  // Asks for the end of everything in flight. Each request still completes by itself: with ECANCELED where it could be
  // stopped, else whenever the kernel is done with it.
  virtual void Cancel() = 0;

  virtual size_t in_flight() const = 0;
  virtual size_t capacity() const = 0;
  virtual const char* name() const = 0;  // "uring", "threads", "scripted"
  virtual RingCounters counters() const = 0;
};

enum class Engine { kAuto, kUring, kThreads };

struct RingOptions {
  size_t capacity = 64;                   // requests in flight
  uint64_t read_bytes_max = 512 << 10;    // of one chunk
  int io_worker_max = 16;                 // io_uring: both io-wq limits; threads: size of the shared pool
  std::shared_ptr<OpenFiles> open_files;  // files kept open between requests; null: none
};

}  // namespace penstock

#endif  // PENSTOCK_RING_RING_H_
