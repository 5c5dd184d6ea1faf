#include <cstdio>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/commands.h"
#include "penstock/loader.h"
#include "penstock/manifest.h"
#include "penstock/options.h"

namespace penstock::cli {
namespace {

struct Table {
  const char* name;   // in --json
  const char* title;  // what it is for
  absl::Span<const OptionInfo> infos;
  std::string (*initial)(absl::string_view name);
};

template <typename Options>
std::string Default(absl::string_view name) {
  return GetOption(Options(), name);
}

std::vector<Table> Tables() {
  return {{"loader", "Loaders: `LoaderOptions`, `penstock bench --set`, `PENSTOCK_LOADER_OPTIONS`, `penstock.Loader(...)`", OptionTable(),
           &Default<LoaderOptions>},
          {"index", "Indexing: `IndexOptions`, `PENSTOCK_INDEX_OPTIONS`", IndexOptionTable(), &Default<IndexOptions>},
          {"runtime", "What loaders share: `RuntimeOptions`, `PENSTOCK_RUNTIME_OPTIONS`", RuntimeOptionTable(), &Default<RuntimeOptions>}};
}

// A cell of a table: a bar would end it.
std::string Cell(absl::string_view text) { return absl::StrReplaceAll(text, {{"|", "\\|"}}); }

void PrintMarkdown() {
  std::printf(
      "# Options\n\nWritten by `penstock options --markdown`, from the tables that the library reads. Options of the group \"speed\" can "
      "be set\n"
      "in the environment too: `PENSTOCK_QUEUE_DEPTH=128`.\n");
  for (const Table& table : Tables()) {
    std::printf("\n## %s\n\n| option | group | takes | default | |\n|---|---|---|---|---|\n", table.title);
    for (const OptionInfo& info : table.infos) {
      const std::string initial = table.initial(info.name);
      std::printf("| `%s` | %s | %s | %s | %s |\n", info.name, info.kind, Cell(info.type).c_str(),
                  initial.empty() ? "" : absl::StrCat("`", Cell(initial), "`").c_str(), Cell(info.help).c_str());
    }
  }
}

void PrintJson() {
  nlohmann::ordered_json json;
  for (const Table& table : Tables()) {
    for (const OptionInfo& info : table.infos) {
      json[table.name].push_back(
          {{"name", info.name}, {"group", info.kind}, {"type", info.type}, {"default", table.initial(info.name)}, {"help", info.help}});
    }
  }
  std::printf("%s\n", json.dump(2).c_str());
}

void PrintText() {
  for (const Table& table : Tables()) {
    std::printf("%s\n", table.title);
    for (const OptionInfo& info : table.infos)
      std::printf("  %s = %s (%s): %s\n", info.name, table.initial(info.name).c_str(), info.type, info.help);
  }
}

}  // namespace

Command AddOptions(CLI::App& app) {
  auto markdown = std::make_shared<bool>(false);
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("options", "All options by name, with their defaults");
  auto* as_markdown = command->add_flag("--markdown", *markdown, "as docs/options.md has them");
  command->add_flag("--json", *json, "one JSON object")->excludes(as_markdown);
  return [markdown, json] {
    if (*markdown) {
      PrintMarkdown();
    } else if (*json) {
      PrintJson();
    } else {
      PrintText();
    }
    return 0;
  };
}

}  // namespace penstock::cli
