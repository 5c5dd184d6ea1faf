#include <map>
#include <string>

#include "penstock/topology.h"
#include "support/status.h"

namespace penstock {
namespace {

using Environment = std::map<std::string, std::string>;

absl::StatusOr<RankInfo> Discover(const Environment& environment, int rank = -1, int world_size = -1) {
  return DiscoverRank(rank, world_size, [&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

RankInfo Found(const Environment& environment, int rank = -1, int world_size = -1) {
  const absl::StatusOr<RankInfo> info = Discover(environment, rank, world_size);
  REQUIRE_OK(info);
  return *info;
}

void CheckRank(const RankInfo& info, int rank, int world_size, int local_rank, int local_world_size, const std::string& source) {
  CHECK(info.rank == rank);
  CHECK(info.world_size == world_size);
  CHECK(info.local_rank == local_rank);
  CHECK(info.local_world_size == local_world_size);
  CHECK(info.source == source);
}

void CheckRefused(const Environment& environment, const std::vector<std::string>& named, int rank = -1, int world_size = -1) {
  const absl::Status status = Discover(environment, rank, world_size).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  for (const std::string& text : named) {
    INFO(status.ToString());
    CHECK(std::string(status.message()).find(text) != std::string::npos);
  }
}

const Environment kTorchrun = {{"RANK", "9"},       {"WORLD_SIZE", "16"}, {"LOCAL_RANK", "1"},
                               {"LOCAL_WORLD_SIZE", "8"}, {"GROUP_RANK", "1"},  {"GROUP_WORLD_SIZE", "2"}};
const Environment kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}, {"OMPI_COMM_WORLD_NODE_RANK", "1"}};
const Environment kSlurm = {{"SLURM_PROCID", "6"},  {"SLURM_NTASKS", "8"},          {"SLURM_STEP_NUM_TASKS", "8"},
                            {"SLURM_LOCALID", "0"}, {"SLURM_STEP_TASKS_PER_NODE", "4,2,1(x2)"}, {"SLURM_NODEID", "2"}};

Environment Join(Environment first, const Environment& second) {
  first.insert(second.begin(), second.end());
  return first;
}

TEST_CASE("no launcher is a single process", "[topology]") {
  CheckRank(Found({}), 0, 1, 0, 1, "single process");
  CheckRank(Found({{"WORLD_SIZE", "1"}}), 0, 1, 0, 1, "single process");
  CheckRank(Found({{"RANK", ""}, {"WORLD_SIZE", ""}}), 0, 1, 0, 1, "single process");
}

TEST_CASE("each launcher is understood", "[topology]") {
  CheckRank(Found(kTorchrun), 9, 16, 1, 8, "torchrun");
  CheckRank(Found(kOpenMpi), 3, 4, 1, 2, "Open MPI");
  CheckRank(Found({{"PMI_RANK", "2"}, {"PMI_SIZE", "4"}, {"MPI_LOCALRANKID", "0"}, {"MPI_LOCALNRANKS", "2"}}), 2, 4, 0, 2, "MPICH (PMI)");
  CheckRank(Found({{"MV2_COMM_WORLD_RANK", "2"}, {"MV2_COMM_WORLD_SIZE", "4"}, {"MV2_COMM_WORLD_LOCAL_RANK", "0"},
      {"MV2_COMM_WORLD_LOCAL_SIZE", "2"}}),
            2, 4, 0, 2, "MVAPICH2");
  CheckRank(Found(kSlurm), 6, 8, 0, 1, "Slurm");
  CheckRank(Found({{"RANK", "3"}, {"WORLD_SIZE", "4"}}), 3, 4, 0, 1, "RANK and WORLD_SIZE");
  CheckRank(Found({{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"LOCAL_SIZE", "2"}}), 3, 4, 1, 2, "RANK and WORLD_SIZE");
}

TEST_CASE("the launchers of larger sites are understood", "[topology]") {
  // Flux says how many nodes there are, and not how many tasks are on this one: it spreads them evenly.
  const Environment flux = {{"FLUX_TASK_RANK", "5"}, {"FLUX_JOB_SIZE", "8"}, {"FLUX_TASK_LOCAL_ID", "1"}, {"FLUX_JOB_NNODES", "2"}};
  CheckRank(Found(flux), 5, 8, 1, 4, "Flux");
  CheckRank(Found({{"FLUX_TASK_RANK", "6"}, {"FLUX_JOB_SIZE", "7"}, {"FLUX_TASK_LOCAL_ID", "2"}, {"FLUX_JOB_NNODES", "2"}}), 6, 7, 2, 4,
            "Flux");
  CheckRank(Found({{"FLUX_TASK_RANK", "3"}, {"FLUX_JOB_SIZE", "4"}}), 3, 4, 0, 1, "Flux");
  // Not spread evenly: which rank it is is known all the same.
  CheckRank(Found({{"FLUX_TASK_RANK", "6"}, {"FLUX_JOB_SIZE", "8"}, {"FLUX_TASK_LOCAL_ID", "6"}, {"FLUX_JOB_NNODES", "2"}}), 6, 8, 0, 1,
            "Flux");
  // Flux's own PMI gives rank and size, and no local numbers.
  CheckRank(Found(Join(flux, {{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}})), 5, 8, 1, 4, "MPICH (PMI)");
  const Environment jsrun = {{"JSM_NAMESPACE_RANK", "7"}, {"JSM_NAMESPACE_SIZE", "12"}, {"JSM_NAMESPACE_LOCAL_RANK", "1"},
                             {"JSM_NAMESPACE_LOCAL_SIZE", "6"}, {"PMIX_RANK", "7"}};
  CheckRank(Found(jsrun), 7, 12, 1, 6, "jsrun");
  CheckRank(Found(Join(jsrun, {{"OMPI_COMM_WORLD_RANK", "7"}, {"OMPI_COMM_WORLD_SIZE", "12"}})), 7, 12, 1, 6, "Open MPI");
  // PALS (HPE): the ranks are counted by Cray's PMI.
  CheckRank(Found({{"PMI_RANK", "13"}, {"PMI_SIZE", "24"}, {"PMI_LOCAL_RANK", "1"}, {"PMI_LOCAL_SIZE", "12"}, {"PALS_RANKID", "13"}}), 13,
            24, 1, 12, "MPICH (PMI)");
  CheckRank(Found({{"PMI_RANK", "13"}, {"PMI_SIZE", "24"}, {"PALS_LOCAL_RANKID", "1"}, {"PALS_LOCAL_SIZE", "12"}}), 13, 24, 1, 12,
            "MPICH (PMI)");
  // srun --mpi=pmix: PMIx gives the rank alone, and Slurm the rest.
  CheckRank(Found(Join(kSlurm, {{"PMIX_RANK", "6"}})), 6, 8, 0, 1, "Slurm");
  CheckRefused(Join(flux, {{"JSM_NAMESPACE_RANK", "0"}, {"JSM_NAMESPACE_SIZE", "8"}}),
               {"jsrun says JSM_NAMESPACE_RANK = 0", "Flux says FLUX_TASK_RANK = 5", "give rank and world_size"});
}

TEST_CASE("a process that one variable shows to be one of several is not rank 0 of 1", "[topology]") {
  // Each alone; the others of its set were lost (a wrapper script, sudo, ssh).
  const std::pair<const char*, const char*> traces[] = {
      {"RANK", "0"}, {"RANK", "2"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "0"}, {"LOCAL_RANK", "3"}, {"LOCAL_WORLD_SIZE", "4"},
      {"GROUP_RANK", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
      {"PMI_RANK", "0"}, {"PMI_SIZE", "2"}, {"PMIX_RANK", "0"}, {"PMIX_RANK", "3"}, {"PMI_LOCAL_RANK", "1"}, {"MPI_LOCALRANKID", "1"},
      {"MV2_COMM_WORLD_RANK", "1"}, {"MV2_COMM_WORLD_SIZE", "2"}, {"MV2_COMM_WORLD_LOCAL_RANK", "0"}, {"JSM_NAMESPACE_RANK", "1"},
      {"JSM_NAMESPACE_SIZE", "6"}, {"JSM_NAMESPACE_LOCAL_RANK", "0"}, {"FLUX_TASK_RANK", "1"}, {"FLUX_TASK_LOCAL_ID", "0"},
      {"PALS_RANKID", "4"}, {"PALS_LOCAL_RANKID", "0"}, {"SLURM_PROCID", "1"}, {"SLURM_LOCALID", "1"}};
  for (const auto& [name, value] : traces) {
    INFO(name << "=" << value);
    CheckRefused({{name, value}}, {std::string(name) + " = " + value, "give rank and world_size", "init_process_group"});
  }
  CheckRefused({{"WORLD_SIZE", "1"}, {"LOCAL_RANK", "1"}}, {"LOCAL_RANK = 1"});
  CheckRefused({{"LOCAL_RANK", "one"}}, {"LOCAL_RANK", "one"});
  // One process, which its launcher counts.
  CheckRank(Found({{"WORLD_SIZE", "1"}, {"LOCAL_RANK", "0"}, {"RANK", ""}}), 0, 1, 0, 1, "single process");
  // The instance of Flux itself: a script in it is one process.
  CheckRank(Found({{"FLUX_JOB_SIZE", "8"}, {"FLUX_JOB_NNODES", "2"}}), 0, 1, 0, 1, "single process");
  // Arguments end it, and LOCAL_RANK still says where the process is on its node.
  CheckRank(Found({{"LOCAL_RANK", "1"}}, 5, 8), 5, 8, 0, 1, "arguments");
  CheckRank(Found({{"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "4"}}, 5, 8), 5, 8, 1, 4, "arguments, local rank by LOCAL_RANK");
}

TEST_CASE("a rank says in one line what it is and from where", "[topology]") {
  CHECK(Found(kTorchrun).ToText() == "rank 9 of 16 (from torchrun; local rank 1 of 8)");
  CHECK(Found({}).ToText() == "rank 0 of 1 (from single process)");
  const absl::StatusOr<RankInfo> given = DiscoverRank(2, 4, [](const char*) -> const char* { return nullptr; }, "torch.distributed");
  REQUIRE_OK(given);
  CHECK(given->ToText() == "rank 2 of 4 (from torch.distributed)");
}

TEST_CASE("the tasks of a node are read from the compressed list of Slurm", "[topology]") {
  const std::pair<const char*, int> nodes[] = {{"0", 8}, {"1", 8}, {"3", 8}, {"4", 2}};
  for (const auto& [node, tasks] : nodes) {
    Environment environment = {{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "34"}, {"SLURM_LOCALID", "1"},
                               {"SLURM_STEP_TASKS_PER_NODE", "8(x4),2"}, {"SLURM_NODEID", node}};
    CHECK(Found(environment).local_world_size == tasks);
  }
}

TEST_CASE("the tasks of a node are counted where Slurm gives no list", "[topology]") {
  CheckRank(Found({{"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_LOCALID", "1"}, {"SLURM_GTIDS", "4,5,6,7"}}), 5, 8, 1,
      4, "Slurm");
}

TEST_CASE("a batch script without srun is one process", "[topology]") {
  CheckRank(Found({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_LOCALID", "0"}, {"SLURM_NODEID", "0"}}), 0, 1, 0, 1,
      "single process");
}

TEST_CASE("launchers inside a Slurm step win over its daemons", "[topology]") {
  // mpirun in an allocation: the variables are those of the daemon of each node.
  const Environment daemon = {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_LOCALID", "0"},
                              {"SLURM_STEP_TASKS_PER_NODE", "1(x2)"}, {"SLURM_NODEID", "0"}};
  CheckRank(Found(Join(kOpenMpi, daemon)), 3, 4, 1, 2, "Open MPI");
  CheckRank(Found(Join(kTorchrun, daemon)), 9, 16, 1, 8, "torchrun");
}

TEST_CASE("torchrun started by mpirun on each node is torchrun", "[topology]") {
  const Environment mpirun = {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}};
  CheckRank(Found(Join(kTorchrun, mpirun)), 9, 16, 1, 8, "torchrun");
}

TEST_CASE("a script that passes the rank of mpirun on as RANK gets the local rank of mpirun", "[topology]") {
  CheckRank(Found(Join(kOpenMpi, {{"RANK", "3"}, {"WORLD_SIZE", "4"}})), 3, 4, 1, 2, "RANK and WORLD_SIZE");
}

TEST_CASE("the local numbers that PMI lacks come from Slurm where both agree", "[topology]") {
  const Environment pmi2 = {{"PMI_RANK", "6"}, {"PMI_SIZE", "8"}};
  CheckRank(Found(Join(kSlurm, pmi2)), 6, 8, 0, 1, "MPICH (PMI)");
  CheckRank(Found(Join({{"SLURM_STEP_TASKS_PER_NODE", "4(x2)"}, {"SLURM_NODEID", "1"}, {"SLURM_LOCALID", "2"}}, Join(kSlurm, pmi2))), 6,
      8, 2, 4,
            "MPICH (PMI)");
}

TEST_CASE("launchers that disagree are an error that names both", "[topology]") {
  CheckRefused(Join(kOpenMpi, {{"RANK", "0"}, {"WORLD_SIZE", "2"}}), {"RANK = 0", "WORLD_SIZE = 2", "OMPI_COMM_WORLD_RANK = 3",
      "OMPI_COMM_WORLD_SIZE = 4"});
  CheckRefused(Join(kOpenMpi, {{"PMI_RANK", "0"}, {"PMI_SIZE", "4"}}), {"Open MPI", "PMI_RANK = 0"});
}

TEST_CASE("arguments end a dispute and keep the local rank of the launcher", "[topology]") {
  CheckRank(Found(Join(kOpenMpi, {{"RANK", "0"}, {"WORLD_SIZE", "2"}}), 1, 2), 1, 2, 0, 1, "arguments");
  CheckRank(Found(kTorchrun, 0, 1), 0, 1, 1, 8, "arguments, local rank by torchrun");
  CheckRank(Found({}, 5, 8), 5, 8, 0, 1, "arguments");
}

TEST_CASE("impossible arguments are refused", "[topology]") {
  CheckRefused({}, {"rank = 2", "world_size = 2"}, 2, 2);
  CheckRefused({}, {"rank = 0", "world_size = -1"}, 0, -1);
  CheckRefused({}, {"rank = -1", "world_size = 4"}, -1, 4);
  CheckRefused({}, {"rank = -2"}, -2, 4);
  CheckRefused({}, {"world_size = 0"}, 0, 0);
}

TEST_CASE("impossible values in the environment are refused by name", "[topology]") {
  CheckRefused({{"RANK", "4"}, {"WORLD_SIZE", "4"}}, {"RANK = 4", "WORLD_SIZE = 4"});
  CheckRefused({{"RANK", "one"}, {"WORLD_SIZE", "4"}}, {"RANK", "one"});
  CheckRefused({{"RANK", "-1"}, {"WORLD_SIZE", "4"}}, {"RANK", "-1"});
  CheckRefused({{"RANK", "0"}, {"WORLD_SIZE", "99999999999"}}, {"WORLD_SIZE", "99999999999"});
  CheckRefused({{"RANK", "2"}}, {"RANK = 2", "without WORLD_SIZE"});
  CheckRefused({{"WORLD_SIZE", "8"}}, {"WORLD_SIZE = 8", "without RANK"});
  CheckRefused({{"RANK", "0"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "2"}, {"LOCAL_WORLD_SIZE", "2"}}, {"LOCAL_RANK = 2",
      "LOCAL_WORLD_SIZE = 2"});
  CheckRefused({{"RANK", "0"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "8"}}, {"LOCAL_WORLD_SIZE = 8",
      "WORLD_SIZE = 4"});
  CheckRefused({{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}}, {"LOCAL_RANK = 1", "LOCAL_WORLD_SIZE is not set"});
  CheckRefused({{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_LOCALID", "1"}}, {"SLURM_LOCALID = 1", "SLURM_GTIDS"});
  for (const char* tasks : {"4(x", "four", "2(x0)", "4"}) {
    CheckRefused({{"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_LOCALID", "1"}, {"SLURM_STEP_TASKS_PER_NODE", tasks},
        {"SLURM_NODEID", "1"}},
                 {"SLURM_STEP_TASKS_PER_NODE", tasks, "SLURM_NODEID = 1"});
  }
}

}  // namespace
}  // namespace penstock
