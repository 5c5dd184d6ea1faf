#include "stream/stream.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/trace.h"

namespace penstock {
namespace {

constexpr size_t kReapMax = 64;                             // completions taken at once
constexpr int64_t kTickNs = 100 * kNsPerMs;                 // how often a waiting stream looks at the clock and at Stop
constexpr int64_t kRetryDelayNs = 2 * kNsPerMs;             // before a failed read is tried again; doubled each time
constexpr size_t kFreeTasksMax = 64;
constexpr int64_t kStuckNs = kNsPerSecond;                  // a thread that has not come round for so long hangs in a call
constexpr size_t kHintExtents = 32;                         // that the ring is told of ahead
// "folder", "FIFO", ... of S_IFMT.
const char* FileTypeName(uint32_t type) {
  switch (type) {
    case S_IFDIR: return "folder (Is a directory)";
    case S_IFIFO: return "FIFO";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "character device";
    case S_IFBLK: return "block device";
    default: return "file of another kind";
  }
}

constexpr const char* kLate = "open or read";               // a backend does not say whether what is late is still being opened

}  // namespace

// A claimed piece while this stream works on it.
class Stream::Task final : public ComputeTask {
 public:
  explicit Task(PieceSource& source) : source_(source) {}

  ClaimedPiece claim;
  uint32_t next_extent = 0;  // to be enqueued, counted from the plan's first
  uint32_t end_extent = 0;
  uint32_t hinted_extent = 0;  // the ring has not been told of this one and those after it
  int32_t ops = 0;           // requests that are in the ring or wait for a retry
  bool enqueued = false;     // all extents were handed over or dropped
  bool in_codec = false;

 protected:
  absl::Status Run() override {
    source_.DecodePiece(claim);
    return absl::OkStatus();
  }

 private:
  PieceSource& source_;
};

struct Stream::Op {
  Task* task = nullptr;
  uint32_t extent = 0;     // in the plan
  int32_t use = -1;        // >= 0: only this use of a shared extent is read, after the whole one failed
  int32_t tries = 0;
  bool in_ring = false;
  bool hung = false;       // given up, but not reaped
  bool reported = false;
  int64_t start_ns = 0;
  int64_t not_before_ns = 0;
  double bytes_ahead = 0;  // in flight when it was asked for
  Request request;
};

struct Stream::Impl {
  std::deque<std::unique_ptr<Task>> tasks;
  std::vector<std::unique_ptr<Task>> free_tasks;
  Task* current = nullptr;  // the one whose extents are being enqueued
  std::vector<std::unique_ptr<Op>> ops;
  std::vector<uint32_t> free_ops;
  std::deque<uint32_t> retry;
  std::vector<Completion> completions;
  ReadStats stats;
  int64_t now_ns = 0;
  int64_t last_age_check_ns = 0;
  int64_t cpu_seen_ns = 0;
  double bytes_in_flight = 0;
  size_t depth = 0;      // requests that may be in flight; as they were at the last look
  int64_t depth_seen = -1;
  StreamProgress done;
  int64_t codec_pending = 0;
  int64_t seen = 0;      // by the last Claim that gave nothing
  bool starved = false;  // the last Claim gave nothing
  bool stopped = false;

  std::unique_ptr<ComputePoster> poster;  // null: no codec
  std::vector<ComputeTask*> decoded;
};

Stream::Stream(PieceSource& source, std::unique_ptr<Ring> ring, const StreamOptions& options)
    : source_(source),
      ring_(std::move(ring)),
      options_(options),
      impl_(std::make_unique<Impl>()),
      depth_(options.depth > 0 ? options.depth : static_cast<int64_t>(ring_->capacity())) {
  impl_->completions.resize(kReapMax);
  if (options.compute != nullptr) impl_->poster = std::make_unique<ComputePoster>(*options.compute, [this] { ring_->Wake(); });
}

Stream::~Stream() = default;

Stream::Op* Stream::NewOp() {
  Impl& s = *impl_;
  if (s.free_ops.empty()) {
    s.free_ops.push_back(static_cast<uint32_t>(s.ops.size()));
    s.ops.push_back(std::make_unique<Op>());
  }
  const uint32_t index = s.free_ops.back();
  s.free_ops.pop_back();
  Op& op = *s.ops[index];
  op = Op();
  op.request.cookie = index;
  return &op;
}

void Stream::FreeOp(Op& op) { impl_->free_ops.push_back(static_cast<uint32_t>(op.request.cookie)); }

void Stream::Run() {
  Impl& s = *impl_;
  NameTraceThread("stream", options_.index);
  while (true) {
    s.now_ns = MonotonicNs();
    turn_ns_.store(s.now_ns, std::memory_order_relaxed);
    if (!s.stopped && source_.stopping()) {
      s.stopped = true;
      for (auto& task : s.tasks) task->claim.attempt->Cancel();
      while (!s.retry.empty()) {
        Op& op = *s.ops[s.retry.front()];
        s.retry.pop_front();
        OpDone(op);
      }
      DropCancelled();
      ring_->Cancel();
    }
    CollectCodec();
    const bool more = Fill();
    if (s.stopped && s.tasks.empty() && ring_->in_flight() == 0) break;

    size_t reaped = 0;
    if (ring_->in_flight() > 0) {
      reaped = ring_->Reap(absl::MakeSpan(s.completions));
      if (reaped == 0 && !more) {
        const int64_t before_ns = MonotonicNs();
        int64_t deadline_ns = before_ns + (s.starved ? std::min(kTickNs, source_.StarvedWaitNs()) : kTickNs);
        if (!s.retry.empty()) deadline_ns = std::min(deadline_ns, std::max(before_ns, s.ops[s.retry.front()]->not_before_ns));
        const absl::Status status = ring_->Wait(deadline_ns);
        if (!status.ok()) Log(LogLevel::kError, absl::StrCat("stream ", options_.index, ": ", status.message()));
        s.now_ns = MonotonicNs();
        s.stats.blocked_ns += s.now_ns - before_ns;
        if (s.starved) s.done.starved_ns += s.now_ns - before_ns;
        reaped = ring_->Reap(absl::MakeSpan(s.completions));
      }
      for (size_t i = 0; i < reaped; ++i) Finish(s.completions[i], s.now_ns);
    } else if (s.codec_pending > 0 || !s.retry.empty()) {
      int64_t deadline_ns = s.now_ns + kTickNs;
      if (!s.retry.empty()) deadline_ns = std::min(deadline_ns, std::max(s.now_ns, s.ops[s.retry.front()]->not_before_ns));
      static_cast<void>(ring_->Wait(deadline_ns));  // the codec's callback wakes it
      const int64_t after_ns = MonotonicNs();
      s.stats.codec_wait_ns += after_ns - s.now_ns;
    } else if (!s.stopped) {
      FlushStats(s.now_ns);
      turn_ns_.store(0, std::memory_order_relaxed);
      source_.WaitForWork(s.seen, s.now_ns + kTickNs);
      const int64_t idle_ns = MonotonicNs() - s.now_ns;
      s.stats.idle_ns += idle_ns;
      s.done.starved_ns += idle_ns;
    }
    in_flight_.store(static_cast<int64_t>(ring_->in_flight()), std::memory_order_relaxed);
    done_requests_.store(s.done.requests, std::memory_order_relaxed);
    done_bytes_.store(s.done.bytes, std::memory_order_relaxed);
    starved_ns_.store(s.done.starved_ns, std::memory_order_relaxed);
    if (s.now_ns - s.last_age_check_ns > kTickNs) {
      CheckAges(s.now_ns);
      if (!s.stopped) source_.Tick(s.now_ns);
    }
  }
  FlushStats(MonotonicNs());
  in_flight_.store(0, std::memory_order_relaxed);
  turn_ns_.store(0, std::memory_order_relaxed);
}

OldestRequest Stream::Oldest(int64_t now_ns) const {
  const int64_t turn_ns = turn_ns_.load(std::memory_order_relaxed);
  std::lock_guard<std::mutex> lock(oldest_mutex_);
  if (turn_ns == 0 || now_ns - turn_ns < kStuckNs) return oldest_;
  // What was seen before the thread got stuck is still in flight, and may be older.
  if (oldest_.since_ns != 0) return oldest_;
  OldestRequest stuck;
  stuck.since_ns = turn_ns;
  stuck.text = absl::StrCat("stream ", options_.index, " itself hangs in a call to the store; it asked last for ",
                            EscapeName(source_.ObjectName(last_object_.load(std::memory_order_relaxed))));
  return stuck;
}

// Lets go of pieces whose attempt was cancelled and of which the kernel holds nothing.
void Stream::DropCancelled() {
  std::vector<Task*> tasks;
  for (auto& task : impl_->tasks) tasks.push_back(task.get());
  for (Task* task : tasks) {
    if (task->claim.attempt->cancelled() && task->ops == 0) TaskMaybeDone(*task);
  }
}

void Stream::FlushStats(int64_t /*now_ns*/) {
  Impl& s = *impl_;
  const int64_t cpu_ns = ThreadCpuNs();
  s.stats.cpu_ns += cpu_ns - s.cpu_seen_ns;
  s.cpu_seen_ns = cpu_ns;
  source_.AddStats(s.stats);
  s.stats = ReadStats();
}

// Hands requests to the ring as long as it takes them and there is something to read, but not beyond the end of a piece: true where it
// stopped for that. From the page cache reads are done as soon as they are handed over; a stream that claimed piece after piece before
// doing so would take all of a batch's work, and the others would sleep. What has to be waited for comes back here at once, for the next
// piece.
bool Stream::Fill() {
  Impl& s = *impl_;
  bool any = false;
  bool at_border = false;
  if (const int64_t depth = depth_.load(std::memory_order_relaxed); depth != s.depth_seen) {
    s.depth_seen = depth;
    s.depth = std::clamp<size_t>(static_cast<size_t>(depth), 1, ring_->capacity());
    ring_->Expect(s.depth);
  }
  while (!s.stopped && ring_->in_flight() < s.depth) {
    if (!s.retry.empty() && s.ops[s.retry.front()]->not_before_ns <= s.now_ns) {
      Op& op = *s.ops[s.retry.front()];
      if (op.task->claim.attempt->cancelled()) {
        s.retry.pop_front();
        OpDone(op);
        continue;
      }
      if (!EnqueueOp(op)) break;
      s.retry.pop_front();
      any = true;
      continue;
    }
    if (any && (s.current == nullptr || s.current->next_extent == s.current->end_extent)) {
      at_border = true;
      break;
    }
    if (!EnqueueNext()) break;
    any = true;
  }
  if (any) {
    const TraceRange range(TraceStage::kRead);
    const absl::Status status = ring_->Submit();
    if (!status.ok()) Log(LogLevel::kError, absl::StrCat("stream ", options_.index, ": ", status.message()));
  }
  return at_border;
}

// Enqueues the next extent of the current piece, or of the next one. False: nothing was enqueued.
bool Stream::EnqueueNext() {
  Impl& s = *impl_;
  while (true) {
    if (s.current == nullptr) {
      ClaimedPiece claim;
      const TraceRange range(TraceStage::kClaim);
      if (!source_.Claim(options_.index, claim, s.seen)) {
        s.starved = true;
        return false;
      }
      s.starved = false;
      std::unique_ptr<Task> task;
      if (s.free_tasks.empty()) {
        task = std::make_unique<Task>(source_);
      } else {
        task = std::move(s.free_tasks.back());
        s.free_tasks.pop_back();
        task->ops = 0;
        task->enqueued = task->in_codec = false;
      }
      const PiecePlan& piece = claim.attempt->plan().pieces[claim.piece];
      task->next_extent = task->hinted_extent = piece.first_extent;
      task->end_extent = piece.first_extent + piece.extent_count;
      task->claim = std::move(claim);
      s.current = task.get();
      s.tasks.push_back(std::move(task));
    }
    Task& task = *s.current;
    if (task.next_extent == task.end_extent || task.claim.attempt->cancelled()) {
      task.enqueued = true;
      s.current = nullptr;
      TaskMaybeDone(task);
      continue;
    }
    const BatchPlan& plan = task.claim.attempt->plan();
    if (task.next_extent == task.hinted_extent) {
      uint32_t objects[kHintExtents];
      size_t count = 0;
      while (count < kHintExtents && task.hinted_extent < task.end_extent) objects[count++] = plan.extents[task.hinted_extent++].object;
      ring_->Prefetch(absl::MakeConstSpan(objects, count));
    }
    Op& op = *NewOp();
    op.task = &task;
    op.extent = task.next_extent;
    const Extent& extent = plan.extents[op.extent];
    op.request.object = extent.object;
    op.request.offset_bytes = extent.offset_bytes;
    op.request.length_bytes = extent.length_bytes;
    op.request.need_bytes = extent.need_bytes;
    op.request.direct = plan.direct;
    op.request.ask_beyond = extent.ask_beyond;
    op.request.check_type = !extent.whole_object;
    op.request.want_mtime = options_.verify_stat;
    std::byte* const base = plan.stored.empty() ? task.claim.places : task.claim.scratch;
    op.request.destination = base + extent.destination;
    if (!EnqueueOp(op)) {
      FreeOp(op);
      return false;
    }
    ++task.next_extent;
    ++task.ops;
    return true;
  }
}

bool Stream::EnqueueOp(Op& op) {
  Impl& s = *impl_;
  last_object_.store(op.request.object, std::memory_order_relaxed);  // before: finding its folder may hang
  if (!ring_->Enqueue(op.request)) return false;
  op.in_ring = true;
  op.start_ns = s.now_ns;
  op.bytes_ahead = s.bytes_in_flight;
  s.bytes_in_flight += static_cast<double>(op.request.need_bytes);
  ++s.stats.requests;
  return true;
}

// The error of a completion, or OK: what was done, to which object, which bytes, for which sample, why, and the cure.
absl::Status Stream::Describe(const Op& op, const Completion& completion) const {
  const BatchPlan& plan = op.task->claim.attempt->plan();
  const Extent& extent = plan.extents[op.extent];
  const int64_t mtime_ns = options_.verify_stat ? source_.ObjectMtime(op.request.object) : kNoMtime;
  const bool rewritten = mtime_ns != kNoMtime && completion.mtime_ns != mtime_ns;
  const bool grown =
      extent.whole_object && op.use < 0 && completion.error_number == 0 && completion.bytes > static_cast<int64_t>(op.request.need_bytes);
  const bool whole = completion.error_number == 0 && completion.bytes >= static_cast<int64_t>(op.request.need_bytes);
  if (whole && !grown && !rewritten) return absl::OkStatus();
  const std::string what = Describe(op, completion.stage == RequestStage::kOpen ? "open" : "read");
  if (completion.file_type != 0) {
    return absl::DataLossError(
        absl::StrCat(what, ": it is a ", FileTypeName(completion.file_type),
                     " now, and no regular file: it changed since it was indexed; restore it, or index again (penstock index --update)"));
  }
  if (completion.error_number != 0) return IoError(completion.error_number, what, IoOperation::kSample);
  if (grown) {
    return absl::DataLossError(absl::StrCat(what, ": the file is longer than its index says (",
                                            op.request.offset_bytes + op.request.need_bytes,
                                            " bytes): it changed since it was indexed; index again (penstock index --update)"));
  }
  if (whole) {
    return absl::DataLossError(absl::StrCat(what, ": the file was modified at ", completion.mtime_ns, " ns since 1970, but its index says ",
                                            mtime_ns,
                                            " (verify=stat): it changed since it was indexed; index again (penstock index --update)"));
  }
  return absl::DataLossError(
      absl::StrCat(what, ": the file ends at byte ", op.request.offset_bytes + static_cast<uint64_t>(completion.bytes),
                   ", shorter than its index says: it changed since it was indexed; restore it, or index again (penstock index --update)"));
}

void Stream::Finish(const Completion& completion, int64_t now_ns) {
  Impl& s = *impl_;
  Op& op = *s.ops[completion.cookie];
  PENSTOCK_CHECK(op.in_ring, "a completion belongs to a request in the ring");
  op.in_ring = false;
  s.bytes_in_flight -= static_cast<double>(op.request.need_bytes);
  s.stats.open_ns += completion.open_ns;
  s.stats.kept_open += completion.kept_open ? 1 : 0;
  if (completion.in_memory >= 0) {
    ++s.stats.memory_known;
    s.stats.from_memory += completion.in_memory;
  }
  s.stats.transfer_ns += completion.transfer_ns;
  Attempt& attempt = *op.task->claim.attempt;
  if (op.hung || attempt.cancelled()) {
    OpDone(op);
    return;
  }
  ++s.done.requests;
  s.done.bytes += completion.bytes;
  if (completion.error_number == 0) {
    // What waited in the ring's own queue was not yet asked of the store. Which requests were past it is not known, so that they count
    // as large as this one.
    const double beside = completion.served_beside * static_cast<double>(op.request.need_bytes);
    s.stats.fit.Add(completion.served_beside < 0 ? op.bytes_ahead : beside, static_cast<double>(completion.transfer_ns));
  }
  absl::Status status = Describe(op, completion);
  if (status.ok()) {
    OpDone(op);
    return;
  }
  if (completion.error_number == EMFILE || completion.error_number == ENFILE) {
    // Not this sample's fault: other requests hold the descriptors and will give them back.
    if (op.tries < options_.retries + 10) {
      op.not_before_ns = now_ns + (kRetryDelayNs << std::min(op.tries, 6));
      ++op.tries;
      ++s.stats.retries;
      s.retry.push_back(static_cast<uint32_t>(op.request.cookie));
      return;
    }
  }
  OpFailed(op, std::move(status), op.tries < options_.retries);
}

void Stream::OpFailed(Op& op, absl::Status status, bool retry) {
  Impl& s = *impl_;
  Task& task = *op.task;
  Attempt& attempt = *task.claim.attempt;
  const BatchPlan& plan = attempt.plan();
  const Extent& extent = plan.extents[op.extent];
  if (retry) {
    op.not_before_ns = s.now_ns + (kRetryDelayNs << std::min(op.tries, 10));
    ++op.tries;
    ++s.stats.retries;
    s.retry.push_back(static_cast<uint32_t>(op.request.cookie));
    return;
  }
  if (op.use < 0 && extent.use_count > 1) {
    // Several samples share this read, and perhaps only one of them is bad: read each by itself, buffered, into its place.
    const PiecePlan& piece = plan.pieces[task.claim.piece];
    for (uint32_t u = extent.first_use; u < extent.first_use + extent.use_count; ++u) {
      const uint32_t sample = plan.uses[u];
      const uint64_t place = static_cast<uint64_t>(plan.offsets[sample]) - piece.offset;
      const auto bytes = static_cast<uint64_t>(plan.lengths[sample]);
      if (bytes == 0) continue;
      Op& part = *NewOp();
      part.task = &task;
      part.extent = op.extent;
      part.use = static_cast<int32_t>(u);
      part.tries = op.tries;
      part.request.object = extent.object;
      part.request.offset_bytes = extent.offset_bytes + (place - extent.destination);
      part.request.length_bytes = part.request.need_bytes = bytes;
      part.request.destination = task.claim.places + place;
      part.request.check_type = true;
      part.request.want_mtime = options_.verify_stat;
      part.not_before_ns = s.now_ns;
      ++task.ops;
      s.retry.push_back(static_cast<uint32_t>(part.request.cookie));
    }
    OpDone(op);
    return;
  }
  source_.SampleFailed(attempt, SampleFailure{SampleOf(op), std::move(status), false});
  OpDone(op);
}

void Stream::OpDone(Op& op) {
  Task& task = *op.task;
  FreeOp(op);
  --task.ops;
  TaskMaybeDone(task);
}

void Stream::TaskMaybeDone(Task& task) {
  Impl& s = *impl_;
  if (!task.enqueued && task.claim.attempt->cancelled()) {
    task.enqueued = true;
    if (s.current == &task) s.current = nullptr;
  }
  if (!task.enqueued || task.ops > 0 || task.in_codec) return;
  if (s.poster != nullptr && !task.claim.attempt->cancelled()) {
    task.in_codec = true;
    ++s.codec_pending;
    s.poster->Post(&task);
    return;
  }
  Deliver(task);
}

// Gives a finished piece back to the source. `task` is gone afterwards.
void Stream::Deliver(Task& task) {
  Impl& s = *impl_;
  for (auto it = s.tasks.begin(); it != s.tasks.end(); ++it) {
    if (it->get() != &task) continue;
    std::unique_ptr<Task> owned = std::move(*it);
    s.tasks.erase(it);
    const int64_t cpu_ns = ThreadCpuNs();
    s.stats.cpu_ns += cpu_ns - s.cpu_seen_ns;
    s.cpu_seen_ns = cpu_ns;
    const ReadStats delta = std::exchange(s.stats, ReadStats());
    source_.PieceFinished(std::move(owned->claim), delta);
    if (s.free_tasks.size() < kFreeTasksMax) s.free_tasks.push_back(std::move(owned));
    return;
  }
}

void Stream::CollectCodec() {
  Impl& s = *impl_;
  if (s.codec_pending == 0) return;
  s.decoded.clear();
  s.poster->Take(s.decoded);
  for (ComputeTask* decoded : s.decoded) {
    auto& task = static_cast<Task&>(*decoded);
    --s.codec_pending;
    task.in_codec = false;
    Attempt& attempt = *task.claim.attempt;
    const PiecePlan& piece = attempt.plan().pieces[task.claim.piece];
    if (!decoded->status().ok() && !attempt.cancelled() && piece.sample_count > 0) {
      source_.SampleFailed(attempt, SampleFailure{attempt.plan().laid_out[piece.first_sample], decoded->status(), false});
    }
    Deliver(task);
  }
}

// The sample that a request is for; of a shared extent, the first.
uint32_t Stream::SampleOf(const Op& op) const {
  const BatchPlan& plan = op.task->claim.attempt->plan();
  return plan.uses[op.use >= 0 ? static_cast<uint32_t>(op.use) : plan.extents[op.extent].first_use];
}

// The request for a message.
std::string Stream::Describe(const Op& op, const char* operation) const {
  const BatchPlan& plan = op.task->claim.attempt->plan();
  return absl::StrCat(operation, " of ", EscapeName(source_.ObjectName(op.request.object)), ", bytes [", op.request.offset_bytes, ", ",
                      op.request.offset_bytes + op.request.need_bytes, "), sample ", plan.ids[SampleOf(op)], ", stream ", options_.index);
}

// Reports requests that are late, and gives up those past the deadline. Their memory stays theirs.
void Stream::CheckAges(int64_t now_ns) {
  Impl& s = *impl_;
  s.last_age_check_ns = now_ns;
  size_t hung = 0;
  const Op* oldest = nullptr;
  for (const auto& op : s.ops) {
    if (!op->in_ring || op->hung || op->task->claim.attempt->cancelled()) continue;
    if (oldest == nullptr || op->start_ns < oldest->start_ns) oldest = op.get();
  }
  // One so young is not late, and naming it costs something.
  const bool late = oldest != nullptr && now_ns - oldest->start_ns >= kTickNs;
  if (late || oldest_.since_ns != 0) {  // only this thread writes it
    OldestRequest seen;
    if (late) {
      seen = {oldest->start_ns, oldest->task->claim.attempt->epoch(), oldest->task->claim.attempt->step(), Describe(*oldest, kLate)};
    }
    std::lock_guard<std::mutex> lock(oldest_mutex_);
    oldest_ = std::move(seen);
  }
  for (auto& owned : s.ops) {
    Op& op = *owned;
    if (op.in_ring && op.hung) ++hung;
    if (!op.in_ring || op.hung) continue;
    const int64_t age_ns = now_ns - op.start_ns;
    if (age_ns < std::min(options_.report_ns, options_.deadline_ns)) continue;
    Attempt& attempt = *op.task->claim.attempt;
    if (attempt.cancelled()) continue;
    const std::string what = absl::StrCat(Describe(op, kLate), ": no answer for ", age_ns / kNsPerMs, " ms");
    if (age_ns >= options_.deadline_ns) {
      op.hung = true;
      ++hung;
      op.task->claim.Quarantine();
      source_.SampleFailed(
          attempt,
          SampleFailure{SampleOf(op),
                        absl::DeadlineExceededError(absl::StrCat(
                            what,
                            ", past deadline_s. Its store hangs: look at it (penstock doctor), or raise deadline_s; the memory stays aside "
                            "until the kernel lets go of it")),
                        true});
    } else if (!op.reported) {
      op.reported = true;
      ++s.stats.late_reports;
      Log(LogLevel::kWarning, what);
    }
  }
  if (hung > 0 && hung >= s.depth) {
    // Nothing can be read by this stream any more: the pieces that it claimed go to others.
    for (auto& task : s.tasks) {
      Attempt& attempt = *task->claim.attempt;
      if (attempt.cancelled() || task->in_codec) continue;
      const BatchPlan& plan = attempt.plan();
      const Extent& extent = plan.extents[std::min(task->next_extent, task->end_extent - 1)];
      source_.SampleFailed(attempt, SampleFailure{plan.uses[extent.first_use],
                                                  absl::DeadlineExceededError(absl::StrCat("stream ", options_.index, ": all its ", hung,
                                                                                           " reads in flight hang, past deadline_s")),
                                                  true});
    }
    DropCancelled();
  }
}

}  // namespace penstock
