#include "penstock/doctor.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "base/io_error.h"
#include "penstock/topology.h"
#include "ring/engine.h"

namespace penstock {
namespace {

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

class Examination {
 public:
  void Add(FindingLevel level, std::string subject, std::string seen, std::string advice = "") {
    report_.findings.push_back(Finding{level, std::move(subject), std::move(seen), std::move(advice)});
  }

  void Kernel() {
    utsname name;
    ::uname(&name);
    Add(FindingLevel::kGood, "kernel", absl::StrCat(name.sysname, " ", name.release, " ", name.machine));
    const EngineChoice choice = ProbeEngine(Engine::kAuto);
    const std::string disabled = ReadLine("/proc/sys/kernel/io_uring_disabled");
    if (choice.engine == Engine::kUring) {
      Add(FindingLevel::kGood, "engine", absl::StrCat("uring: ", choice.why));
    } else {
      Add(FindingLevel::kProblem, "engine", absl::StrCat("threads: ", choice.why, disabled.empty() || disabled == "0" ? "" : absl::StrCat(" (kernel.io_uring_disabled = ", disabled, ")")),
          "io_uring is worth 1.3x on small cached files and 2x in CPU on cold ones: allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile, "
          "and set kernel.io_uring_disabled to 0");
    }
  }

  void Limits() {
    rlimit memlock;
    ::getrlimit(RLIMIT_MEMLOCK, &memlock);
    const bool root = ::geteuid() == 0;
    const std::string seen = memlock.rlim_cur == RLIM_INFINITY ? "unlimited" : FormatBytes(static_cast<int64_t>(memlock.rlim_cur));
    if (memlock.rlim_cur == RLIM_INFINITY || (root && memlock.rlim_cur >= (8u << 20))) {
      Add(FindingLevel::kGood, "locked memory", absl::StrCat("RLIMIT_MEMLOCK ", seen, root ? " (root is exempt)" : ""));
    } else if (memlock.rlim_cur < (1u << 20)) {
      Add(FindingLevel::kProblem, "locked memory", absl::StrCat("RLIMIT_MEMLOCK ", seen),
          "io_uring's rings are charged to it (kernel 6.14 and later): a few rings may fit, 320 do not. Raise it (ulimit -l, or LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK");
    } else {
      Add(FindingLevel::kNote, "locked memory", absl::StrCat("RLIMIT_MEMLOCK ", seen),
          "enough for about 290 rings of 256 entries of one user; pinning for a GPU needs more: raise it (ulimit -l)");
    }
    rlimit files;
    ::getrlimit(RLIMIT_NOFILE, &files);
    const std::string open = absl::StrCat("RLIMIT_NOFILE ", files.rlim_cur, ", hard limit ", files.rlim_max);
    if (files.rlim_cur < 1024) {
      Add(FindingLevel::kProblem, "open files", open, absl::StrCat("reads in flight and folders are held open: raise it to 1024 at least (ulimit -n ", std::min<uint64_t>(files.rlim_max, 65536), ")"));
    } else {
      Add(FindingLevel::kGood, "open files", open);
    }
  }

  void Memory() {
    std::ifstream meminfo("/proc/meminfo");
    std::string key;
    int64_t total = 0;
    int64_t available = 0;
    int64_t huge = 0;
    for (std::string line; std::getline(meminfo, line);) {
      std::istringstream text(line);
      int64_t value = 0;
      text >> key >> value;
      if (key == "MemTotal:") total = value * 1024;
      if (key == "MemAvailable:") available = value * 1024;
      if (key == "HugePages_Free:") huge = value;
    }
    Add(FindingLevel::kGood, "memory", absl::StrCat(FormatBytes(total), ", available ", FormatBytes(available), ", free hugetlb pages ", huge));
    const std::string thp = ReadLine("/sys/kernel/mm/transparent_hugepage/enabled");
    if (thp.find("[never]") != std::string::npos) {
      Add(FindingLevel::kProblem, "huge pages", absl::StrCat("transparent huge pages: ", thp),
          "direct reads into 4 KiB pages cost twice the CPU time and half the rate: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    } else {
      Add(FindingLevel::kGood, "huge pages", absl::StrCat("transparent huge pages: ", thp.empty() ? "unknown" : thp));
    }
  }

  void Cores() {
    const absl::StatusOr<Topology> topology = ReadTopology();
    if (!topology.ok()) {
      Add(FindingLevel::kProblem, "cores", std::string(topology.status().message()));
      return;
    }
    report_.topology = topology->ToText();
    const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
    const size_t allowed = topology->allowed_cpus.size();
    const std::string seen = absl::StrCat(allowed, " of ", online, " online cores allowed");
    if (static_cast<long>(allowed) < online) {
      Add(FindingLevel::kNote, "cores", seen, "the affinity mask or the cpuset hides the rest: ask the launcher for more (srun --cpus-per-task, the container's cpuset), if the trainer does not need them");
    } else {
      Add(FindingLevel::kGood, "cores", seen);
    }
    const absl::StatusOr<std::vector<StreamPlacement>> placed = PlaceStreams(*topology, PlacementOptions());
    if (placed.ok()) {
      std::vector<std::string> cpus;
      for (const StreamPlacement& stream : *placed) cpus.push_back(absl::StrCat(stream.cpu));
      Add(FindingLevel::kGood, "streams", absl::StrCat(placed->size(), " by default (cpu_share 0.4), on cores ", absl::StrJoin(cpus, ", ")));
    } else {
      Add(FindingLevel::kProblem, "streams", std::string(placed.status().message()));
    }
    if (topology->gpus.empty()) Add(FindingLevel::kNote, "GPU", "none seen: batches stay in host memory");
  }

  void FileSystem(const std::string& root) {
    struct statfs info;
    if (::statfs(root.c_str(), &info) != 0) {
      Add(FindingLevel::kProblem, "data set", absl::StrCat(EscapeName(root), ": ", ErrnoText(errno)), "name a folder or list file that exists");
      return;
    }
    const std::string name = Name(static_cast<uint32_t>(info.f_type));
    if (name == "nfs" || name == "fuse") {
      Add(FindingLevel::kNote, "file system", absl::StrCat(name, " at ", EscapeName(root)), "opens and reads are round trips: raise queue_depth and io_workers, and see the verdict of `penstock bench`");
    } else {
      Add(FindingLevel::kGood, "file system", absl::StrCat(name, " at ", EscapeName(root)));
    }
    struct stat where;
    if (::stat(root.c_str(), &where) != 0) return;
    const std::string device = absl::StrCat("/sys/dev/block/", major(where.st_dev), ":", minor(where.st_dev));
    std::string queue = device + "/queue";
    if (ReadLine(queue + "/nr_requests").empty()) queue = device + "/../queue";  // a partition's queue is its disk's
    const std::string requests = ReadLine(queue + "/nr_requests");
    if (requests.empty()) return;
    Add(FindingLevel::kGood, "block device",
        absl::StrCat("nr_requests ", requests, ", max_sectors_kb ", ReadLine(queue + "/max_sectors_kb"), ", scheduler ", ReadLine(queue + "/scheduler"), ", rotational ", ReadLine(queue + "/rotational")));
  }

  DoctorReport Take() { return std::move(report_); }

 private:
  // statfs(2), linux/magic.h
  static std::string Name(uint32_t magic) {
    switch (magic) {
      case 0xEF53: return "ext4";
      case 0x58465342: return "xfs";
      case 0x9123683E: return "btrfs";
      case 0x01021994: return "tmpfs";
      case 0x6969: return "nfs";
      case 0x65735546: return "fuse";
      case 0x794C7630: return "overlayfs";
      case 0x2FC12FC1: return "zfs";
      case 0x0BD00BD0: return "lustre";
      case 0x00C36400: return "ceph";
      default: return absl::StrFormat("type 0x%x", magic);
    }
  }

  DoctorReport report_;
};

}  // namespace

DoctorReport Examine(absl::string_view root) {
  Examination examination;
  examination.Kernel();
  examination.Limits();
  examination.Memory();
  examination.Cores();
  if (!root.empty()) examination.FileSystem(std::string(root));
  return examination.Take();
}

}  // namespace penstock
