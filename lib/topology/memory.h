// How much memory this process can have.
#ifndef PENSTOCK_TOPOLOGY_MEMORY_H_
#define PENSTOCK_TOPOLOGY_MEMORY_H_

#include <cstdint>
#include <string>

#include "penstock/topology.h"

namespace penstock {

// Memory that can be had without anybody's harm: of what the machine and each memory cgroup of this process leave, the least. What the
// page cache holds counts as free.
struct MemoryLeft {
  int64_t bytes = 0;      // 0: not known
  int64_t limit_bytes = 0;  // of what binds: the machine's memory, or the cgroup's limit
  std::string by;         // what binds: "the machine's memory of 16 GiB", "the limit of 300 MiB of the memory cgroup /sys/fs/cgroup/job"
};

MemoryLeft ReadMemoryLeft(const TopologySource& source = {});

}  // namespace penstock

#endif  // PENSTOCK_TOPOLOGY_MEMORY_H_
