// All local ranks compute the same split of the cores, each from its own view: nothing in it depends on this rank's GPU. Only
// the order in which a rank uses its own cores does.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "penstock/topology.h"
#include "topology/cpu_list.h"

namespace penstock {
namespace {

using Core = std::vector<int>;  // hardware threads

// The allowed cores of a node and this rank's part of them.
struct NodeCores {
  int id = -1;
  std::vector<Core> cores;
  std::vector<Core> own;          // for streams
  std::vector<Core> own_trainer;  // the rank's part of what is left to the trainer
};

int NodeIndex(const Topology& topology, int id) {
  for (size_t index = 0; index < topology.nodes.size(); ++index) {
    if (topology.nodes[index].id == id) return static_cast<int>(index);
  }
  return -1;
}

const GpuInfo* FindGpu(const Topology& topology, absl::string_view pci_bus_id) {
  for (const GpuInfo& gpu : topology.gpus) {
    if (gpu.pci_bus_id == pci_bus_id) return &gpu;
  }
  return nullptr;
}

// How far the node of this index is from another; unknown distances are all alike.
int Distance(const NumaNode& from, int to_index) {
  return static_cast<size_t>(to_index) < from.distances.size() ? from.distances[to_index] : std::numeric_limits<int>::max();
}

// This rank's contiguous part of the items, so that its cores share caches. `dealt` counts on from node to node: the ranks that
// get one less here get one more on the next node.
std::vector<Core> Part(const std::vector<Core>& cores, size_t begin, size_t end, const PlacementOptions& options, int64_t* dealt) {
  const int64_t ranks = options.local_world_size;
  const int64_t count = static_cast<int64_t>(end - begin);
  int64_t place = static_cast<int64_t>(begin);
  int64_t own = 0;
  for (int64_t rank = 0; rank <= options.local_rank; ++rank) {
    place += own;
    // How many of the numbers dealt .. dealt + count - 1 are this rank's.
    own = (*dealt + count - rank + ranks - 1) / ranks - (*dealt - rank + ranks - 1) / ranks;
  }
  *dealt += count;
  return std::vector<Core>(cores.begin() + place, cores.begin() + place + own);
}

// The cores by node. Those of no node, or of a machine without nodes, are those of node -1.
std::vector<NodeCores> CoresByNode(const Topology& topology) {
  std::map<int, int> node_of_cpu;
  for (const NumaNode& node : topology.nodes) {
    for (const int cpu : node.cpus) node_of_cpu[cpu] = node.id;
  }
  std::vector<Core> cores = topology.cores;
  if (cores.empty()) {
    for (const int cpu : topology.allowed_cpus) cores.push_back({cpu});
  }
  std::map<int, std::vector<Core>> by_node;
  for (Core& core : cores) {
    const auto node = node_of_cpu.find(core.front());
    by_node[node == node_of_cpu.end() ? -1 : node->second].push_back(std::move(core));
  }
  std::vector<NodeCores> nodes;
  for (auto& [id, node_cores] : by_node) nodes.push_back({.id = id, .cores = std::move(node_cores)});
  return nodes;
}

absl::Status CheckOptions(const PlacementOptions& options) {
  if (options.streams < 0) return absl::InvalidArgumentError(absl::StrCat("streams = ", options.streams, " is negative"));
  if (!(options.cpu_share > 0 && options.cpu_share <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("cpu_share = ", options.cpu_share, " is not above 0 and at most 1"));
  }
  if (options.local_world_size < 1 || options.local_rank < 0 || options.local_rank >= options.local_world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("local rank ", options.local_rank, " of ", options.local_world_size, " local ranks is impossible"));
  }
  return absl::OkStatus();
}

// Takes from the lists in turn, one at a time, until all are used up.
std::vector<StreamPlacement> InTurn(const std::vector<std::vector<StreamPlacement>>& lists) {
  std::vector<StreamPlacement> all;
  size_t longest = 0;
  for (const auto& list : lists) longest = std::max(longest, list.size());
  for (size_t index = 0; index < longest; ++index) {
    for (const auto& list : lists) {
      if (index < list.size()) all.push_back(list[index]);
    }
  }
  return all;
}

}  // namespace

int MemoryNodeForGpu(const Topology& topology, absl::string_view gpu_pci_bus_id) {
  const absl::StatusOr<std::string> id = NormalPciBusId(gpu_pci_bus_id);
  if (!id.ok() || topology.nodes.size() < 2) return -1;
  const GpuInfo* const gpu = FindGpu(topology, *id);
  const int index = gpu == nullptr ? -1 : NodeIndex(topology, gpu->numa_node);
  if (index < 0) return -1;
  // The memory of a node without CPUs is the GPU's own or slower memory, not the host's.
  int nearest = -1, nearest_distance = 0;
  for (size_t other = 0; other < topology.nodes.size(); ++other) {
    const NumaNode& node = topology.nodes[other];
    if (node.cpus.empty() || !node.has_memory) continue;
    const int distance = static_cast<int>(other) == index ? 0 : Distance(topology.nodes[index], static_cast<int>(other));
    // Without distances there is nothing to choose by.
    if (distance == std::numeric_limits<int>::max()) continue;
    if (nearest < 0 || distance < nearest_distance) {
      nearest = node.id;
      nearest_distance = distance;
    }
  }
  return nearest;
}

absl::StatusOr<std::vector<StreamPlacement>> PlaceStreams(const Topology& topology, const PlacementOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  if (topology.allowed_cpus.empty()) return absl::FailedPreconditionError("the topology allows no CPU");
  int gpu_node_index = -1;
  if (!options.gpu_pci_bus_id.empty()) {
    const absl::StatusOr<std::string> id = NormalPciBusId(options.gpu_pci_bus_id);
    if (!id.ok()) return id.status();
    const GpuInfo* const gpu = FindGpu(topology, *id);
    if (gpu != nullptr) gpu_node_index = NodeIndex(topology, gpu->numa_node);
  }

  std::vector<NodeCores> nodes = CoresByNode(topology);
  int64_t core_count = 0;
  for (const NodeCores& node : nodes) core_count += static_cast<int64_t>(node.cores.size());
  int64_t streams = options.streams;
  if (streams == 0) {
    double budget = static_cast<double>(core_count);
    if (topology.cpu_quota > 0) budget = std::min(budget, topology.cpu_quota);
    streams = std::max<int64_t>(1, static_cast<int64_t>(std::floor(budget * options.cpu_share / options.local_world_size + 1e-9)));
  }

  // A node's first cores are left to the trainer: what the streams of all local ranks would not fill even if all of them came
  // here, and an eighth in any case (the framework's own threads and NCCL's proxies run somewhere).
  int64_t dealt = 0;
  std::vector<size_t> trainer_counts;
  for (NodeCores& node : nodes) {
    const int64_t count = static_cast<int64_t>(node.cores.size());
    const int64_t least = count >= 2 ? (count + 7) / 8 : 0;
    const size_t trainer = static_cast<size_t>(std::max(least, count - streams * options.local_world_size));
    trainer_counts.push_back(trainer);
    node.own = Part(node.cores, trainer, node.cores.size(), options, &dealt);
  }
  for (size_t index = 0; index < nodes.size(); ++index) {
    nodes[index].own_trainer = Part(nodes[index].cores, 0, trainer_counts[index], options, &dealt);
  }

  // Nearest first; without a known GPU each rank begins at another node and they take turns.
  const bool by_distance = gpu_node_index >= 0;
  if (by_distance) {
    const NumaNode& gpu_node = topology.nodes[gpu_node_index];
    std::stable_sort(nodes.begin(), nodes.end(), [&](const NodeCores& left, const NodeCores& right) {
      const auto distance = [&](const NodeCores& node) {
        if (node.id == gpu_node.id) return 0;
        const int index = NodeIndex(topology, node.id);
        return index < 0 ? std::numeric_limits<int>::max() : Distance(gpu_node, index);
      };
      return distance(left) < distance(right);
    });
  } else {
    std::rotate(nodes.begin(), nodes.begin() + options.local_rank % static_cast<int>(nodes.size()), nodes.end());
  }

  std::vector<StreamPlacement> candidates;
  for (const bool trainer : {false, true}) {
    for (size_t thread = 0;; ++thread) {
      std::vector<std::vector<StreamPlacement>> lists;
      bool any = false;
      for (const NodeCores& node : nodes) {
        std::vector<StreamPlacement>& list = lists.emplace_back();
        for (const Core& core : trainer ? node.own_trainer : node.own) {
          if (thread >= core.size()) continue;
          list.push_back({.cpu = core[thread], .numa_node = node.id});
          any = true;
        }
      }
      if (!any) break;
      std::vector<StreamPlacement> level;
      if (by_distance) {
        for (const auto& list : lists) level.insert(level.end(), list.begin(), list.end());
      } else {
        level = InTurn(lists);
      }
      candidates.insert(candidates.end(), level.begin(), level.end());
    }
  }
  if (candidates.empty()) {
    // More local ranks than cores: some share one.
    std::vector<StreamPlacement> all;
    for (const NodeCores& node : nodes) {
      for (const Core& core : node.cores) all.push_back({.cpu = core.front(), .numa_node = node.id});
    }
    std::sort(all.begin(), all.end(), [](const StreamPlacement& left, const StreamPlacement& right) { return left.cpu < right.cpu; });
    candidates.push_back(all[static_cast<size_t>(options.local_rank) % all.size()]);
  }
  std::vector<StreamPlacement> placement;
  placement.reserve(static_cast<size_t>(streams));
  for (int64_t stream = 0; stream < streams; ++stream) placement.push_back(candidates[static_cast<size_t>(stream) % candidates.size()]);
  return placement;
}

}  // namespace penstock
