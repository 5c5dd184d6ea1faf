// Shards: files that hold many samples of one size each, NumPy arrays or raw records.
#ifndef PENSTOCK_MANIFEST_RECORDS_H_
#define PENSTOCK_MANIFEST_RECORDS_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "manifest/manifest_data.h"
#include "manifest/place.h"
#include "manifest/scan.h"
#include "penstock/manifest.h"

namespace penstock {

// What was asked for, and what the data set shows.
struct RecordsPlan {
  ShardFormat format = ShardFormat::kFiles;  // kAuto: to be decided when the files are known
  bool said = false;                         // the format was asked for or saved, and is to be kept for the next time
  bool leave_out_labels = false;             // labels.npy lies beside files that are no shards
  bool one_shard = false;                    // the data set's path is a shard, no folder and no list
  uint64_t record_bytes = 0;
  uint64_t header_bytes = 0;
  std::string labels;                        // absolute, or empty
};

// Resolves options.format, of which kAuto looks at a single file, and is left for DecideFormat otherwise. `saved`: how the data set was
// indexed before.
//
// Errors: InvalidArgument  options that do not go together, or a file that is neither a list nor a shard.
//         those of looking at the file.
absl::StatusOr<RecordsPlan> PlanRecords(const DataSet& data_set, const IndexOptions& options, const RecordsPlan* saved);

// Decides what PlanRecords left open.
//
// Errors: InvalidArgument  files of which kinds lie side by side, or .npy files of which each could be one sample as well as many.
absl::Status DecideFormat(const FileKinds& kinds, const DataSet& data_set, const IndexOptions& options, RecordsPlan& plan);

// A data set that is one shard.
absl::Status ScanOneShard(const std::string& name, ScanOutput& out);

// Which files of a tree are shards, or samples. `plan` may still change, and outlives the filter.
std::function<ScanOptions::Want(absl::string_view)> ShardFilter(const RecordsPlan& plan, const DataSet& data_set);

// Turns the files that a scan found into shards: looks at each one's size and header, and reads the labels.
//
// Errors: InvalidArgument  a shard that is malformed, differs from the others, or whose size is no multiple; labels that do not fit.
//         NotFound         no samples.
//         DataLoss         a shard that was cut short.
absl::Status MakeRecords(const RecordsPlan& plan, int threads, const std::function<void(const IndexProgress&)>& progress,
                         ManifestData& data);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_RECORDS_H_
