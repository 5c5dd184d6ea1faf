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
  CheckRefused({{"RANK", "2"}}, {"RANK = 2", "WORLD_SIZE is not set"});
  CheckRefused({{"WORLD_SIZE", "8"}}, {"WORLD_SIZE = 8", "RANK is not set"});
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
