// memory_bytes where nobody gives it, on machines that this one is not.
#include <string>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/runtime.h"
#include "penstock/doctor.h"
#include "topology/machine_map.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int64_t kMiB = 1 << 20;

void Cgroup(MachineMap& map, int64_t max_mib) {
  map.Online("0-1");
  map.Write("proc/meminfo", "MemTotal:       67108864 kB\nMemAvailable:   50331648 kB");
  map.Write("proc/self/cgroup", "0::/job");
  map.Write("sys/fs/cgroup/job/memory.max", std::to_string(max_mib * kMiB));
  map.Write("sys/fs/cgroup/job/memory.current", "0");
}

std::shared_ptr<Runtime> On(const MachineMap& map, RuntimeOptions options = {}) {
  return RuntimeCore::MakeRuntime(options, nullptr, map.Source("0-1"));
}

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("the default memory is a quarter of what the cgroup leaves, and 1 GiB at most", "[loader]") {
  DataSet data(40);
  LoaderOptions options = data.Options();
  options.memory_bytes = 0;
  const std::pair<int64_t, int64_t> cases[] = {{300, 74}, {32, 16}, {4096, 1024}, {65536, 1024}};
  for (const auto& [limit, expected] : cases) {
    MachineMap map;
    Cgroup(map, limit);
    const auto loader = MustOpen(options, On(map));
    CHECK(loader->setup().arena_bytes == expected * kMiB);
    if (limit == 300) CHECK(Has(loader->setup().memory_why, "a quarter of the 300 MiB that the limit of 300 MiB of the memory cgroup "));
    if (limit >= 4096) CHECK(loader->setup().memory_why == "by default");
    CHECK(loader->setup().warnings.empty());
    CHECK(TakeEpoch(*loader).size() == 32);
  }
}

TEST_CASE("the loaders of a runtime, and a runtime's budget, divide the default", "[loader]") {
  DataSet data(40);
  LoaderOptions options = data.Options();
  options.memory_bytes = 0;
  MachineMap map;
  Cgroup(map, 800);
  RuntimeOptions runtime;
  runtime.loaders = 2;
  const auto divided = MustOpen(options, On(map, runtime));
  CHECK(divided->setup().arena_bytes == 100 * kMiB);
  CHECK(Has(divided->setup().memory_why, "divided by 2 loaders"));
  runtime.loaders = 1;
  runtime.memory_bytes = 40 * kMiB;
  const auto budget = MustOpen(options, On(map, runtime));
  CHECK(budget->setup().arena_bytes == 40 * kMiB);
  CHECK(budget->setup().memory_why == "the runtime's memory budget");
}

TEST_CASE("large samples raise the default as far as half of what is left, and beyond that are refused with what binds", "[loader]") {
  DataSet data(8, -(12 << 20), 1);
  LoaderOptions options = data.Options(4);
  options.memory_bytes = 0;
  MachineMap map;
  Cgroup(map, 300);
  const auto loader = MustOpen(options, On(map));
  CHECK(loader->setup().arena_bytes > 96 * kMiB);
  CHECK(loader->setup().arena_bytes <= 150 * kMiB);
  CHECK(Has(loader->setup().memory_why, "raised to what two batches need"));
  CHECK(TakeEpoch(*loader).size() == 8);
  options.batch_size = 8;
  const absl::Status status = Loader::Open(options, On(map)).status();
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK(Has(std::string(status.message()), "memory_bytes must be at least"));
  CHECK(Has(std::string(status.message()), "a quarter of the 300 MiB that the limit of 300 MiB"));
}

TEST_CASE("a value above what is left is taken, with a warning that names what binds", "[loader]") {
  DataSet data(40);
  LoaderOptions options = data.Options();
  options.memory_bytes = 256 * kMiB;
  MachineMap map;
  Cgroup(map, 200);
  const auto loader = MustOpen(options, On(map));
  CHECK(loader->setup().arena_bytes == 256 * kMiB);
  CHECK(loader->setup().memory_why == "asked for");
  REQUIRE(loader->setup().warnings.size() == 1);
  CHECK(Has(loader->setup().warnings[0], "memory_bytes = 256 MiB is more than the 200 MiB that the limit of 200 MiB of the memory cgroup "));
  CHECK(Has(loader->setup().warnings[0], "lower memory_bytes"));
  options.memory_bytes = 128 * kMiB;
  CHECK(MustOpen(options, On(map))->setup().warnings.empty());
}

TEST_CASE("doctor gives one number for memory, the one that binds", "[loader]") {
  MachineMap map;
  Cgroup(map, 300);
  int found = 0;
  for (const Finding& finding : Examine("", map.Source("0-1")).findings) {
    if (finding.subject != "memory") continue;
    ++found;
    CHECK(finding.level == FindingLevel::kNote);
    CHECK(Has(finding.seen, "300 MiB available: what the limit of 300 MiB of the memory cgroup "));
    CHECK(!Has(finding.seen, "48 GiB"));
    CHECK(Has(finding.advice, "75 MiB"));
  }
  CHECK(found == 1);
}
