#include "topology/memory.h"

#include <string>

#include <catch2/catch.hpp>

#include "topology/machine_map.h"

namespace penstock {
namespace {

using testing::MachineMap;

constexpr int64_t kMiB = 1 << 20;

// A machine of 64 GiB of which 48 GiB are available.
void Machine(MachineMap& map) { map.Write("proc/meminfo", "MemTotal:       67108864 kB\nMemFree:         1024 kB\nMemAvailable:   50331648 kB"); }

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("without a memory cgroup the machine binds", "[topology]") {
  MachineMap map;
  Machine(map);
  const MemoryLeft left = ReadMemoryLeft(map.Source("0"));
  CHECK(left.bytes == 49152 * kMiB);
  CHECK(left.limit_bytes == 65536 * kMiB);
  CHECK(left.by == "the machine's memory of 64 GiB");
}

TEST_CASE("a machine that says nothing is not guessed at", "[topology]") {
  MachineMap map;
  CHECK(ReadMemoryLeft(map.Source("0")).bytes == 0);
}

TEST_CASE("the limit of a cgroup of version 2 binds, less what is used, the page cache counted as free", "[topology]") {
  MachineMap map;
  Machine(map);
  map.Write("proc/self/cgroup", "0::/job");
  map.Write("sys/fs/cgroup/job/memory.max", "314572800");
  map.Write("sys/fs/cgroup/job/memory.current", "104857600");
  map.Write("sys/fs/cgroup/job/memory.stat", "anon 20971520\nactive_file 52428800\ninactive_file 31457280");
  const MemoryLeft left = ReadMemoryLeft(map.Source("0"));
  CHECK(left.bytes == 280 * kMiB);  // 300 - (100 - 80)
  CHECK(left.limit_bytes == 300 * kMiB);
  CHECK(Has(left.by, "the limit of 300 MiB of the memory cgroup "));
  CHECK(Has(left.by, "/fs/cgroup/job"));
}

TEST_CASE("memory.high is a limit too", "[topology]") {
  MachineMap map;
  Machine(map);
  map.Write("proc/self/cgroup", "0::/job");
  map.Write("sys/fs/cgroup/job/memory.max", "max");
  map.Write("sys/fs/cgroup/job/memory.high", "209715200");
  map.Write("sys/fs/cgroup/job/memory.current", "0");
  CHECK(ReadMemoryLeft(map.Source("0")).bytes == 200 * kMiB);
}

TEST_CASE("of nested cgroups the one that leaves least binds", "[topology]") {
  MachineMap map;
  Machine(map);
  map.Write("proc/self/cgroup", "0::/slice/job/step");
  map.Write("sys/fs/cgroup/slice/job/step/memory.max", "max");
  map.Write("sys/fs/cgroup/slice/job/step/memory.current", "10485760");
  map.Write("sys/fs/cgroup/slice/job/memory.max", "1073741824");
  map.Write("sys/fs/cgroup/slice/job/memory.current", "1048576");
  // The neighbours of the job have most of their slice.
  map.Write("sys/fs/cgroup/slice/memory.max", "2147483648");
  map.Write("sys/fs/cgroup/slice/memory.current", "1887436800");
  const MemoryLeft left = ReadMemoryLeft(map.Source("0"));
  CHECK(left.bytes == 248 * kMiB);
  CHECK(left.limit_bytes == 2048 * kMiB);
}

TEST_CASE("a cgroup of version 1 binds, also by what is above and not seen", "[topology]") {
  MachineMap map;
  Machine(map);
  map.Write("proc/self/cgroup", "4:memory:/docker/1a2b\n0::/");
  // In a container: the path is the host's, and the mount's root is the container's cgroup.
  map.Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  map.Write("sys/fs/cgroup/memory/memory.usage_in_bytes", "73400320");
  map.Write("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\nhierarchical_memory_limit 524288000\ntotal_inactive_file 20971520");
  const MemoryLeft above = ReadMemoryLeft(map.Source("0"));
  CHECK(above.bytes == 450 * kMiB);  // 500 - (70 - 20)
  map.Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "314572800");
  CHECK(ReadMemoryLeft(map.Source("0")).bytes == 250 * kMiB);
}

TEST_CASE("version 2 beside version 1 is found, and a limit above the machine's memory does not bind", "[topology]") {
  MachineMap map;
  Machine(map);
  map.Write("proc/self/cgroup", "4:memory:/\n0::/job");
  map.Write("sys/fs/cgroup/unified/job/memory.max", "104857600");
  map.Write("sys/fs/cgroup/unified/job/memory.current", "0");
  CHECK(ReadMemoryLeft(map.Source("0")).bytes == 100 * kMiB);
  map.Write("sys/fs/cgroup/unified/job/memory.max", "1099511627776");
  CHECK(ReadMemoryLeft(map.Source("0")).by == "the machine's memory of 64 GiB");
}

TEST_CASE("a cgroup that is full leaves something, so that it is not taken for one without a limit", "[topology]") {
  MachineMap map;
  Machine(map);
  map.Write("proc/self/cgroup", "0::/job");
  map.Write("sys/fs/cgroup/job/memory.max", "104857600");
  map.Write("sys/fs/cgroup/job/memory.current", "104861696");
  CHECK(ReadMemoryLeft(map.Source("0")).bytes == 1);
}

}  // namespace
}  // namespace penstock
