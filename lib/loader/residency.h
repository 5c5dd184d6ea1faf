// Page cache or past it.
#ifndef PENSTOCK_LOADER_RESIDENCY_H_
#define PENSTOCK_LOADER_RESIDENCY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "penstock/manifest.h"
#include "store/object_store.h"

namespace penstock {

struct Residency {
  int64_t data_bytes = 0;
  int64_t available_bytes = 0;    // of memory, as the kernel and the memory cgroup see it; 0: not known
  int64_t direct_alignment = 0;   // of offset, length and address; 0: the file system has no direct reads
  bool prefer_direct = false;
  // Reads that need not wait return at once (RWF_NOWAIT); where not, io_uring gives each to one of its worker threads.
  bool answers_at_once = true;
  std::string why;
};

// Memory that can be had without anybody's harm, as the kernel and the memory cgroups of this process see it; 0: not known.
int64_t AvailableMemory();

// What a file system allows for one file, found out by doing.
struct FileRules {
  int64_t direct_alignment = 0;  // of direct reads; 0: there are none
  std::string direct_why;
  bool answers_at_once = true;
};
FileRules LookAtFile(const OpenTarget& target);

// Looks at the data set's size, the memory available and, by an open and a read, at what the file system of the first object allows. Where
// direct reads come into question (the set does not fit, or `ask_direct`), a store that does not answer within `patience_ns` counts as one
// without; otherwise its answer is not waited for so long.
Residency LookAtResidency(const Manifest& manifest, std::shared_ptr<const ObjectStore> objects, bool ask_direct, int64_t patience_ns);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_RESIDENCY_H_
