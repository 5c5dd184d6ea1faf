// What the error policy did, kept in files: one per rank, written by the loader, merged for the whole job.
#ifndef PENSTOCK_LEDGER_H_
#define PENSTOCK_LEDGER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "penstock/export.h"
#include "penstock/stats.h"

namespace penstock {

/// The ledgers of a job's ranks as one.
struct MergedLedger {
  std::string fingerprint;           // of the data set that all of them are of
  std::vector<int32_t> ranks;        // whose ledgers were read, ascending, each once
  std::vector<LedgerEntry> entries;  // by epoch and position; one for each position and sample that failed there
  int64_t skipped = 0;               // entries without a substitute
  int64_t substituted = 0;           // entries with one
  int64_t repeated = 0;              // entries that were there before: what a run did again that went on from a state
  int64_t cut_lines = 0;             // lines that a kill cut off; their entries are lost, or were written again by the next run
  bool capped = false;               // a rank's ledger was full: there were more entries
};

/// Reads and merges ledgers (LoaderOptions::ledger_path). A run that goes on from a state takes batches again that an earlier one had taken
/// behind that state: what both wrote down is counted once, as the later line has it.
///
/// Errors:   NotFound, PermissionDenied...  a file cannot be read.
///           InvalidArgument      no files; or one that is no ledger.
///           DataLoss             a line is damaged; the message names file and line.
///           FailedPrecondition   the ledgers are of different data sets, or of a newer penstock.
/// Source:   lib/README.md describes the lines.
PENSTOCK_EXPORT absl::StatusOr<MergedLedger> MergeLedgers(absl::Span<const std::string> paths);

}  // namespace penstock

#endif  // PENSTOCK_LEDGER_H_
