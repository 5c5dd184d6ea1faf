// One rank's ledger in a file, appended to by each run: a line of JSON for the run, and one for each entry.
#ifndef PENSTOCK_LOADER_LEDGER_FILE_H_
#define PENSTOCK_LOADER_LEDGER_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "penstock/stats.h"

namespace penstock {

// Which run begins.
struct LedgerRun {
  std::string fingerprint;
  int32_t rank = 0;
  int32_t world_size = 1;
  int64_t epoch = 0;  // where it begins, or goes on
  int64_t position = 0;
};

// Used by one thread at a time.
class LedgerFile {
 public:
  static constexpr int64_t kBytesMax = int64_t{64} << 20;  // about 300,000 entries

  // Opens (or makes) the file and writes the run's line. The error names the file.
  static absl::StatusOr<LedgerFile> Open(const std::string& path, const LedgerRun& run, int64_t bytes_max = kBytesMax);

  // Appends the entries in one write. An error is of this call alone: the next one tries again.
  absl::Status Append(absl::Span<const LedgerEntry> entries);

 private:
  LedgerFile(std::string path, UniqueFd fd, int64_t bytes, int64_t bytes_max);
  absl::Status Write(const std::string& text);

  std::string path_;
  UniqueFd fd_;
  int64_t bytes_;
  int64_t bytes_max_;
  bool full_ = false;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_LEDGER_FILE_H_
