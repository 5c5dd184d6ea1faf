#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "penstock/doctor.h"

namespace penstock::cli {
namespace {

struct DoctorArguments {
  std::string root;
  bool json = false;
};

const char* LevelName(FindingLevel level) {
  return level == FindingLevel::kGood ? "ok" : level == FindingLevel::kNote ? "note" : "PROBLEM";
}

int RunDoctor(const DoctorArguments& arguments) {
  const DoctorReport report = Examine(arguments.root);
  if (arguments.json) {
    nlohmann::json out = {{"findings", nlohmann::json::array()}, {"topology", report.topology}};
    for (const Finding& finding : report.findings) {
      out["findings"].push_back(
          {{"level", LevelName(finding.level)}, {"subject", finding.subject}, {"seen", finding.seen}, {"advice", finding.advice}});
    }
    std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return 0;
  }
  for (const Finding& finding : report.findings) {
    std::printf("%-8s %-14s %s\n", LevelName(finding.level), finding.subject.c_str(), finding.seen.c_str());
    if (!finding.advice.empty()) std::printf("%-8s %-14s -> %s\n", "", "", finding.advice.c_str());
  }
  std::printf("\n%s", report.topology.c_str());
  return 0;
}

}  // namespace

Command AddDoctor(CLI::App& app) {
  auto arguments = std::make_shared<DoctorArguments>();
  CLI::App* command = app.add_subcommand("doctor", "Examine this machine: engine, limits, memory, cores, file system, and what to change");
  command->add_option("root", arguments->root, "a data set, to look at its file system");
  command->add_flag("--json", arguments->json);
  return [arguments] { return RunDoctor(*arguments); };
}

}  // namespace penstock::cli
