// Runs inside the emulated machine of numa_vm.sh, which has NUMA_NODES nodes, NUMA_CPUS CPUs in blocks of equal size, 10 huge pages
// on each node, and on each node a PCI bridge. What is asked of the kernel here is asked by other means than the library's.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "memory/arena.h"
#include "penstock/topology.h"
#include "support/status.h"

namespace penstock {
namespace {

int FromEnvironment(const char* name) {
  const char* const value = std::getenv(name);
  REQUIRE(value != nullptr);
  return std::atoi(value);
}

int NodeCount() { return FromEnvironment("NUMA_NODES"); }
int CpusPerNode() { return FromEnvironment("NUMA_CPUS") / NodeCount(); }

// Where the pages of a run are: move_pages(2) without target nodes only asks.
std::set<int> NodesOf(const Run& run) {
  std::vector<void*> pages;
  for (int64_t offset = 0; offset < run.bytes; offset += 4096) pages.push_back(run.data + offset);
  std::vector<int> nodes(pages.size(), -1000);
  REQUIRE(::syscall(SYS_move_pages, 0, pages.size(), pages.data(), nullptr, nodes.data(), 0) == 0);
  return {nodes.begin(), nodes.end()};
}

// Runs `body` on a thread of its own that is pinned to the CPU.
template <typename Body>
void OnCpu(int cpu, Body body) {
  bool pinned = false;
  std::thread thread([&] {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pinned = ::sched_setaffinity(0, sizeof set, &set) == 0;
    if (pinned) body();
  });
  thread.join();
  REQUIRE(pinned);
}

int FirstCpu(int node) { return node * CpusPerNode(); }

int NodeOfThisThread() {
  unsigned cpu = 0, node = 0;
  return ::syscall(SYS_getcpu, &cpu, &node, nullptr) == 0 ? static_cast<int>(node) : -1;
}

std::shared_ptr<Arena> MakeArena(const ArenaOptions& options) {
  auto arena = Arena::Create(options);
  REQUIRE_OK(arena);
  return *std::move(arena);
}

int64_t FreeHugePages(int node) {
  std::ifstream file("/sys/devices/system/node/node" + std::to_string(node) + "/hugepages/hugepages-2048kB/free_hugepages");
  int64_t pages = -1;
  file >> pages;
  return pages;
}

TEST_CASE("the topology is that of the emulated machine", "[numa]") {
  const absl::StatusOr<Topology> topology = ReadTopology();
  REQUIRE_OK(topology);
  INFO(topology->ToText());
  REQUIRE(topology->nodes.size() == static_cast<size_t>(NodeCount()));
  for (int node = 0; node < NodeCount(); ++node) {
    const NumaNode& one = topology->nodes[node];
    CHECK(one.id == node);
    CHECK(one.has_memory);
    REQUIRE(one.cpus.size() == static_cast<size_t>(CpusPerNode()));
    CHECK(one.cpus.front() == FirstCpu(node));
    REQUIRE(one.distances.size() == static_cast<size_t>(NodeCount()));
    for (int other = 0; other < NodeCount(); ++other) CHECK(one.distances[other] == (other == node ? 10 : 20 + std::abs(other - node)));
  }
}

TEST_CASE("an arena of a node has its pages there whichever thread touches them", "[numa]") {
  for (const bool huge_pages : {true, false}) {
    for (int node = 0; node < NodeCount(); ++node) {
      // More granules than there are reserved huge pages on a node.
      auto arena = MakeArena({.bytes = 12 * kGranuleBytes, .numa_node = node, .huge_pages = huge_pages});
      CHECK(arena->report().binding == "node " + std::to_string(node) + " by mbind");
      CHECK(arena->report().pages == (huge_pages ? "transparent huge pages" : "4 KiB pages: huge_pages is off"));
      OnCpu(FirstCpu((node + 1) % NodeCount()), [&] {
        const Run run = arena->Allocate(4);
        CHECK(NodeOfThisThread() == (node + 1) % NodeCount());
        REQUIRE(run.valid());
        CHECK(NodesOf(run) == std::set<int>{node});
        arena->Free(run);
      });
    }
  }
}

TEST_CASE("an arena without a node has its pages where the thread is that touches them first", "[numa]") {
  auto arena = MakeArena({.bytes = 100 * kGranuleBytes});
  std::vector<Run> runs;
  for (int node = 0; node < NodeCount(); ++node) {
    OnCpu(FirstCpu(node) + 1, [&] {
      runs.push_back(arena->Allocate(2));
      REQUIRE(runs.back().valid());
      CHECK(NodesOf(runs.back()) == std::set<int>{node});
    });
  }
  for (const Run& run : runs) arena->Free(run);
}

TEST_CASE("reserved huge pages are used where the node of the arena has enough of them", "[numa]") {
  const int node = NodeCount() - 1;
  REQUIRE(FreeHugePages(node) == 10);
  {
    auto arena = MakeArena({.bytes = 8 * kGranuleBytes, .numa_node = node});
    CHECK(arena->report().pages == "hugetlb");
    const Run run = arena->Allocate(3);
    REQUIRE(run.valid());
    CHECK(NodesOf(run) == std::set<int>{node});
    CHECK(FreeHugePages(node) == 7);
    // What another arena has reserved is not counted as free, though its pages are not yet taken.
    auto other = MakeArena({.bytes = (NodeCount() * 10 - 8 + 1) * kGranuleBytes});
    CHECK(other->report().pages == "transparent huge pages");
    arena->Free(run);
  }
  CHECK(FreeHugePages(node) == 10);
}

TEST_CASE("huge pages that a cgroup withholds are replaced by ordinary ones and not a SIGBUS", "[numa]") {
  // In a child, which alone goes into the cgroup.
  const std::string root = "/tmp/cgroup";
  ::mkdir(root.c_str(), 0700);
  REQUIRE((::mount("cgroup2", root.c_str(), "cgroup2", 0, nullptr) == 0 || errno == EBUSY));
  const auto write = [](const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text << std::flush;
    return file.good();
  };
  REQUIRE(write(root + "/cgroup.subtree_control", "+hugetlb"));
  ::mkdir((root + "/limited").c_str(), 0700);
  REQUIRE(write(root + "/limited/hugetlb.2MB.max", std::to_string(2 * kGranuleBytes)));
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (!write(root + "/limited/cgroup.procs", "0")) ::_exit(2);
    auto arena = Arena::Create({.bytes = 4 * kGranuleBytes, .numa_node = 0});
    if (!arena.ok() || (*arena)->report().pages != "hugetlb") ::_exit(3);
    const Run run = (*arena)->Allocate(4);
    for (int64_t offset = 0; offset < run.bytes; offset += 4096) run.data[offset] = std::byte{1};
    if ((*arena)->report().pages.rfind("hugetlb, but for 2 of 4 granules: ", 0) != 0) ::_exit(4);
    (*arena)->Free(run);
    ::_exit(0);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

// The PCI bridges stand for GPUs: the kernel gives them a node in the same way.
std::map<int, std::string> DeviceOfNode() {
  std::map<int, std::string> devices;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/bus/pci/devices")) {
    std::ifstream file(entry.path() / "numa_node");
    int node = -1;
    if (file >> node && node >= 0) devices[node] = entry.path().filename();
  }
  return devices;
}

TEST_CASE("the streams of a device run on its node and their memory lies there", "[numa]") {
  absl::StatusOr<Topology> topology = ReadTopology();
  REQUIRE_OK(topology);
  const std::map<int, std::string> devices = DeviceOfNode();
  REQUIRE(devices.size() == static_cast<size_t>(NodeCount()));
  for (const auto& [node, id] : devices) topology->gpus.push_back({.pci_bus_id = id, .numa_node = node});
  std::set<int> all_cpus;
  for (int rank = 0; rank < NodeCount(); ++rank) {
    const std::string& id = devices.at(rank);
    const int node = MemoryNodeForGpu(*topology, id);
    REQUIRE(node == rank);
    const auto placement = PlaceStreams(*topology, {.streams = 1, .local_rank = rank, .local_world_size = NodeCount(),
        .gpu_pci_bus_id = id});
    REQUIRE_OK(placement);
    auto arena = MakeArena({.bytes = 16 * kGranuleBytes, .numa_node = node});
    for (const StreamPlacement& stream : *placement) {
      CHECK(all_cpus.insert(stream.cpu).second);
      OnCpu(stream.cpu, [&, node = node, cpu = stream.cpu] {
        CHECK(::sched_getcpu() == cpu);
        CHECK(NodeOfThisThread() == node);
        const Run run = arena->Allocate(2);
        REQUIRE(run.valid());
        CHECK(NodesOf(run) == std::set<int>{node});
        arena->Free(run);
      });
    }
  }
}

TEST_CASE("one rank takes all cores of the node of its device before those of a farther one", "[numa]") {
  absl::StatusOr<Topology> topology = ReadTopology();
  REQUIRE_OK(topology);
  const int last = NodeCount() - 1;
  topology->gpus.push_back({.pci_bus_id = DeviceOfNode().at(last), .numa_node = last});
  const auto placement = PlaceStreams(*topology, {.streams = FromEnvironment("NUMA_CPUS"), .gpu_pci_bus_id = topology->gpus[0].pci_bus_id});
  REQUIRE_OK(placement);
  // Each node's first core is the trainer's and comes in a second round.
  std::vector<int> nodes, expected;
  for (const StreamPlacement& stream : *placement) OnCpu(stream.cpu, [&] { nodes.push_back(NodeOfThisThread()); });
  for (const int cores : {CpusPerNode() - 1, 1}) {
    for (int node = last; node >= 0; --node) expected.insert(expected.end(), static_cast<size_t>(cores), node);
  }
  CHECK(nodes == expected);
}

}  // namespace
}  // namespace penstock
