// How fast is the whole job on packed records by hand: one file of records of one size, its blocks of neighbours shuffled, batches of
// records read into reused buffers on huge pages? By io_uring rings or by pread (one to a thread), neighbours in one read. Bound by the
// copy out of the page cache (warm), or by the drive (cold). --by memcpy is the copy limit itself: the same blocks from memory of the
// file's size into the same buffers.
//
// What it leaves out, and penstock has: batches in order, a consumer on another thread, errors, ragged places.
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "args.h"

namespace penstock::bench {
namespace {

constexpr int64_t kHugeBytes = 2 << 20;

struct Settings {
  std::string path, by;
  int64_t record_bytes = 4096, header_bytes = 0, batch = 256, block = 1, epochs = 1, threads = 2, depth = 64, buffers = 4, read_most = 0;
  bool direct = false;
  int64_t records = 0;
};

char* HugeMemory(int64_t bytes) {
  bytes = (bytes + kHugeBytes - 1) / kHugeBytes * kHugeBytes;
  void* memory = ::mmap(nullptr, static_cast<size_t>(bytes + kHugeBytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("mmap of %" PRId64 " bytes: %s", bytes, std::strerror(errno));
  char* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + kHugeBytes - 1) / kHugeBytes * kHugeBytes);
  ::madvise(aligned, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  std::memset(aligned, 1, static_cast<size_t>(bytes));
  return aligned;
}

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

class Packed {
 public:
  explicit Packed(const Settings& settings) : s_(settings), blocks_(static_cast<size_t>((s_.records + s_.block - 1) / s_.block)) {
    std::iota(blocks_.begin(), blocks_.end(), 0);
    batch_bytes_ = s_.batch * s_.record_bytes;
    buffer_bytes_ = (batch_bytes_ + kHugeBytes - 1) / kHugeBytes * kHugeBytes;
    memory_ = HugeMemory(buffer_bytes_ * s_.buffers * s_.threads);
    if (s_.by == "memcpy") source_ = HugeMemory(s_.header_bytes + s_.records * s_.record_bytes);
  }

  void Epoch(int64_t epoch) {
    std::mt19937_64 random(static_cast<uint64_t>(epoch) + 1);
    std::shuffle(blocks_.begin(), blocks_.end(), random);
    next_.store(0);
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < s_.threads; ++i) threads.emplace_back([this, i] { s_.by == "ring" ? RunRing(i) : RunSimply(i); });
    for (std::thread& thread : threads) thread.join();
  }
  int64_t bytes() const { return bytes_.load(); }
  int64_t reads() const { return reads_.load(); }
  uint64_t touched() const { return touched_.load(); }

 private:
  struct Read {
    int64_t offset, bytes;
    char* to;
  };
  // The reads of a batch: blocks (or parts, where a batch ends within one), shuffled already.
  bool Claim(int64_t thread, int64_t buffer, std::vector<Read>& reads) {
    const int64_t number = next_.fetch_add(1);
    int64_t position = number * s_.batch;
    const int64_t end = std::min(position + s_.batch, s_.records);
    if (position >= end) return false;
    reads.clear();
    char* to = memory_ + (thread * s_.buffers + buffer) * buffer_bytes_;
    while (position < end) {
      const int64_t block = blocks_[static_cast<size_t>(position / s_.block)];
      const int64_t in_block = position % s_.block;
      const int64_t first = block * s_.block + in_block;
      const int64_t count = std::min({s_.block - in_block, end - position, std::max<int64_t>(0, s_.records - first)});
      for (int64_t left = count * s_.record_bytes, at = s_.header_bytes + first * s_.record_bytes; left > 0;) {
        const int64_t part = std::min(left, s_.read_most);
        reads.push_back({at, part, to});
        at += part, to += part, left -= part;
      }
      position += std::max<int64_t>(1, std::min(s_.block - in_block, end - position));
    }
    return true;
  }
  void Consume(const std::vector<Read>& reads) {
    uint64_t sum = 0;
    int64_t bytes = 0;
    for (const Read& read : reads) {
      for (int64_t at = 0; at < read.bytes; at += s_.record_bytes) sum += static_cast<unsigned char>(read.to[at]);
      bytes += read.bytes;
    }
    touched_ += sum;
    bytes_ += bytes;
    reads_ += static_cast<int64_t>(reads.size());
  }
  int Open() const {
    const int fd = ::open(s_.path.c_str(), O_RDONLY | O_CLOEXEC | (s_.direct ? O_DIRECT : 0));
    if (fd < 0) Die("open %s: %s", s_.path.c_str(), std::strerror(errno));
    return fd;
  }

  void RunSimply(int64_t thread) {
    const int fd = s_.by == "memcpy" ? -1 : Open();
    std::vector<Read> reads;
    for (int64_t n = 0; Claim(thread, n % s_.buffers, reads); ++n) {
      for (const Read& read : reads) {
        if (fd < 0) {
          std::memcpy(read.to, source_ + read.offset, static_cast<size_t>(read.bytes));
        } else if (::pread(fd, read.to, static_cast<size_t>(read.bytes), read.offset) != read.bytes) {
          Die("pread of %" PRId64 " at %" PRId64 ": %s", read.bytes, read.offset, std::strerror(errno));
        }
      }
      Consume(reads);
    }
    if (fd >= 0) ::close(fd);
  }

  void RunRing(int64_t thread) {
    io_uring ring;
    io_uring_params params = {};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CLAMP;
    if (int result = ::io_uring_queue_init_params(static_cast<unsigned>(s_.depth), &ring, &params); result < 0) {
      Die("io_uring_setup: %s", std::strerror(-result));
    }
    ::io_uring_register_ring_fd(&ring);
    int fd = Open();
    if (::io_uring_register_files(&ring, &fd, 1) < 0) Die("io_uring_register_files");
    struct Batch {
      std::vector<Read> reads;
      size_t next = 0;
      int64_t missing = 0;
    };
    std::vector<Batch> batches(static_cast<size_t>(s_.buffers));
    std::vector<size_t> free;
    for (size_t i = batches.size(); i-- > 0;) free.push_back(i);
    std::vector<size_t> filling;  // claimed, not wholly submitted; at most one
    int64_t in_flight = 0;
    bool more = true;
    while (true) {
      while (in_flight < s_.depth) {
        if (filling.empty()) {
          if (!more || free.empty()) break;
          Batch& batch = batches[free.back()];
          if (!Claim(thread, static_cast<int64_t>(free.back()), batch.reads)) {
            more = false;
            break;
          }
          batch.next = 0;
          batch.missing = static_cast<int64_t>(batch.reads.size());
          filling.push_back(free.back());
          free.pop_back();
        }
        Batch& batch = batches[filling.back()];
        const Read& read = batch.reads[batch.next];
        io_uring_sqe* sqe = ::io_uring_get_sqe(&ring);
        if (sqe == nullptr) break;
        ::io_uring_prep_read(sqe, 0, read.to, static_cast<unsigned>(read.bytes), static_cast<uint64_t>(read.offset));
        sqe->flags |= IOSQE_FIXED_FILE;
        sqe->user_data = filling.back() << 32 | batch.next;
        ++in_flight;
        if (++batch.next == batch.reads.size()) filling.pop_back();
      }
      if (in_flight == 0) break;
      if (int result = ::io_uring_submit_and_wait(&ring, 1); result < 0 && result != -EINTR) {
        Die("io_uring_enter: %s", std::strerror(-result));
      }
      io_uring_cqe* cqe;
      unsigned head, count = 0;
      io_uring_for_each_cqe(&ring, head, cqe) {
        ++count;
        const size_t index = cqe->user_data >> 32;
        Batch& batch = batches[index];
        const Read& read = batch.reads[cqe->user_data & 0xFFFFFFFF];
        // A short read of a file that has the bytes happens at signals only: the baseline ends there rather than hiding it.
        if (cqe->res != read.bytes) Die("read of %" PRId64 " at %" PRId64 " gave %d", read.bytes, read.offset, cqe->res);
        --in_flight;
        if (--batch.missing == 0) {
          Consume(batch.reads);
          free.push_back(index);
        }
      }
      ::io_uring_cq_advance(&ring, count);
    }
    ::io_uring_queue_exit(&ring);
    ::close(fd);
  }

  const Settings s_;
  std::vector<int64_t> blocks_;
  int64_t batch_bytes_ = 0, buffer_bytes_ = 0;
  char* memory_ = nullptr;
  char* source_ = nullptr;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> bytes_{0}, reads_{0};
  std::atomic<uint64_t> touched_{0};
};

constexpr char kUsage[] =
    "baseline_packed FILE [options]: shuffled epochs over a file of records\n"
    "  --record SIZE     bytes of a record (4096)\n"
    "  --header SIZE     bytes before the first (0)\n"
    "  --block N         neighbours that stay together, read at once (1)\n"
    "  --batch N         records of a batch (256)\n"
    "  --epochs N        (1)\n"
    "  --by ring|pread|memcpy   (ring)\n"
    "  --threads N       (2)\n"
    "  --depth N         reads in flight in each ring (64)\n"
    "  --buffers N       batches under way in each thread (4)\n"
    "  --read-max SIZE   largest single read (512KiB)\n"
    "  --direct          O_DIRECT\n"
    "  --json\n";

int Main(int argc, char** argv) {
  Args args(argc, argv, kUsage);
  Settings s;
  s.record_bytes = args.Bytes("--record", 4096);
  s.header_bytes = args.Bytes("--header", 0);
  s.block = args.Int("--block", 1, 1, 1 << 30);
  s.batch = args.Int("--batch", 256, 1, 1 << 20);
  s.epochs = args.Int("--epochs", 1, 1, 1 << 20);
  s.by = args.Text("--by", "ring", {"ring", "pread", "memcpy"});
  s.threads = args.Int("--threads", 2, 1, 1024);
  s.depth = args.Int("--depth", 64, 1, 4096);
  s.buffers = args.Int("--buffers", 4, 1, 1024);
  s.read_most = args.Bytes("--read-max", 512 << 10);
  s.direct = args.Flag("--direct");
  const bool json = args.Flag("--json");
  s.path = args.Finish();
  struct stat info;
  if (::stat(s.path.c_str(), &info) != 0) Die("stat %s: %s", s.path.c_str(), std::strerror(errno));
  s.records = (info.st_size - s.header_bytes) / s.record_bytes;
  if (s.records < 1 || s.record_bytes < 1) Die("%s holds no record of %" PRId64 " bytes", s.path.c_str(), s.record_bytes);
  if (s.read_most < s.record_bytes) s.read_most = s.record_bytes;
  s.read_most = s.read_most / s.record_bytes * s.record_bytes;
  Packed packed(s);
  double wall = 0, cpu = 0;
  int64_t bytes = 0, reads = 0;
  for (int64_t epoch = 0; epoch < s.epochs; ++epoch) {  // the last epoch's figures are reported
    const int64_t bytes_before = packed.bytes(), reads_before = packed.reads();
    const double cpu_before = CpuSeconds(), begin = Seconds();
    packed.Epoch(epoch);
    wall = Seconds() - begin;
    cpu = CpuSeconds() - cpu_before;
    bytes = packed.bytes() - bytes_before;
    reads = packed.reads() - reads_before;
    if (bytes != s.records * s.record_bytes) {
      Die("epoch %" PRId64 " delivered %" PRId64 " of %" PRId64 " bytes", epoch, bytes, s.records * s.record_bytes);
    }
  }
  const double samples = static_cast<double>(s.records), gigabytes = 1e-9 * static_cast<double>(bytes);
  std::printf(json ? "{\"arm\":\"baseline_packed "
                     "%s\",\"samples_per_s\":%.0f,\"mb_per_s\":%.1f,\"cpu_s_per_gb\":%.4f,\"cpu_us_per_sample\":%.4f,\"reads_per_sample\":%"
                     ".5f,\"wall_s\":%.4f,"
                     "\"touched\":%" PRIu64 "}\n"
                   : "%s: %.0f records/s, %.1f MB/s, %.4f CPU s/GB, %.4f CPU us/record, %.5f reads per record, %.4f s (%" PRIu64 ")\n",
              s.by.c_str(), samples / wall, 1e3 * gigabytes / wall, cpu / gigabytes, 1e6 * cpu / samples,
              static_cast<double>(reads) / samples, wall, packed.touched());
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Main(argc, argv); }
