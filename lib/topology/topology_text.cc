#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "penstock/topology.h"
#include "topology/cpu_list.h"

namespace penstock {

std::string Topology::ToText() const {
  std::string text = absl::StrCat("CPUs: ", allowed_cpus.size(), " allowed (", FormatCpuList(allowed_cpus), ") on ", cores.size(),
                                  cores.size() == 1 ? " core" : " cores");
  if (cpu_quota > 0) absl::StrAppend(&text, "; the cgroup grants the time of ", absl::StrFormat("%.3g", cpu_quota), " CPUs");
  absl::StrAppend(&text, "\n");
  if (nodes.empty()) absl::StrAppend(&text, "NUMA: the kernel shows no nodes\n");
  for (const NumaNode& node : nodes) {
    const std::vector<int> allowed = Intersect(node.cpus, allowed_cpus);
    absl::StrAppend(&text, "node ", node.id, ": ");
    if (node.cpus.empty()) {
      absl::StrAppend(&text, "no CPUs");
    } else {
      absl::StrAppend(&text, "CPUs ", FormatCpuList(node.cpus), ", ");
      if (allowed.size() == node.cpus.size()) {
        absl::StrAppend(&text, "all allowed");
      } else if (allowed.empty()) {
        absl::StrAppend(&text, "none allowed");
      } else {
        absl::StrAppend(&text, "allowed ", FormatCpuList(allowed));
      }
    }
    absl::StrAppend(&text, "; ", node.has_memory ? FormatBytes(node.memory_bytes) : "no memory");
    if (!node.distances.empty()) absl::StrAppend(&text, "; distances ", absl::StrJoin(node.distances, " "));
    absl::StrAppend(&text, "\n");
  }
  if (gpus.empty()) absl::StrAppend(&text, "GPUs: none on the PCI bus\n");
  for (const GpuInfo& gpu : gpus) {
    absl::StrAppend(&text, "GPU ", gpu.pci_bus_id, ": ");
    if (gpu.numa_node < 0) {
      absl::StrAppend(&text, "node unknown (numa_node = -1): streams go to all nodes in turn\n");
      continue;
    }
    absl::StrAppend(&text, "node ", gpu.numa_node);
    if (!gpu.near_cpus.empty()) absl::StrAppend(&text, ", near CPUs ", FormatCpuList(gpu.near_cpus));
    absl::StrAppend(&text, "\n");
  }
  return text;
}

}  // namespace penstock
