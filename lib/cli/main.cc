// penstock: the command-line tool.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <vector>

#include "cli/commands.h"
#include "penstock/version.h"

namespace {

// The exit status, where all that was printed has been written: a full disk must not look like success.
int Written(int status) {
  errno = 0;
  std::cout.flush();
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.good();
  if (written) return status;
  std::fprintf(stderr, "penstock: write to the standard output: %s; what was printed is not complete: give it room\n",
               errno == 0 ? "failed before" : std::strerror(errno));
  return status == 0 ? 1 : status;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"penstock: a training-cluster data loader. Index a data set, measure it, look at its order, examine a machine."};
  app.set_version_flag("--version", PENSTOCK_VERSION_STRING);
  app.require_subcommand(1);
  int status = 0;
  using Add = penstock::cli::Command (*)(CLI::App&);
  const Add adds[] = {penstock::cli::AddIndex, penstock::cli::AddBench, penstock::cli::AddPlan, penstock::cli::AddDoctor,
                      penstock::cli::AddLedger, penstock::cli::AddOptions};
  std::vector<penstock::cli::Command> commands;
  for (const Add add : adds) {
    commands.push_back(add(app));
    CLI::App* const added = app.get_subcommands([](CLI::App*) { return true; }).back();
    added->callback([&status, command = commands.back()] { status = command(); });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return Written(app.exit(success));
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return 2;
  }
  return Written(status);
}
