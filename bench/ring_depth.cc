// How many files a second does a ring read, by engine, streams, file size and depth; and what does a file cost? Against plain threads
// that open, pread and close. Bound by the path walk and the copy out of the page cache when warm, by the drive when cold.
//
// The files lie in $PENSTOCK_BENCH_FOLDER (default /var/tmp/penstock_bench_ring), made when missing: 50,000 of 4 KiB, 10,000 of the larger
// sizes, or $PENSTOCK_BENCH_FILES of each. Warm: each is read once before it is timed. PENSTOCK_BENCH_COLD=1: before each pass their
// pages are dropped (posix_fadvise), metadata stays.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/clock.h"
#include "ring/engine.h"

namespace penstock {
namespace {

constexpr int64_t kFolders = 100;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "ring_depth: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

// `count` files of `bytes` bytes in 100 folders, opened relative to their folder's descriptor.
class BenchFiles final : public ObjectStore {
 public:
  BenchFiles(int64_t count, int64_t bytes) : count_(count), bytes_(bytes) {
    const char* base = std::getenv("PENSTOCK_BENCH_FOLDER");
    root_ = absl::StrCat(base != nullptr ? base : "/var/tmp/penstock_bench_ring", "/", bytes, "x", count);
    const std::string made = absl::StrCat(root_, "/made");
    if (::access(made.c_str(), F_OK) != 0) Make(made);
    for (int64_t folder = 0; folder < kFolders; ++folder) {
      folder_fds_.push_back(::open(FolderName(folder).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (folder_fds_.back() < 0) Die(FolderName(folder));
    }
    for (int64_t file = 0; file < count; ++file) names_.push_back(FileName(file));
    order_.resize(static_cast<size_t>(count));
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), std::mt19937(1));
  }

  absl::StatusOr<OpenTarget> Target(uint32_t object, std::string&) const override {
    return OpenTarget{folder_fds_[object % kFolders], names_[object].c_str()};
  }
  std::string Name(uint32_t object) const override { return names_[object]; }

  int64_t count() const { return count_; }
  int64_t bytes() const { return bytes_; }
  uint32_t at(int64_t position) const { return order_[static_cast<size_t>(position)]; }

  void DropPages() const {
    for (uint32_t file = 0; file < count_; ++file) {
      const int fd = ::openat(folder_fds_[file % kFolders], names_[file].c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) Die(names_[file]);
      ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      ::close(fd);
    }
  }

 private:
  std::string FolderName(int64_t folder) const { return absl::StrFormat("%s/folder_%02d", root_, folder); }
  static std::string FileName(int64_t file) { return absl::StrFormat("%08d.bin", file); }

  void Make(const std::string& made) {
    std::fprintf(stderr, "ring_depth: making %lld files of %lld bytes in %s\n", static_cast<long long>(count_),
                 static_cast<long long>(bytes_), root_.c_str());
    for (size_t slash = root_.find('/', 1); slash != std::string::npos; slash = root_.find('/', slash + 1)) {
      ::mkdir(root_.substr(0, slash).c_str(), 0755);
    }
    ::mkdir(root_.c_str(), 0755);
    const std::string content(static_cast<size_t>(bytes_), 'x');
    for (int64_t folder = 0; folder < kFolders; ++folder) ::mkdir(FolderName(folder).c_str(), 0755);
    for (int64_t file = 0; file < count_; ++file) {
      const std::string path = absl::StrCat(FolderName(file % kFolders), "/", FileName(file));
      const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
      if (fd < 0 || ::write(fd, content.data(), content.size()) != static_cast<ssize_t>(content.size())) Die(path);
      ::close(fd);
    }
    ::sync();
    const int fd = ::open(made.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) Die(made);
    ::close(fd);
  }

  const int64_t count_;
  const int64_t bytes_;
  std::string root_;
  std::vector<int> folder_fds_;
  std::vector<std::string> names_;
  std::vector<uint32_t> order_;
};

const BenchFiles& FilesOf(int64_t bytes) {
  static std::map<int64_t, std::unique_ptr<BenchFiles>> files;
  std::unique_ptr<BenchFiles>& entry = files[bytes];
  if (entry == nullptr) {
    const char* asked = std::getenv("PENSTOCK_BENCH_FILES");
    const int64_t count = asked != nullptr ? std::max<int64_t>(1, std::atoll(asked)) : bytes <= 16384 ? 50000 : 10000;
    entry = std::make_unique<BenchFiles>(count, bytes);
  }
  return *entry;
}

double CpuSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void ReadAllByRing(Ring& ring, const BenchFiles& files, std::atomic<int64_t>& next, std::byte* memory) {
  const size_t stride = static_cast<size_t>(files.bytes()) + 4096;
  std::vector<size_t> places;
  for (size_t i = 0; i < ring.capacity(); ++i) places.push_back(i);
  std::vector<Completion> done(ring.capacity());
  // As a stream does: positions are claimed in blocks.
  int64_t position = 0, end = 0;
  for (bool more = true; more || ring.in_flight() > 0;) {
    while (more && !places.empty()) {
      if (position == end) {
        position = next.fetch_add(64);
        end = std::min(position + 64, files.count());
        if (position >= end) {
          more = false;
          break;
        }
      }
      const uint64_t bytes = static_cast<uint64_t>(files.bytes());
      ring.Enqueue({.object = files.at(position++),
                    .length_bytes = bytes + 1,
                    .need_bytes = bytes,
                    .destination = memory + places.back() * stride,
                    .cookie = places.back()});
      places.pop_back();
    }
    if (ring.in_flight() == 0) break;
    PENSTOCK_CHECK(ring.Wait(INT64_MAX).ok(), "the ring broke");
    const size_t count = ring.Reap(absl::MakeSpan(done));
    for (size_t i = 0; i < count; ++i) {
      PENSTOCK_CHECK(done[i].bytes == files.bytes() && done[i].error_number == 0, "a file could not be read");
      places.push_back(done[i].cookie);
    }
  }
}

void ReadAllPlainly(const BenchFiles& files, std::atomic<int64_t>& next, std::byte* memory) {
  std::string scratch;
  while (true) {
    const int64_t begin = next.fetch_add(64);
    if (begin >= files.count()) return;
    for (int64_t position = begin; position < std::min(begin + 64, files.count()); ++position) {
      const OpenTarget target = *files.Target(files.at(position), scratch);
      const int fd = ::openat(target.dir_fd, target.path, O_RDONLY | O_CLOEXEC);
      if (fd < 0 ||
          ::pread(fd, memory + (position % 64) * (files.bytes() + 4096), static_cast<size_t>(files.bytes()) + 1, 0) != files.bytes())
        Die(target.path);
      ::close(fd);
    }
  }
}

enum class Way { kUring, kThreads, kPlain };

// Streams (of kPlain: threads), file bytes, depth of each ring, workers (both io-wq limits, or of the pool).
void Read(benchmark::State& state, Way way) {
  const int64_t streams = state.range(0);
  const BenchFiles& files = FilesOf(state.range(1));
  const size_t depth = static_cast<size_t>(state.range(2));
  const int workers = static_cast<int>(state.range(3));
  const bool cold = std::getenv("PENSTOCK_BENCH_COLD") != nullptr;
  if (way == Way::kUring && !ProbeEngine(Engine::kUring).uring.ok()) return state.SkipWithError("io_uring is not allowed here");

  const size_t memory_bytes = depth * (static_cast<size_t>(files.bytes()) + 4096);
  std::vector<std::vector<std::byte>> memory;
  for (int64_t i = 0; i < streams; ++i) {
    memory.emplace_back(std::max<size_t>(memory_bytes, 64 * (static_cast<size_t>(files.bytes()) + 4096)));
  }
  const auto pool = std::make_shared<PreadPool>(workers);
  double cpu_s = 0;
  const auto pass = [&](bool timed) {
    std::atomic<int64_t> next{0};
    const double before_s = CpuSeconds();
    const int64_t start_ns = MonotonicNs();
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < streams; ++i) {
      threads.emplace_back([&, i] {
        std::byte* const place = memory[static_cast<size_t>(i)].data();
        if (way == Way::kPlain) return ReadAllPlainly(files, next, place);
        auto ring =
            MakeRing(way == Way::kUring ? Engine::kUring : Engine::kThreads, files, {.capacity = depth, .io_worker_max = workers}, pool);
        PENSTOCK_CHECK(ring.ok(), "no ring");
        ReadAllByRing(**ring, files, next, place);
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (!timed) return;
    state.SetIterationTime(1e-9 * static_cast<double>(MonotonicNs() - start_ns));
    cpu_s += CpuSeconds() - before_s;
  };

  pass(/*timed=*/false);
  for (auto _ : state) {
    if (cold) files.DropPages();
    pass(/*timed=*/true);
  }
  const int64_t count = state.iterations() * files.count();
  state.SetItemsProcessed(count);
  state.SetBytesProcessed(count * files.bytes());
  state.counters["cpu_us_per_file"] = 1e6 * cpu_s / static_cast<double>(count);
}

void Arguments(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"streams", "bytes", "depth", "workers"})->UseManualTime()->Unit(benchmark::kMillisecond);
  for (const int64_t bytes : {4096, 65536, 262144}) {
    for (const int64_t depth : {1, 4, 16, 64, 256}) benchmark->Args({2, bytes, depth, bytes == 4096 ? 2 : 16});
  }
  benchmark->Args({1, 4096, 64, 1})->Args({2, 4096, 64, 16});
}

BENCHMARK_CAPTURE(Read, uring, Way::kUring)->Apply(Arguments);
BENCHMARK_CAPTURE(Read, threads, Way::kThreads)->Apply(Arguments);
BENCHMARK_CAPTURE(Read, plain, Way::kPlain)
    ->ArgNames({"streams", "bytes", "depth", "workers"})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Args({1, 4096, 1, 1})
    ->Args({2, 4096, 1, 1})
    ->Args({2, 65536, 1, 1})
    ->Args({2, 262144, 1, 1});

}  // namespace
}  // namespace penstock

BENCHMARK_MAIN();
