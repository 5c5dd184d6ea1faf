#include <dirent.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/bytes.h"
#include "base/io_error.h"
#include "penstock/topology.h"
#include "topology/cgroup.h"
#include "topology/cpu_list.h"

namespace penstock {
namespace {

absl::Status BadFile(const std::string& path, absl::string_view text, absl::string_view expected) {
  return absl::DataLossError(absl::StrCat(EscapeName(path), " says \"", EscapeName(text), "\", which is not ", expected));
}

// The CPUs that a file lists; absent where there is no file.
absl::StatusOr<std::optional<std::vector<int>>> ReadCpuList(const std::string& path) {
  const std::optional<std::string> text = ReadText(path);
  if (!text.has_value()) return std::optional<std::vector<int>>();
  absl::StatusOr<std::vector<int>> cpus = ParseCpuList(*text);
  if (!cpus.ok()) return BadFile(path, *text, "a list of CPUs");
  return std::optional<std::vector<int>>(*std::move(cpus));
}

std::vector<std::string> ListFolder(const std::string& path) {
  std::vector<std::string> names;
  DIR* const folder = ::opendir(path.c_str());
  if (folder == nullptr) return names;
  while (const dirent* entry = ::readdir(folder)) names.emplace_back(entry->d_name);
  ::closedir(folder);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::vector<int>> Affinity() {
  // sched_getaffinity(2) gives EINVAL where the mask is shorter than the kernel's.
  for (int cpus_max = 1024; cpus_max <= (1 << 20); cpus_max *= 2) {
    cpu_set_t* const set = CPU_ALLOC(cpus_max);
    if (set == nullptr) return absl::ResourceExhaustedError("no memory for a CPU mask");
    const size_t bytes = CPU_ALLOC_SIZE(cpus_max);
    const int error = ::sched_getaffinity(0, bytes, set) == 0 ? 0 : errno;
    std::vector<int> cpus;
    for (int cpu = 0; error == 0 && cpu < cpus_max; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, set)) cpus.push_back(cpu);
    }
    CPU_FREE(set);
    if (error == 0) return cpus;
    if (error != EINVAL) return IoError(error, "sched_getaffinity");
  }
  return absl::InternalError("sched_getaffinity refuses a mask of a million CPUs");
}

// ------------------------------------------------------------------------------------------------------- the cgroup

// The innermost cpuset that is there.
absl::StatusOr<std::optional<std::vector<int>>> ReadCpuset(const std::string& sysfs_root, const Cgroup& cgroup) {
  std::vector<std::string> paths;
  if (const auto v1 = cgroup.v1_paths.find("cpuset"); v1 != cgroup.v1_paths.end()) {
    for (const std::string& folder : CgroupFolders(sysfs_root + "/fs/cgroup/cpuset", v1->second)) {
      paths.push_back(folder + "/cpuset.effective_cpus");
    }
  }
  for (const std::string& folder : CgroupFolders(sysfs_root + "/fs/cgroup", cgroup.v2_path)) {
    paths.push_back(folder + "/cpuset.cpus.effective");
  }
  for (const std::string& path : paths) {
    absl::StatusOr<std::optional<std::vector<int>>> cpus = ReadCpuList(path);
    if (!cpus.ok()) return cpus.status();
    if (cpus->has_value() && !(*cpus)->empty()) return cpus;
  }
  return std::optional<std::vector<int>>();
}

// The least of the quotas of the cgroup and of those above it, in CPUs; 0: none.
absl::StatusOr<double> ReadQuota(const std::string& sysfs_root, const Cgroup& cgroup) {
  double least = 0;
  const auto take = [&](double quota_us, double period_us) {
    const double quota = quota_us / period_us;
    if (least == 0 || quota < least) least = quota;
  };
  for (const std::string& folder : CgroupFolders(sysfs_root + "/fs/cgroup", cgroup.v2_path)) {
    const std::string path = folder + "/cpu.max";
    const std::optional<std::string> text = ReadText(path);
    if (!text.has_value() || absl::StartsWith(*text, "max")) continue;
    const std::vector<std::string> words = absl::StrSplit(*text, ' ', absl::SkipEmpty());
    double quota_us = 0, period_us = 0;
    if (words.size() != 2 || !absl::SimpleAtod(words[0], &quota_us) || !absl::SimpleAtod(words[1], &period_us) || !(quota_us > 0) ||
        !(period_us > 0)) {
      return BadFile(path, *text, "a quota and a period");
    }
    take(quota_us, period_us);
  }
  const auto v1 = cgroup.v1_paths.find("cpu");
  if (v1 == cgroup.v1_paths.end()) return least;
  for (const std::string& mount : {sysfs_root + "/fs/cgroup/cpu", sysfs_root + "/fs/cgroup/cpu,cpuacct"}) {
    for (const std::string& folder : CgroupFolders(mount, v1->second)) {
      const std::optional<std::string> quota = ReadText(folder + "/cpu.cfs_quota_us");
      const std::optional<std::string> period = ReadText(folder + "/cpu.cfs_period_us");
      if (!quota.has_value() || !period.has_value()) continue;
      double quota_us = 0, period_us = 0;
      if (!absl::SimpleAtod(*quota, &quota_us)) return BadFile(folder + "/cpu.cfs_quota_us", *quota, "a number");
      if (!absl::SimpleAtod(*period, &period_us) || !(period_us > 0)) return BadFile(folder + "/cpu.cfs_period_us", *period, "a period");
      if (quota_us > 0) take(quota_us, period_us);  // -1: none
    }
  }
  return least;
}

// ---------------------------------------------------------------------------------------------- cores, nodes, GPUs

absl::StatusOr<std::vector<std::vector<int>>> ReadCores(const std::string& sysfs_root, const std::vector<int>& allowed) {
  std::vector<std::vector<int>> cores;
  std::set<int> seen;
  for (const int cpu : allowed) {
    if (seen.count(cpu) != 0) continue;
    const std::string path = absl::StrCat(sysfs_root, "/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list");
    absl::StatusOr<std::optional<std::vector<int>>> siblings = ReadCpuList(path);
    if (!siblings.ok()) return siblings.status();
    std::vector<int> core{cpu};
    for (const int other : siblings->value_or(std::vector<int>())) {
      // A sibling that names another core of its own accord is not taken from it.
      if (other != cpu && seen.count(other) == 0 && std::binary_search(allowed.begin(), allowed.end(), other)) core.push_back(other);
    }
    std::sort(core.begin(), core.end());
    seen.insert(core.begin(), core.end());
    cores.push_back(std::move(core));
  }
  return cores;
}

absl::StatusOr<std::vector<NumaNode>> ReadNodes(const std::string& sysfs_root) {
  const std::string folder = sysfs_root + "/devices/system/node";
  std::vector<NumaNode> nodes;
  for (const std::string& name : ListFolder(folder)) {
    absl::string_view number = name;
    int id = 0;
    if (!absl::ConsumePrefix(&number, "node") || number.empty() || !absl::ascii_isdigit(number[0])) continue;
    if (!absl::SimpleAtoi(number, &id)) continue;
    NumaNode node;
    node.id = id;
    const std::string path = folder + "/" + name;
    absl::StatusOr<std::optional<std::vector<int>>> cpus = ReadCpuList(path + "/cpulist");
    if (!cpus.ok()) return cpus.status();
    node.cpus = cpus->value_or(std::vector<int>());
    for (const absl::string_view line : absl::StrSplit(ReadText(path + "/meminfo").value_or(""), '\n')) {
      // "Node 0 MemTotal:       32655128 kB"
      const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
      int64_t kib = 0;
      if (words.size() < 4 || words[2] != "MemTotal:") continue;
      if (!absl::SimpleAtoi(words[3], &kib) || kib < 0) return BadFile(path + "/meminfo", line, "a size");
      node.memory_bytes = kib * 1024;
    }
    node.has_memory = node.memory_bytes > 0;
    const std::string distances = ReadText(path + "/distance").value_or("");
    for (const absl::string_view word : absl::StrSplit(distances, absl::ByAnyChar(" \t"), absl::SkipEmpty())) {
      int distance = 0;
      if (!absl::SimpleAtoi(word, &distance) || distance < 0) return BadFile(path + "/distance", distances, "a list of distances");
      node.distances.push_back(distance);
    }
    nodes.push_back(std::move(node));
  }
  std::sort(nodes.begin(), nodes.end(), [](const NumaNode& left, const NumaNode& right) { return left.id < right.id; });
  for (const NumaNode& node : nodes) {
    if (!node.distances.empty() && node.distances.size() != nodes.size()) {
      return absl::DataLossError(absl::StrCat(EscapeName(folder), "/node", node.id, "/distance has ", node.distances.size(),
                                              " distances, there are ", nodes.size(), " nodes"));
    }
  }
  return nodes;
}

absl::StatusOr<std::vector<GpuInfo>> ReadGpus(const std::string& sysfs_root) {
  const std::string folder = sysfs_root + "/bus/pci/devices";
  std::vector<GpuInfo> gpus;
  for (const std::string& name : ListFolder(folder)) {
    const std::string path = folder + "/" + name;
    // Display controllers (class 0x03) of NVIDIA.
    if (ReadText(path + "/vendor") != "0x10de" || !absl::StartsWith(ReadText(path + "/class").value_or(""), "0x03")) continue;
    absl::StatusOr<std::string> id = NormalPciBusId(name);
    if (!id.ok()) continue;
    GpuInfo gpu;
    gpu.pci_bus_id = *std::move(id);
    if (const std::optional<std::string> node = ReadText(path + "/numa_node"); node.has_value()) {
      if (!absl::SimpleAtoi(*node, &gpu.numa_node) || gpu.numa_node < -1) return BadFile(path + "/numa_node", *node, "a node");
    }
    absl::StatusOr<std::optional<std::vector<int>>> cpus = ReadCpuList(path + "/local_cpulist");
    if (!cpus.ok()) return cpus.status();
    gpu.near_cpus = cpus->value_or(std::vector<int>());
    gpus.push_back(std::move(gpu));
  }
  std::sort(gpus.begin(), gpus.end(), [](const GpuInfo& left, const GpuInfo& right) { return left.pci_bus_id < right.pci_bus_id; });
  return gpus;
}

}  // namespace

absl::StatusOr<Topology> ReadTopology(const TopologySource& source) {
  Topology topology;
  if (source.affinity.has_value()) {
    topology.allowed_cpus = *source.affinity;
    std::sort(topology.allowed_cpus.begin(), topology.allowed_cpus.end());
    topology.allowed_cpus.erase(std::unique(topology.allowed_cpus.begin(), topology.allowed_cpus.end()), topology.allowed_cpus.end());
  } else {
    absl::StatusOr<std::vector<int>> cpus = Affinity();
    if (!cpus.ok()) return cpus.status();
    topology.allowed_cpus = *std::move(cpus);
  }
  if (topology.allowed_cpus.empty()) return absl::FailedPreconditionError("the affinity mask of this thread allows no CPU");

  const Cgroup cgroup = ReadCgroup(source.proc_root);
  absl::StatusOr<std::optional<std::vector<int>>> online = ReadCpuList(source.sysfs_root + "/devices/system/cpu/online");
  if (!online.ok()) return online.status();
  absl::StatusOr<std::optional<std::vector<int>>> cpuset = ReadCpuset(source.sysfs_root, cgroup);
  if (!cpuset.ok()) return cpuset.status();
  for (const std::optional<std::vector<int>>& limit : {*online, *cpuset}) {
    if (!limit.has_value()) continue;
    const std::vector<int> both = Intersect(topology.allowed_cpus, *limit);
    // The kernel keeps the mask inside the cpuset; a file without any of these CPUs is that of some other cgroup.
    if (!both.empty()) topology.allowed_cpus = both;
  }

  absl::StatusOr<double> quota = ReadQuota(source.sysfs_root, cgroup);
  if (!quota.ok()) return quota.status();
  topology.cpu_quota = *quota;
  absl::StatusOr<std::vector<std::vector<int>>> cores = ReadCores(source.sysfs_root, topology.allowed_cpus);
  if (!cores.ok()) return cores.status();
  topology.cores = *std::move(cores);
  absl::StatusOr<std::vector<NumaNode>> nodes = ReadNodes(source.sysfs_root);
  if (!nodes.ok()) return nodes.status();
  topology.nodes = *std::move(nodes);
  absl::StatusOr<std::vector<GpuInfo>> gpus = ReadGpus(source.sysfs_root);
  if (!gpus.ok()) return gpus.status();
  topology.gpus = *std::move(gpus);
  return topology;
}

}  // namespace penstock
