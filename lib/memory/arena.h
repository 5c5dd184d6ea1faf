// The memory of one loader: granules of 2 MiB, handed out in contiguous runs.
#ifndef PENSTOCK_MEMORY_ARENA_H_
#define PENSTOCK_MEMORY_ARENA_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/align.h"

namespace penstock {

inline constexpr int64_t kGranuleBytes = int64_t{2} << 20;

// Granules of a run of so many bytes; at least one.
inline int32_t GranulesFor(uint64_t bytes) {
  return static_cast<int32_t>(std::max<uint64_t>(1, CeilDiv(bytes, kGranuleBytes)));
}

struct ArenaOptions {
  int64_t bytes = 0;       // rounded down to whole granules; at least one
  int numa_node = -1;      // -1: unknown, first touch decides
  bool huge_pages = true;  // hugetlb where reserved, else MADV_HUGEPAGE
  bool guard_pages = false;  // PROT_NONE around the arena (debug)
  // Pins (cudaHostRegister) the bytes; called per granule-aligned chunk before it is first handed out, by the thread that
  // allocates, so by several at a time. After the first failure it is not called again. Empty: host only.
  std::function<absl::Status(void* address, size_t bytes)> pin;
  std::function<void(void* address)> unpin;
};

// A contiguous run of granules. Not an owner: give it back to the arena that it is from.
struct Run {
  std::byte* data = nullptr;
  int64_t bytes = 0;  // whole granules
  int32_t first_granule = -1;
  int32_t granules = 0;
  bool valid() const { return data != nullptr; }
};

// What became of each optional step.
struct ArenaReport {
  int64_t bytes = 0;
  int64_t touched_bytes = 0;
  std::string pages;    // "hugetlb", "transparent huge pages", "4 KiB pages: <why>"
  std::string binding;  // "node 1 by mbind", "node 1 by first touch: mbind: EPERM", "not bound: node unknown"
  std::string pinning;  // "cudaHostRegister", "none (host only)", "failed: <why>; copies go through the driver's staging buffer"
};

// Bytes in quarantine in the whole process, those of arenas that are gone already included: these are never given back.
int64_t QuarantinedBytes();

// Thread-safe. Destroyed only when every run is back: checked, but for quarantined runs, whose arena is never unmapped and
// never unpinned. In a forked child the memory is not there (MADV_DONTFORK): Allocate fails, the destructor does nothing.
class Arena {
 public:
  static absl::StatusOr<std::shared_ptr<Arena>> Create(const ArenaOptions& options);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // A run of `granules`, from the most recently freed memory that fits; pages are touched (by the calling thread) and pinned on
  // the first use of each. An invalid run where nothing fits while keeping `reserve_granules` free in one piece.
  Run Allocate(int32_t granules, int32_t reserve_granules = 0);
  void Free(const Run& run);
  // Marks a run as one that the kernel may still write to: counted, never reused until Reclaim.
  void Quarantine(const Run& run);
  void Reclaim(const Run& run);  // its last completion was reaped after all: quarantined -> free

  int32_t granules() const { return granule_count_; }
  int32_t free_granules() const;
  int32_t quarantined_granules() const;
  const std::byte* base() const { return base_; }
  ArenaReport report() const;

 private:
  struct Impl;
  explicit Arena(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  std::byte* base_ = nullptr;
  int32_t granule_count_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_MEMORY_ARENA_H_
