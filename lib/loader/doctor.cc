#include "penstock/doctor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "base/io_error.h"
#include "loader/residency.h"
#include "manifest/place.h"
#include "penstock/manifest.h"
#include "penstock/topology.h"
#include "ring/engine.h"
#include "topology/memory.h"

namespace penstock {
namespace {

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// capabilities(7): a bit of CapEff.
bool HasCapability(int bit) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("CapEff:", 0) == 0) return (std::strtoull(line.c_str() + 7, nullptr, 16) >> bit & 1) != 0;
  }
  return false;
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
      Add(FindingLevel::kProblem, "engine",
          absl::StrCat("threads: ", choice.why,
                       disabled.empty() || disabled == "0" ? "" : absl::StrCat(" (kernel.io_uring_disabled = ", disabled, ")")),
          "io_uring is worth 1.3x on small cached files and 2x in CPU on cold ones: allow io_uring_setup, io_uring_enter and "
          "io_uring_register in the container's seccomp profile, "
          "and set kernel.io_uring_disabled to 0");
    }
  }

  void Limits() {
    rlimit memlock;
    ::getrlimit(RLIMIT_MEMLOCK, &memlock);
    const bool exempt = HasCapability(14);  // CAP_IPC_LOCK; root has it, but for root in a container
    const std::string seen = memlock.rlim_cur == RLIM_INFINITY ? "unlimited" : FormatBytes(static_cast<int64_t>(memlock.rlim_cur));
    if (memlock.rlim_cur == RLIM_INFINITY || exempt) {
      Add(FindingLevel::kGood, "locked memory", absl::StrCat("RLIMIT_MEMLOCK ", seen, exempt ? " (CAP_IPC_LOCK: exempt)" : ""));
    } else if (memlock.rlim_cur < (1u << 20)) {
      Add(FindingLevel::kProblem, "locked memory", absl::StrCat("RLIMIT_MEMLOCK ", seen),
          "io_uring's rings are charged to it (kernel 6.14 and later): a few rings may fit, 320 do not. Raise it (ulimit -l, or "
          "LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK");
    } else {
      Add(FindingLevel::kNote, "locked memory", absl::StrCat("RLIMIT_MEMLOCK ", seen),
          "enough for about 290 rings of 256 entries of one user; pinning for a GPU needs more: raise it (ulimit -l)");
    }
    rlimit files;
    ::getrlimit(RLIMIT_NOFILE, &files);
    const std::string open = absl::StrCat("RLIMIT_NOFILE ", files.rlim_cur, ", hard limit ", files.rlim_max);
    if (files.rlim_cur < 1024) {
      Add(FindingLevel::kProblem, "open files", open,
          absl::StrCat("reads in flight and folders are held open: raise it to 1024 at least (ulimit -n ",
                       std::min<uint64_t>(files.rlim_max, 65536), ")"));
    } else {
      Add(FindingLevel::kGood, "open files", open);
    }
  }

  // One number: what binds.
  void Memory(const TopologySource& source) {
    left_ = ReadMemoryLeft(source);
    if (left_.bytes > 0) {
      const int64_t whole = int64_t{4} << 30;  // of which a loader's 1 GiB is a quarter
      Add(left_.bytes < whole ? FindingLevel::kNote : FindingLevel::kGood, "memory",
          absl::StrCat(FormatBytes(left_.bytes), " available: what ", left_.by, " leaves"),
          left_.bytes < whole ? absl::StrCat("a loader takes a quarter of it at most, ", FormatBytes(left_.bytes / 4),
                                             " instead of 1 GiB, divided by the local ranks: give the job more memory, or set memory_bytes")
                              : "");
    } else {
      Add(FindingLevel::kNote, "memory", "how much is available is not known (no /proc/meminfo, no memory cgroup)",
          "a loader takes 1 GiB: set memory_bytes where that is too much");
    }
    const std::string thp = ReadLine("/sys/kernel/mm/transparent_hugepage/enabled");
    if (thp.find("[never]") != std::string::npos) {
      Add(FindingLevel::kProblem, "huge pages", absl::StrCat("transparent huge pages: ", thp),
          "direct reads into 4 KiB pages cost twice the CPU time and half the rate: echo madvise > "
          "/sys/kernel/mm/transparent_hugepage/enabled");
    } else {
      Add(FindingLevel::kGood, "huge pages", absl::StrCat("transparent huge pages: ", thp.empty() ? "unknown" : thp));
    }
  }

  void Cores(const TopologySource& source) {
    const absl::StatusOr<Topology> topology = ReadTopology(source);
    if (!topology.ok()) {
      Add(FindingLevel::kProblem, "cores", std::string(topology.status().message()));
      return;
    }
    report_.topology = topology->ToText();
    const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
    const size_t allowed = topology->allowed_cpus.size();
    const std::string seen = absl::StrCat(allowed, " of ", online, " online cores allowed");
    if (static_cast<long>(allowed) < online) {
      Add(FindingLevel::kNote, "cores", seen,
          "the affinity mask or the cpuset hides the rest: ask the launcher for more (srun --cpus-per-task, the container's cpuset), if "
          "the trainer does not need them");
    } else {
      Add(FindingLevel::kGood, "cores", seen);
    }
    const absl::StatusOr<std::vector<StreamPlacement>> placed = PlaceStreams(*topology, PlacementOptions());
    if (placed.ok()) {
      std::vector<std::string> cpus;
      for (const StreamPlacement& stream : *placed) cpus.push_back(absl::StrCat(stream.cpu));
      Add(FindingLevel::kGood, "streams",
          absl::StrCat(placed->size(), " by default: cpu_share 0.4 of ", allowed, " cores leaves the rest to the trainer; cpu_share=1 takes all of "
                       "them. Cores ", absl::StrJoin(cpus, ", "), " where a launcher counts the processes of the node; else not pinned"));
    } else {
      Add(FindingLevel::kProblem, "streams", std::string(placed.status().message()));
    }
    if (topology->cpu_quota > 0 && topology->cpu_quota < static_cast<double>(allowed)) {
      Add(FindingLevel::kNote, "CPU quota", 
          absl::StrFormat("the cgroup grants the time of %.3g CPUs on %d allowed ones", topology->cpu_quota, allowed),
          "threads beyond it are stopped for the rest of each period: ask for whole cores (a cpuset) instead of a quota, or raise it");
    }
    Binding(*topology);
    if (topology->gpus.empty()) Add(FindingLevel::kNote, "GPU", "none seen: batches stay in host memory");
    for (const GpuInfo& gpu : topology->gpus) {
      if (gpu.numa_node < 0 && topology->nodes.size() > 1) {
        Add(FindingLevel::kProblem, "GPU", absl::StrCat(gpu.pci_bus_id, ": node unknown (numa_node = -1)"),
            "its streams and memory go to all nodes in turn, some of them far from it: have the firmware or the virtual machine say where "
            "its PCI root lies");
      } else {
        const int node = MemoryNodeForGpu(*topology, gpu.pci_bus_id);
        const std::string where = gpu.numa_node < 0 ? ": the only node" : absl::StrCat(": node ", gpu.numa_node);
        const std::string memory = node >= 0 && node != gpu.numa_node ? absl::StrCat(", host memory from node ", node) : "";
        Add(FindingLevel::kGood, "GPU", absl::StrCat(gpu.pci_bus_id, where, memory));
      }
    }
  }

  // Which part of the data a loader of this process would read.
  void Rank() {
    const absl::StatusOr<RankInfo> rank =
        DiscoverRank(-1, -1, [](const char* name) { return static_cast<const char*>(std::getenv(name)); });
    if (rank.ok()) {
      Add(FindingLevel::kGood, "rank", rank->ToText());
    } else {
      Add(FindingLevel::kProblem, "rank", std::string(rank.status().message()), "loaders that are given no rank and world_size will not open");
    }
  }

  // By doing: containers refuse mbind(2) without CAP_SYS_NICE.
  void Binding(const Topology& topology) {
    int node = 0;
    for (const NumaNode& known : topology.nodes) {
      if (known.has_memory) node = known.id;
    }
    constexpr size_t kBytes = 4096;
    constexpr int kWordBits = 8 * sizeof(unsigned long);
    unsigned long mask[16] = {};
    if (node >= 16 * kWordBits) return;
    mask[node / kWordBits] = 1ul << (node % kWordBits);
    void* const page = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return;
    constexpr int kMpolPreferred = 1;  // linux/mempolicy.h
    const int error_number = ::syscall(SYS_mbind, page, kBytes, kMpolPreferred, mask, 16 * kWordBits + 1, 0) == 0 ? 0 : errno;
    ::munmap(page, kBytes);
    const std::string seen = absl::StrCat(topology.nodes.size(), topology.nodes.size() == 1 ? " node" : " nodes", ", mbind ");
    if (error_number == 0) {
      Add(FindingLevel::kGood, "NUMA binding", absl::StrCat(seen, "allowed"));
    } else {
      Add(FindingLevel::kNote, "NUMA binding", absl::StrCat(seen, "refused: ", ErrnoText(error_number)),
          topology.nodes.size() < 2 ? "nothing is lost with one node"
                                    : "memory is placed by its first touch from a core of the node, which also works; to have it bound, "
                                        "grant CAP_SYS_NICE or allow mbind in the seccomp profile");
    }
  }

  // The data set's size against the memory, and what its file system allows, tried on its first file.
  void Data(const std::string& root) {
    std::string file;
    const absl::StatusOr<DataSet> data_set = FindDataSet(root, TreeRule::kAuto);
    if (!data_set.ok()) {
      Add(FindingLevel::kProblem, "data set", std::string(data_set.status().message()));
      return;
    }
    std::shared_ptr<const Manifest> manifest;
    OpenSavedOptions options;
    options.root = data_set->root;
    options.check_root = false;  // up to 1,000 folders would be asked
    options.check = ManifestCheck::kHeader;
    for (const std::string& place : ManifestPlaces(*data_set, "")) {
      absl::StatusOr<std::shared_ptr<const Manifest>> saved = Manifest::OpenSaved(place, options);
      if (saved.ok() && (*saved)->sample_count() > 0) {
        manifest = *std::move(saved);
        break;
      }
    }
    const int64_t available = left_.bytes;
    if (manifest != nullptr) {
      const auto bytes = static_cast<int64_t>(manifest->total_bytes());
      const double percent = 100.0 * static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(1, available));
      const std::string seen = absl::StrFormat("%d samples, %s: %.0f %% of the %s of memory available", manifest->sample_count(),
                                               FormatBytes(bytes), percent, FormatBytes(available));
      if (bytes < available / 5 * 4) {
        Add(FindingLevel::kGood, "data set", absl::StrCat(seen, ": the page cache holds it after the first epoch"));
      } else {
        Add(FindingLevel::kNote, "data set", absl::StrCat(seen, ": the page cache cannot hold it"),
            "every epoch reads from the store: give the job more memory, or see that the store is fast enough (penstock bench)");
      }
      file = absl::StrCat(manifest->root(), "/", manifest->ObjectName(0));
    } else {
      Add(FindingLevel::kNote, "data set", absl::StrCat("not indexed yet; memory available ", FormatBytes(available)),
          absl::StrCat("penstock index ", EscapeName(root)));
      std::error_code error;
      int looked_at = 0;
      if (!data_set->list_name.empty()) {
        file = absl::StrCat(data_set->root, "/", data_set->list_name);
      } else {
        constexpr auto kSkip = std::filesystem::directory_options::skip_permission_denied;
        auto entry = std::filesystem::recursive_directory_iterator(data_set->root, kSkip, error);
        for (; !error && entry != std::filesystem::recursive_directory_iterator() && ++looked_at < 10000; entry.increment(error)) {
          if (entry->is_regular_file(error)) {
            file = entry->path().string();
            break;
          }
        }
      }
    }
    if (file.empty()) return;
    const FileRules rules = LookAtFile(OpenTarget{AT_FDCWD, file.c_str()});
    if (rules.direct_alignment > 0) {
      Add(FindingLevel::kGood, "direct reads", rules.direct_why);
    } else {
      Add(FindingLevel::kNote, "direct reads", rules.direct_why,
          "reads go through the page cache (io=direct is not to be had); a data set larger than memory is better on ext4 or xfs");
    }
    if (rules.answers_at_once) {
      Add(FindingLevel::kGood, "reads at once", "the file system answers a read that need not wait without a thread (RWF_NOWAIT)");
    } else {
      Add(FindingLevel::kNote, "reads at once",
          "not on this file system (RWF_NOWAIT is refused): each read holds one of io_workers threads, with io_uring too",
          "raise io_workers (16 by default) where the verdict of `penstock bench` is store latency: no more are at the store at once");
    }
  }

  void FileSystem(const std::string& root) {
    struct statfs info;
    if (::statfs(root.c_str(), &info) != 0) {
      Add(FindingLevel::kProblem, "data set", absl::StrCat(EscapeName(root), ": ", ErrnoText(errno)),
          "name a folder or list file that exists");
      return;
    }
    const std::string name = Name(static_cast<uint32_t>(info.f_type));
    if (name == "nfs" || name == "fuse") {
      Add(FindingLevel::kNote, "file system", absl::StrCat(name, " at ", EscapeName(root)),
          "opens and reads are round trips: raise queue_depth and io_workers, and see the verdict of `penstock bench`");
    } else {
      Add(FindingLevel::kGood, "file system", absl::StrCat(name, " at ", EscapeName(root)));
    }
    Data(root);
    struct stat where;
    if (::stat(root.c_str(), &where) != 0) return;
    const std::string device = absl::StrCat("/sys/dev/block/", major(where.st_dev), ":", minor(where.st_dev));
    std::string queue = device + "/queue";
    if (ReadLine(queue + "/nr_requests").empty()) queue = device + "/../queue";  // a partition's queue is its disk's
    const std::string requests = ReadLine(queue + "/nr_requests");
    if (requests.empty()) return;
    Add(FindingLevel::kGood, "block device",
        absl::StrCat("nr_requests ", requests, ", max_sectors_kb ", ReadLine(queue + "/max_sectors_kb"), ", scheduler ",
                     ReadLine(queue + "/scheduler"), ", rotational ", ReadLine(queue + "/rotational")));
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
  MemoryLeft left_;
};

}  // namespace

DoctorReport Examine(absl::string_view root, const TopologySource& source) {
  Examination examination;
  examination.Kernel();
  examination.Limits();
  examination.Memory(source);
  examination.Cores(source);
  examination.Rank();
  if (!root.empty()) examination.FileSystem(std::string(root));
  return examination.Take();
}

}  // namespace penstock
