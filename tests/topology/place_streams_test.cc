#include <algorithm>
#include <map>
#include <set>

#include "penstock/topology.h"
#include "support/status.h"
#include "topology/cpu_list.h"
#include "topology/machine_map.h"

namespace penstock {
namespace {

using testing::MachineMap;

Topology Read(const MachineMap& map, const std::string& cpus) {
  absl::StatusOr<Topology> topology = ReadTopology(map.Source(cpus));
  REQUIRE_OK(topology);
  return *std::move(topology);
}

Topology MapOf(void (*machine)(MachineMap&), const std::string& cpus) {
  MachineMap map;
  machine(map);
  return Read(map, cpus);
}

std::vector<StreamPlacement> Place(const Topology& topology, const PlacementOptions& options) {
  absl::StatusOr<std::vector<StreamPlacement>> placement = PlaceStreams(topology, options);
  REQUIRE_OK(placement);
  // Whatever was asked for: at least one stream, on allowed CPUs, with the node that this CPU is really on.
  REQUIRE_FALSE(placement->empty());
  for (const StreamPlacement& stream : *placement) {
    if (!std::binary_search(topology.allowed_cpus.begin(), topology.allowed_cpus.end(), stream.cpu)) {
      FAIL("CPU " << stream.cpu << " is not allowed");
    }
    int node_id = -1;
    for (const NumaNode& node : topology.nodes) {
      if (std::binary_search(node.cpus.begin(), node.cpus.end(), stream.cpu)) node_id = node.id;
    }
    if (stream.numa_node != node_id) FAIL("CPU " << stream.cpu << " is on node " << node_id << " and not " << stream.numa_node);
  }
  return *std::move(placement);
}

std::set<int> Cpus(const std::vector<StreamPlacement>& placement) {
  std::set<int> cpus;
  for (const StreamPlacement& stream : placement) cpus.insert(stream.cpu);
  return cpus;
}

std::set<int> Nodes(const std::vector<StreamPlacement>& placement) {
  std::set<int> nodes;
  for (const StreamPlacement& stream : placement) nodes.insert(stream.numa_node);
  return nodes;
}

// All CPUs of all ranks, each of which must be used by one rank only, and each physical core too. GPU i feeds rank i.
std::set<int> PlaceAllRanks(const Topology& topology, int ranks, int streams, bool with_gpus) {
  std::set<int> all;
  std::map<int, int> rank_of_core;
  for (int rank = 0; rank < ranks; ++rank) {
    PlacementOptions options{.streams = streams, .local_rank = rank, .local_world_size = ranks};
    if (with_gpus) options.gpu_pci_bus_id = topology.gpus[rank % topology.gpus.size()].pci_bus_id;
    for (const StreamPlacement& stream : Place(topology, options)) {
      const auto core = std::find_if(topology.cores.begin(), topology.cores.end(), [&](const std::vector<int>& threads) {
        return std::find(threads.begin(), threads.end(), stream.cpu) != threads.end();
      });
      const int core_index = static_cast<int>(core - topology.cores.begin());
      const int owner = rank_of_core.emplace(core_index, rank).first->second;
      if (owner != rank) FAIL("the core of CPU " << stream.cpu << " is local rank " << owner << "'s and " << rank << "'s of " << ranks);
      all.insert(stream.cpu);
    }
  }
  return all;
}

TEST_CASE("each rank of a DGX H100 gets cores of the node of its GPU", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, testing::kDgxH100Cpus);
  for (int rank = 0; rank < 8; ++rank) {
    const auto placement =
        Place(topology, {.local_rank = rank, .local_world_size = 8, .gpu_pci_bus_id = testing::kGpuIds[static_cast<size_t>(rank)]});
    CHECK(placement.size() == 5);  // 0.4 of 112 cores, by 8
    CHECK(Nodes(placement) == std::set<int>{rank < 4 ? 0 : 1});
    CHECK(Cpus(placement).size() == placement.size());
  }
}

TEST_CASE("each rank of a DGX A100 gets cores of its own socket and first those of its node", "[topology]") {
  const Topology topology = MapOf(testing::DgxA100, testing::kDgxA100Cpus);
  const int gpu_nodes[] = {3, 3, 1, 1, 7, 7, 5, 5};
  for (int rank = 0; rank < 8; ++rank) {
    const auto placement =
        Place(topology, {.local_rank = rank, .local_world_size = 8, .gpu_pci_bus_id = testing::kGpuIds[static_cast<size_t>(rank)]});
    CHECK(placement.size() == 6);  // 0.4 of 128 cores, by 8
    CHECK(placement.front().numa_node == gpu_nodes[rank]);
    for (const int node : Nodes(placement)) CHECK(node / 4 == gpu_nodes[rank] / 4);
  }
}

TEST_CASE("one rank of a DGX A100 stays on the node of its GPU while it has cores there", "[topology]") {
  const Topology topology = MapOf(testing::DgxA100, testing::kDgxA100Cpus);
  const auto placement = Place(topology, {.streams = 14, .gpu_pci_bus_id = testing::kGpuIds[4]});
  CHECK(Nodes(placement) == std::set<int>{7});
  CHECK(Cpus(placement).size() == 14);
  // One more than the 14 that are not the trainer's goes to the same socket.
  const auto more = Place(topology, {.streams = 15, .gpu_pci_bus_id = testing::kGpuIds[4]});
  CHECK(Nodes(more).size() == 2);
  CHECK(*Nodes(more).begin() >= 4);
}

TEST_CASE("1 to 16 local ranks split the cores of every map without overlap", "[topology]") {
  const std::pair<Topology, bool> maps[] = {{MapOf(testing::DgxA100, testing::kDgxA100Cpus), true},
                                            {MapOf(testing::DgxH100, testing::kDgxH100Cpus), true},
                                            {MapOf(testing::DgxH100, "0-27,56-83"), true},   // a cpuset of half of the cores
                                            {MapOf(testing::DgxH100, "3,5,60-75"), true},    // hardly any on node 0
                                            {MapOf(testing::GraceHopper, "0-71"), true},
                                            {Topology{.allowed_cpus = *ParseCpuList("0-16")}, false}};
  for (const auto& [topology, with_gpus] : maps) {
    Topology with_cores = topology;
    if (with_cores.cores.empty()) {
      for (const int cpu : topology.allowed_cpus) with_cores.cores.push_back({cpu});
    }
    for (int ranks = 1; ranks <= 16; ++ranks) {
      for (const int streams : {0, 1, 3, 1000}) {
        const std::set<int> all = PlaceAllRanks(with_cores, ranks, streams, with_gpus);
        CHECK(all.size() >= static_cast<size_t>(ranks));
        // With enough streams nothing lies idle.
        if (streams == 1000) CHECK(all.size() == with_cores.allowed_cpus.size());
      }
    }
  }
}

TEST_CASE("local ranks that share a GPU do not share cores", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, testing::kDgxH100Cpus);
  std::set<int> all;
  size_t streams = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const auto placement = Place(topology, {.streams = 12, .local_rank = rank, .local_world_size = 4,
        .gpu_pci_bus_id = testing::kGpuIds[6]});
    CHECK(Nodes(placement) == std::set<int>{1});
    all.merge(Cpus(placement));
    streams += placement.size();
  }
  CHECK(all.size() == streams);
}

TEST_CASE("the first cores of each node are left to the trainer while there are others", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, testing::kDgxH100Cpus);
  for (int ranks = 1; ranks <= 8; ++ranks) {
    const std::set<int> all = PlaceAllRanks(topology, ranks, 0, true);
    for (const int cpu : {0, 1, 2, 3, 4, 5, 6, 56, 57, 58, 59, 60, 61, 62}) CHECK(all.count(cpu) == 0);
    // Nor does a stream share a core with another while there are free ones.
    for (const int cpu : all) CHECK(cpu < 112);
  }
}

TEST_CASE("second hardware threads are used after all cores and the cores of the trainer last", "[topology]") {
  MachineMap map;
  map.Siblings(0, 4, 4);
  map.Node(0, "0-7", 16, "10");
  const Topology topology = Read(map, "0-7");
  std::vector<int> cpus;
  for (const StreamPlacement& stream : Place(topology, {.streams = 8})) cpus.push_back(stream.cpu);
  CHECK(cpus == std::vector<int>{1, 2, 3, 5, 6, 7, 0, 4});
}

TEST_CASE("a GPU of an unknown node makes the nodes take turns", "[topology]") {
  MachineMap map;
  testing::DgxH100(map);
  for (const std::string& id : testing::kGpuIds) map.Gpu(id, -1, "0-223");
  const Topology topology = Read(map, testing::kDgxH100Cpus);
  const auto placement = Place(topology, {.streams = 6, .gpu_pci_bus_id = testing::kGpuIds[0]});
  std::vector<int> nodes;
  for (const StreamPlacement& stream : placement) nodes.push_back(stream.numa_node);
  CHECK(nodes == std::vector<int>{0, 1, 0, 1, 0, 1});
  CHECK(MemoryNodeForGpu(topology, testing::kGpuIds[0]) == -1);
  for (int ranks = 1; ranks <= 16; ++ranks) PlaceAllRanks(topology, ranks, 3, true);
}

TEST_CASE("ranks of one stream each without a GPU go to different nodes", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, testing::kDgxH100Cpus);
  const auto first = Place(topology, {.streams = 1, .local_rank = 0, .local_world_size = 2});
  const auto second = Place(topology, {.streams = 1, .local_rank = 1, .local_world_size = 2});
  CHECK(first[0].numa_node != second[0].numa_node);
}

TEST_CASE("a GPU that sysfs does not show is of an unknown node", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, testing::kDgxH100Cpus);
  const auto placement = Place(topology, {.streams = 2, .gpu_pci_bus_id = "0000:ff:00.0"});
  CHECK(Nodes(placement).size() == 2);
}

TEST_CASE("the bus id of a GPU is found in the form that NVML gives", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, testing::kDgxH100Cpus);
  CHECK(Nodes(Place(topology, {.streams = 4, .gpu_pci_bus_id = "00000000:BD:00.0"})) == std::set<int>{1});
  CHECK(MemoryNodeForGpu(topology, "00000000:BD:00.0") == 1);
}

TEST_CASE("a GPU whose node has no CPUs is fed from the nearest one that has", "[topology]") {
  const Topology topology = MapOf(testing::GraceHopper, "0-71");
  const auto placement = Place(topology, {.gpu_pci_bus_id = "0009:01:00.0"});
  CHECK(placement.size() == 28);
  CHECK(Nodes(placement) == std::set<int>{0});
  CHECK(MemoryNodeForGpu(topology, "0009:01:00.0") == 0);
}

TEST_CASE("on a laptop each stream has a core of its own before two share one", "[topology]") {
  const Topology topology = MapOf(testing::Laptop, testing::kLaptopCpus);
  const std::vector<StreamPlacement> placement = Place(topology, {.streams = 10, .gpu_pci_bus_id = "0000:01:00.0"});
  std::set<int> cores;
  for (const StreamPlacement& stream : placement) cores.insert(stream.cpu < 8 ? stream.cpu / 2 : stream.cpu);
  CHECK(cores.size() == 10);
  CHECK(cores.count(0) == 0);  // the first two cores are the trainer's
  CHECK(MemoryNodeForGpu(topology, "0000:01:00.0") == -1);
  CHECK(PlaceAllRanks(topology, 4, 3, /*with_gpus=*/false).size() == 12);
}

TEST_CASE("a cpuset without cores near the GPU leaves those that are far", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, "56-60");
  const auto placement = Place(topology, {.streams = 2, .gpu_pci_bus_id = testing::kGpuIds[0]});
  CHECK(Nodes(placement) == std::set<int>{1});
  // Host memory still belongs next to the GPU.
  CHECK(MemoryNodeForGpu(topology, testing::kGpuIds[0]) == 0);
}

TEST_CASE("320 streams on 2 cores go round robin", "[topology]") {
  MachineMap map;
  map.Node(0, "0-1", 8, "10");
  const auto placement = Place(Read(map, "0-1"), {.streams = 320});
  REQUIRE(placement.size() == 320);
  CHECK(std::count_if(placement.begin(), placement.end(), [](const StreamPlacement& stream) { return stream.cpu == 0; }) == 160);
}

TEST_CASE("there is always one stream", "[topology]") {
  MachineMap map;
  const Topology topology = Read(map, "3");
  CHECK(Place(topology, {.cpu_share = 0.01}).size() == 1);
  CHECK(Place(topology, {.cpu_share = 0.4, .local_rank = 15, .local_world_size = 16})[0].cpu == 3);
}

TEST_CASE("more local ranks than cores share them evenly", "[topology]") {
  MachineMap map;
  const Topology topology = Read(map, "0-3");
  std::map<int, int> ranks_of_cpu;
  for (int rank = 0; rank < 16; ++rank) ++ranks_of_cpu[Place(topology, {.streams = 1, .local_rank = rank, .local_world_size = 16})[0].cpu];
  CHECK(ranks_of_cpu == std::map<int, int>{{0, 4}, {1, 4}, {2, 4}, {3, 4}});
}

TEST_CASE("a quota bounds the number of streams and not where they run", "[topology]") {
  MachineMap map;
  testing::DgxH100(map);
  map.Write("proc/self/cgroup", "0::/");
  map.Write("sys/fs/cgroup/cpu.max", "1000000 100000");
  const Topology topology = Read(map, testing::kDgxH100Cpus);
  CHECK(Place(topology, {.cpu_share = 0.4}).size() == 4);
  CHECK(Cpus(Place(topology, {.streams = 100})).size() == 100);
}

TEST_CASE("impossible placements are refused with the numbers", "[topology]") {
  const Topology topology = MapOf(testing::DgxH100, testing::kDgxH100Cpus);
  const PlacementOptions impossible[] = {{.streams = -1},
                                         {.cpu_share = 0},
                                         {.cpu_share = 1.5},
                                         {.local_rank = 2, .local_world_size = 2},
                                         {.local_rank = -1},
                                         {.local_world_size = 0},
                                         {.gpu_pci_bus_id = "GPU-0"}};
  for (const PlacementOptions& options : impossible) {
    CHECK(PlaceStreams(topology, options).status().code() == absl::StatusCode::kInvalidArgument);
  }
  CHECK(PlaceStreams(Topology{}, {}).status().code() == absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace penstock
