#include "topology/memory.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "topology/cgroup.h"

namespace penstock {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 60;  // version 1 writes a number near 2^63 where there is none

// The number in a file; absent where there is none ("max", no such file).
std::optional<int64_t> ReadNumber(const std::string& path) {
  const std::optional<std::string> text = ReadText(path);
  int64_t value = 0;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &value) || value < 0) return std::nullopt;
  return value;
}

// What memory.stat says: the page cache, which counts as used and goes when memory is wanted; and of version 1 the least limit of the
// cgroups above, which are not all seen in a container.
struct MemoryStat {
  int64_t page_cache = 0;
  std::optional<int64_t> limit_above;
};

MemoryStat ReadMemoryStat(const std::string& folder) {
  MemoryStat stat;
  int64_t own = 0, total = 0;  // version 1: total with the children, as memory.usage_in_bytes has them
  bool has_total = false;
  std::istringstream text(ReadText(folder + "/memory.stat").value_or(""));
  std::string key;
  for (int64_t value = 0; text >> key >> value;) {
    if (key == "active_file" || key == "inactive_file") own += value;
    if (key == "total_active_file" || key == "total_inactive_file") {
      total += value;
      has_total = true;
    }
    if (key == "hierarchical_memory_limit") stat.limit_above = value;
  }
  stat.page_cache = has_total ? total : own;
  return stat;
}

// What the limits of the cgroups from `path` upwards leave, the least of them in `left`.
void TakeCgroups(const std::string& mount, const std::string& path, bool version_1, MemoryLeft& left) {
  for (const std::string& folder : CgroupFolders(mount, path)) {
    const std::optional<int64_t> used = ReadNumber(folder + (version_1 ? "/memory.usage_in_bytes" : "/memory.current"));
    if (!used.has_value()) continue;
    const MemoryStat stat = ReadMemoryStat(folder);
    // Above memory.high a process is slowed down until it gives memory back: as good as a limit.
    const std::optional<int64_t> limits[] = {ReadNumber(folder + (version_1 ? "/memory.limit_in_bytes" : "/memory.max")),
                                             version_1 ? stat.limit_above : ReadNumber(folder + "/memory.high")};
    int64_t limit = kNoLimit;
    for (const std::optional<int64_t>& each : limits) limit = std::min(limit, each.value_or(kNoLimit));
    if (limit >= kNoLimit) continue;
    const int64_t bytes = std::max<int64_t>(1, limit - std::max<int64_t>(0, *used - stat.page_cache));
    if (left.bytes > 0 && bytes >= left.bytes) continue;
    left.bytes = bytes;
    left.limit_bytes = limit;
    left.by = absl::StrCat("the limit of ", FormatBytes(limit), " of the memory cgroup ", EscapeName(folder));
  }
}

}  // namespace

MemoryLeft ReadMemoryLeft(const TopologySource& source) {
  MemoryLeft left;
  std::istringstream meminfo(ReadText(source.proc_root + "/meminfo").value_or(""));
  int64_t total = 0;
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t kib = 0;
    words >> key >> kib;
    if (key == "MemTotal:") total = kib * 1024;
    if (key == "MemAvailable:") left.bytes = kib * 1024;
  }
  if (left.bytes > 0) {
    left.limit_bytes = total;
    left.by = absl::StrCat("the machine's memory of ", FormatBytes(total));
  }
  const Cgroup cgroup = ReadCgroup(source.proc_root);
  const std::string mount = source.sysfs_root + "/fs/cgroup";
  // Version 2 alone, and beside version 1.
  TakeCgroups(mount, cgroup.v2_path, false, left);
  TakeCgroups(mount + "/unified", cgroup.v2_path, false, left);
  const auto v1 = cgroup.v1_paths.find("memory");
  TakeCgroups(mount + "/memory", v1 == cgroup.v1_paths.end() ? "" : v1->second, true, left);
  return left;
}

}  // namespace penstock
