// What doctor says about machines that this one is not.
#include "penstock/doctor.h"

#include <sys/syscall.h>

#include <cerrno>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "support/child.h"
#include "support/seccomp.h"
#include "topology/machine_map.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

std::vector<Finding> Of(const DoctorReport& report, const std::string& subject) {
  std::vector<Finding> found;
  for (const Finding& finding : report.findings) {
    if (finding.subject == subject) found.push_back(finding);
  }
  return found;
}

}  // namespace

TEST_CASE("doctor names each GPU with its node", "[doctor]") {
  MachineMap map;
  DgxA100(map);
  const auto gpus = Of(Examine("", map.Source(kDgxA100Cpus)), "GPU");
  REQUIRE(gpus.size() == kGpuIds.size());
  const int nodes[] = {3, 3, 1, 1, 7, 7, 5, 5};
  for (size_t i = 0; i < gpus.size(); ++i) {
    CHECK(gpus[i].level == FindingLevel::kGood);
    bool named = false;
    for (size_t g = 0; g < kGpuIds.size(); ++g) named = named || gpus[i].seen == kGpuIds[g] + ": node " + std::to_string(nodes[g]);
    CAPTURE(gpus[i].seen);
    CHECK(named);
  }
}

TEST_CASE("doctor says of a GPU whose node is unknown what to do", "[doctor]") {
  MachineMap map;
  map.Online("0-7");
  map.Node(0, "0-3", 64, "10 20");
  map.Node(1, "4-7", 64, "20 10");
  map.Gpu("0000:1b:00.0", -1, "0-7");
  const auto gpus = Of(Examine("", map.Source("0-7")), "GPU");
  REQUIRE(gpus.size() == 1);
  CHECK(gpus[0].level == FindingLevel::kProblem);
  CHECK(gpus[0].advice.find("firmware") != std::string::npos);
}

TEST_CASE("doctor says that NUMA binding is refused where mbind is, and only there", "[doctor]") {
  MachineMap map;
  map.Online("0-7");
  map.Node(0, "0-3", 64, "10 20");
  map.Node(1, "4-7", 64, "20 10");
  const std::string said = InChild([&]() -> std::string {
    if (const std::string error = DenySystemCall(SYS_mbind, EPERM); !error.empty()) return error;
    const auto found = Of(Examine("", map.Source("0-7")), "NUMA binding");
    return found.size() == 1 ? found[0].seen + "\n" + found[0].advice : "no finding";
  });
  INFO(said);
  CHECK(said.find("2 nodes, mbind refused: ") == 0);
  CHECK(said.find("EPERM") != std::string::npos);
  CHECK(said.find("CAP_SYS_NICE") != std::string::npos);
  const auto found = Of(Examine(""), "NUMA binding");
  REQUIRE(found.size() == 1);
  if (found[0].level == FindingLevel::kGood) CHECK(found[0].advice.empty());
  CHECK((found[0].level == FindingLevel::kGood) == (found[0].seen.find("allowed") != std::string::npos));
}
