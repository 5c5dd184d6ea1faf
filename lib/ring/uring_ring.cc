// Each request holds one slot, and each slot one direct descriptor of the same index, which we choose ourselves: liburing 2.3 gets
// IORING_FILE_INDEX_ALLOC wrong. A request is an open, then one or more transfers, as separate submissions: linked chains were
// slower, since each link waits for the one before it to be completed and because an open that succeeds inline costs nothing
// extra. There is no close: the next open into the slot replaces the file, and all are closed when the ring runs empty. A file that
// is to stay open (OpenFiles) takes an ordinary descriptor instead, and the next request for it begins with the transfer.
//
// Only a regular file is read. One with an ordinary descriptor is asked by statx(2) on it. A direct descriptor has none; there a buffered read goes
// with an fadvise of nothing before it, which answers within the submission, and ESPIPE for a FIFO (mm/fadvise.c), and the caller's byte
// beyond the end tells a device. The read itself is tried with RWF_NOWAIT first: what is in the page cache comes at once, a byte beyond the
// end costs nothing then, and a FIFO or a terminal without input does not hang. Where reads mostly have to wait, the try is left out, and
// the read of a FIFO is cancelled. A read that waits for long anyway is looked at by statx, and cancelled if it is of no file. (Not a link:
// Linux 6.18 asks a FUSE server that answers EOPNOTSUPP to the read of a link again and again.)
//
// Where the time of modification is wanted, a statx by path follows the last read: a direct descriptor has no fstat. It comes after the
// bytes, so that a file replaced before or while it was read shows.
//
//   Enqueue -> todo_ -> [SQE: openat_direct] -> OnOpen -> todo_ -> [SQE: read] -> OnTransfer -> (todo_ again | ready_) -> Reap
#include "ring/uring_ring.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fork_guard.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "ring/index_queue.h"
#include "ring/open_flags.h"
#include "ring/poison.h"
#include "ring/progress.h"

namespace penstock {
namespace {

// Flags newer than the headers of liburing 2.3 may know; their values are kernel ABI (include/uapi/linux/io_uring.h).
constexpr unsigned kSubmitAll = 1U << 7;
constexpr unsigned kCoopTaskrun = 1U << 8;
constexpr unsigned kTaskrunFlag = 1U << 9;
constexpr unsigned kSingleIssuer = 1U << 12;
constexpr unsigned kDeferTaskrun = 1U << 13;

constexpr uint32_t kSqEntriesMax = 256;
constexpr uint32_t kSqEntriesMin = 8;
constexpr uint32_t kCqSlack = 4;         // beside one completion per request: the wake poll and answers to cancels
constexpr size_t kSubmitBatch = 16;      // continuations pile up to so many before they are handed over without a wait: from 16 to 32
                                         // on, a larger submission gains nothing (arXiv 2512.04859)
constexpr int kBusyRetriesMax = 20;
constexpr int64_t kBusyPauseNs = kNsPerMs / 2;
constexpr unsigned kCqeSkipSuccess = 1U << 6;  // IOSQE_CQE_SKIP_SUCCESS, Linux 5.17
constexpr uint32_t kNowaitSkipMax = 1023;
constexpr uint32_t kBorderTry = 64;
constexpr int64_t kLookNs = kNsPerSecond;      // a read that has waited for so long may be of a terminal that has nothing to say

enum class Op : uint64_t { kOpen = 0, kTransfer = 1, kWake = 2, kIgnore = 3, kStat = 4, kGate = 5, kLook = 6 };
constexpr int kOpBits = 3;
constexpr int kSlotBits = 22;

// The generation tells a request from the slot's next one, so that a late cancel cannot hit the wrong one.
uint64_t UserData(Op op, uint32_t slot, uint64_t generation) {
  return static_cast<uint64_t>(op) | uint64_t{slot} << kOpBits | generation << (kOpBits + kSlotBits);
}
Op OpOf(uint64_t user_data) { return static_cast<Op>(user_data & ((1U << kOpBits) - 1)); }
uint64_t GenerationOf(uint64_t user_data) { return user_data >> (kOpBits + kSlotBits); }
uint32_t SlotOf(uint64_t user_data) { return static_cast<uint32_t>(user_data >> kOpBits) & ((1U << kSlotBits) - 1); }

struct Slot {
  enum class State : uint8_t { kFree, kOpening, kTransferring, kStatting, kReady };

  Progress progress;
  State state = State::kFree;
  bool in_kernel = false;   // an SQE of it was placed and its completion not yet seen
  bool cancelled = false;
  uint64_t generation = 0;
  uint64_t user_data = 0;   // of that SQE
  int64_t open_start_ns = 0;
  int64_t transfer_start_ns = 0;
  int64_t end_ns = 0;
  int file = -1;            // an ordinary descriptor; -1: the direct one of this slot's index
  int32_t entry = -1;       // of that descriptor in the table of open files; -1: it is this request's own
  // Set together at the beginning of a request.
  bool found_open = false;
  bool keep = false;        // it is being opened for the table, where room was reserved
  bool plain = false;       // it is being opened with an ordinary descriptor
  bool type_unknown = false;  // statx has to tell whether it is a regular file, once the bytes have come
  bool gated = false;       // the fadvise was placed
  bool nowait = false;      // what is in the kernel is a try that does not wait
  bool tried_nowait = false;
  uint64_t looked_generation = 0;
  bool looking = false;     // a statx of its file is under way beside the read
  uint32_t no_file_mode = 0;  // st_mode, where the fadvise or that statx says that it is no regular file
  OpenTarget target;
  std::string scratch;      // keeps its memory: nothing is allocated per request
};

struct Look {
  struct statx attributes {};
  std::string path;
};

std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

bool SeccompFiltered() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("Seccomp:", 0) == 0) return line.find('2') != std::string::npos;
  }
  return false;
}

uint64_t LimitOf(__rlimit_resource resource) {
  rlimit limit{};
  ::getrlimit(resource, &limit);
  return limit.rlim_cur;
}

// What the kernel charges for a ring (Linux 6.14 and later): the two shared areas, in whole pages.
uint64_t RingBytes(uint32_t sq_entries, uint32_t cq_entries) {
  const uint64_t page = 4096;
  return AlignUp(uint64_t{sq_entries} * 64, page) + AlignUp(320 + uint64_t{cq_entries} * 16 + uint64_t{sq_entries} * 4, page);
}

absl::Status SetupError(int error_number, uint32_t sq_entries, uint32_t cq_entries) {
  const std::string failed = absl::StrCat("io_uring_setup: ", ErrnoText(error_number), ": ");
  switch (error_number) {
    case EPERM: {
      const std::string disabled = FirstLine("/proc/sys/kernel/io_uring_disabled");
      if (disabled == "2") {
        return absl::UnavailableError(absl::StrCat(failed, "kernel.io_uring_disabled is 2; set it to 0 (sysctl), or use engine=threads"));
      }
      if (disabled == "1" && !SeccompFiltered()) {
        return absl::UnavailableError(absl::StrCat(
            failed, "kernel.io_uring_disabled is 1 and this user is not in kernel.io_uring_group; add it, or use engine=threads"));
      }
      return absl::UnavailableError(
          absl::StrCat(failed,
                       SeccompFiltered() ? "a seccomp filter forbids it, as the default profiles of container runtimes do"
                                         : "a security policy forbids it",
                       "; allow io_uring_setup, io_uring_enter and io_uring_register in the profile, or use engine=threads"));
    }
    case ENOSYS:
      return absl::UnavailableError(absl::StrCat(
          failed,
          SeccompFiltered() ? "a seccomp filter hides it; allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
                            : "this kernel has no io_uring; it needs Linux 5.15 with CONFIG_IO_URING",
          ", or use engine=threads"));
    case ENOMEM:
      return absl::ResourceExhaustedError(
          absl::StrCat(failed, "a ring of ", sq_entries, " entries needs ", RingBytes(sq_entries, cq_entries),
                       " bytes of locked memory; RLIMIT_MEMLOCK is ", LimitOf(RLIMIT_MEMLOCK),
                       " bytes for all processes of this user together: raise it (ulimit -l), or use fewer streams or engine=threads"));
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(absl::StrCat(failed, "RLIMIT_NOFILE is ", LimitOf(RLIMIT_NOFILE), ": raise it (ulimit -n)"));
    default: return absl::UnavailableError(absl::StrCat(failed, "io_uring is not usable here; use engine=threads"));
  }
}

std::atomic<uint64_t> rings_ended{0};

class UringRing final : public Ring {
 public:
  UringRing(const ObjectStore& store, const RingOptions& options)
      : store_(store), options_(options), open_files_(options.open_files.get()) {}

  absl::Status Init() {
    const uint32_t wanted = static_cast<uint32_t>(std::clamp<size_t>(options_.capacity, 1, (1U << kSlotBits) - 1));
    if (absl::Status status = Setup(wanted); !status.ok()) return status;
    uint32_t capacity = std::min(wanted, features_.cq_entries - kCqSlack);
    if (absl::Status status = RegisterFiles(capacity); !status.ok()) return status;
    features_.capacity = capacity;
    slots_ = std::vector<Slot>(capacity);
    occupied_.assign(capacity, -1);
    todo_.Reset(capacity);
    ready_.Reset(capacity);
    free_.reserve(capacity);
    for (uint32_t i = capacity; i-- > 0;) free_.push_back(i);
    cancels_.reserve(2 * capacity);

    // Workers of both kinds, since a read on a descriptor that is not yet resolved is counted among the unbounded ones
    // (io_uring_register(2), IORING_REGISTER_IOWQ_MAX_WORKERS). Linux 5.15; where it fails, the kernel's own limits hold.
    unsigned limits[2] = {static_cast<unsigned>(std::max(1, options_.io_worker_max)),
                          static_cast<unsigned>(std::max(1, options_.io_worker_max))};
    ::io_uring_register_iowq_max_workers(&ring_, limits);

    wake_fd_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_fd_.valid()) return IoError(errno, "eventfd for waking a ring");
    return absl::OkStatus();
  }

  ~UringRing() override {
    if (fork_guard_.InForkedChild()) {
      // The parent owns it; only our view goes.
      if (made_) ::io_uring_queue_exit(&ring_);
      return;
    }
    PENSTOCK_CHECK(in_flight() == 0, "a ring was destroyed with requests in flight: the kernel may still write into their memory");
    // The next ring may get the same addresses. liburing unmaps and maps by itself, which ThreadSanitizer does not see.
    rings_ended.fetch_add(1, std::memory_order_release);
    if (looks_pending_ > 0) static_cast<void>(looks_.release());  // a statx that hangs may still write there
    if (made_) ::io_uring_queue_exit(&ring_);
  }

  void Prefetch(absl::Span<const uint32_t> objects) const override {
    if (open_files_ != nullptr) {
      for (const uint32_t object : objects) open_files_->Prefetch(object);
    }
    store_.Prefetch(objects);
  }

  bool Enqueue(const Request& request) override {
    if (free_.empty()) return false;
    CheckNotPoisoned(request);
    const uint32_t index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.progress.Start(request);
    slot.cancelled = false;
    ++slot.generation;
    slot.file = slot.entry = -1;
    slot.found_open = slot.keep = slot.plain = false;
    slot.gated = slot.nowait = slot.tried_nowait = false;
    slot.type_unknown = false;
    slot.no_file_mode = 0;
    slot.open_start_ns = slot.transfer_start_ns = slot.end_ns = 0;
    if (broken_ != 0) {
      slot.progress.Fail(broken_, RequestStage::kOpen);
      Finish(index);
      return true;
    }
    const bool may_keep = MayKeep(open_files_, request);
    if (may_keep) {
      slot.entry = open_files_->Find(request.object, slot.file);
      if (slot.entry >= 0) {
        slot.found_open = true;
        if (slot.progress.HasTransfer()) {
          slot.state = Slot::State::kTransferring;
          todo_.Push(index);
        } else {
          Finish(index);
        }
        return true;
      }
    }
    absl::StatusOr<OpenTarget> target = store_.Target(request.object, slot.scratch);
    if (!target.ok()) {
      slot.progress.Fail(StatusToErrno(target.status()), RequestStage::kOpen);
      Finish(index);
      return true;
    }
    slot.target = *target;
    slot.state = Slot::State::kOpening;
    slot.keep = may_keep && open_files_->Reserve();
    slot.type_unknown = request.check_type;
    slot.plain = slot.keep || request.check_type;
    todo_.Push(index);
    return true;
  }

  absl::Status Submit() override {
    if (absl::Status status = Begin(); !status.ok()) return status;
    for (int busy = 0; !todo_.empty() || !cancels_.empty() || ::io_uring_sq_ready(&ring_) > 0;) {
      FillSq();
      const int result = Enter(/*wait=*/false, 0);
      if (broken_ != 0) return BrokenStatus();
      if (result < 0) {
        // Reap first: the kernel wants room for completions (EBUSY) or memory (EAGAIN). What is left goes with the next call.
        ProcessCompletions();
        if (++busy > kBusyRetriesMax) return absl::OkStatus();
        SleepNs(kBusyPauseNs);
      }
    }
    return absl::OkStatus();
  }

  size_t Reap(absl::Span<Completion> out) override {
    if (out.empty()) return 0;
    if (Begin().ok()) {
      ProcessCompletions();
      if (todo_.size() >= kSubmitBatch || (ready_.empty() && (!todo_.empty() || NeedsEnter()))) {
        FillSq();
        if (Enter(/*wait=*/false, 0) >= 0) ProcessCompletions();
      }
    }
    size_t count = 0;
    while (count < out.size() && !ready_.empty()) {
      const uint32_t index = ready_.Pop();
      Slot& slot = slots_[index];
      const int64_t opened_ns = slot.transfer_start_ns > 0 ? slot.transfer_start_ns : slot.end_ns;
      out[count++] = slot.progress.ToCompletion(slot.open_start_ns > 0 ? opened_ns - slot.open_start_ns : 0,
                                                slot.transfer_start_ns > 0 ? slot.end_ns - slot.transfer_start_ns : 0, slot.found_open);
      slot.progress.AddTo(counters_);
      counters_.kept_open += slot.found_open ? 1 : 0;
      slot.state = Slot::State::kFree;
      free_.push_back(index);
    }
    if (in_flight() == 0) CloseFiles();
    return count;
  }

  absl::Status Wait(int64_t deadline_ns) override {
    if (broken_ != 0 && !ready_.empty()) return absl::OkStatus();  // what failed is to be reaped first
    if (absl::Status status = Begin(); !status.ok()) return status;
    while (true) {
      ProcessCompletions();
      if (!ready_.empty()) {
        if (todo_.size() >= kSubmitBatch) {
          FillSq();
          Enter(/*wait=*/false, 0);
        }
        return absl::OkStatus();
      }
      if (wake_pending_.exchange(false)) return absl::OkStatus();
      const int64_t now_ns = MonotonicNs();
      ArmWake();
      LookAtLate(now_ns);
      const int64_t nap_ns = std::min(deadline_ns - now_ns, in_flight() > 0 ? kLookNs / 4 : std::numeric_limits<int64_t>::max());
      FillSq();
      const int result = now_ns < deadline_ns ? Enter(/*wait=*/true, nap_ns) : Enter(/*wait=*/false, 0);
      if (broken_ != 0) {
        if (!ready_.empty()) return absl::OkStatus();
        return BrokenStatus();
      }
      if (now_ns >= deadline_ns) {
        ProcessCompletions();
        return absl::OkStatus();
      }
      if (result == -EBUSY || result == -EAGAIN) {
        ProcessCompletions();
        if (ready_.empty()) SleepNs(kBusyPauseNs);
      }
    }
  }

  void Wake() override {
    if (wake_pending_.exchange(true)) return;
    const uint64_t one = 1;
    // It fails only when the counter is full, and then the poll has fired already.
    [[maybe_unused]] const ssize_t written = ::write(wake_fd_.get(), &one, sizeof one);
  }

  void Cancel() override {
    // What the kernel has not seen ends here; the rest is asked for by its own name, since "cancel all" would hit the wake poll.
    for (size_t i = todo_.size(); i > 0; --i) {
      const uint32_t index = todo_.Pop();
      slots_[index].cancelled = true;
      slots_[index].progress.Fail(ECANCELED, slots_[index].state == Slot::State::kOpening ? RequestStage::kOpen : RequestStage::kTransfer);
      Finish(index);
    }
    for (Slot& slot : slots_) {
      if (!slot.in_kernel || slot.cancelled) continue;
      slot.cancelled = true;
      cancels_.push_back(slot.user_data);
    }
    static_cast<void>(Submit());
  }

  size_t in_flight() const override { return slots_.size() - free_.size(); }
  size_t capacity() const override { return slots_.size(); }
  const char* name() const override { return "uring"; }
  RingCounters counters() const override { return counters_; }
  const UringFeatures& features() const { return features_; }

 private:
  absl::Status Setup(uint32_t capacity) {
    // From the best to the plainest; EINVAL means that this kernel does not know a flag (io_uring_setup(2)). DEFER_TASKRUN runs
    // completions when we ask for them and not in the middle of something else. R_DISABLED: the ring is made by whoever opens
    // the loader and belongs to the thread that enables it.
    const unsigned common = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
    const unsigned attempts[] = {
        common | kSubmitAll | kSingleIssuer | kDeferTaskrun | kTaskrunFlag | IORING_SETUP_R_DISABLED,
        common | kSubmitAll | kCoopTaskrun | kTaskrunFlag,
        common | kSubmitAll,
        common,
    };
    uint32_t sq_entries = std::min(std::bit_ceil(std::max(capacity, kSqEntriesMin)), kSqEntriesMax);
    int error_number = 0;
    for (size_t attempt = 0; attempt < std::size(attempts);) {
      const uint32_t cq_entries = std::max(4 * sq_entries, sq_entries >= capacity ? 0 : std::bit_ceil(capacity + kCqSlack));
      io_uring_params params{};
      params.flags = attempts[attempt];
      params.cq_entries = cq_entries;
      error_number = -::io_uring_queue_init_params(sq_entries, &ring_, &params);
      if (error_number == 0) {
        made_ = true;
        static_cast<void>(rings_ended.load(std::memory_order_acquire));
        if ((params.features & IORING_FEAT_NODROP) == 0 || (params.features & IORING_FEAT_EXT_ARG) == 0) {
          return absl::UnavailableError("io_uring: this kernel is too old: it needs Linux 5.15; use engine=threads");
        }
        disabled_ = (params.flags & IORING_SETUP_R_DISABLED) != 0;
        features_.single_issuer = (params.flags & kSingleIssuer) != 0;
        features_.coop_taskrun = (params.flags & kCoopTaskrun) != 0;
        features_.submit_all = (params.flags & kSubmitAll) != 0;
        features_.sq_entries = params.sq_entries;
        features_.cq_entries = params.cq_entries;
        return absl::OkStatus();
      }
      if (error_number == EINTR) continue;
      if (error_number == EINVAL) {
        ++attempt;
      } else if (error_number == ENOMEM && sq_entries > kSqEntriesMin) {
        sq_entries /= 2;
        capacity = std::min(capacity, 4 * sq_entries - kCqSlack);
      } else {
        return SetupError(error_number, sq_entries, cq_entries);
      }
    }
    return SetupError(error_number, sq_entries, 4 * sq_entries);
  }

  // The table of direct descriptors; it may not be larger than RLIMIT_NOFILE (io_uring_register(2)).
  absl::Status RegisterFiles(uint32_t& capacity) {
    while (true) {
      const int error_number = -::io_uring_register_files_sparse(&ring_, capacity);
      if (error_number == 0) return absl::OkStatus();
      if (error_number == EINTR) continue;
      if ((error_number == EMFILE || error_number == ENOMEM) && capacity > kSqEntriesMin) {
        capacity /= 2;
        continue;
      }
      if (error_number == EMFILE) {
        return absl::ResourceExhaustedError(absl::StrCat("io_uring_register of ", capacity,
                                                         " direct descriptors: ", ErrnoText(error_number), ". RLIMIT_NOFILE is ",
                                                         LimitOf(RLIMIT_NOFILE), ": raise it (ulimit -n)"));
      }
      if (error_number == EPERM || error_number == ENOSYS) {
        return absl::UnavailableError(absl::StrCat("io_uring_register: ", ErrnoText(error_number),
                                                   ": a security policy forbids it; allow io_uring_setup, io_uring_enter and "
                                                   "io_uring_register in the profile, or use engine=threads"));
      }
      return absl::UnavailableError(
          absl::StrCat("io_uring_register of direct descriptors: ", ErrnoText(error_number), ": it needs Linux 5.19; use engine=threads"));
    }
  }

  // The first call of the owning thread.
  absl::Status Begin() {
    if (begun_) return broken_ == 0 ? absl::OkStatus() : BrokenStatus();
    if (fork_guard_.InForkedChild()) {
      return absl::FailedPreconditionError("this ring belongs to the parent process; open a new loader after fork()");
    }
    begun_ = true;
    if (disabled_) {
      // liburing 2.3 declares io_uring_enable_rings and does not export it.
      if (::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0) {
        Break(errno);
        return BrokenStatus();
      }
    }
    ::io_uring_register_ring_fd(&ring_);  // saves the kernel a look-up per call; at most 16 per thread, so it may fail
    return absl::OkStatus();
  }

  // Turns waiting work into SQEs, as long as there is room.
  void FillSq() {
    if (todo_.empty() && cancels_.empty()) return;
    const int64_t now_ns = MonotonicNs();
    unsigned room = ::io_uring_sq_space_left(&ring_);
    while (!todo_.empty()) {
      if (room < 2) return;  // a read may have an fadvise before it
      --room;
      io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
      const uint32_t index = todo_.Pop();
      Slot& slot = slots_[index];
      const Request& request = slot.progress.request();
      if (slot.state == Slot::State::kOpening) {
        if (slot.open_start_ns == 0) slot.open_start_ns = now_ns;
        const int flags = OpenFlags(request.kind, slot.progress.direct());
        if (slot.plain) {
          ::io_uring_prep_openat(sqe, slot.target.dir_fd, slot.target.path, flags | O_CLOEXEC, 0);
        } else {
          ::io_uring_prep_openat_direct(sqe, slot.target.dir_fd, slot.target.path, flags, 0, index);  // O_CLOEXEC would be EINVAL
        }
        slot.user_data = UserData(Op::kOpen, index, slot.generation);
      } else if (slot.state == Slot::State::kStatting) {
        ::io_uring_prep_statx(sqe, slot.target.dir_fd, slot.target.path, AT_NO_AUTOMOUNT, STATX_TYPE | STATX_MTIME,
                              AttributesOf(index));
        slot.user_data = UserData(Op::kStat, index, slot.generation);
      } else {
        if (slot.transfer_start_ns == 0) slot.transfer_start_ns = now_ns;
        const int file = slot.file >= 0 ? slot.file : static_cast<int>(index);
        if (request.kind == RequestKind::kSync) {
          ::io_uring_prep_fsync(sqe, file, 0);
        } else {
          const Chunk chunk = slot.progress.NextChunk(options_.read_bytes_max);
          if (request.kind == RequestKind::kRead) {
            const bool buffered = !slot.progress.direct();
            if (buffered && !slot.tried_nowait) {
              slot.tried_nowait = true;
              // Where the object should end at a page's border a try proves no end and costs a second one: now and then, to know.
              slot.nowait = slot.progress.NeedsAtBorder() ? border_turn_++ % kBorderTry == 0 : nowait_skip_ == 0;
              nowait_skip_ -= nowait_skip_ > 0 ? 1 : 0;
            }
            if (buffered && slot.file < 0 && !slot.gated) {
              slot.gated = true;
              --room;
              ::io_uring_prep_fadvise(sqe, file, 0, 0, POSIX_FADV_NORMAL);
              sqe->flags |= IOSQE_FIXED_FILE | kCqeSkipSuccess;
              sqe->user_data = UserData(Op::kGate, index, slot.generation);
              sqe = ::io_uring_get_sqe(&ring_);
            }
            if (chunk.beyond_bytes > 0) {
              if (places_.empty()) places_.resize(slots_.size());
              places_[index] = {iovec{chunk.address, chunk.length_bytes}, iovec{BeyondPlace(), chunk.beyond_bytes}};
              ::io_uring_prep_readv(sqe, file, places_[index].data(), 2, chunk.offset_bytes);
            } else {
              ::io_uring_prep_read(sqe, file, chunk.address, chunk.length_bytes, chunk.offset_bytes);
            }
            if (buffered && slot.nowait) sqe->rw_flags = RWF_NOWAIT;
          } else {
            ::io_uring_prep_write(sqe, file, chunk.address, chunk.length_bytes, chunk.offset_bytes);
          }
        }
        if (slot.file < 0) sqe->flags |= IOSQE_FIXED_FILE;
        slot.user_data = UserData(Op::kTransfer, index, slot.generation);
      }
      sqe->user_data = slot.user_data;
      slot.in_kernel = true;
    }
    while (!cancels_.empty()) {
      io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring_);
      if (sqe == nullptr) return;
      ::io_uring_prep_cancel64(sqe, cancels_.back(), 0);
      sqe->user_data = UserData(Op::kIgnore, 0, 0);
      cancels_.pop_back();
    }
  }

  // One io_uring_enter: hands over what FillSq placed, runs waiting completions and, if `wait`, sleeps for one. EINTR and a passed
  // timeout are no errors; EAGAIN and EBUSY are counted and returned; anything else breaks the ring.
  int Enter(bool wait, int64_t timeout_ns) {
    if (::io_uring_sq_ready(&ring_) > 0) ++counters_.submissions;
    int result;
    if (wait) {
      io_uring_cqe* cqe = nullptr;
      __kernel_timespec timeout{timeout_ns / kNsPerSecond, timeout_ns % kNsPerSecond};
      result = ::io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &timeout, nullptr);
    } else {
      result = ::io_uring_submit_and_get_events(&ring_);
    }
    if (result >= 0 || result == -ETIME || result == -EINTR) return 0;
    if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM) {
      ++counters_.busy;
      return result == -ENOMEM ? -EAGAIN : result;
    }
    Break(-result);
    return result;
  }

  bool NeedsEnter() const {
    return (__atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0;
  }

  void ProcessCompletions() {
    const unsigned waiting = ::io_uring_cq_ready(&ring_);
    if (waiting == 0) return;
    const int64_t now_ns = MonotonicNs();
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(&ring_, head, cqe) {
      ++count;
      const uint32_t index = SlotOf(cqe->user_data);
      switch (OpOf(cqe->user_data)) {
        case Op::kOpen: OnOpen(index, cqe->res); break;
        case Op::kTransfer: OnTransfer(index, cqe->res, now_ns); break;
        case Op::kWake: OnWake(); break;
        case Op::kIgnore: break;
        case Op::kStat: OnStat(index, cqe->res); break;
        case Op::kGate: OnGate(index, GenerationOf(cqe->user_data), cqe->res); break;
        case Op::kLook: OnLook(index, GenerationOf(cqe->user_data), cqe->res); break;
      }
      if (count == waiting) break;  // the clock was read for these
    }
    ::io_uring_cq_advance(&ring_, count);
  }

  Slot& Arrived(uint32_t index) {
    PENSTOCK_CHECK(index < slots_.size() && slots_[index].in_kernel, "a completion came that nothing was submitted for");
    slots_[index].in_kernel = false;
    return slots_[index];
  }

  // Asks an ordinary descriptor. False: it is no regular file, and the request has failed.
  bool IsFile(Slot& slot) {
    uint32_t mode = 0;
    if (const int error_number = FileTypeOf(slot.file, mode); error_number != 0) {
      slot.progress.Fail(error_number, RequestStage::kOpen);
      return false;
    }
    slot.type_unknown = false;
    if (!S_ISREG(mode)) slot.progress.FailAsNoFile(mode);
    return S_ISREG(mode);
  }

  void OnOpen(uint32_t index, int result) {
    Slot& slot = Arrived(index);
    if (slot.plain) {
      slot.plain = false;
      const bool keep = std::exchange(slot.keep, false);
      if (result >= 0) {
        slot.file = result;
        const bool is_file = slot.progress.request().kind != RequestKind::kRead || IsFile(slot);
        if (keep && is_file) {
          slot.entry = open_files_->Keep(slot.progress.request().object, slot.file);
        } else if (keep) {
          open_files_->Unreserve();
        }
        if (!is_file) return Finish(index);
      } else {
        if (keep) open_files_->Unreserve();
        if ((result == -EMFILE || result == -ENFILE) && !slot.cancelled) {
          // It goes on with a direct descriptor, which takes none of the process's.
          if (open_files_ != nullptr) static_cast<void>(open_files_->Shed());
          return todo_.Push(index);
        }
      }
    } else if (result >= 0) {
      occupied_count_ += occupied_[index] < 0 ? 1 : 0, occupied_[index] = 0;
    } else if (result == -ENFILE && open_files_ != nullptr && !slot.cancelled && open_files_->Shed()) {
      return todo_.Push(index);
    }
    if (slot.cancelled) {
      slot.progress.Fail(ECANCELED, RequestStage::kOpen);
      return Finish(index);
    }
    if (result < 0) {
      if (slot.progress.OpenFallsBack(-result) || slot.progress.OpenRetries(-result)) return todo_.Push(index);
      slot.progress.Fail(-result, RequestStage::kOpen);
      return Finish(index);
    }
    if (!slot.progress.HasTransfer()) return Finish(index);
    slot.state = Slot::State::kTransferring;
    todo_.Push(index);
  }

  void OnTransfer(uint32_t index, int result, int64_t now_ns) {
    Slot& slot = Arrived(index);
    slot.end_ns = now_ns;
    if (slot.no_file_mode != 0) {
      slot.progress.FailAsNoFile(slot.no_file_mode);
      return Finish(index);
    }
    if (result < 0 && slot.nowait && !slot.cancelled && (result == -EAGAIN || result == -EOPNOTSUPP)) {
      // EAGAIN: it is not in the page cache, and then the next ones are not either. EOPNOTSUPP: not on this file system.
      slot.nowait = false;
      if (result == -EAGAIN) slot.progress.SetInMemory(false);
      nowait_misses_ = result == -EAGAIN ? std::min(2 * nowait_misses_ + 1, kNowaitSkipMax) : kNowaitSkipMax;
      nowait_skip_ = nowait_misses_;
      return todo_.Push(index);
    }
    if (slot.cancelled && (result == -EINTR || result == -EAGAIN)) result = -ECANCELED;
    const Progress::Ends ends = slot.nowait                                    ? Progress::Ends::kAnywhere
                                : slot.file < 0 && !slot.progress.direct() ? Progress::Ends::kAnywhereIfZero
                                                                           : Progress::Ends::kAtEnd;
    Progress::Next next = slot.progress.Advance(result, ends);
    if (next != Progress::Next::kDone && slot.cancelled) {
      slot.progress.Fail(ECANCELED, RequestStage::kTransfer);
      next = Progress::Next::kDone;
    }
    if (next == Progress::Next::kDone) {
      if (slot.nowait) {
        nowait_misses_ = 0;
        slot.progress.SetInMemory(true);
      }
      const bool type_unknown = (slot.type_unknown || (slot.file < 0 && slot.progress.Longer())) && slot.progress.error_number() == 0;
      if (slot.cancelled || !(slot.progress.WantsMtime() || type_unknown)) return Finish(index);
      if (slot.found_open) return Finish(index);
      slot.state = Slot::State::kStatting;
      return todo_.Push(index);
    }
    if (next == Progress::Next::kReopenBuffered) {
      LetGo(slot);
      if (slot.found_open) {
        // It was found open, so that its name was not needed up to now.
        slot.found_open = false;
        absl::StatusOr<OpenTarget> target = store_.Target(slot.progress.request().object, slot.scratch);
        if (!target.ok()) {
          slot.progress.Fail(StatusToErrno(target.status()), RequestStage::kOpen);
          return Finish(index);
        }
        slot.target = *target;
      }
      slot.state = Slot::State::kOpening;
      slot.plain = slot.progress.request().check_type;
      slot.type_unknown = slot.plain;
      slot.gated = false;
    }
    todo_.Push(index);
  }

  void OnStat(uint32_t index, int result) {
    Slot& slot = Arrived(index);
    if (slot.cancelled && result < 0) {
      slot.progress.Fail(ECANCELED, RequestStage::kTransfer);
    } else if (result < 0) {
      if (slot.progress.OpenRetries(-result)) return todo_.Push(index);
      slot.progress.Fail(-result, RequestStage::kOpen);  // by path, as an open
    } else if (!S_ISREG(attributes_[index].stx_mode)) {
      slot.progress.FailAsNoFile(attributes_[index].stx_mode);
    } else {
      slot.progress.SetMtime(attributes_[index].stx_mtime.tv_sec, attributes_[index].stx_mtime.tv_nsec);
    }
    Finish(index);
  }

  // Only an error comes, and before the read's own completion: it ends within the submission, ahead of the read.
  void OnGate(uint32_t index, uint64_t generation, int result) {
    Slot& slot = slots_[index];
    if (generation != GenerationOf(UserData(Op::kGate, index, slot.generation)) || result >= 0 || !slot.in_kernel) return;
    if (result != -ESPIPE) {
      slot.type_unknown = true;  // the file system does not know the question: the file is asked by its name in the end
      return;
    }
    slot.no_file_mode = S_IFIFO;
    if (!slot.nowait && !slot.cancelled) cancels_.push_back(slot.user_data);
  }

  void OnLook(uint32_t index, uint64_t generation, int result) {
    Slot& slot = slots_[index];
    --looks_pending_;
    slot.looking = false;
    if (generation != GenerationOf(UserData(Op::kLook, index, slot.generation)) || !slot.in_kernel || slot.cancelled) return;
    if (slot.state != Slot::State::kTransferring || result < 0 || S_ISREG(looks_[index].attributes.stx_mode)) return;
    slot.no_file_mode = looks_[index].attributes.stx_mode;
    cancels_.push_back(slot.user_data);
  }

  // A read of a terminal or the like waits for input, perhaps for good. Each read is asked about once.
  void LookAtLate(int64_t now_ns) {
    if (now_ns - looked_ns_ < kLookNs / 4) return;
    looked_ns_ = now_ns;
    for (uint32_t index = 0; index < slots_.size(); ++index) {
      Slot& slot = slots_[index];
      if (!slot.in_kernel || slot.state != Slot::State::kTransferring || slot.file >= 0 || slot.cancelled) continue;
      if (slot.looking || slot.looked_generation == slot.generation || now_ns - slot.transfer_start_ns < kLookNs) continue;
      if (slot.progress.request().kind != RequestKind::kRead || ::io_uring_sq_space_left(&ring_) < 2) continue;
      if (looks_ == nullptr) looks_ = std::make_unique<Look[]>(slots_.size());
      looks_[index].path = slot.target.path;  // the slot may be another request's before this is handed over
      io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring_);
      ::io_uring_prep_statx(sqe, slot.target.dir_fd, looks_[index].path.c_str(), AT_NO_AUTOMOUNT, STATX_TYPE,
                            &looks_[index].attributes);
      sqe->user_data = UserData(Op::kLook, index, slot.generation);
      slot.looking = true;
      slot.looked_generation = slot.generation;
      ++looks_pending_;
    }
  }

  struct statx* AttributesOf(uint32_t index) {
    if (attributes_.empty()) attributes_.resize(slots_.size());
    return &attributes_[index];
  }

  void OnWake() {
    wake_armed_ = false;
    uint64_t count;
    [[maybe_unused]] const ssize_t bytes = ::read(wake_fd_.get(), &count, sizeof count);
  }

  void ArmWake() {
    if (wake_armed_) return;
    io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return;  // full: it goes with the next round, which comes as soon as these are submitted
    ::io_uring_prep_poll_add(sqe, wake_fd_.get(), POLLIN);
    sqe->user_data = UserData(Op::kWake, 0, 0);
    wake_armed_ = true;
  }

  // Whether the slot's request is one whose file may be found open, or be kept.
  // The request needs its file no more.
  void LetGo(Slot& slot) {
    if (slot.keep) {
      open_files_->Unreserve();
      slot.keep = false;
    }
    if (slot.file < 0) return;
    if (slot.entry >= 0) {
      if (slot.progress.Spoiled()) open_files_->Drop(slot.entry);
      open_files_->Release(slot.entry);
    } else {
      ::close(slot.file);
    }
    slot.file = slot.entry = -1;
  }

  void Finish(uint32_t index) {
    Slot& slot = slots_[index];
    LetGo(slot);
    if (slot.end_ns == 0 && slot.open_start_ns != 0) slot.end_ns = MonotonicNs();
    slot.state = Slot::State::kReady;
    ready_.Push(index);
  }

  // All at once, when nothing is in flight: an open file blocks an unmount and keeps state on a file server.
  void CloseFiles() {
    if (occupied_count_ == 0) return;
    for (int& file : occupied_) file = -1;
    ::io_uring_register_files_update(&ring_, 0, occupied_.data(), static_cast<unsigned>(occupied_.size()));
    occupied_count_ = 0;
  }

  // No call on this ring will succeed again. What the kernel has taken stays in flight: it may still write. The rest ends here.
  void Break(int error_number) {
    broken_ = error_number;
    const unsigned mask = *ring_.sq.kring_mask;
    for (unsigned i = ::io_uring_sq_ready(&ring_), tail = ring_.sq.sqe_tail; i > 0; --i) {
      const uint64_t user_data = ring_.sq.sqes[(tail - i) & mask].user_data;
      if (OpOf(user_data) == Op::kLook) --looks_pending_;
      if (OpOf(user_data) != Op::kOpen && OpOf(user_data) != Op::kTransfer && OpOf(user_data) != Op::kStat) continue;
      const uint32_t index = SlotOf(user_data);
      Slot& slot = Arrived(index);
      slot.progress.Fail(error_number, OpOf(user_data) == Op::kOpen ? RequestStage::kOpen : RequestStage::kTransfer);
      Finish(index);
    }
    while (!todo_.empty()) {
      const uint32_t index = todo_.Pop();
      Slot& slot = slots_[index];
      slot.progress.Fail(error_number, slot.state == Slot::State::kOpening ? RequestStage::kOpen : RequestStage::kTransfer);
      Finish(index);
    }
    cancels_.clear();
  }

  absl::Status BrokenStatus() const {
    return IoError(broken_, absl::StrCat("io_uring_enter with ", in_flight() - ready_.size(), " requests in flight"));
  }

  const ObjectStore& store_;
  const RingOptions options_;
  OpenFiles* const open_files_;  // null: no file is kept open
  const ForkGuard fork_guard_;
  io_uring ring_{};
  bool made_ = false;
  bool disabled_ = false;
  bool begun_ = false;
  int broken_ = 0;
  UringFeatures features_;
  RingCounters counters_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;     // the last one freed goes out first
  IndexQueue todo_;                // slots that want an SQE
  IndexQueue ready_;               // slots to be reaped
  std::vector<uint64_t> cancels_;  // user_data of SQEs to cancel
  std::vector<struct statx> attributes_;  // per slot; empty until they are wanted
  std::vector<std::array<iovec, 2>> places_;  // per slot, of a read that asks beyond its place; empty until one does
  std::unique_ptr<Look[]> looks_;             // per slot, of LookAtLate
  int64_t looks_pending_ = 0;
  int64_t looked_ns_ = 0;
  uint32_t nowait_skip_ = 0;    // so many reads go without a try that does not wait
  uint32_t border_turn_ = 0;
  uint32_t nowait_misses_ = 0;  // how many were left out after the last one that failed
  std::vector<int> occupied_;      // per direct descriptor: 0 if a file is in it, -1 if not
  size_t occupied_count_ = 0;
  UniqueFd wake_fd_;
  bool wake_armed_ = false;
  std::atomic<bool> wake_pending_{false};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ring>> MakeUringRing(const ObjectStore& store, const RingOptions& options, UringFeatures* features) {
  auto ring = std::make_unique<UringRing>(store, options);
  if (absl::Status status = ring->Init(); !status.ok()) return status;
  if (features != nullptr) *features = ring->features();
  return std::unique_ptr<Ring>(std::move(ring));
}

}  // namespace penstock
