// Page cache or past it.
#ifndef PENSTOCK_LOADER_RESIDENCY_H_
#define PENSTOCK_LOADER_RESIDENCY_H_

#include <cstdint>
#include <string>

#include "penstock/manifest.h"
#include "store/object_store.h"

namespace penstock {

struct Residency {
  int64_t data_bytes = 0;
  int64_t available_bytes = 0;    // of memory, as the kernel and the memory cgroup see it; 0: not known
  int64_t direct_alignment = 0;   // of offset, length and address; 0: the file system has no direct reads
  bool prefer_direct = false;
  std::string why;
};

// Looks at the data set's size, the memory available, and what the file system of the first object allows.
Residency LookAtResidency(const Manifest& manifest, const ObjectStore& objects);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_RESIDENCY_H_
