// How fast do bytes come out of the page cache at all? Threads pread blocks at random aligned places of one warm file that stays open,
// into an area used round and round: no names, no opens, no sizes, no batches. Bound by the kernel's copy, and by where the area lies: one
// that fits the last-level cache is copied into faster than one that does not. With --memcpy the source is anonymous memory instead, which
// leaves out the kernel. Prints the fields of `penstock bench --json`; a block counts as a sample.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "base/align.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "baselines/args.h"
#include "baselines/content.h"

namespace penstock::bench {
namespace {

constexpr char kUsage[] =
    "copy_limit FILE [--bytes SIZE] [--area SIZE] [--threads N] [--seconds N] [--memcpy] [--json]\n"
    "  --bytes SIZE   of a block (4096)\n"
    "  --area SIZE    what each thread copies into, over and over (12 MiB: three pieces)\n"
    "  --threads N    (2)\n"
    "  --seconds N    how long (2)\n"
    "  --memcpy       from anonymous memory of the file's size instead of the page cache\n"
    "  --json         print one JSON object\n";

char* Map(int64_t bytes) {
  void* memory = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("mmap of %" PRId64 " bytes: %s", bytes, std::strerror(errno));
  ::madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  std::memset(memory, 1, static_cast<size_t>(bytes));
  return static_cast<char*>(memory);
}

double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int Run(int argc, char** argv) {
  Args args(argc, argv, kUsage);
  const int64_t bytes = args.Bytes("--bytes", 4096);
  const int64_t area_bytes = static_cast<int64_t>(AlignUp(static_cast<uint64_t>(std::max(args.Bytes("--area", 12 << 20), bytes)), 64));
  const int64_t threads = args.Int("--threads", 2, 1, 1024);
  const int64_t seconds = args.Int("--seconds", 2, 1, 3600);
  const bool use_memcpy = args.Flag("--memcpy");
  const bool json = args.Flag("--json");
  const std::string path = args.Finish();
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info;
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) Die("open %s: %s", path.c_str(), std::strerror(errno));
  if (bytes < 1 || info.st_size < 2 * bytes) {
    Die("%s: %" PRId64 " bytes are too few for blocks of %" PRId64, path.c_str(), int64_t{info.st_size}, bytes);
  }
  // Blocks lie at multiples of the page size, as files do in the page cache.
  const int64_t stride = static_cast<int64_t>(AlignUp(static_cast<uint64_t>(bytes), 4096));
  const auto blocks = static_cast<uint64_t>((info.st_size - bytes) / stride + 1);

  char* source = use_memcpy ? Map(info.st_size) : nullptr;
  std::vector<char*> areas;
  for (int64_t i = 0; i < threads; ++i) areas.push_back(Map(area_bytes));
  if (!use_memcpy) {  // Warm: the limit of the cache, not of the drive.
    for (int64_t at = 0; at < info.st_size; at += area_bytes) {
      if (::pread(file.get(), areas[0], static_cast<size_t>(area_bytes), at) < 0) Die("pread %s: %s", path.c_str(), std::strerror(errno));
    }
  }

  std::atomic<int64_t> total{0};
  const double start_cpu = CpuSeconds();
  const int64_t start_ns = MonotonicNs();
  const int64_t end_ns = start_ns + seconds * 1'000'000'000;
  std::vector<std::thread> workers;
  for (int64_t i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      char* const area = areas[static_cast<size_t>(i)];
      int64_t to = 0, count = 0;
      for (uint64_t draw = static_cast<uint64_t>(i) << 40; count % 64 != 0 || MonotonicNs() < end_ns; ++count, ++draw) {
        const auto from = static_cast<int64_t>(Mix64(draw) % blocks) * stride;
        if (to + bytes > area_bytes) to = 0;
        if (use_memcpy) {
          std::memcpy(area + to, source + from, static_cast<size_t>(bytes));
        } else if (::pread(file.get(), area + to, static_cast<size_t>(bytes), from) != bytes) {
          Die("pread of %" PRId64 " bytes at %" PRId64 " of %s: %s", bytes, from, path.c_str(), std::strerror(errno));
        }
        to += bytes;
      }
      total += count;
    });
  }
  for (std::thread& worker : workers) worker.join();
  const double wall = static_cast<double>(MonotonicNs() - start_ns) / 1e9;
  const double cpu = CpuSeconds() - start_cpu;
  const auto samples = static_cast<double>(total.load());
  const double gigabytes = samples * static_cast<double>(bytes) / 1e9;
  const double us = 1e6 * wall * static_cast<double>(threads) / samples;
  if (json) {
    std::printf("{\"arm\":\"%s\",\"samples_per_s\":%.1f,\"mb_per_s\":%.2f,\"cpu_s_per_gb\":%.5f,\"next_p50_us\":%.3f,\"next_p99_us\":%.3f,"
                "\"wall_s\":%.6f,\"samples\":%" PRId64 ",\"block_bytes\":%" PRId64 ",\"area_bytes\":%" PRId64 ",\"threads\":%" PRId64 "}\n",
                use_memcpy ? "memcpy" : "page_cache", samples / wall, 1e3 * gigabytes / wall, cpu / gigabytes, us, us, wall, total.load(),
                bytes, area_bytes, threads);
  } else {
    std::printf("%s, blocks of %" PRId64 " bytes into %" PRId64 " bytes, %" PRId64 " threads: %.0f blocks/s, %.0f MB/s, %.3f CPU s/GB\n",
                use_memcpy ? "memcpy" : "page cache", bytes, area_bytes, threads, samples / wall, 1e3 * gigabytes / wall, cpu / gigabytes);
  }
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
