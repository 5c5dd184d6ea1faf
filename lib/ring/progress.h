// How far one request has come: which chunk to ask for next, and what the answer to a chunk means. All backends share it, so that
// a short read, an interrupted one and the end of an object are the same everywhere.
#ifndef PENSTOCK_RING_PROGRESS_H_
#define PENSTOCK_RING_PROGRESS_H_

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/align.h"
#include "base/check.h"
#include "ring/ring.h"

namespace penstock {

struct Chunk {
  std::byte* address = nullptr;
  uint64_t offset_bytes = 0;
  uint32_t length_bytes = 0;  // at `address`
  uint32_t beyond_bytes = 0;  // behind them, into BeyondPlace()
};

// Where bytes land that are asked for only to see whether they are there. All rings write to it, and nobody reads it.
alignas(4096) inline std::byte beyond_place[4096];
inline std::byte* BeyondPlace() { return beyond_place; }

class Progress {
 public:
  enum class Next : uint8_t { kTransfer, kReopenBuffered, kDone };

  void Start(const Request& request) {
    request_ = request;
    done_bytes_ = 0;
    chunks_ = retries_ = 0;
    retries_in_a_row_ = 0;
    error_number_ = 0;
    stage_ = RequestStage::kTransfer;
    direct_ = request.direct;
    fell_back_ = false;
    mtime_ns_ = kNoMtime;
    file_type_ = 0;
    in_memory_ = -1;
  }

  const Request& request() const { return request_; }

  // False for a read or write of nothing, which is complete once the object is open.
  bool HasTransfer() const { return request_.kind == RequestKind::kSync || request_.length_bytes > 0 || request_.ask_beyond; }

  // The next chunk. It is at most `bytes_max` long, but for the one that reaches need_bytes: that one takes the room beyond it
  // along (up to kSlackBytes), since only so a file that has grown to `bytes_max` + 1 bytes is seen.
  Chunk NextChunk(uint64_t bytes_max) const {
    const uint64_t left = request_.length_bytes - std::min(done_bytes_, request_.length_bytes);
    const uint64_t needed = request_.need_bytes > done_bytes_ ? request_.need_bytes - done_bytes_ : 0;
    if (request_.direct) bytes_max = std::max(AlignDown(bytes_max, kDirectBytes), kDirectBytes);
    bytes_max = std::clamp<uint64_t>(bytes_max, 1, kChunkBytesMax);
    const uint64_t length = needed <= bytes_max ? std::min(left, bytes_max + kSlackBytes) : bytes_max;
    const uint64_t beyond = request_.ask_beyond && length == left ? BeyondBytes() : 0;
    return {request_.destination + done_bytes_, request_.offset_bytes + done_bytes_, static_cast<uint32_t>(length),
            static_cast<uint32_t>(beyond)};
  }

  // Whether a read that brought just what is needed, and not the byte beyond that was asked for too, has met the object's end.
  enum class Ends : uint8_t {
    kAtEnd,       // yes: of a regular file a read that may wait brings all there is
    kAnywhere,    // one that does not wait ends where the page cache does (filemap_read, Linux 6.18)
    kAnywhereIfZero,  // of a regular file yes; one of /dev/zero ends at a page where another thread wants the CPU (read_iter_zero)
  };

  // Takes the result of a chunk: bytes, or a negative errno.
  Next Advance(int64_t result, Ends ends = Ends::kAtEnd) {
    ++chunks_;
    if (result > 0) {
      PENSTOCK_CHECK(request_.length_bytes + (request_.ask_beyond ? BeyondBytes() : 0) - done_bytes_ >= static_cast<uint64_t>(result),
                     "more bytes came than were asked for");
      done_bytes_ += static_cast<uint64_t>(result);
      retries_in_a_row_ = 0;
      if (done_bytes_ < request_.need_bytes) return Next::kTransfer;
      // All has come. Where the byte beyond did not, though the object may go on, it is asked for again.
      return ends != Ends::kAtEnd && done_bytes_ == request_.need_bytes && NeedsAtBorder() && MayGoOn(ends) ? Next::kTransfer : Next::kDone;
    }
    if (result == 0) return Next::kDone;  // the object ended, or it was a sync
    if (result == -EINTR || result == -EAGAIN) {
      // Neither is an error (signal(7), io_uring_enter(2)); but something that says EAGAIN for ever is none of our files.
      ++retries_;
      if (++retries_in_a_row_ <= kRetriesMax) return Next::kTransfer;
    }
    if (result == -EINVAL && direct_) {
      // This file system takes no direct I/O at this place: an unaligned rest after a short read, or never.
      direct_ = false;
      fell_back_ = true;
      return Next::kReopenBuffered;
    }
    Fail(static_cast<int>(-result), RequestStage::kTransfer);
    return Next::kDone;
  }

  // True: the failed open is to be tried again without O_DIRECT.
  bool OpenFallsBack(int error_number) {
    if (error_number != EINVAL || !direct_) return false;
    direct_ = false;
    fell_back_ = true;
    return true;
  }

  // True: the failed open is to be tried again as it was.
  bool OpenRetries(int error_number) {
    if (error_number != EINTR && error_number != EAGAIN) return false;
    ++retries_;
    return ++retries_in_a_row_ <= kRetriesMax;
  }

  void Fail(int error_number, RequestStage stage) {
    error_number_ = error_number;
    stage_ = stage;
  }

  // What was opened is no regular file: none of its bytes is what was indexed.
  void FailAsNoFile(uint32_t mode) {
    file_type_ = mode & S_IFMT;
    Fail(file_type_ == S_IFDIR ? EISDIR : ESPIPE, RequestStage::kOpen);
  }
  uint32_t file_type() const { return file_type_; }

  // The object should end at a page's border: only there a read can end by chance.
  bool NeedsAtBorder() const {
    return (request_.offset_bytes + request_.need_bytes) % kPageBytes == 0 &&
           (request_.ask_beyond || request_.length_bytes > request_.need_bytes);
  }

  // More came than the object should have.
  bool Longer() const { return error_number_ == 0 && request_.kind == RequestKind::kRead && done_bytes_ > request_.need_bytes; }

  void SetInMemory(bool in_memory) { in_memory_ = in_memory ? 1 : 0; }

  // True: the transfer is done and the object's attributes are still to be asked for.
  bool WantsMtime() const {
    return request_.want_mtime && request_.kind == RequestKind::kRead && error_number_ == 0 && mtime_ns_ == kNoMtime;
  }
  void SetMtime(int64_t seconds, int64_t nanoseconds) { mtime_ns_ = seconds * 1'000'000'000 + nanoseconds; }

  void AddTo(RingCounters& counters) const {
    ++counters.requests;
    counters.chunks += chunks_;
    counters.retries += retries_;
    counters.direct_fallbacks += fell_back_ ? 1 : 0;
  }

  Completion ToCompletion(int64_t open_ns, int64_t transfer_ns, bool kept_open = false) const {
    return {.cookie = request_.cookie,
            .bytes = static_cast<int64_t>(done_bytes_),
            .error_number = error_number_,
            .stage = stage_,
            .open_ns = open_ns,
            .transfer_ns = transfer_ns,
            .mtime_ns = mtime_ns_,
            .file_type = file_type_,
            .in_memory = error_number_ == 0 ? in_memory_ : int8_t{-1},
            .kept_open = kept_open};
  }

  // Something is wrong with the object, or with how it was opened: it is to be opened anew before it is read again.
  bool Spoiled() const { return (error_number_ != 0 && error_number_ != ECANCELED) || done_bytes_ < request_.need_bytes || fell_back_; }

  uint64_t done_bytes() const { return done_bytes_; }
  int error_number() const { return error_number_; }
  bool direct() const { return direct_; }  // how to open it now

 private:
  bool MayGoOn(Ends ends) const {
    uint64_t last = 0;
    if (ends == Ends::kAnywhereIfZero && request_.need_bytes >= sizeof last) {
      std::memcpy(&last, request_.destination + request_.need_bytes - sizeof last, sizeof last);
    }
    return last == 0;
  }

  // To ask for behind the object: one byte, or as many as a direct read takes.
  uint64_t BeyondBytes() const { return direct_ ? kDirectBytes : 1; }

  static constexpr uint64_t kPageBytes = 4096;  // the smallest; larger ones have their borders at such places too
  static constexpr uint64_t kDirectBytes = 4096;
  static constexpr uint64_t kSlackBytes = 4096;
  static constexpr uint64_t kChunkBytesMax = uint64_t{1} << 30;  // read(2) transfers at most 0x7ffff000 bytes
  static constexpr uint32_t kRetriesMax = 128;

  Request request_;
  uint64_t done_bytes_ = 0;
  uint32_t chunks_ = 0;
  uint32_t retries_ = 0;
  uint32_t retries_in_a_row_ = 0;
  int error_number_ = 0;
  RequestStage stage_ = RequestStage::kTransfer;
  bool direct_ = false;
  bool fell_back_ = false;
  int64_t mtime_ns_ = kNoMtime;
  uint32_t file_type_ = 0;
  int8_t in_memory_ = -1;
};

}  // namespace penstock

#endif  // PENSTOCK_RING_PROGRESS_H_
