#include <sched.h>

#include <algorithm>
#include <numeric>

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

bool Contains(const absl::Status& status, const std::string& text) { return std::string(status.message()).find(text) != std::string::npos; }

TEST_CASE("the map of a DGX A100 has eight nodes and GPUs on four of them", "[topology]") {
  MachineMap map;
  testing::DgxA100(map);
  const Topology topology = Read(map, testing::kDgxA100Cpus);
  REQUIRE(topology.nodes.size() == 8);
  CHECK(topology.allowed_cpus.size() == 256);
  CHECK(topology.cores.size() == 128);
  CHECK(topology.nodes[3].cpus == *ParseCpuList("48-63,176-191"));
  CHECK(topology.nodes[3].distances == std::vector<int>{12, 12, 12, 10, 32, 32, 32, 32});
  CHECK(topology.nodes[3].has_memory);
  CHECK(topology.nodes[3].memory_bytes == int64_t{128} << 30);
  REQUIRE(topology.gpus.size() == 8);
  std::vector<int> gpu_nodes;
  for (const GpuInfo& gpu : topology.gpus) gpu_nodes.push_back(gpu.numa_node);
  CHECK(gpu_nodes == std::vector<int>{3, 3, 1, 1, 7, 7, 5, 5});
  CHECK(topology.gpus[0].near_cpus == topology.nodes[3].cpus);
}

TEST_CASE("the map of a DGX H100 has two nodes with four GPUs each", "[topology]") {
  MachineMap map;
  testing::DgxH100(map);
  const Topology topology = Read(map, testing::kDgxH100Cpus);
  REQUIRE(topology.nodes.size() == 2);
  CHECK(topology.cores.size() == 112);
  CHECK(topology.cores[57] == std::vector<int>{57, 169});
  CHECK(topology.gpus[3].numa_node == 0);
  CHECK(topology.gpus[4].numa_node == 1);
}

TEST_CASE("the map of a laptop has one node and cores of one and of two threads", "[topology]") {
  MachineMap map;
  testing::Laptop(map);
  const Topology topology = Read(map, testing::kLaptopCpus);
  REQUIRE(topology.nodes.size() == 1);
  REQUIRE(topology.cores.size() == 12);
  CHECK(topology.cores[3] == std::vector<int>{6, 7});
  CHECK(topology.cores[4] == std::vector<int>{8});
  REQUIRE(topology.gpus.size() == 1);
  CHECK(topology.gpus[0].numa_node == -1);
}

TEST_CASE("ten nodes come in the order of their numbers and not of their names", "[topology]") {
  MachineMap map;
  std::string distances;
  for (int node = 0; node < 11; ++node) distances += "10 ";
  for (int node = 0; node < 11; ++node) map.Node(node, std::to_string(node), 1, distances);
  const Topology topology = Read(map, "0-10");
  REQUIRE(topology.nodes.size() == 11);
  for (int node = 0; node < 11; ++node) CHECK(topology.nodes[node].id == node);
}

TEST_CASE("a machine without a folder of nodes has none and every CPU is a core", "[topology]") {
  MachineMap map;
  map.Online("0-7");
  const Topology topology = Read(map, "0-7");
  CHECK(topology.nodes.empty());
  CHECK(topology.gpus.empty());
  CHECK(topology.cores.size() == 8);
  CHECK(topology.ToText() == "CPUs: 8 allowed (0-7) on 8 cores\nNUMA: the kernel shows no nodes\nGPUs: none on the PCI bus\n");
}

TEST_CASE("a container without sysfs has its affinity and nothing else", "[topology]") {
  MachineMap map;
  const Topology topology = Read(map, "2,5");
  CHECK(topology.allowed_cpus == std::vector<int>{2, 5});
  CHECK(topology.nodes.empty());
  CHECK(topology.cpu_quota == 0);
}

TEST_CASE("nodes without CPUs are read and shown as such", "[topology]") {
  MachineMap map;
  testing::GraceHopper(map);
  const Topology topology = Read(map, "0-71");
  REQUIRE(topology.nodes.size() == 9);
  CHECK(topology.nodes[1].cpus.empty());
  CHECK(topology.nodes[1].has_memory);
  CHECK_FALSE(topology.nodes[2].has_memory);
  CHECK(topology.ToText().find("node 1: no CPUs; 96 GiB") != std::string::npos);
  CHECK(topology.ToText().find("node 2: no CPUs; no memory") != std::string::npos);
}

TEST_CASE("a GPU of an unknown node is unknown and not on node 0", "[topology]") {
  MachineMap map;
  testing::DgxH100(map);
  map.Gpu(testing::kGpuIds[2], -1, "0-223");
  const Topology topology = Read(map, testing::kDgxH100Cpus);
  CHECK(topology.gpus[2].numa_node == -1);
  CHECK(topology.ToText().find("GPU 0000:47:00.0: node unknown (numa_node = -1)") != std::string::npos);
}

TEST_CASE("only display controllers of NVIDIA are GPUs", "[topology]") {
  MachineMap map;
  map.Gpu("0000:01:00.0", 0, "0");
  map.Gpu("0000:02:00.0", 0, "0");
  map.Write("sys/bus/pci/devices/0000:02:00.0/vendor", "0x1002");
  map.Gpu("0000:03:00.0", 0, "0");
  map.Write("sys/bus/pci/devices/0000:03:00.0/class", "0x040300");  // its sound device
  const Topology topology = Read(map, "0");
  REQUIRE(topology.gpus.size() == 1);
  CHECK(topology.gpus[0].pci_bus_id == "0000:01:00.0");
}

TEST_CASE("a cpuset of cgroup v2 hides CPUs that the affinity still shows", "[topology]") {
  MachineMap map;
  testing::DgxH100(map);
  map.Write("proc/self/cgroup", "0::/job/step_0");
  map.Write("sys/fs/cgroup/job/step_0/cpuset.cpus.effective", "0-27,56-83");
  const Topology topology = Read(map, testing::kDgxH100Cpus);
  CHECK(topology.allowed_cpus == *ParseCpuList("0-27,56-83"));
  CHECK(topology.cores.size() == 56);
  CHECK(topology.ToText().find("node 0: CPUs 0-55,112-167, allowed 0-27;") != std::string::npos);
}

TEST_CASE("a cpuset of cgroup v1 hides CPUs too", "[topology]") {
  MachineMap map;
  map.Write("proc/self/cgroup", "4:memory:/\n3:cpuset:/slurm/uid_1\n0::/");
  map.Write("sys/fs/cgroup/cpuset/slurm/uid_1/cpuset.effective_cpus", "4-7");
  CHECK(Read(map, "0-7").allowed_cpus == std::vector<int>{4, 5, 6, 7});
}

TEST_CASE("a cgroup path of the host is not there in a container whose own cpuset counts", "[topology]") {
  MachineMap map;
  map.Write("proc/self/cgroup", "0::/system.slice/docker-1234.scope");
  map.Write("sys/fs/cgroup/cpuset.cpus.effective", "2-3");
  CHECK(Read(map, "0-7").allowed_cpus == std::vector<int>{2, 3});
}

TEST_CASE("a cpuset of other CPUs does not take away those that the kernel allows", "[topology]") {
  MachineMap map;
  map.Write("proc/self/cgroup", "0::/");
  map.Write("sys/fs/cgroup/cpuset.cpus.effective", "8-9");
  CHECK(Read(map, "0-3").allowed_cpus == std::vector<int>{0, 1, 2, 3});
}

TEST_CASE("a quota is read from the tightest cgroup and takes no CPU away", "[topology]") {
  MachineMap map;
  map.Write("proc/self/cgroup", "0::/outer/inner");
  map.Write("sys/fs/cgroup/outer/inner/cpu.max", "max 100000");
  map.Write("sys/fs/cgroup/outer/cpu.max", "250000 100000");
  map.Write("sys/fs/cgroup/cpu.max", "800000 100000");
  const Topology topology = Read(map, "0-7");
  CHECK(topology.cpu_quota == 2.5);
  CHECK(topology.allowed_cpus.size() == 8);
  CHECK(topology.ToText().find("the cgroup grants the time of 2.5 CPUs") != std::string::npos);
}

TEST_CASE("a quota of cgroup v1 is read and none is none", "[topology]") {
  MachineMap map;
  map.Write("proc/self/cgroup", "1:cpu,cpuacct:/job");
  map.Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "150000");
  map.Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000");
  CHECK(Read(map, "0-7").cpu_quota == 1.5);
  map.Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1");
  CHECK(Read(map, "0-7").cpu_quota == 0);
}

TEST_CASE("a damaged file is an error that names it and what it says", "[topology]") {
  const std::pair<const char*, const char*> damages[] = {{"sys/devices/system/node/node0/cpulist", "zero"},
                                                         {"sys/devices/system/node/node0/distance", "10 far"},
                                                         {"sys/devices/system/node/node0/distance", "10 20 30"},
                                                         {"sys/devices/system/cpu/online", "0-"},
                                                         {"sys/bus/pci/devices/0000:07:00.0/numa_node", "near"},
                                                         {"sys/fs/cgroup/cpu.max", "many"},
                                                         {"sys/fs/cgroup/cpu.max", "100000 0"}};
  for (const auto& [path, text] : damages) {
    INFO(path);
    MachineMap map;
    testing::DgxH100(map);
    map.Write(path, text);
    const absl::Status status = ReadTopology(map.Source("0-3")).status();
    CHECK(status.code() == absl::StatusCode::kDataLoss);
    CHECK(Contains(status, std::string(path)));
  }
}

TEST_CASE("no CPU at all is an error", "[topology]") {
  MachineMap map;
  CHECK(ReadTopology(map.Source("")).status().code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("this machine has the CPUs that the scheduler says", "[topology]") {
  const absl::StatusOr<Topology> topology = ReadTopology();
  REQUIRE_OK(topology);
  REQUIRE_FALSE(topology->allowed_cpus.empty());
  cpu_set_t set;
  CPU_ZERO(&set);
  REQUIRE(::sched_getaffinity(0, sizeof set, &set) == 0);
  for (const int cpu : topology->allowed_cpus) CHECK(CPU_ISSET(cpu, &set));
  size_t threads = 0;
  for (const std::vector<int>& core : topology->cores) threads += core.size();
  CHECK(threads == topology->allowed_cpus.size());
  CHECK(std::is_sorted(topology->allowed_cpus.begin(), topology->allowed_cpus.end()));
}

}  // namespace
}  // namespace penstock
