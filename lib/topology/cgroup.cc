#include "topology/cgroup.h"

#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace penstock {

std::optional<std::string> ReadText(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return std::string(absl::StripAsciiWhitespace(text.str()));
}

// cgroups(7): lines of "hierarchy-ID:controller-list:path", the unified one with ID 0 and no controllers.
Cgroup ReadCgroup(const std::string& proc_root) {
  Cgroup cgroup;
  const std::optional<std::string> text = ReadText(proc_root + "/self/cgroup");
  if (!text.has_value()) return cgroup;
  for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[0] == "0" && parts[1].empty()) cgroup.v2_path = parts[2];
    for (const absl::string_view controller : absl::StrSplit(parts[1], ',', absl::SkipEmpty())) {
      cgroup.v1_paths[std::string(controller)] = parts[2];
    }
  }
  return cgroup;
}

std::vector<std::string> CgroupFolders(const std::string& mount, std::string path) {
  std::vector<std::string> folders;
  while (!path.empty() && path != "/") {
    folders.push_back(mount + path);
    path.erase(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  folders.push_back(mount);
  return folders;
}

}  // namespace penstock
