// The cgroups of this process, of version 1 and 2, and the small files in which the kernel says what they allow.
#ifndef PENSTOCK_TOPOLOGY_CGROUP_H_
#define PENSTOCK_TOPOLOGY_CGROUP_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace penstock {

// A small file's text without the white space around it; absent where it cannot be read.
std::optional<std::string> ReadText(const std::string& path);

struct Cgroup {
  std::string v2_path;                          // "/user.slice/..."; empty: none
  std::map<std::string, std::string> v1_paths;  // by controller
};

// From `proc_root`/self/cgroup.
Cgroup ReadCgroup(const std::string& proc_root);

// The folders of a cgroup and of those above it, the innermost first. In a container without a cgroup namespace the path is the
// host's and is not there; the mount's own root, which is always last, is then the container's cgroup.
std::vector<std::string> CgroupFolders(const std::string& mount, std::string path);

}  // namespace penstock

#endif  // PENSTOCK_TOPOLOGY_CGROUP_H_
