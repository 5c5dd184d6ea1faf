// Which cores, NUMA nodes and GPUs this process has, which are near each other, and which core each I/O stream runs on.
#ifndef PENSTOCK_TOPOLOGY_H_
#define PENSTOCK_TOPOLOGY_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "penstock/export.h"

namespace penstock {

/// One NUMA node. It may have no CPUs (the memory of a GPU on Grace, CXL memory) or no memory.
struct NumaNode {
  int id = -1;
  std::vector<int> cpus;  ///< all of the node's online CPUs, ascending, allowed or not
  bool has_memory = false;
  int64_t memory_bytes = 0;
  std::vector<int> distances;  ///< to each of Topology::nodes, in their order; 10 is the node itself
};

/// One NVIDIA GPU that the PCI bus shows.
struct GpuInfo {
  std::string pci_bus_id;       ///< "0000:1b:00.0", lower case
  int numa_node = -1;           ///< -1: the firmware or the virtual machine does not say
  std::vector<int> near_cpus;   ///< as the kernel says it; all CPUs where it does not know
};

struct Topology {
  std::vector<int> allowed_cpus;        ///< what this process may run on, ascending; never empty
  std::vector<std::vector<int>> cores;  ///< allowed_cpus by physical core, ascending by first CPU; more than one: hardware threads
  std::vector<NumaNode> nodes;          ///< ascending by id; empty where the kernel shows none
  std::vector<GpuInfo> gpus;            ///< ascending by PCI bus id
  double cpu_quota = 0;                 ///< CPUs' worth of time that the cgroup grants, a bound on time and not on CPUs; 0: none

  /// The map as `penstock doctor` prints it: lines, each ended by '\n'.
  PENSTOCK_EXPORT std::string ToText() const;
};

/// Where a topology is read from; another root describes another machine.
struct TopologySource {
  std::string sysfs_root = "/sys";
  std::string proc_root = "/proc";
  std::optional<std::vector<int>> affinity;  ///< absent: sched_getaffinity(2)
};

/// Reads the topology.
///
/// What is missing (a container without /sys, a kernel without NUMA) stays empty or unknown: it is never guessed.
///
/// Errors:   DataLoss            a file says what cannot be; the message names the file and its text.
///           FailedPrecondition  no CPU is allowed.
/// Threads:  any.
/// Source:   cpusets(7), Documentation/ABI/stable/sysfs-devices-node, Documentation/ABI/testing/sysfs-bus-pci.
PENSTOCK_EXPORT absl::StatusOr<Topology> ReadTopology(const TopologySource& source = {});

struct StreamPlacement {
  int cpu = -1;
  int numa_node = -1;  ///< that of the CPU; -1 where the kernel shows no nodes
};

struct PlacementOptions {
  int streams = 0;            ///< 0: cpu_share of the allowed cores, or of the quota where that is less, divided by local ranks
  double cpu_share = 0.4;     ///< 0 < cpu_share <= 1
  int local_rank = 0;         ///< 0 <= local_rank < local_world_size
  int local_world_size = 1;   ///< several loaders in one process: count them here as local ranks
  std::string gpu_pci_bus_id; ///< the GPU that is fed; empty: none. Upper case and a domain of 8 digits (NVML's) will do
};

/// Chooses a CPU for each stream.
///
/// Each node's cores are split among the local ranks without overlap, as long as there is a core for each; which GPU another
/// rank has makes no difference. A rank's streams take its cores nearest to its GPU first (so same-socket nodes before the other
/// socket), one hardware thread of each; then the second threads; then the first cores of each node, which are left to the
/// trainer while there are others; then all of these once more. Without a GPU, or where its node is unknown, the nodes
/// take turns. All local ranks must give the same `streams` and `cpu_share`.
///
/// Shape:    `streams` entries, at least one.
/// Errors:   InvalidArgument     a value out of range, or a PCI bus id that is none.
///           FailedPrecondition  the topology allows no CPU.
PENSTOCK_EXPORT absl::StatusOr<std::vector<StreamPlacement>> PlaceStreams(const Topology& topology, const PlacementOptions& options);

/// The node for host memory that is copied to or from this GPU: its own, or the nearest one that has CPUs and memory where its own has
/// not (Grace). -1 where it is not known, or where there are fewer than two nodes to choose from.
PENSTOCK_EXPORT int MemoryNodeForGpu(const Topology& topology, absl::string_view gpu_pci_bus_id);

/// Which process of a training job this is.
struct RankInfo {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;
  int local_world_size = 1;
  /// "arguments", "torchrun", "RANK and WORLD_SIZE", "Open MPI", "MPICH (PMI)", "MVAPICH2", "jsrun", "Flux", "Slurm", "single process"; or
  /// what the caller of DiscoverRank() calls its arguments ("torch.distributed").
  std::string source;

  /// "rank 3 of 8 (from torchrun; local rank 1 of 4)".
  PENSTOCK_EXPORT std::string ToText() const;
};

/// Finds out the rank: from the arguments where they are not -1, else from the launcher's environment variables, else this is
/// a single process. The order is torchrun (or RANK and WORLD_SIZE), Open MPI, PMI (with the local numbers of Hydra, Cray or PALS),
/// MVAPICH2, jsrun, Flux, Slurm. With arguments the launcher still says the local rank, as far as it can. `source` is what the arguments
/// are called in RankInfo::source; empty: "arguments".
///
/// A set of variables that is not complete (LOCAL_RANK without RANK, PMIX_RANK without a size) is an error unless a launcher's set is
/// complete: such a process is one of several, and would read all of the data.
///
/// Slurm counts only inside a step (SLURM_STEP_NUM_TASKS): a batch script sees the job's SLURM_NTASKS too, but is one
/// process. It is not compared with the others, since its variables are then those of their daemons.
///
/// Errors:   InvalidArgument  only one of rank and world_size is given; a value is not a number or out of range; a launcher's variables are
///           not complete; or two launchers disagree. The message names the variables and values. Giving both arguments ends such a dispute.
/// Threads:  as `getenv`.
PENSTOCK_EXPORT absl::StatusOr<RankInfo> DiscoverRank(int rank, int world_size, const std::function<const char*(const char*)>& getenv,
                                                      absl::string_view source = "");

}  // namespace penstock

#endif  // PENSTOCK_TOPOLOGY_H_
