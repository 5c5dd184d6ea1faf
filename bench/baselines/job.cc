#include "job.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/clock.h"
#include "content.h"

namespace penstock::bench {
namespace {

constexpr int64_t kHugePageBytes = 2 << 20;

double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double PercentileUs(std::vector<int64_t> ns, double share) {
  if (ns.empty()) return 0;
  const size_t at = std::min(ns.size() - 1, static_cast<size_t>(share * static_cast<double>(ns.size())));
  std::nth_element(ns.begin(), ns.begin() + static_cast<std::ptrdiff_t>(at), ns.end());
  return static_cast<double>(ns[at]) / 1e3;
}

}  // namespace

const char kJobUsage[] =
    "  --epochs N        shuffled passes over all files (1)\n"
    "  --batch N         samples in a batch (256)\n"
    "  --buffers N       batch buffers (3)\n"
    "  --direct          O_DIRECT, into places aligned to --direct-align (4096)\n"
    "  --list FILE       names and sizes: read, or written after a walk where missing (DIR.list, where that exists)\n"
    "  --seed N          of the order (1)\n"
    "  --verify          check every byte of files made by make_files; slow, not for timing\n"
    "  --data-seed N     the --seed that make_files was given (1)\n"
    "  --json            print one JSON object\n";

JobOptions ParseJobOptions(Args& args) {
  JobOptions options;
  options.epochs = args.Int("--epochs", 1, 1, 1'000'000);
  options.batch_samples = args.Int("--batch", 256, 1, 1 << 20);
  options.batch_buffers = args.Int("--buffers", 3, 1, 1024);
  options.direct = args.Flag("--direct");
  const int64_t direct_alignment = args.Bytes("--direct-align", 4096);
  if (direct_alignment < 512 || !IsPowerOfTwo(static_cast<uint64_t>(direct_alignment))) {
    Die("--direct-align %" PRId64 ": wanted a power of two from 512", direct_alignment);
  }
  options.alignment = options.direct ? direct_alignment : 64;
  options.list_path = args.Text("--list", "");
  options.order_seed = static_cast<uint64_t>(args.Int("--seed", 1, 0, INT64_MAX));
  options.verify = args.Flag("--verify");
  options.data_seed = static_cast<uint64_t>(args.Int("--data-seed", 1, 0, INT64_MAX));
  options.json = args.Flag("--json");
  options.root = args.Finish();
  while (options.root.size() > 1 && options.root.back() == '/') options.root.pop_back();
  return options;
}

Job::Job(const JobOptions& options)
    : options_(options), list_(LoadFileList(options.root, options.list_path)), batches_(static_cast<size_t>(options.batch_buffers)) {
#ifndef __OPTIMIZE__
  std::fputs("warning: this program was built without optimisation: its figures mean nothing\n", stderr);
#endif
  const int64_t start_ns = MonotonicNs();
  buffer_bytes_ = static_cast<int64_t>(AlignUp(static_cast<uint64_t>(std::max<int64_t>(LargestBatchBytes(), 1)), kHugePageBytes));
  memory_bytes_ = buffer_bytes_ * options_.batch_buffers + kHugePageBytes;
  void* memory = ::mmap(nullptr, static_cast<size_t>(memory_bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("mmap of %" PRId64 " bytes of batch buffers: %s", memory_bytes_, std::strerror(errno));
  memory_ = static_cast<char*>(memory);
  ::madvise(memory_, static_cast<size_t>(memory_bytes_), MADV_HUGEPAGE);
  char* aligned = reinterpret_cast<char*>(AlignUp(reinterpret_cast<uintptr_t>(memory_), kHugePageBytes));
  // Touched before the clock starts: a training run does this once, a benchmark of a second would count it on every batch.
  std::memset(aligned, 0, static_cast<size_t>(buffer_bytes_ * options_.batch_buffers));
  for (int64_t i = options_.batch_buffers; i-- > 0;) {
    Batch& batch = batches_[static_cast<size_t>(i)];
    batch.buffer = aligned + i * buffer_bytes_;
    batch.buffer_index = static_cast<unsigned>(i);
    batch.samples.reserve(static_cast<size_t>(options_.batch_samples));
    free_.push_back(&batch);
  }
  finished_.resize(batches_.size());
  seen_.assign(list_.files.size(), 0);
  setup_seconds_ = static_cast<double>(MonotonicNs() - start_ns) / 1e9;
}

Job::~Job() { ::munmap(memory_, static_cast<size_t>(memory_bytes_)); }

std::vector<iovec> Job::Buffers() const {
  std::vector<iovec> buffers;
  for (const Batch& batch : batches_) buffers.push_back({batch.buffer, static_cast<size_t>(buffer_bytes_)});
  return buffers;
}

int64_t Job::PlaceBytes(int64_t bytes) const {
  return static_cast<int64_t>(AlignUp(static_cast<uint64_t>(bytes), static_cast<uint64_t>(options_.alignment)));
}

// Fisher-Yates with 32-bit draws by multiplication (Lemire 2019, without the rejection: its bias is below 2^-31 here).
void Job::Shuffle(int64_t epoch, std::vector<uint32_t>& order) const {
  order.resize(list_.files.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  const uint64_t key = Mix64(options_.order_seed ^ Mix64(static_cast<uint64_t>(epoch)));
  for (uint64_t i = order.size(); i > 1; --i) {
    const uint64_t draw = Mix64(key + i) >> 32;
    std::swap(order[i - 1], order[(draw * i) >> 32]);
  }
}

int64_t Job::LargestBatchBytes() const {
  std::vector<uint32_t> order;
  int64_t largest = 0;
  for (int64_t epoch = 0; epoch < options_.epochs; ++epoch) {
    Shuffle(epoch, order);
    for (int64_t first = 0; first < FileCount(); first += options_.batch_samples) {
      int64_t bytes = 0;
      for (int64_t i = first; i < std::min(first + options_.batch_samples, FileCount()); ++i) {
        bytes += PlaceBytes(list_.files[order[static_cast<size_t>(i)]].bytes);
      }
      largest = std::max(largest, bytes);
    }
  }
  return largest;
}

void Job::LayOut(Batch& batch, int64_t number) {
  const int64_t in_epoch = number % BatchesPerEpoch();
  if (in_epoch == 0) Shuffle(number / BatchesPerEpoch(), order_);
  batch.number = number;
  batch.samples.clear();
  const int64_t first = in_epoch * options_.batch_samples;
  int64_t offset = 0;
  for (int64_t i = first; i < std::min(first + options_.batch_samples, FileCount()); ++i) {
    const uint32_t id = order_[static_cast<size_t>(i)];
    const int64_t bytes = list_.files[id].bytes;
    batch.samples.push_back({id, bytes, offset, -1});
    offset += PlaceBytes(bytes);
  }
  batch.missing.store(static_cast<int64_t>(batch.samples.size()), std::memory_order_relaxed);
}

Claim Job::Next(int64_t most, bool wait) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (filling_ != nullptr) {
      Claim claim{filling_, filling_next_, std::min(most, static_cast<int64_t>(filling_->samples.size()) - filling_next_)};
      filling_next_ += claim.count;
      if (filling_next_ == static_cast<int64_t>(filling_->samples.size())) filling_ = nullptr;
      lock.unlock();
      // The names lie anywhere in memory, and the kernel's copy of each would wait for it in turn.
      for (int64_t i = claim.first; i < claim.first + claim.count; ++i) {
        __builtin_prefetch(list_.Name(claim.batch->samples[static_cast<size_t>(i)].id));
      }
      return claim;
    }
    if (next_number_ == options_.epochs * BatchesPerEpoch()) return {};
    if (!free_.empty()) {
      filling_ = free_.back();
      free_.pop_back();
      filling_next_ = 0;
      LayOut(*filling_, next_number_++);
    } else if (wait) {
      buffer_freed_.wait(lock);
    } else {
      return {};
    }
  }
}

void Job::Done(Batch& batch, int64_t count) {
  // Release: the consumer sees the bytes of every reader that counted down before the last one.
  if (batch.missing.fetch_sub(count, std::memory_order_acq_rel) != count) return;
  std::lock_guard lock(mutex_);
  finished_[static_cast<size_t>(batch.number) % finished_.size()] = &batch;
  batch_finished_.notify_one();
}

Batch* Job::WaitForBatch(int64_t number) {
  Batch*& place = finished_[static_cast<size_t>(number) % finished_.size()];
  std::unique_lock lock(mutex_);
  batch_finished_.wait(lock, [&] { return place != nullptr && place->number == number; });
  return std::exchange(place, nullptr);
}

void Job::Consume(const Batch& batch) {
  const auto mark = static_cast<uint8_t>((batch.number / BatchesPerEpoch()) % 255 + 1);
  for (const Batch::Sample& sample : batch.samples) {
    const char* name = list_.Name(sample.id);
    if (sample.got_bytes != sample.bytes) {
      Die("%s: %" PRId64 " bytes read, %" PRId64 " expected", name, sample.got_bytes, sample.bytes);
    }
    if (seen_[sample.id] == mark) Die("%s was delivered twice in an epoch", name);
    seen_[sample.id] = mark;
    const char* data = batch.buffer + sample.offset;
    if (sample.bytes > 0) touched_ += static_cast<unsigned char>(data[0]) + static_cast<unsigned char>(data[sample.bytes - 1]);
    bytes_ += sample.bytes;
    if (options_.verify) {
      const int64_t wrong = FindWrongContent(options_.data_seed, std::strtoull(name, nullptr, 10), data, sample.bytes);
      if (wrong >= 0) Die("%s: wrong content at byte %" PRId64, name, wrong);
    }
  }
  samples_ += static_cast<int64_t>(batch.samples.size());
}

int Job::Run(const char* arm, const std::vector<std::pair<std::string, std::string>>& settings, int64_t readers,
             const std::function<void(int64_t)>& reader) {
  std::vector<int64_t> wait_ns;
  const int64_t batch_count = options_.epochs * BatchesPerEpoch();
  wait_ns.reserve(static_cast<size_t>(batch_count));

  const double start_cpu = CpuSeconds();
  const int64_t start_ns = MonotonicNs();
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < readers; ++i) threads.emplace_back([&reader, i] { reader(i); });
  double first_batch_seconds = 0;
  for (int64_t number = 0; number < batch_count; ++number) {
    const int64_t asked_ns = MonotonicNs();
    Batch* batch = WaitForBatch(number);
    const int64_t now_ns = MonotonicNs();
    wait_ns.push_back(now_ns - asked_ns);
    if (number == 0) first_batch_seconds = static_cast<double>(now_ns - start_ns) / 1e9;
    Consume(*batch);
    // No file came twice, and a whole epoch's count came: so none is missing.
    if ((number + 1) % BatchesPerEpoch() == 0 && samples_ != (number + 1) / BatchesPerEpoch() * FileCount()) {
      Die("epoch of %" PRId64 " files ended after %" PRId64 " samples in all", FileCount(), samples_);
    }
    std::lock_guard lock(mutex_);
    free_.push_back(batch);
    buffer_freed_.notify_all();
  }
  const double wall = static_cast<double>(MonotonicNs() - start_ns) / 1e9;
  for (std::thread& thread : threads) thread.join();
  const double cpu = CpuSeconds() - start_cpu;

  const double samples = static_cast<double>(samples_);
  const double bytes = static_cast<double>(bytes_);
  const double cpu_per_gb = bytes > 0 ? cpu / (bytes / 1e9) : 0;
  const double p50 = PercentileUs(wait_ns, 0.50);
  const double p99 = PercentileUs(wait_ns, 0.99);
  if (!options_.json) {
    std::printf("%s: %s\n", arm, options_.root.c_str());
    for (const auto& [name, value] : settings) std::printf("  %s %s", name.c_str(), value.c_str());
    std::printf("\n  list %.3f s (%s), buffers %.3f s (%" PRId64 " MiB), first batch %.1f ms\n", list_.seconds, list_.from.c_str(),
                setup_seconds_, memory_bytes_ >> 20, first_batch_seconds * 1e3);
    std::printf("  %.0f samples, %.0f bytes in %.3f s: %.0f samples/s, %.1f MB/s\n", samples, bytes, wall, samples / wall,
                bytes / 1e6 / wall);
    std::printf("  CPU %.3f s: %.3f s/GB, %.2f us/sample; wait for a batch p50 %.1f us, p99 %.1f us%s\n", cpu, cpu_per_gb,
                cpu * 1e6 / samples, p50, p99, options_.verify ? "; every byte checked" : "");
    return 0;
  }
  utsname system;
  ::uname(&system);
  std::string text = absl::StrFormat(
      "{\"arm\":\"%s\",\"samples_per_s\":%.1f,\"mb_per_s\":%.2f,\"cpu_s_per_gb\":%.5f,\"next_p50_us\":%.2f,\"next_p99_us\":%.2f,"
      "\"wall_s\":%.6f,\"samples\":%d,\"bytes\":%d,\"cpu_s\":%.6f,\"cpu_us_per_sample\":%.3f,\"first_batch_ms\":%.3f,"
      "\"list_s\":%.4f,\"list_walked\":%s,\"setup_s\":%.4f,\"epochs\":%d,\"batch_samples\":%d,\"buffers\":%d,\"buffer_mib\":%d,"
      "\"direct\":%s,\"verified\":%s,\"touched\":%d,\"kernel\":\"%s\"",
      arm, samples / wall, bytes / 1e6 / wall, cpu_per_gb, p50, p99, wall, samples_, bytes_, cpu, cpu * 1e6 / samples,
      first_batch_seconds * 1e3, list_.seconds, list_.from == "walk" ? "true" : "false", setup_seconds_, options_.epochs,
      options_.batch_samples, options_.batch_buffers, memory_bytes_ >> 20, options_.direct ? "true" : "false",
      options_.verify ? "true" : "false", touched_, system.release);
  for (const auto& [name, value] : settings) absl::StrAppend(&text, ",\"", name, "\":", value);
  std::printf("%s}\n", text.c_str());
  return 0;
}

}  // namespace penstock::bench
