// penstock: the command-line tool.
#include <vector>

#include "cli/commands.h"
#include "penstock/version.h"

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
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return 2;
  }
  return status;
}
