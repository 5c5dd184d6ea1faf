// The sub-commands. Each adds its options to the parser and returns what runs it: the process's exit status
// (0 good, 1 the work failed, 2 bad arguments).
#ifndef PENSTOCK_CLI_COMMANDS_H_
#define PENSTOCK_CLI_COMMANDS_H_

#include <cstdio>
#include <functional>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"

namespace penstock::cli {

using Command = std::function<int()>;

Command AddIndex(CLI::App& app);
Command AddBench(CLI::App& app);
Command AddPlan(CLI::App& app);
Command AddDoctor(CLI::App& app);
Command AddLedger(CLI::App& app);
Command AddOptions(CLI::App& app);

inline int Fail(const absl::Status& status) {
  std::fprintf(stderr, "penstock: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace penstock::cli

#endif  // PENSTOCK_CLI_COMMANDS_H_
