#include "topology/cpu_list.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"

namespace penstock {
namespace {

constexpr int kCpuMax = 65535;

// Digits only: SimpleAtoi also takes signs and spaces.
bool ParseCpu(absl::string_view text, int* cpu) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit) && absl::SimpleAtoi(text, cpu) && *cpu <= kCpuMax;
}

bool ParseHex(absl::string_view text, uint32_t* value) {
  return !text.empty() && text.size() <= 8 && std::all_of(text.begin(), text.end(), absl::ascii_isxdigit) &&
         absl::SimpleHexAtoi(text, value);
}

}  // namespace

absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text) {
  std::vector<int> cpus;
  const absl::string_view list = absl::StripAsciiWhitespace(text);
  if (list.empty()) return cpus;
  for (const absl::string_view part : absl::StrSplit(list, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(part, '-');
    int first = 0, last = 0;
    if (ends.size() > 2 || !ParseCpu(ends.front(), &first) || !ParseCpu(ends.back(), &last) || first > last) {
      return absl::InvalidArgumentError(absl::StrCat("\"", EscapeName(list), "\" is not a list of CPUs"));
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::string FormatCpuList(const std::vector<int>& sorted_cpus) {
  std::string text;
  for (size_t begin = 0; begin < sorted_cpus.size();) {
    size_t end = begin + 1;
    while (end < sorted_cpus.size() && sorted_cpus[end] == sorted_cpus[end - 1] + 1) ++end;
    absl::StrAppend(&text, begin == 0 ? "" : ",", sorted_cpus[begin]);
    if (end - begin > 1) absl::StrAppend(&text, "-", sorted_cpus[end - 1]);
    begin = end;
  }
  return text;
}

std::vector<int> Intersect(const std::vector<int>& left, const std::vector<int>& right) {
  std::vector<int> both;
  std::set_intersection(left.begin(), left.end(), right.begin(), right.end(), std::back_inserter(both));
  return both;
}

absl::StatusOr<std::string> NormalPciBusId(absl::string_view text) {
  const auto refuse = [&] {
    return absl::InvalidArgumentError(absl::StrCat("\"", EscapeName(text), "\" is not a PCI bus id (such as 0000:1b:00.0)"));
  };
  std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() == 2) parts.insert(parts.begin(), "0");  // the domain may be left out
  if (parts.size() != 3) return refuse();
  const std::vector<absl::string_view> device = absl::StrSplit(parts[2], '.');
  uint32_t domain = 0, bus = 0, slot = 0, function = 0;
  if (device.size() != 2 || !ParseHex(parts[0], &domain) || !ParseHex(parts[1], &bus) || !ParseHex(device[0], &slot) ||
      !ParseHex(device[1], &function) || bus > 0xff || slot > 0x1f || function > 7) {
    return refuse();
  }
  return absl::StrFormat("%04x:%02x:%02x.%x", domain, bus, slot, function);
}

}  // namespace penstock
