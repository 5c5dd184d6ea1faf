#include "topology/machine_map.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "support/status.h"
#include "topology/cpu_list.h"

namespace penstock::testing {

const std::vector<std::string> kGpuIds = {"0000:07:00.0", "0000:0f:00.0", "0000:47:00.0", "0000:4e:00.0",
                                          "0000:87:00.0", "0000:90:00.0", "0000:b7:00.0", "0000:bd:00.0"};

MachineMap::MachineMap() {
  // Hundreds of tiny files: in memory where that is to be had.
  std::string name = "/dev/shm/penstock-map.XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) {
    name = (std::filesystem::temp_directory_path() / "penstock-map.XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
  }
  root_ = name;
}

MachineMap::~MachineMap() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

void MachineMap::Write(const std::string& path, const std::string& text) {
  const std::filesystem::path whole = std::filesystem::path(root_) / path;
  std::filesystem::create_directories(whole.parent_path());
  std::ofstream file(whole);
  file << text << "\n";
  if (!file.good()) FAIL("cannot write " << whole);
}

void MachineMap::Online(const std::string& cpus) { Write("sys/devices/system/cpu/online", cpus); }

void MachineMap::Siblings(int first_cpu, int cores, int second_cpu) {
  for (int core = 0; core < cores; ++core) {
    const std::string pair = std::to_string(first_cpu + core) + "," + std::to_string(second_cpu + core);
    for (const int cpu : {first_cpu + core, second_cpu + core}) {
      Write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", pair);
    }
  }
}

void MachineMap::Node(int id, const std::string& cpus, int memory_gib, const std::string& distances) {
  const std::string number = std::to_string(id);
  const std::string folder = "sys/devices/system/node/node" + number + "/";
  Write(folder + "cpulist", cpus);
  Write(folder + "distance", distances);
  Write(folder + "meminfo", "Node " + number + " MemTotal:       " + std::to_string(int64_t{memory_gib} << 20) + " kB\nNode " + number +
                                " MemFree:        1024 kB");
}

void MachineMap::Gpu(const std::string& pci_bus_id, int numa_node, const std::string& near_cpus) {
  const std::string folder = "sys/bus/pci/devices/" + pci_bus_id + "/";
  Write(folder + "vendor", "0x10de");
  Write(folder + "class", "0x030200");
  Write(folder + "numa_node", std::to_string(numa_node));
  Write(folder + "local_cpulist", near_cpus);
}

TopologySource MachineMap::Source(const std::string& cpus) const {
  absl::StatusOr<std::vector<int>> affinity = ParseCpuList(cpus);
  REQUIRE_OK(affinity);
  return {.sysfs_root = root_ + "/sys", .proc_root = root_ + "/proc", .affinity = *std::move(affinity)};
}

void DgxA100(MachineMap& map) {
  map.Online(kDgxA100Cpus);
  map.Siblings(0, 128, 128);
  const auto range = [](int first) { return std::to_string(first) + "-" + std::to_string(first + 15); };
  for (int node = 0; node < 8; ++node) {
    std::string distances;
    for (int other = 0; other < 8; ++other) {
      distances += other == node ? "10 " : (other / 4 == node / 4 ? "12 " : "32 ");
    }
    map.Node(node, range(16 * node) + "," + range(128 + 16 * node), 128, distances);
  }
  const int gpu_nodes[] = {3, 3, 1, 1, 7, 7, 5, 5};
  for (size_t gpu = 0; gpu < kGpuIds.size(); ++gpu) {
    const int first = 16 * gpu_nodes[gpu];
    map.Gpu(kGpuIds[gpu], gpu_nodes[gpu], range(first) + "," + range(first + 128));
  }
}

void DgxH100(MachineMap& map) {
  map.Online(kDgxH100Cpus);
  map.Siblings(0, 112, 112);
  map.Node(0, "0-55,112-167", 1024, "10 21");
  map.Node(1, "56-111,168-223", 1024, "21 10");
  for (size_t gpu = 0; gpu < kGpuIds.size(); ++gpu) map.Gpu(kGpuIds[gpu], gpu < 4 ? 0 : 1, gpu < 4 ? "0-55,112-167" : "56-111,168-223");
}

void GraceHopper(MachineMap& map) {
  map.Online("0-71");
  map.Node(0, "0-71", 480, "10 80 80 80 80 80 80 80 80");
  for (int node = 1; node < 9; ++node) {
    std::string distances = "80";
    for (int other = 1; other < 9; ++other) distances += other == node ? " 10" : " 255";
    map.Node(node, "", node == 1 ? 96 : 0, distances);
  }
  map.Gpu("0009:01:00.0", 1, "");
}

void Laptop(MachineMap& map) {
  map.Online(kLaptopCpus);
  for (int cpu = 0; cpu < 16; ++cpu) {
    const std::string siblings = cpu < 8 ? std::to_string(cpu / 2 * 2) + "-" + std::to_string(cpu / 2 * 2 + 1) : std::to_string(cpu);
    map.Write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", siblings);
  }
  map.Node(0, kLaptopCpus, 32, "10");
  map.Gpu("0000:01:00.0", -1, kLaptopCpus);
}

}  // namespace penstock::testing
