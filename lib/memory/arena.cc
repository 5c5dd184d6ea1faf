// The mapping is made whole at Create and filled page by page at first use. Free granules are kept as maximal extents
// (boundary tags in arrays of one entry per granule, so nothing is allocated after Create) in a list with the most recently
// freed one in front.
#include "memory/arena.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/io_error.h"
#include "base/log.h"

#if defined(__SANITIZE_ADDRESS__)
#define PENSTOCK_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PENSTOCK_ASAN 1
#endif
#endif
#ifdef PENSTOCK_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

// Values of the kernel's interface that the C library's headers of some distributions lack.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

namespace penstock {
namespace {

constexpr int kHugePageShift = 21;  // 2 MiB, the size of a granule
constexpr size_t kSmallPageBytes = 4096;
constexpr int32_t kNone = -1;

enum class GranuleState : uint8_t { kFree, kUsed, kQuarantined };

// What is known of a granule's pages. Written by the holder of the run, without the lock.
enum GranuleFlag : uint8_t { kTouched = 1, kPinned = 2, kPinStart = 4 };

std::atomic<int64_t> quarantined_bytes{0};

int64_t ReadNumber(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : 0;
}

// How many huge pages of 2 MiB a new mapping may reserve: on the asked node where it is known, since pages of another node
// would be huge but far.
int64_t FreeHugePages(int numa_node) {
  const std::string all = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
  int64_t pages = ReadNumber(all + "free_hugepages") - ReadNumber(all + "resv_hugepages");
  if (numa_node >= 0) {
    const std::string node =
        absl::StrCat("/sys/devices/system/node/node", numa_node, "/hugepages/hugepages-2048kB/free_hugepages");
    pages = std::min(pages, ReadNumber(node));
  }
  return pages;
}

// Empty where the kernel may use transparent huge pages for memory that asks for them; else why it will not.
std::string WhyNoTransparentHugePages() {
  if (::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1) return "disabled for this process (PR_SET_THP_DISABLE)";
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  if (!std::getline(file, line)) return "this kernel has no transparent huge pages";
  if (line.find("[never]") != std::string::npos) return "/sys/kernel/mm/transparent_hugepage/enabled is never";
  return "";
}

// Prefers the node's pages for a range. MPOL_PREFERRED and not MPOL_BIND: a node that runs out of memory then gives far
// pages, where the other would have the process killed.
int PreferNode(void* address, size_t bytes, int numa_node) {
  constexpr int kMaskBits = 1024;
  unsigned long mask[kMaskBits / (8 * sizeof(unsigned long))] = {};
  if (numa_node >= kMaskBits) return EINVAL;
  constexpr int kWordBits = 8 * sizeof(unsigned long);
  mask[numa_node / kWordBits] = 1ul << (numa_node % kWordBits);
  // The kernel takes one less than the count it is given (mbind(2), get_nodes() in mm/mempolicy.c).
  return ::syscall(SYS_mbind, address, bytes, MPOL_PREFERRED, mask, kMaskBits + 1, 0) == 0 ? 0 : errno;
}

}  // namespace

int64_t QuarantinedBytes() { return quarantined_bytes.load(std::memory_order_relaxed); }

struct Arena::Impl {
  // Of a free extent, at its first granule.
  struct Extent {
    int32_t previous = kNone;
    int32_t next = kNone;
    int32_t hot_first = kNone;  // what was freed last in it
    int32_t hot_count = 0;
  };

  ArenaOptions options;
  ForkGuard fork_guard;
  std::byte* base = nullptr;
  int32_t count = 0;
  std::byte* mapping = nullptr;  // with the guard pages
  size_t mapping_bytes = 0;
  bool hugetlb = false;

  mutable std::mutex mutex;
  std::vector<GranuleState> state;
  std::vector<int32_t> length;  // at the first and last granule of a free extent, and at the first of a run
  std::vector<Extent> extents;
  int32_t head = kNone;
  int32_t free_count = 0;
  int32_t quarantined_count = 0;
  std::string pages, binding, pinning;
  int64_t ordinary_granules = 0;  // of a hugetlb arena whose pages could not be had after all

  std::vector<uint8_t> flags;
  std::atomic<int64_t> touched_count{0};
  std::atomic<bool> pin_failed{false};

  std::byte* Address(int32_t granule) const { return base + int64_t{granule} * kGranuleBytes; }

  absl::Status Map();
  absl::Status MapHugetlb();
  void Advise(std::byte* address, size_t bytes, bool first);
  void Touch(int32_t first, int32_t granules);
  void Pin(int32_t first, int32_t granules);

  void Unlink(int32_t first);
  void InsertAfter(int32_t previous, int32_t first, int32_t granules, int32_t hot_first, int32_t hot_count);
  int32_t Take(int32_t granules, int32_t reserve);
  void Release(int32_t first, int32_t granules);
  void CheckRun(const Run& run, GranuleState expected) const;
  void Leak(std::unique_ptr<Impl> self);
};

// ---------------------------------------------------------------------------------------------------- the mapping

absl::Status Arena::Impl::Map() {
  const size_t bytes = static_cast<size_t>(count) * kGranuleBytes;
  const size_t guard = options.guard_pages ? kSmallPageBytes : 0;
  // The address range first, without access and without memory: room to align in, and the guard pages.
  const size_t room_bytes = bytes + kGranuleBytes + 2 * guard;
  void* room = ::mmap(nullptr, room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) {
    const int error = errno;
    return absl::ResourceExhaustedError(absl::StrCat("arena: mmap of ", bytes, " bytes: ", ErrnoText(error),
                                                     ". Lower memory_bytes, or raise RLIMIT_AS (ulimit -v)"));
  }
  std::byte* const start = static_cast<std::byte*>(room);
  base = reinterpret_cast<std::byte*>(AlignUp(reinterpret_cast<uint64_t>(start) + guard, kGranuleBytes));
  mapping = base - guard;
  mapping_bytes = bytes + 2 * guard;
  if (mapping > start) ::munmap(start, mapping - start);
  std::byte* const room_end = start + room_bytes;
  std::byte* const mapping_end = mapping + mapping_bytes;
  if (room_end > mapping_end) ::munmap(mapping_end, room_end - mapping_end);

  std::string why_not_hugetlb;
  if (options.huge_pages) {
    const absl::Status status = MapHugetlb();
    if (status.ok()) {
      hugetlb = true;
      pages = "hugetlb";
    }
  }
  if (!hugetlb && ::mprotect(base, bytes, PROT_READ | PROT_WRITE) != 0) {
    const int error = errno;
    return absl::ResourceExhaustedError(absl::StrCat("arena: mprotect of ", bytes, " bytes: ", ErrnoText(error),
                                                     ". vm.overcommit_memory or RLIMIT_DATA limits it: lower memory_bytes"));
  }
  Advise(base, bytes, /*first=*/true);
  return absl::OkStatus();
}

// Maps reserved huge pages over the range. Without MAP_NORESERVE, so that the kernel sets the pages aside now: a page that is
// missing at first touch is a SIGBUS. A reservation does not know of cpusets and hugetlb cgroups; so pages are populated by
// madvise(2), which returns an error where a touch would end the process, and a kernel without that (before 5.14) gets none.
absl::Status Arena::Impl::MapHugetlb() {
  const int64_t free_pages = FreeHugePages(options.numa_node);
  if (free_pages < count) return absl::UnavailableError(absl::StrCat(free_pages, " huge pages are free, ", count, " needed"));
  if (::madvise(base, 0, MADV_POPULATE_WRITE) != 0) return absl::UnavailableError("no MADV_POPULATE_WRITE");
  const size_t bytes = static_cast<size_t>(count) * kGranuleBytes;
  void* mapped = ::mmap(base, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB | (kHugePageShift << MAP_HUGE_SHIFT), -1, 0);
  if (mapped != MAP_FAILED) return absl::OkStatus();
  const int error = errno;
  // A failed MAP_FIXED may have taken the old range away (mmap(2)); it is put back, not over what another thread mapped there.
  void* again = ::mmap(base, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  PENSTOCK_CHECK(again == base || errno == EEXIST, "the address range of the arena was lost");
  return absl::UnavailableError(ErrnoText(error));
}

// The optional steps for a range: not in forked children, huge pages, the node. With `first` their outcomes are noted.
void Arena::Impl::Advise(std::byte* address, size_t bytes, bool first) {
  // A fork would write-protect every page, and the copy made at the next write is not the page that is pinned.
  ::madvise(address, bytes, MADV_DONTFORK);
  if (!hugetlb || !first) {
    std::string outcome = "transparent huge pages";
    if (!options.huge_pages) {
      ::madvise(address, bytes, MADV_NOHUGEPAGE);
      outcome = "4 KiB pages: huge_pages is off";
    } else if (const std::string why = WhyNoTransparentHugePages(); !why.empty()) {
      outcome = "4 KiB pages: " + why;
    } else if (::madvise(address, bytes, MADV_HUGEPAGE) != 0) {
      outcome = "4 KiB pages: MADV_HUGEPAGE: " + ErrnoText(errno);
    }
    if (first) pages = outcome;
  }
  if (options.numa_node < 0) {
    if (first) binding = "not bound: node unknown";
    return;
  }
  const int error = PreferNode(address, bytes, options.numa_node);
  if (!first) return;
  binding = error == 0 ? absl::StrCat("node ", options.numa_node, " by mbind")
                       : absl::StrCat("node ", options.numa_node, " by first touch: mbind: ", ErrnoText(error));
}

// Has the pages made, by the calling thread: without mbind they come from the node that it runs on.
void Arena::Impl::Touch(int32_t first, int32_t granules) {
  std::byte* const address = Address(first);
  const size_t bytes = static_cast<size_t>(granules) * kGranuleBytes;
  if (hugetlb) {
    for (int32_t granule = first; granule < first + granules; ++granule) {
      if (::madvise(Address(granule), kGranuleBytes, MADV_POPULATE_WRITE) == 0) continue;
      const int error = errno;
      // The page cannot be had here (a cpuset or a hugetlb cgroup): ordinary memory takes its place.
      void* mapped = ::mmap(Address(granule), kGranuleBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
      PENSTOCK_CHECK(mapped == Address(granule), "mmap of ordinary pages over a huge page failed");
      Advise(Address(granule), kGranuleBytes, /*first=*/false);
      std::lock_guard<std::mutex> lock(mutex);
      ++ordinary_granules;
      pages = absl::StrCat("hugetlb, but for ", ordinary_granules, " of ", count, " granules: ", ErrnoText(error));
    }
  } else if (::madvise(address, bytes, MADV_POPULATE_WRITE) != 0) {
    // A kernel before 5.14.
    for (size_t offset = 0; offset < bytes; offset += kSmallPageBytes) {
      *reinterpret_cast<volatile char*>(address + offset) = 0;
    }
  }
  for (int32_t granule = first; granule < first + granules; ++granule) flags[granule] |= kTouched;
  touched_count.fetch_add(granules, std::memory_order_relaxed);
}

void Arena::Impl::Pin(int32_t first, int32_t granules) {
  if (pin_failed.load(std::memory_order_acquire)) return;
  const absl::Status status = options.pin(Address(first), static_cast<size_t>(granules) * kGranuleBytes);
  if (status.ok()) {
    for (int32_t granule = first; granule < first + granules; ++granule) flags[granule] |= kPinned;
    flags[first] |= kPinStart;
    return;
  }
  if (pin_failed.exchange(true, std::memory_order_acq_rel)) return;
  std::string text =
      absl::StrCat("failed: ", std::string(status.message()), "; copies go through the driver's staging buffer");
  {
    std::lock_guard<std::mutex> lock(mutex);
    pinning = text;
  }
  Log(LogLevel::kWarning, absl::StrCat("pinning of host memory ", text));
}

// ------------------------------------------------------------------------------------------------ the free extents

void Arena::Impl::Unlink(int32_t first) {
  const Extent& extent = extents[first];
  (extent.previous == kNone ? head : extents[extent.previous].next) = extent.next;
  if (extent.next != kNone) extents[extent.next].previous = extent.previous;
}

// Puts a free extent behind `previous` (kNone: in front), with the part of the hot range that lies in it.
void Arena::Impl::InsertAfter(int32_t previous, int32_t first, int32_t granules, int32_t hot_first, int32_t hot_count) {
  Extent& extent = extents[first];
  const int32_t begin = std::max(first, hot_first);
  const int32_t end = std::min(first + granules, hot_first + hot_count);
  extent.hot_first = begin < end ? begin : kNone;
  extent.hot_count = begin < end ? end - begin : 0;
  extent.previous = previous;
  int32_t& link = previous == kNone ? head : extents[previous].next;
  extent.next = link;
  if (link != kNone) extents[link].previous = first;
  link = first;
  length[first] = granules;
  length[first + granules - 1] = granules;
}

// The first granule of the new run, or kNone.
int32_t Arena::Impl::Take(int32_t granules, int32_t reserve) {
  if (granules > free_count) return kNone;
  // The two longest extents say what stays in one piece elsewhere, whichever one is taken from.
  int32_t longest = kNone, longest_length = 0, second_length = 0;
  for (int32_t extent = head; extent != kNone; extent = extents[extent].next) {
    if (length[extent] > longest_length) {
      second_length = longest_length;
      longest = extent;
      longest_length = length[extent];
    } else if (length[extent] > second_length) {
      second_length = length[extent];
    }
  }
  for (int32_t first = head; first != kNone; first = extents[first].next) {
    const int32_t total = length[first];
    if (total < granules) continue;
    const int32_t elsewhere = first == longest ? second_length : longest_length;
    // At an end of the extent the rest stays in one piece. In the middle only where exactly the last freed run is taken: runs
    // of equal length then never get between each other's places, and the run is in the cache.
    const int32_t low = first, high = first + total - granules;
    const Extent extent = extents[first];
    int32_t place = low;
    if (extent.hot_count > 0 && extent.hot_first - low > high + granules - (extent.hot_first + extent.hot_count)) place = high;
    if (extent.hot_count == granules) {
      const int32_t left = extent.hot_first - first;
      const int32_t right = total - left - granules;
      if (std::max({elsewhere, left, right}) >= reserve) place = extent.hot_first;
    }
    const int32_t left = place - first, right = total - left - granules;
    if (std::max({elsewhere, left, right}) < reserve) continue;
    Unlink(first);
    if (right > 0) InsertAfter(extent.previous, place + granules, right, extent.hot_first, extent.hot_count);
    if (left > 0) InsertAfter(extent.previous, first, left, extent.hot_first, extent.hot_count);
    std::fill_n(state.begin() + place, granules, GranuleState::kUsed);
    length[place] = granules;
    free_count -= granules;
    return place;
  }
  return kNone;
}

void Arena::Impl::Release(int32_t first, int32_t granules) {
  std::fill_n(state.begin() + first, granules, GranuleState::kFree);
  free_count += granules;
  int32_t begin = first, end = first + granules;
  if (begin > 0 && state[begin - 1] == GranuleState::kFree) {
    begin -= length[begin - 1];
    Unlink(begin);
  }
  if (end < count && state[end] == GranuleState::kFree) {
    Unlink(end);
    end += length[end];
  }
  InsertAfter(kNone, begin, end - begin, first, granules);
}

void Arena::Impl::CheckRun(const Run& run, GranuleState expected) const {
  PENSTOCK_CHECK(run.valid() && run.first_granule >= 0 && run.granules > 0 && run.first_granule <= count - run.granules,
                 "the run is not from this arena");
  PENSTOCK_CHECK(run.data == Address(run.first_granule) && length[run.first_granule] == run.granules,
                 "the run is not one that this arena handed out");
  for (int32_t granule = run.first_granule; granule < run.first_granule + run.granules; ++granule) {
    PENSTOCK_CHECK(state[granule] == expected, "the run was given back already, or it is in quarantine");
  }
}

// Keeps the arena for the rest of the process, since the kernel may still write to its quarantined runs. Free memory that is not
// pinned goes back to the system all the same; its addresses stay taken.
void Arena::Impl::Leak(std::unique_ptr<Impl> self) {
  for (int32_t granule = 0; granule < count; ++granule) {
    if (state[granule] == GranuleState::kFree && (flags[granule] & kTouched) != 0 && (flags[granule] & kPinned) == 0) {
      ::madvise(Address(granule), kGranuleBytes, MADV_DONTNEED);
    }
  }
  options.pin = nullptr;  // what these hold (the device) need not live for ever with the memory
  options.unpin = nullptr;
  static std::mutex* const leak_mutex = new std::mutex;
  static auto* const leaked = new std::vector<std::unique_ptr<Impl>>;
  std::lock_guard<std::mutex> lock(*leak_mutex);
  leaked->push_back(std::move(self));
}

// -------------------------------------------------------------------------------------------------------- the arena

absl::StatusOr<std::shared_ptr<Arena>> Arena::Create(const ArenaOptions& options) {
  if (options.bytes < kGranuleBytes) {
    return absl::InvalidArgumentError(absl::StrCat("arena: ", options.bytes, " bytes are less than one granule of ", kGranuleBytes,
                                                   ": raise memory_bytes"));
  }
  if (options.bytes / kGranuleBytes > std::numeric_limits<int32_t>::max() / 2) {
    return absl::InvalidArgumentError(absl::StrCat("arena: ", options.bytes, " bytes are too many: lower memory_bytes"));
  }
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->count = static_cast<int32_t>(options.bytes / kGranuleBytes);
  impl->pinning = options.pin ? "cudaHostRegister" : "none (host only)";
  const absl::Status status = impl->Map();
  if (!status.ok()) {
    if (impl->mapping != nullptr) ::munmap(impl->mapping, impl->mapping_bytes);
    return status;
  }
  impl->state.assign(impl->count, GranuleState::kFree);
  impl->length.assign(impl->count, 0);
  impl->extents.resize(impl->count);
  impl->flags.assign(impl->count, 0);
  impl->free_count = impl->count;
  impl->InsertAfter(kNone, 0, impl->count, kNone, 0);
  // One page of each granule that was never handed out: it catches a run that is overrun, and costs little shadow memory.
  for (int32_t granule = 0; granule < impl->count; ++granule) ASAN_POISON_MEMORY_REGION(impl->Address(granule), kSmallPageBytes);
  return std::shared_ptr<Arena>(new Arena(std::move(impl)));
}

Arena::Arena(std::unique_ptr<Impl> impl) : impl_(std::move(impl)), base_(impl_->base), granule_count_(impl_->count) {}

Arena::~Arena() {
  Impl& impl = *impl_;
  // In a child the range is not mapped, or the child has mapped something of its own there.
  if (impl.fork_guard.InForkedChild()) return;
  {
    std::lock_guard<std::mutex> lock(impl.mutex);
    PENSTOCK_CHECK(impl.free_count + impl.quarantined_count == impl.count, "an arena is destroyed while runs of it are in use");
  }
  if (impl.quarantined_count > 0) {
    impl.Leak(std::move(impl_));
    return;
  }
  if (impl.options.unpin) {
    for (int32_t granule = 0; granule < impl.count; ++granule) {
      if ((impl.flags[granule] & kPinStart) != 0) impl.options.unpin(impl.Address(granule));
    }
  }
  ASAN_UNPOISON_MEMORY_REGION(impl.base, static_cast<size_t>(impl.count) * kGranuleBytes);
  ::munmap(impl.mapping, impl.mapping_bytes);
}

Run Arena::Allocate(int32_t granules, int32_t reserve_granules) {
  PENSTOCK_CHECK(granules > 0 && reserve_granules >= 0, "a run has at least one granule, a reserve none or more");
  Impl& impl = *impl_;
  if (impl.fork_guard.InForkedChild()) return Run{};
  int32_t first;
  {
    std::lock_guard<std::mutex> lock(impl.mutex);
    first = impl.Take(granules, reserve_granules);
  }
  if (first == kNone) return Run{};
  Run run{.data = impl.Address(first), .bytes = granules * kGranuleBytes, .first_granule = first, .granules = granules};
  ASAN_UNPOISON_MEMORY_REGION(run.data, static_cast<size_t>(run.bytes));
  // The run is the caller's from here on, so the slow first use keeps nobody else waiting.
  for (const uint8_t flag : {kTouched, kPinned}) {
    if (flag == kPinned && !impl.options.pin) break;
    const int32_t end = first + granules;
    for (int32_t begin = first; begin < end;) {
      int32_t stop = begin;
      while (stop < end && (impl.flags[stop] & flag) == 0) ++stop;
      if (stop > begin) flag == kTouched ? impl.Touch(begin, stop - begin) : impl.Pin(begin, stop - begin);
      begin = stop + 1;
    }
  }
  return run;
}

void Arena::Free(const Run& run) {
  if (impl_->fork_guard.InForkedChild()) return;
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->CheckRun(run, GranuleState::kUsed);
  ASAN_POISON_MEMORY_REGION(run.data, static_cast<size_t>(run.bytes));
  impl_->Release(run.first_granule, run.granules);
}

// Not poisoned: the late write of a thread that hangs in pread(2) is what quarantine is for, not a mistake.
void Arena::Quarantine(const Run& run) {
  if (impl_->fork_guard.InForkedChild()) return;
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->CheckRun(run, GranuleState::kUsed);
  std::fill_n(impl_->state.begin() + run.first_granule, run.granules, GranuleState::kQuarantined);
  impl_->quarantined_count += run.granules;
  quarantined_bytes.fetch_add(run.bytes, std::memory_order_relaxed);
}

void Arena::Reclaim(const Run& run) {
  if (impl_->fork_guard.InForkedChild()) return;
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->CheckRun(run, GranuleState::kQuarantined);
  impl_->quarantined_count -= run.granules;
  quarantined_bytes.fetch_sub(run.bytes, std::memory_order_relaxed);
  ASAN_POISON_MEMORY_REGION(run.data, static_cast<size_t>(run.bytes));
  impl_->Release(run.first_granule, run.granules);
}

int32_t Arena::free_granules() const {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->free_count;
}

int32_t Arena::quarantined_granules() const {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->quarantined_count;
}

ArenaReport Arena::report() const {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  return ArenaReport{.bytes = int64_t{granule_count_} * kGranuleBytes,
                     .touched_bytes = impl_->touched_count.load(std::memory_order_relaxed) * kGranuleBytes,
                     .pages = impl_->pages,
                     .binding = impl_->binding,
                     .pinning = impl_->pinning};
}

}  // namespace penstock
