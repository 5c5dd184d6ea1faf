// Lists of CPUs as the kernel writes them: "0-3,8,10-11". PCI bus ids as penstock writes them.
#ifndef PENSTOCK_TOPOLOGY_CPU_LIST_H_
#define PENSTOCK_TOPOLOGY_CPU_LIST_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace penstock {

// Sorted, each once; empty for an empty list. InvalidArgument for anything else, and for numbers above 65535.
absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text);
std::string FormatCpuList(const std::vector<int>& sorted_cpus);

// What both sorted lists hold.
std::vector<int> Intersect(const std::vector<int>& left, const std::vector<int>& right);

// "00000000:1B:00.0" -> "0000:1b:00.0". InvalidArgument for what is no PCI bus id.
absl::StatusOr<std::string> NormalPciBusId(absl::string_view text);

}  // namespace penstock

#endif  // PENSTOCK_TOPOLOGY_CPU_LIST_H_
