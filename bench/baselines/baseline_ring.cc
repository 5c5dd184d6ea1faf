// How fast is the whole job with a few io_uring rings, one to a thread? Each file takes separate steps: open, read, close. Opens go
// through the ring into a table of direct descriptors whose index we choose (--open=ring), or are ordinary openat(2) on the ring's
// thread with only the reads in the ring (--open=syscall). Or all files are opened before the first epoch and stay open, as ordinary
// descriptors (--open=keep) or as registered ones (--open=keep-registered). Bound by memory copies (warm, large files), by the path
// look-up and the ring's own work (warm, small files), by the drive (cold).
#include <fcntl.h>
#include <liburing.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "args.h"
#include "base/align.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "job.h"

namespace penstock::bench {
namespace {

enum class OpenBy { kRing, kSyscall, kKeep, kKeepRegistered };
enum class CloseBy {
  kEach,     // a close of its own for each file; its slot is used again when that has completed
  kReplace,  // the next open into the slot replaces the file, and the end of the ring closes the last ones
};

struct RingOptions {
  OpenBy open_by = OpenBy::kRing;
  CloseBy close_by = CloseBy::kEach;
  int64_t depth = 64;         // files under way in one ring
  int64_t submit_most = 32;   // entries given to the kernel at a time
  int64_t reap_least = 1;     // completions waited for, where as many are under way
  int64_t read_most = 0;      // bytes of one read
  int64_t workers = 0;        // io-wq workers of one ring; 0: the kernel's default
  bool registered_buffers = false;
};

int OpenFlags(const Job& job) { return O_RDONLY | (job.options().direct ? O_DIRECT : 0); }

// Lets the process have `files` files open beside its other descriptors: raises the soft limit, as far as the hard one allows.
void AllowOpenFiles(int64_t files, int64_t others) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const auto need = static_cast<rlim_t>(files + others);
  if (limit.rlim_cur >= need) return;
  limit.rlim_cur = limit.rlim_max;
  if (limit.rlim_max < need || ::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    Die("%" PRId64 " files are to be open at a time, beside %" PRId64 " other descriptors; the hard RLIMIT_NOFILE is %" PRIu64
        ": raise it (ulimit -Hn), or read fewer files",
        files, others, static_cast<uint64_t>(limit.rlim_max));
  }
}

// The folders, a descriptor or two for each ring, the standard ones and what the caller left us.
int64_t OtherDescriptors(const Job& job, int64_t rings) { return static_cast<int64_t>(job.list().folders.size()) + 2 * rings + 32; }

// All files of the list, by their numbers.
std::vector<UniqueFd> OpenAll(const Job& job, int64_t rings) {
  const FileList& list = job.list();
  AllowOpenFiles(static_cast<int64_t>(list.files.size()), OtherDescriptors(job, rings));
  std::vector<UniqueFd> files;
  files.reserve(list.files.size());
  for (uint32_t id = 0; id < list.files.size(); ++id) {
    files.emplace_back(::openat(list.FolderFd(id), list.Name(id), OpenFlags(job) | O_CLOEXEC));
    if (!files.back().valid()) Die("open %s: %s", list.Name(id), std::strerror(errno));
  }
  return files;
}

// Files that threads of their own open ahead of the rings (--openers), as far as there are batch buffers.
class Openers {
 public:
  struct File {
    Batch* batch;
    Batch::Sample* sample;
    int fd;
  };

  Openers(Job& job, int64_t threads) : job_(job), running_(threads) {}

  // The body of one opener thread.
  void Run() {
    for (;;) {
      const Claim claim = job_.Next(kClaimMost, /*wait=*/true);
      if (claim.count == 0) break;
      for (int64_t i = claim.first; i < claim.first + claim.count; ++i) {
        Batch::Sample& sample = claim.batch->samples[static_cast<size_t>(i)];
        const char* name = job_.list().Name(sample.id);
        const int fd = ::openat(job_.list().FolderFd(sample.id), name, OpenFlags(job_) | O_CLOEXEC);
        if (fd < 0) Die("open %s: %s", name, std::strerror(errno));
        std::lock_guard lock(mutex_);
        opened_.push_back({claim.batch, &sample, fd});
        some_.notify_one();
      }
    }
    std::lock_guard lock(mutex_);
    --running_;
    some_.notify_all();
  }

  // Takes up to `most` open files. With `wait`, none means that all have been taken. Any ring.
  void Take(int64_t most, bool wait, std::vector<File>& taken) {
    taken.clear();
    std::unique_lock lock(mutex_);
    if (wait) some_.wait(lock, [&] { return !opened_.empty() || running_ == 0; });
    for (; most > 0 && !opened_.empty(); --most) {
      taken.push_back(opened_.front());
      opened_.pop_front();
    }
  }

 private:
  // Few, since they are opened one after another; the files of one folder are not together anyway.
  static constexpr int64_t kClaimMost = 4;

  Job& job_;
  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<File> opened_;
  int64_t running_;
};

// A ring is made by the main thread, before the clock starts, and belongs to the thread that calls Run().
class RingReader {
 public:
  // `kept`: every file of the list, where they are kept open. `openers`: null where the ring's own thread opens.
  RingReader(Job& job, const RingOptions& options, const std::vector<UniqueFd>& kept, Openers* openers)
      : job_(job),
        options_(options),
        kept_(kept),
        openers_(openers),
        registered_files_(options.open_by == OpenBy::kRing || options.open_by == OpenBy::kKeepRegistered),
        open_flags_(OpenFlags(job)),
        alignment_(job.options().direct ? job.options().alignment : 1),
        slots_(static_cast<size_t>(options.depth)) {
    io_uring_params params = {};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
                   IORING_SETUP_R_DISABLED;  // until Run() enables it, whose thread is the single issuer then
    const auto entries = static_cast<unsigned>(std::max(options.depth, options.submit_most));
    int result = ::io_uring_queue_init_params(entries, &ring_, &params);
    if (result == -EINVAL) {  // before Linux 6.1
      params = {};
      params.flags = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
      result = ::io_uring_queue_init_params(entries, &ring_, &params);
    }
    if (result < 0) Die("io_uring_setup: %s", std::strerror(-result));
    if (registered_files_) RegisterFiles();
    if (options.registered_buffers) RegisterBuffers();
    if (options.workers > 0) {
      // Both classes, the unbounded one too.
      unsigned most[2] = {static_cast<unsigned>(options.workers), static_cast<unsigned>(options.workers)};
      ::io_uring_register_iowq_max_workers(&ring_, most);
    }
    for (size_t i = slots_.size(); i-- > 0;) free_.push_back(static_cast<uint32_t>(i));
  }
  ~RingReader() { ::io_uring_queue_exit(&ring_); }
  RingReader(const RingReader&) = delete;
  RingReader& operator=(const RingReader&) = delete;

  void Run() {
    // liburing 2.3 declares io_uring_enable_rings and does not export it.
    if (::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0) {
      Die("io_uring_register, to enable a ring: %s", std::strerror(errno));
    }
    // Saves looking the ring's descriptor up on every call; not having it changes nothing else.
    ::io_uring_register_ring_fd(&ring_);
    for (;;) {
      Start();
      if (under_way_ == 0) break;
      const unsigned wait_for = static_cast<unsigned>(std::min(options_.reap_least, under_way_));
      Submit(wait_for);
      Reap();
    }
    ::io_uring_unregister_ring_fd(&ring_);  // the main thread, which ends the ring, has no such number
  }

 private:
  enum Step : uint64_t { kOpen, kRead, kClose };
  struct Slot {
    Batch* batch = nullptr;
    Batch::Sample* sample = nullptr;
    int64_t got = 0;
    int fd = -1;  // an ordinary descriptor, or the index of a registered one
  };

  // With files opened by the ring, a place for each slot; with files kept open, one for each file, and the files themselves.
  void RegisterFiles() {
    const int64_t places = options_.open_by == OpenBy::kRing ? options_.depth : static_cast<int64_t>(kept_.size());
    int result = ::io_uring_register_files_sparse(&ring_, static_cast<unsigned>(places));
    if (result < 0) {
      Die("io_uring_register_files_sparse of %" PRId64 ": %s. RLIMIT_NOFILE and 2^20 bound such a table", places, std::strerror(-result));
    }
    if (options_.open_by == OpenBy::kRing) return;
    std::vector<int> files;
    for (const UniqueFd& file : kept_) files.push_back(file.get());
    for (size_t done = 0; done < files.size(); done += static_cast<size_t>(result)) {
      result = ::io_uring_register_files_update(&ring_, static_cast<unsigned>(done), files.data() + done,
                                                static_cast<unsigned>(files.size() - done));
      if (result <= 0) Die("io_uring_register_files_update of %zu files: %s", files.size(), std::strerror(-result));
    }
  }

  void RegisterBuffers() {
    const std::vector<iovec> buffers = job_.Buffers();
    if (buffers[0].iov_len > 1 << 30) {  // io_uring_register_buffers(3)
      Die("--registered-buffers: a batch buffer of %zu bytes is more than the 1 GiB that the kernel registers at a time: use a smaller "
          "--batch",
          buffers[0].iov_len);
    }
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_MEMLOCK, &limit);
    const int result = ::io_uring_register_buffers(&ring_, buffers.data(), static_cast<unsigned>(buffers.size()));
    if (result < 0) {
      Die("io_uring_register_buffers of %zu buffers of %zu bytes: %s. RLIMIT_MEMLOCK is %" PRIu64
          " bytes, of which each ring takes the size of all buffers: raise it (ulimit -Hl), grant CAP_IPC_LOCK, or use fewer --rings and "
          "--buffers",
          buffers.size(), buffers[0].iov_len, std::strerror(-result), static_cast<uint64_t>(limit.rlim_max));
    }
  }

  // Takes files that are open already, for the free slots.
  void StartOpened() {
    while (!free_.empty()) {
      openers_->Take(std::min<int64_t>(static_cast<int64_t>(free_.size()), options_.submit_most), under_way_ == 0, opened_);
      if (opened_.empty()) return;
      for (const Openers::File& file : opened_) {
        const uint32_t index = free_.back();
        free_.pop_back();
        slots_[index] = {file.batch, file.sample, 0, file.fd};
        PrepareRead(index);  // of an empty file too
      }
    }
  }

  // Claims samples for the free slots and sends each on its way.
  void Start() {
    if (openers_ != nullptr) return StartOpened();
    while (!free_.empty()) {
      // Waiting for a buffer is right only with nothing under way: a buffer may be waiting for us.
      const bool idle = under_way_ == 0;
      const Claim claim = job_.Next(std::min<int64_t>(static_cast<int64_t>(free_.size()), options_.submit_most), idle);
      if (claim.count == 0) return;
      for (int64_t i = claim.first; i < claim.first + claim.count; ++i) {
        Batch::Sample& sample = claim.batch->samples[static_cast<size_t>(i)];
        if (sample.bytes == 0) {
          sample.got_bytes = 0;
          job_.Done(*claim.batch, 1);
          continue;
        }
        const uint32_t index = free_.back();
        free_.pop_back();
        Slot& slot = slots_[index] = {claim.batch, &sample, 0, -1};
        switch (options_.open_by) {
          case OpenBy::kRing: slot.fd = static_cast<int>(index), PrepareOpen(index); break;
          case OpenBy::kSyscall: OpenNow(index); break;
          case OpenBy::kKeep: slot.fd = kept_[sample.id].get(), PrepareRead(index); break;
          case OpenBy::kKeepRegistered: slot.fd = static_cast<int>(sample.id), PrepareRead(index); break;
        }
      }
    }
  }

  // The caller sets the data after its io_uring_prep_*, which in some versions of liburing clears it.
  static uint64_t Data(uint32_t index, Step step) { return uint64_t{index} << 2 | step; }

  io_uring_sqe* Entry() {
    // So far so many are ready: the kernel works on them while we make more.
    if (static_cast<int64_t>(::io_uring_sq_ready(&ring_)) >= options_.submit_most) Submit(0);
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    while (entry == nullptr) {
      Submit(0);
      entry = ::io_uring_get_sqe(&ring_);
    }
    ++under_way_;
    return entry;
  }

  void PrepareOpen(uint32_t index) {
    io_uring_sqe* entry = Entry();
    const uint32_t id = slots_[index].sample->id;
    // O_CLOEXEC is refused for a direct descriptor (io_uring_prep_openat_direct(3)).
    ::io_uring_prep_openat_direct(entry, job_.list().FolderFd(id), job_.list().Name(id), open_flags_, 0, index);
    entry->user_data = Data(index, kOpen);
  }

  void OpenNow(uint32_t index) {
    Slot& slot = slots_[index];
    const char* name = job_.list().Name(slot.sample->id);
    slot.fd = ::openat(job_.list().FolderFd(slot.sample->id), name, open_flags_ | O_CLOEXEC);
    if (slot.fd < 0) Die("open %s: %s", name, std::strerror(errno));
    PrepareRead(index);
  }

  void PrepareRead(uint32_t index) {
    io_uring_sqe* entry = Entry();
    const Slot& slot = slots_[index];
    // A direct read asks for whole blocks, and its place has room for them; the end of the file cuts it short.
    const int64_t missing = std::min(slot.sample->bytes - slot.got, options_.read_most);
    const uint64_t want = AlignUp(static_cast<uint64_t>(missing), static_cast<uint64_t>(alignment_));
    char* const to = slot.batch->buffer + slot.sample->offset + slot.got;
    if (options_.registered_buffers) {
      ::io_uring_prep_read_fixed(entry, slot.fd, to, static_cast<unsigned>(want), static_cast<uint64_t>(slot.got),
                                 static_cast<int>(slot.batch->buffer_index));
    } else {
      ::io_uring_prep_read(entry, slot.fd, to, static_cast<unsigned>(want), static_cast<uint64_t>(slot.got));
    }
    if (registered_files_) entry->flags |= IOSQE_FIXED_FILE;
    entry->user_data = Data(index, kRead);
  }

  void PrepareClose(uint32_t index) {
    io_uring_sqe* entry = Entry();
    ::io_uring_prep_close_direct(entry, index);
    entry->user_data = Data(index, kClose);
  }

  void Submit(unsigned wait_for) {
    const int result = wait_for > 0 ? ::io_uring_submit_and_wait(&ring_, wait_for) : ::io_uring_submit(&ring_);
    if (result >= 0 || result == -EINTR) return;
    if (result == -EAGAIN || result == -EBUSY) {  // the completion queue is full, or memory is short: make room first
      Reap();
      return;
    }
    Die("io_uring_enter: %s", std::strerror(-result));
  }

  void Reap() {
    // Collected first: handling a completion may submit, and reap again inside.
    io_uring_cqe* cqes[64];
    unsigned count;
    while ((count = ::io_uring_peek_batch_cqe(&ring_, cqes, 64)) > 0) {
      struct {
        uint64_t data;
        int result;
      } completed[64];
      for (unsigned i = 0; i < count; ++i) completed[i] = {cqes[i]->user_data, cqes[i]->res};
      ::io_uring_cq_advance(&ring_, count);
      under_way_ -= count;
      for (unsigned i = 0; i < count; ++i) {
        Handle(static_cast<uint32_t>(completed[i].data >> 2), static_cast<Step>(completed[i].data & 3), completed[i].result);
      }
    }
  }

  void Handle(uint32_t index, Step step, int result) {
    Slot& slot = slots_[index];
    if (step == kClose) {
      if (result < 0) Die("close of direct descriptor %u: %s", index, std::strerror(-result));
      free_.push_back(index);
      return;
    }
    const char* name = job_.list().Name(slot.sample->id);
    if (result == -EINTR || result == -EAGAIN) {
      step == kOpen ? PrepareOpen(index) : PrepareRead(index);
      return;
    }
    if (result < 0) Die("%s %s: %s", step == kOpen ? "open" : "read", name, std::strerror(-result));
    if (step == kOpen) {
      PrepareRead(index);
      return;
    }
    slot.got += result;
    // A direct read that stops within a block has met the end of the file; the consumer names the shortfall.
    if (result > 0 && slot.got < slot.sample->bytes && slot.got % alignment_ == 0) {
      PrepareRead(index);
      return;
    }
    slot.sample->got_bytes = slot.got;
    job_.Done(*slot.batch, 1);
    if (options_.open_by == OpenBy::kRing && options_.close_by == CloseBy::kEach) {
      PrepareClose(index);
      return;
    }
    if (options_.open_by == OpenBy::kSyscall) ::close(slot.fd);
    free_.push_back(index);
  }

  Job& job_;
  const RingOptions options_;
  const std::vector<UniqueFd>& kept_;
  Openers* const openers_;
  const bool registered_files_;
  const int open_flags_;
  const int64_t alignment_;
  io_uring ring_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::vector<Openers::File> opened_;
  int64_t under_way_ = 0;  // entries made whose completions have not been reaped
};

constexpr char kUsage[] =
    "baseline_ring DIR [options]: shuffled epochs through io_uring, one ring to a thread, into batch buffers\n"
    "  --rings N         threads, each with a ring (2)\n"
    "  --depth N         files under way in each ring (64)\n"
    "  --open ring|syscall|keep|keep-registered   opens in the ring, or by openat(2) on its thread (ring); or all files are opened\n"
    "                    before the first epoch and stay open, as ordinary or as registered descriptors (RLIMIT_NOFILE: as many)\n"
    "  --close each|replace   with --open ring: a close for each file, or the next open replaces it (each)\n"
    "  --openers N       with --open syscall: N threads open files ahead of the rings (0: each ring's own thread does)\n"
    "  --registered-buffers   the batch buffers are registered with each ring, and read into by READ_FIXED (RLIMIT_MEMLOCK)\n"
    "  --submit N        entries given to the kernel at a time (32)\n"
    "  --reap N          completions waited for at a time (1)\n"
    "  --read-max SIZE   largest single read (512KiB with --direct, else 1GiB)\n"
    "  --workers N       limit of each ring's kernel workers (the kernel's default)\n";

int Main(int argc, char** argv) {
  const std::string usage = absl::StrCat(kUsage, kJobUsage);
  Args args(argc, argv, usage.c_str());
  RingOptions ring;
  const int64_t rings = args.Int("--rings", 2, 1, 1024);
  ring.depth = args.Int("--depth", 64, 1, 4096);
  const std::vector<std::string> opens = {"ring", "syscall", "keep", "keep-registered"};  // in the order of OpenBy
  const std::string open_by = args.Text("--open", "ring", opens);
  const std::string close_by = args.Text("--close", "each", {"each", "replace"});
  ring.open_by = static_cast<OpenBy>(std::find(opens.begin(), opens.end(), open_by) - opens.begin());
  ring.close_by = close_by == "each" ? CloseBy::kEach : CloseBy::kReplace;
  ring.submit_most = args.Int("--submit", 32, 1, 4096);
  ring.reap_least = args.Int("--reap", 1, 1, 4096);
  ring.read_most = args.Bytes("--read-max", 0);
  ring.workers = args.Int("--workers", 0, 0, 4096);
  const int64_t opener_threads = args.Int("--openers", 0, 0, 4096);
  if (opener_threads > 0 && ring.open_by != OpenBy::kSyscall) Die("--openers: wanted with --open syscall");
  ring.registered_buffers = args.Flag("--registered-buffers");
  Job job(ParseJobOptions(args));
  // The block layer splits longer direct reads, and io_uring hands split ones to a worker.
  if (ring.read_most == 0) ring.read_most = job.options().direct ? 512 << 10 : 1 << 30;
  if (ring.read_most % job.options().alignment != 0) Die("--read-max: wanted a multiple of %" PRId64, job.options().alignment);

  int64_t start_ns = MonotonicNs();
  std::vector<UniqueFd> kept;
  if (ring.open_by == OpenBy::kKeep || ring.open_by == OpenBy::kKeepRegistered) kept = OpenAll(job, rings);
  // As many as there are places in the batch buffers can be open at a time, with the one that each opener has in its hand.
  const int64_t places = job.options().batch_buffers * job.options().batch_samples;
  if (opener_threads > 0) AllowOpenFiles(places + opener_threads, OtherDescriptors(job, rings));
  const double open_seconds = static_cast<double>(MonotonicNs() - start_ns) / 1e9;
  start_ns = MonotonicNs();
  Openers openers(job, opener_threads);
  std::vector<std::unique_ptr<RingReader>> readers;
  for (int64_t i = 0; i < rings; ++i) {
    readers.push_back(std::make_unique<RingReader>(job, ring, kept, opener_threads > 0 ? &openers : nullptr));
  }
  // The rings' tables hold the files now.
  if (ring.open_by == OpenBy::kKeepRegistered) kept.clear();
  const double rings_seconds = static_cast<double>(MonotonicNs() - start_ns) / 1e9;
  return job.Run("baseline_ring",
                 {{"rings", absl::StrCat(rings)},
                  {"depth", absl::StrCat(ring.depth)},
                  {"open", absl::StrCat("\"", open_by, "\"")},
                  {"close", absl::StrCat("\"", close_by, "\"")},
                  {"submit", absl::StrCat(ring.submit_most)},
                  {"reap", absl::StrCat(ring.reap_least)},
                  {"read_max", absl::StrCat(ring.read_most)},
                  {"openers", absl::StrCat(opener_threads)},
                  {"registered_buffers", ring.registered_buffers ? "true" : "false"},
                  {"open_all_s", absl::StrFormat("%.4f", open_seconds)},
                  {"rings_s", absl::StrFormat("%.4f", rings_seconds)}},
                 rings + opener_threads, [&](int64_t i) { i < rings ? readers[static_cast<size_t>(i)]->Run() : openers.Run(); });
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Main(argc, argv); }
