// Page cache or past it.
#ifndef PENSTOCK_LOADER_RESIDENCY_H_
#define PENSTOCK_LOADER_RESIDENCY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "penstock/manifest.h"
#include "store/object_store.h"

namespace penstock {

// What the store allows, and what memory has room for. DecideIo (io_choice.h) says what follows from it.
struct Residency {
  int64_t data_bytes = 0;
  int64_t available_bytes = 0;    // of memory, as the kernel and the memory cgroup see it; 0: not known
  int64_t direct_alignment = 0;   // of offset, length and address; 0: the file system has no direct reads
  std::string direct_why;
  double cached_share = -1;       // see CachedShare()
  // Reads that need not wait return at once (RWF_NOWAIT); where not, io_uring gives each to one of its worker threads.
  bool answers_at_once = true;
};

// What a file system allows for one file, found out by doing.
struct FileRules {
  int64_t direct_alignment = 0;  // of direct reads; 0: there are none
  std::string direct_why;
  bool answers_at_once = true;
};
FileRules LookAtFile(const OpenTarget& target);

// The share of the bytes of `ranges` that are in the page cache: by cachestat(2), or where that is missing or not allowed, by whether the
// first byte can be read without waiting. -1: the kernel and the file system cannot tell, or no file could be opened.
double CachedShare(const ObjectStore& objects, absl::Span<const Range> ranges);

// How much is cached decides little, and files that are not take a read of the drive each to be opened.
inline constexpr int64_t kCachedSharePatienceNs = 200'000'000;

// The same on a thread of its own, which stays behind where the store hangs; -1 where it has not answered within `patience_ns`.
double CachedShareWithin(std::shared_ptr<const ObjectStore> objects, std::vector<Range> ranges, int64_t patience_ns);

// Looks at the data set's size, the memory available and, by an open and a read, at what the file system of the first object allows, and
// how much of `sample` is in the page cache. Where direct reads come into question (the set does not fit, or `ask_direct`), a store that
// does not answer within `patience_ns` counts as one without; otherwise its answer is not waited for so long.
Residency LookAtResidency(const Manifest& manifest, std::shared_ptr<const ObjectStore> objects, std::vector<Range> sample, bool ask_direct,
                          int64_t patience_ns);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_RESIDENCY_H_
