#include "loader/gap.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"

namespace penstock {
namespace {

constexpr uint64_t kSmallBytes = 4096;
constexpr uint64_t kLargeBytes = 128 << 10;
constexpr int kSmallReads = 128;
constexpr int kLargeReads = 48;
constexpr size_t kDepth = 32;
constexpr int kRounds = 2;
constexpr int kEnoughReads = 16;
constexpr int64_t kPatienceNs = 10 * kNsPerMs;   // for each of them
constexpr int64_t kReapNs = 2 * kNsPerSecond;    // for what is still in flight then
// A page on each side comes along anyway; beyond a MiB, memory and the batch's pieces are worth more than a read.
constexpr int64_t kGapMin = 4096;
constexpr int64_t kGapMax = 1 << 20;

// Everything that the kernel may write to, so that it can be left behind as a whole if a read hangs.
struct Probe {
  std::shared_ptr<const ObjectStore> objects;
  std::unique_ptr<Ring> ring;
  std::byte* memory = nullptr;
  size_t memory_bytes = 0;

  ~Probe() {
    ring.reset();
    if (memory != nullptr) ::munmap(memory, memory_bytes);
  }
};

// A full-period generator is enough: places that are far apart and never the same.
uint64_t NextRandom(uint64_t& state) {
  state = state * 6364136223846793005ULL + 1442695040888963407ULL;
  return state >> 20;
}

// What each of `count` reads costs with kDepth in flight; 0: they failed, or fewer than enough came in time.
double CostNs(Probe& probe, const Manifest& manifest, uint64_t bytes, int count, uint64_t alignment, uint64_t& random) {
  std::vector<Completion> completions(kDepth);
  std::vector<uint64_t> free;
  for (size_t i = 0; i < kDepth; ++i) free.push_back(i);
  int enqueued = 0;
  int done = 0;
  bool failed = false;
  const int64_t begin_ns = MonotonicNs();
  int64_t last_ns = begin_ns;
  while (!failed) {
    bool any = false;
    while (enqueued < count && !free.empty() && MonotonicNs() - begin_ns < kPatienceNs) {
      const auto object = static_cast<uint32_t>(NextRandom(random) % static_cast<uint64_t>(manifest.object_count()));
      const uint64_t size = manifest.ObjectBytes(object);
      if (size < bytes) {
        failed = true;
        break;
      }
      Request request;
      request.object = object;
      request.offset_bytes = AlignDown(NextRandom(random) % (size - bytes + 1), std::max(alignment, kSmallBytes));
      request.length_bytes = request.need_bytes = bytes;
      request.direct = alignment > 0;
      request.cookie = free.back();
      request.destination = probe.memory + free.back() * kLargeBytes;
      if (!probe.ring->Enqueue(request)) break;
      free.pop_back();
      ++enqueued;
      any = true;
    }
    if (any) failed = failed || !probe.ring->Submit().ok();
    if (probe.ring->in_flight() == 0) break;
    if (!probe.ring->Wait(begin_ns + kPatienceNs + kReapNs).ok()) failed = true;
    const size_t reaped = probe.ring->Reap(absl::MakeSpan(completions));
    const int64_t now_ns = MonotonicNs();
    for (size_t i = 0; i < reaped; ++i) {
      free.push_back(completions[i].cookie);
      failed = failed || completions[i].error_number != 0;
      ++done;
      last_ns = now_ns;
    }
    if (now_ns > begin_ns + kPatienceNs + kReapNs) failed = true;
  }
  return failed || done < std::min(count, kEnoughReads) ? 0 : static_cast<double>(last_ns - begin_ns) / done;
}

}  // namespace

GapChoice GapFromCosts(double small_ns, double small_bytes, double large_ns, double large_bytes) {
  GapChoice choice;
  // cost = read + bytes * per_byte
  const double per_byte = (large_ns - small_ns) / (large_bytes - small_bytes);
  double gap = kGapMax;
  if (per_byte > 0) {
    choice.mb_per_s = 1e3 / per_byte;
    choice.read_us = std::max(0.0, small_ns - small_bytes * per_byte) / 1e3;
    gap = choice.read_us * 1e3 / per_byte;
  } else {
    choice.read_us = small_ns / 1e3;
  }
  choice.gap_bytes = static_cast<int64_t>(AlignDown(static_cast<uint64_t>(std::clamp<double>(gap, kGapMin, kGapMax)), uint64_t{4096}));
  choice.why = choice.mb_per_s > 0 ? absl::StrFormat("measured: a read costs %.1f us, and the store gives %.0f MB/s beside that",
                                                     choice.read_us, choice.mb_per_s)
                                   : absl::StrFormat("measured: a read costs %.1f us however long it is", choice.read_us);
  return choice;
}

GapChoice MeasureGap(const Manifest& manifest, const std::shared_ptr<const ObjectStore>& objects, Engine engine,
                     const std::shared_ptr<PreadPool>& pool, const RingOptions& options, uint64_t direct_alignment) {
  GapChoice choice;
  choice.gap_bytes = 64 << 10;
  const auto unmeasured = [&](std::string why) {
    choice.why = std::move(why);
    return choice;
  };
  if (manifest.total_bytes() < uint64_t{kLargeReads} * kLargeBytes) return unmeasured("the data set is too small to measure");
  RingOptions ring_options = options;
  ring_options.capacity = kDepth;
  absl::StatusOr<std::unique_ptr<Ring>> ring = MakeRing(engine, *objects, ring_options, pool);
  if (!ring.ok()) return unmeasured(absl::StrCat("not measured: ", ring.status().message()));
  auto probe = std::make_unique<Probe>();
  probe->objects = objects;
  probe->ring = *std::move(ring);
  probe->memory_bytes = kDepth * kLargeBytes;
  void* const memory = ::mmap(nullptr, probe->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return unmeasured("not measured: no memory for it");
  probe->memory = static_cast<std::byte*>(memory);
  // The first reads open the files and wake whatever sleeps: their cost is not a read's.
  uint64_t random = 1;
  CostNs(*probe, manifest, kSmallBytes, static_cast<int>(kDepth), direct_alignment, random);
  double small_ns = 0;
  double large_ns = 0;
  for (int round = 0; round < kRounds; ++round) {
    // The cheaper one: whatever else the machine does can only add to it.
    const double small = CostNs(*probe, manifest, kSmallBytes, kSmallReads, direct_alignment, random);
    const double large = small == 0 ? 0 : CostNs(*probe, manifest, kLargeBytes, kLargeReads, direct_alignment, random);
    if (small == 0 || large == 0) break;
    small_ns = round == 0 ? small : std::min(small_ns, small);
    large_ns = round == 0 ? large : std::min(large_ns, large);
  }
  if (probe->ring->in_flight() > 0) {
    probe->ring->Cancel();
    Log(LogLevel::kWarning, "measuring the cost of a read: the store does not answer; what was asked for is left to it");
    static_cast<void>(probe.release());  // the kernel may still write there
  }
  if (small_ns == 0 || large_ns == 0) {
    return unmeasured("the store is too slow, or its files too small, to be measured in some milliseconds");
  }
  return GapFromCosts(small_ns, kSmallBytes, large_ns, kLargeBytes);
}

}  // namespace penstock
