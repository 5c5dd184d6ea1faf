// Machines as sysfs shows them, in a temporary folder: what ReadTopology reads instead of /sys and /proc.
#ifndef PENSTOCK_TESTS_TOPOLOGY_MACHINE_MAP_H_
#define PENSTOCK_TESTS_TOPOLOGY_MACHINE_MAP_H_

#include <string>
#include <vector>

#include "penstock/topology.h"

namespace penstock::testing {

class MachineMap {
 public:
  MachineMap();
  ~MachineMap();
  MachineMap(const MachineMap&) = delete;
  MachineMap& operator=(const MachineMap&) = delete;

  void Write(const std::string& path, const std::string& text);  // "sys/..." or "proc/..."; a line end is added
  void Online(const std::string& cpus);
  void Siblings(int first_cpu, int cores, int second_cpu);  // two threads on each core, numbered as most firmware does
  void Node(int id, const std::string& cpus, int memory_gib, const std::string& distances);
  void Gpu(const std::string& pci_bus_id, int numa_node, const std::string& near_cpus);

  // With an affinity of `cpus`, which is a list as the kernel writes it.
  TopologySource Source(const std::string& cpus) const;

 private:
  std::string root_;
};

// Two sockets, 4 nodes each (NPS4), 16 cores of 2 threads a node; GPUs on 4 of the 8 nodes: 0,1 on node 3; 2,3 on 1; 4,5 on 7; 6,7 on 5.
void DgxA100(MachineMap& map);
inline constexpr const char* kDgxA100Cpus = "0-255";

// Two nodes of 56 cores of 2 threads; GPUs 0-3 on node 0, 4-7 on node 1.
void DgxH100(MachineMap& map);
inline constexpr const char* kDgxH100Cpus = "0-223";

// One GH200: 72 cores on node 0, the GPU's memory is node 1, and seven nodes without CPUs or memory (for its partitions).
void GraceHopper(MachineMap& map);

// A laptop: one node, 4 cores of 2 threads (CPUs 0-7, siblings side by side) and 8 small ones of one, one GPU whose node the firmware
// omits.
void Laptop(MachineMap& map);
inline constexpr const char* kLaptopCpus = "0-15";

// The bus ids of both DGX maps, by GPU index.
extern const std::vector<std::string> kGpuIds;

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_TOPOLOGY_MACHINE_MAP_H_
