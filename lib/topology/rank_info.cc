// The variables are those that the launchers document. Checked against Open MPI 4.1, Slurm 22.05, torchrun 2 and MPICH's Hydra; those of
// Flux (flux-core's job shell), of jsrun (IBM's Job Step Manager) and of PALS (HPE, whose size is PMI's) are taken from their documents.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "penstock/topology.h"

namespace penstock {
namespace {

using GetEnv = std::function<const char*(const char*)>;

// What one launcher says. A local rank or size that it does not say is -1.
struct Found {
  RankInfo info;
  const char* rank_name = "";
  const char* size_name = "";
};

std::string Text(const GetEnv& getenv, const char* name) {
  const char* const value = getenv(name);
  return value == nullptr ? "" : value;
}

// The number in a variable; -1 where it is not set or empty, or has no name.
absl::StatusOr<int> Number(const GetEnv& getenv, const char* name) {
  if (name == nullptr) return -1;
  const std::string text = Text(getenv, name);
  if (text.empty()) return -1;
  int value = 0;
  if (!std::all_of(text.begin(), text.end(), absl::ascii_isdigit) || !absl::SimpleAtoi(text, &value)) {
    return absl::InvalidArgumentError(absl::StrCat("environment variable ", name, " is \"", EscapeName(text),
        "\", which is not a number from 0 up"));
  }
  return value;
}

absl::Status OutOfRange(const char* rank_name, int rank, const char* size_name, int size) {
  return absl::InvalidArgumentError(absl::StrCat("environment: ", rank_name, " = ", rank, " and ", size_name, " = ", size,
                                                 " are impossible: a rank is less than its size"));
}

// A launcher that gives each number in a variable (nullptr: it has none for that). Absent unless both rank and size are set.
absl::StatusOr<std::optional<Found>> Launcher(const GetEnv& getenv, const char* source, const char* rank_name, const char* size_name,
                                              const char* local_rank_name, const char* local_size_name) {
  Found found{.info = {.source = source}, .rank_name = rank_name, .size_name = size_name};
  const std::pair<const char*, int*> numbers[] = {{rank_name, &found.info.rank},
                                                  {size_name, &found.info.world_size},
                                                  {local_rank_name, &found.info.local_rank},
                                                  {local_size_name, &found.info.local_world_size}};
  if (Text(getenv, rank_name).empty() || Text(getenv, size_name).empty()) return std::optional<Found>();
  for (const auto& [name, number] : numbers) {
    absl::StatusOr<int> value = Number(getenv, name);
    if (!value.ok()) return value.status();
    *number = *value;
  }
  if (found.info.rank >= found.info.world_size) return OutOfRange(rank_name, found.info.rank, size_name, found.info.world_size);
  if (found.info.local_world_size >= 0) {
    if (found.info.local_rank >= found.info.local_world_size) {
      return OutOfRange(local_rank_name, found.info.local_rank, local_size_name, found.info.local_world_size);
    }
    if (found.info.local_world_size > found.info.world_size) {
      return absl::InvalidArgumentError(absl::StrCat("environment: ", local_size_name, " = ", found.info.local_world_size, " is more than ",
                                                     size_name, " = ", found.info.world_size));
    }
  } else if (found.info.local_rank > 0) {
    return absl::InvalidArgumentError(absl::StrCat("environment: ", local_rank_name, " = ", found.info.local_rank, " but ", local_size_name,
                                                   " is not set, so the cores cannot be split among the local ranks: set it"));
  }
  return std::optional<Found>(std::move(found));
}

absl::StatusOr<std::optional<Found>> Torchrun(const GetEnv& getenv) {
  // DeepSpeed's launcher calls it LOCAL_SIZE.
  const char* const local_size = Text(getenv, "LOCAL_WORLD_SIZE").empty() && !Text(getenv, "LOCAL_SIZE").empty()
      ? "LOCAL_SIZE" : "LOCAL_WORLD_SIZE";
  const bool elastic = !Text(getenv, "GROUP_RANK").empty();
  return Launcher(getenv, elastic ? "torchrun" : "RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", "LOCAL_RANK", local_size);
}

// "8(x4),2" -> the number at this node; -1 for anything else.
int TasksOfNode(absl::string_view text, int node) {
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> halves = absl::StrSplit(part, absl::MaxSplits("(x", 1));
    int tasks = 0, repeat = 1;
    if (!absl::SimpleAtoi(halves[0], &tasks) || tasks < 1) return -1;
    if (halves.size() == 2) {
      absl::string_view times = halves[1];
      if (times.empty() || times.back() != ')') return -1;
      times.remove_suffix(1);
      if (!absl::SimpleAtoi(times, &repeat) || repeat < 1) return -1;
    }
    if (node < repeat) return tasks;
    node -= repeat;
  }
  return -1;
}

absl::StatusOr<std::optional<Found>> Slurm(const GetEnv& getenv) {
  absl::StatusOr<std::optional<Found>> found =
      Launcher(getenv, "Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", nullptr, nullptr);
  if (!found.ok() || !found->has_value()) return found;
  RankInfo& info = (*found)->info;
  absl::StatusOr<int> local_rank = Number(getenv, "SLURM_LOCALID");
  if (!local_rank.ok()) return local_rank.status();
  absl::StatusOr<int> node = Number(getenv, "SLURM_NODEID");
  if (!node.ok()) return node.status();
  info.local_rank = *local_rank;
  if (*local_rank < 0) return found;
  // SLURM_NTASKS_PER_NODE is what was asked for, which may not be what was given.
  const std::string tasks = Text(getenv, "SLURM_STEP_TASKS_PER_NODE");
  const std::string ids = Text(getenv, "SLURM_GTIDS");
  if (*node >= 0 && !tasks.empty()) {
    info.local_world_size = TasksOfNode(tasks, *node);
    if (info.local_world_size < 1) {
      return absl::InvalidArgumentError(absl::StrCat("environment: SLURM_STEP_TASKS_PER_NODE = \"", EscapeName(tasks),
                                                     "\" says nothing of SLURM_NODEID = ", *node));
    }
  } else if (!ids.empty()) {
    info.local_world_size = 1 + static_cast<int>(std::count(ids.begin(), ids.end(), ','));
  } else if (info.world_size == 1) {
    info.local_world_size = 1;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("environment: SLURM_LOCALID = ", *local_rank,
                                                   " but neither SLURM_STEP_TASKS_PER_NODE with SLURM_NODEID nor SLURM_GTIDS is "
                                                   "set, so the cores cannot be split among the tasks of this node"));
  }
  if (info.local_rank >= info.local_world_size) {
    return OutOfRange("SLURM_LOCALID", info.local_rank, "tasks of this node by SLURM_STEP_TASKS_PER_NODE or SLURM_GTIDS",
        info.local_world_size);
  }
  return found;
}

// Flux spreads a job's tasks evenly over its nodes unless told otherwise, and says the number of nodes, but not how many tasks a node has.
absl::StatusOr<std::optional<Found>> Flux(const GetEnv& getenv) {
  absl::StatusOr<std::optional<Found>> found = Launcher(getenv, "Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", nullptr, nullptr);
  if (!found.ok() || !found->has_value()) return found;
  const absl::StatusOr<int> local_rank = Number(getenv, "FLUX_TASK_LOCAL_ID");
  if (!local_rank.ok()) return local_rank.status();
  const absl::StatusOr<int> nodes = Number(getenv, "FLUX_JOB_NNODES");
  if (!nodes.ok()) return nodes.status();
  RankInfo& info = (*found)->info;
  if (*local_rank < 0 || *nodes < 1) return found;
  const int most = (info.world_size + *nodes - 1) / *nodes;
  // Tasks that are spread in another way: how many are here is not known.
  if (*local_rank >= most) return found;
  info.local_rank = *local_rank;
  info.local_world_size = most;
  return found;
}

// PMI's own numbers; the local ones are called one thing by Hydra, another by Cray's PMI, and another by PALS.
absl::StatusOr<std::optional<Found>> Pmi(const GetEnv& getenv) {
  static constexpr std::pair<const char*, const char*> kLocal[] = {{"MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
                                                                   {"PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"},
                                                                   {"PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"}};
  const auto* local = &kLocal[0];
  for (const auto& names : kLocal) {
    if (Text(getenv, names.first).empty() || Text(getenv, names.second).empty()) continue;
    local = &names;
    break;
  }
  return Launcher(getenv, "MPICH (PMI)", "PMI_RANK", "PMI_SIZE", local->first, local->second);
}

// A variable that only a process of a job has, while no launcher gives both rank and size.
absl::Status CheckNothingIsLeft(const GetEnv& getenv) {
  // `harmless`: the largest value that a process without others may have.
  struct Trace {
    const char* name;
    int harmless;
    const char* missing;  // what would complete it
  };
  static constexpr Trace kTraces[] = {
      {"RANK", -1, "WORLD_SIZE"},
      {"WORLD_SIZE", 1, "RANK"},
      {"LOCAL_RANK", -1, "RANK and WORLD_SIZE"},
      {"LOCAL_WORLD_SIZE", 1, "RANK and WORLD_SIZE"},
      {"GROUP_RANK", -1, "RANK and WORLD_SIZE"},
      {"OMPI_COMM_WORLD_RANK", -1, "OMPI_COMM_WORLD_SIZE"},
      {"OMPI_COMM_WORLD_SIZE", 1, "OMPI_COMM_WORLD_RANK"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", -1, "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"},
      {"PMI_RANK", -1, "PMI_SIZE"},
      {"PMI_SIZE", 1, "PMI_RANK"},
      {"PMIX_RANK", -1, "a variable with the number of ranks (PMIx has none)"},
      {"PMI_LOCAL_RANK", -1, "PMI_RANK and PMI_SIZE"},
      {"MPI_LOCALRANKID", -1, "PMI_RANK and PMI_SIZE"},
      {"MV2_COMM_WORLD_RANK", -1, "MV2_COMM_WORLD_SIZE"},
      {"MV2_COMM_WORLD_SIZE", 1, "MV2_COMM_WORLD_RANK"},
      {"MV2_COMM_WORLD_LOCAL_RANK", -1, "MV2_COMM_WORLD_RANK and MV2_COMM_WORLD_SIZE"},
      {"JSM_NAMESPACE_RANK", -1, "JSM_NAMESPACE_SIZE"},
      {"JSM_NAMESPACE_SIZE", 1, "JSM_NAMESPACE_RANK"},
      {"JSM_NAMESPACE_LOCAL_RANK", -1, "JSM_NAMESPACE_RANK and JSM_NAMESPACE_SIZE"},
      {"FLUX_TASK_RANK", -1, "FLUX_JOB_SIZE"},
      {"FLUX_TASK_LOCAL_ID", -1, "FLUX_TASK_RANK and FLUX_JOB_SIZE"},
      {"PALS_RANKID", -1, "PMI_RANK and PMI_SIZE (PALS itself does not say the number of ranks)"},
      {"PALS_LOCAL_RANKID", -1, "PMI_RANK and PMI_SIZE (PALS itself does not say the number of ranks)"},
      // A batch script is one process, and is told that it is the first.
      {"SLURM_PROCID", 0, "SLURM_STEP_NUM_TASKS"},
      {"SLURM_LOCALID", 0, "SLURM_PROCID and SLURM_STEP_NUM_TASKS"},
  };
  // WORLD_SIZE = 1 says all that there is to say, where no rank contradicts it.
  const absl::StatusOr<int> world = Number(getenv, "WORLD_SIZE");
  const bool alone = world.ok() && *world == 1;
  for (const Trace& trace : kTraces) {
    const absl::StatusOr<int> value = Number(getenv, trace.name);
    if (!value.ok()) return value.status();
    if (*value > std::max(trace.harmless, alone ? 0 : -1)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "environment: ", trace.name, " = ", *value, " is set without ", trace.missing,
          ", so that this process cannot tell which part of the data is its own: set what is missing, give rank and world_size (0 and 1 "
          "where this is the only process), or in Python open the loader after torch.distributed.init_process_group()"));
    }
  }
  return absl::OkStatus();
}

bool Agree(const Found& left, const Found& right) {
  return left.info.rank == right.info.rank && left.info.world_size == right.info.world_size;
}

// Whether `outer` launched one torchrun on each node: its ranks are then torchrun's groups.
bool StartedTorchrun(const GetEnv& getenv, const Found& outer) {
  const absl::StatusOr<int> group = Number(getenv, "GROUP_RANK");
  const absl::StatusOr<int> groups = Number(getenv, "GROUP_WORLD_SIZE");
  return group.ok() && groups.ok() && *group == outer.info.rank && *groups == outer.info.world_size;
}

std::string Describe(const Found& found) {
  return absl::StrCat(found.info.source, " says ", found.rank_name, " = ", found.info.rank, " of ", found.size_name, " = ",
      found.info.world_size);
}

absl::StatusOr<RankInfo> FromEnvironment(const GetEnv& getenv) {
  absl::StatusOr<std::optional<Found>> torchrun = Torchrun(getenv);
  if (!torchrun.ok()) return torchrun.status();
  absl::StatusOr<std::optional<Found>> launchers[] = {
      Launcher(getenv, "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
          "OMPI_COMM_WORLD_LOCAL_SIZE"),
      Pmi(getenv),
      Launcher(getenv, "MVAPICH2", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
      Launcher(getenv, "jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),
      Flux(getenv),
  };
  // The first launcher wins; one that contradicts it (a variable left over in the shell, say) is an error.
  std::optional<Found> chosen = *std::move(torchrun);
  const bool by_torchrun = chosen.has_value();
  std::vector<Found> agreeing;
  for (absl::StatusOr<std::optional<Found>>& launcher : launchers) {
    if (!launcher.ok()) return launcher.status();
    if (!launcher->has_value()) continue;
    if (!chosen.has_value()) {
      chosen = **launcher;
    } else if (Agree(*chosen, **launcher)) {
      agreeing.push_back(**launcher);
    } else if (!(by_torchrun && StartedTorchrun(getenv, **launcher))) {
      return absl::InvalidArgumentError(absl::StrCat("environment: ", Describe(*chosen), ", but ", Describe(**launcher),
                                                     ": unset the variables that are stale, or give rank and world_size"));
    }
  }
  absl::StatusOr<std::optional<Found>> slurm = Slurm(getenv);
  // Around another launcher its variables are those of that one's daemons, whatever they say.
  if (chosen.has_value()) {
    if (slurm.ok() && slurm->has_value() && Agree(*chosen, **slurm)) agreeing.push_back(**slurm);
  } else {
    if (!slurm.ok()) return slurm.status();
    chosen = *std::move(slurm);
  }
  if (!chosen.has_value()) {
    if (absl::Status status = CheckNothingIsLeft(getenv); !status.ok()) return status;
    return RankInfo{.source = "single process"};
  }
  RankInfo info = chosen->info;
  // srun --mpi=pmi2 sets PMI_RANK without the local numbers, which Slurm knows.
  for (const Found& other : agreeing) {
    if (info.local_rank < 0 && other.info.local_rank >= 0 && other.info.local_world_size >= 0) {
      info.local_rank = other.info.local_rank;
      info.local_world_size = other.info.local_world_size;
    }
  }
  if (info.local_rank < 0 || info.local_world_size < 0) {
    info.local_rank = 0;  // a launcher without local ranks: one process on each node
    info.local_world_size = 1;
  }
  return info;
}

}  // namespace

std::string RankInfo::ToText() const {
  std::string text = absl::StrCat("rank ", rank, " of ", world_size, " (from ", source);
  if (local_world_size > 1) absl::StrAppend(&text, "; local rank ", local_rank, " of ", local_world_size);
  return text + ")";
}

absl::StatusOr<RankInfo> DiscoverRank(int rank, int world_size, const std::function<const char*(const char*)>& getenv,
                                      absl::string_view source) {
  if (rank == -1 && world_size == -1) return FromEnvironment(getenv);
  if (rank == -1 || world_size == -1) {
    return absl::InvalidArgumentError(absl::StrCat("rank = ", rank, " and world_size = ", world_size, ": give both, or neither (-1)"));
  }
  if (world_size < 1 || rank < 0 || rank >= world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank = ", rank, " and world_size = ", world_size, " are impossible: 0 <= rank < world_size is needed"));
  }
  RankInfo info{.rank = rank, .world_size = world_size, .source = source.empty() ? "arguments" : EscapeName(source)};
  // Which processes share this node is the launcher's knowledge, also where the arguments number a part of them only.
  const absl::StatusOr<RankInfo> environment = FromEnvironment(getenv);
  if (environment.ok()) {
    info.local_rank = environment->local_rank;
    info.local_world_size = environment->local_world_size;
    if (environment->local_world_size > 1) absl::StrAppend(&info.source, ", local rank by ", environment->source);
  } else {
    // LOCAL_RANK and LOCAL_WORLD_SIZE without the rest say nothing of the rank, but all that is asked for here.
    const absl::StatusOr<int> local_rank = Number(getenv, "LOCAL_RANK");
    const absl::StatusOr<int> local_size = Number(getenv, "LOCAL_WORLD_SIZE");
    if (local_rank.ok() && local_size.ok() && *local_rank >= 0 && *local_rank < *local_size) {
      info.local_rank = *local_rank;
      info.local_world_size = *local_size;
      absl::StrAppend(&info.source, ", local rank by LOCAL_RANK");
    }
  }
  return info;
}

}  // namespace penstock
