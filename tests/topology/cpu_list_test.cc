#include "topology/cpu_list.h"

#include "support/status.h"

namespace penstock {
namespace {

TEST_CASE("a list of CPUs is read as the kernel writes it", "[topology]") {
  CHECK(*ParseCpuList("0-3,8,10-11\n") == std::vector<int>{0, 1, 2, 3, 8, 10, 11});
  CHECK(*ParseCpuList("7") == std::vector<int>{7});
  CHECK(ParseCpuList("")->empty());
  CHECK(ParseCpuList("\n")->empty());
  CHECK(*ParseCpuList("4,0-1,1") == std::vector<int>{0, 1, 4});
}

TEST_CASE("what is no list of CPUs is refused", "[topology]") {
  for (const char* text : {"a", "1-", "-1", "3-1", "1,,2", "1-2-3", "0-99999999", "+1", "0x1", "1 2"}) {
    INFO(text);
    CHECK(ParseCpuList(text).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("a list of CPUs is written with ranges and read back the same", "[topology]") {
  for (const char* text : {"", "0", "0-1", "0,2", "0-3,8,10-11", "5,7-9,11"}) CHECK(FormatCpuList(*ParseCpuList(text)) == text);
}

TEST_CASE("a PCI bus id has one form whoever wrote it", "[topology]") {
  for (const char* text : {"0000:1b:00.0", "0000:1B:00.0", "00000000:1B:00.0", "1b:00.0"}) {
    INFO(text);
    REQUIRE_OK(NormalPciBusId(text));
    CHECK(*NormalPciBusId(text) == "0000:1b:00.0");
  }
  CHECK(*NormalPciBusId("0009:01:1f.7") == "0009:01:1f.7");
}

TEST_CASE("what is no PCI bus id is refused", "[topology]") {
  for (const char* text : {"", "0", "0000:1b:00", "0000:1b:20.0", "0000:1b:00.8", "0000:100:00.0", "0000:xx:00.0", "a:b:c:d.0",
      "0000:1b:00.0.0"}) {
    INFO(text);
    CHECK(NormalPciBusId(text).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace penstock
