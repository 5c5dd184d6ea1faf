// Which cores the streams' threads run on: those that a launcher shares out, else none of their own.
#include <dirent.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// How many CPUs each I/O stream's thread of this process may run on.
std::vector<int> CpusOfStreams() {
  std::vector<int> counts;
  DIR* const tasks = ::opendir("/proc/self/task");
  REQUIRE(tasks != nullptr);
  while (const dirent* const entry = ::readdir(tasks)) {
    std::string name;
    std::ifstream("/proc/self/task/" + std::string(entry->d_name) + "/comm") >> name;
    cpu_set_t set;
    if (name.rfind("penstock/", 0) != 0 || ::sched_getaffinity(std::atoi(entry->d_name), sizeof set, &set) != 0) continue;
    counts.push_back(CPU_COUNT(&set));
  }
  ::closedir(tasks);
  return counts;
}

int AllowedCpus() {
  cpu_set_t set;
  REQUIRE(::sched_getaffinity(0, sizeof set, &set) == 0);
  return CPU_COUNT(&set);
}

LoaderOptions TwoStreams(const DataSet& data) {
  LoaderOptions options = data.Options(10);
  options.streams = 2;
  options.rank = options.world_size = -1;
  return options;
}

}  // namespace

TEST_CASE("a job that no launcher counts leaves its streams to the scheduler", "[loader]") {
  if (AllowedCpus() < 2) SkipTest("one CPU");
  const DataSet data(40);
  const auto loader = MustOpen(TwoStreams(data));
  REQUIRE_OK(loader->Next());
  CHECK(loader->setup().cpus == std::vector<int32_t>{-1, -1});
  CHECK(loader->setup().cpus_why.find("another job may use the same core") != std::string::npos);
  const std::vector<int> cpus = CpusOfStreams();
  CHECK(cpus.size() == 2);
  CHECK(std::count(cpus.begin(), cpus.end(), 1) == 0);
}

TEST_CASE("the processes of one launcher pin their streams to the cores that they share out", "[loader]") {
  if (AllowedCpus() < 2) SkipTest("one CPU");
  const DataSet data(40);
  std::vector<int32_t> cpus;
  for (const char* local : {"0", "1"}) {
    ::setenv("OMPI_COMM_WORLD_RANK", local, 1);
    ::setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    ::setenv("OMPI_COMM_WORLD_LOCAL_RANK", local, 1);
    ::setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
    LoaderOptions options = TwoStreams(data);
    options.streams = 1;
    const auto loader = MustOpen(options);
    REQUIRE_OK(loader->Next());
    REQUIRE(loader->setup().cpus.size() == 1);
    cpus.push_back(loader->setup().cpus[0]);
    CHECK(CpusOfStreams() == std::vector<int>{1});
  }
  CHECK(cpus[0] >= 0);
  CHECK(cpus[0] != cpus[1]);
}

TEST_CASE("pin_cpus that is given counts, whatever a launcher says", "[loader]") {
  const DataSet data(40);
  LoaderOptions options = TwoStreams(data);
  options.pin_cpus = true;
  {
    const auto loader = MustOpen(options);
    REQUIRE_OK(loader->Next());
    CHECK(CpusOfStreams() == std::vector<int>{1, 1});
    CHECK(loader->setup().cpus[0] >= 0);
    CHECK(loader->setup().cpus_why == "pin_cpus = true");
  }
  ::setenv("OMPI_COMM_WORLD_RANK", "0", 1);
  ::setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
  ::setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0", 1);
  ::setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
  options.pin_cpus = false;
  const auto loader = MustOpen(options);
  REQUIRE_OK(loader->Next());
  CHECK(loader->setup().cpus == std::vector<int32_t>{-1, -1});
}
