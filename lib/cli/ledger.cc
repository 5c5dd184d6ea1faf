#include "penstock/ledger.h"

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "cli/commands.h"

namespace penstock::cli {
namespace {

struct LedgerArguments {
  std::vector<std::string> files;
  bool json = false;
};

void PrintJson(const MergedLedger& merged) {
  nlohmann::json entries = nlohmann::json::array();
  for (const LedgerEntry& entry : merged.entries) {
    entries.push_back({{"epoch", entry.epoch},
                       {"position", entry.position},
                       {"id", entry.id},
                       {"substitute", entry.substitute},
                       {"reason", entry.reason}});
  }
  const nlohmann::json json = {{"fingerprint", merged.fingerprint},
                               {"ranks", merged.ranks},
                               {"entries", entries},
                               {"skipped", merged.skipped},
                               {"substituted", merged.substituted},
                               {"repeated", merged.repeated},
                               {"cut_lines", merged.cut_lines},
                               {"capped", merged.capped}};
  std::printf("%s\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

int RunLedger(const LedgerArguments& arguments) {
  const absl::StatusOr<MergedLedger> merged = MergeLedgers(arguments.files);
  if (!merged.ok()) return Fail(merged.status());
  if (merged->cut_lines > 0)
    std::fprintf(stderr, "penstock: warning: %lld lines were cut off by a kill\n", static_cast<long long>(merged->cut_lines));
  if (merged->capped) std::fprintf(stderr, "penstock: warning: a ledger was full: there were more entries than these\n");
  if (arguments.json) {
    PrintJson(*merged);
    return 0;
  }
  std::printf("epoch\tposition\tid\tin its place\treason\n");
  for (const LedgerEntry& entry : merged->entries) {
    std::printf("%lld\t%lld\t%lld\t%s\t%s\n", static_cast<long long>(entry.epoch), static_cast<long long>(entry.position),
                static_cast<long long>(entry.id), entry.substitute < 0 ? "nothing" : absl::StrCat(entry.substitute).c_str(),
                EscapeName(entry.reason).c_str());
  }
  std::printf("skipped %lld, substituted %lld, met again after a restart %lld; of the ranks %s\n", static_cast<long long>(merged->skipped),
              static_cast<long long>(merged->substituted), static_cast<long long>(merged->repeated),
              absl::StrJoin(merged->ranks, " ").c_str());
  return 0;
}

}  // namespace

Command AddLedger(CLI::App& app) {
  auto arguments = std::make_shared<LedgerArguments>();
  CLI::App* command =
      app.add_subcommand("ledger", "Merge the ledgers of a job's ranks: which samples could not be read, and what became of them");
  command->add_option("files", arguments->files, "the ranks' ledgers (ledger_path.0, ledger_path.1, ...)")->required();
  command->add_flag("--json", arguments->json, "one JSON object");
  return [arguments] { return RunLedger(*arguments); };
}

}  // namespace penstock::cli
