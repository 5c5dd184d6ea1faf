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
  std::string why;
};

// Looks at the data set's size and the memory available and, where direct reads come into question (the set does not fit, or `ask_direct`),
// by an open and a read at what the file system of the first object allows. A store that does not answer within `patience_ns` counts as one
// without direct reads.
Residency LookAtResidency(const Manifest& manifest, std::shared_ptr<const ObjectStore> objects, bool ask_direct, int64_t patience_ns);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_RESIDENCY_H_
