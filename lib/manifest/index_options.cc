// What indexing can be told, by name.
#include <string>

#include "base/option_rows.h"
#include "penstock/manifest.h"

namespace penstock {
namespace {

using Table = OptionRows<IndexOptions, TreeRule, PlaceOrder, ShardFormat, UnknownClasses>;
template <typename E>
using Words = OptionWords<IndexOptions, E>;

const Table& Rows() {
  static const auto* table = new Table({
      {{"rule", "behaviour", "auto|classes|flat|list", "how a path becomes samples"}, Words<TreeRule>{&IndexOptions::rule}, 0, 0},
      {{"manifest_path", "behaviour", "text", "Path of the saved manifest. Empty: the hidden file .NAME.penstock beside the data set NAME, or the cache folder"}, &IndexOptions::manifest_path, 0, 0},
      {{"threads", "speed", "integer", "threads that list; 0: by cores and file system"}, &IndexOptions::threads, 0, 4096},
      {{"crc", "behaviour", "boolean", "read all bytes, and keep a CRC-32C of each sample"}, &IndexOptions::crc, 0, 1},
      {{"stat", "behaviour", "boolean", "keep each file's time of modification, for loaders with verify=stat"}, &IndexOptions::stat, 0, 1},
      {{"place", "behaviour", "none|inode|extent", "save the order in which files lie on the drive, for shuffle=disk-blocks"},
       Words<PlaceOrder>{&IndexOptions::place},
       0,
       0},
      {{"format", "behaviour", "auto|files|npy|raw|npy-files",
        "What a file holds. files = one sample, its bytes. npy = samples along the first axis of a NumPy array. raw = records of one size. "
        "npy-files = one sample, a NumPy array without its header. auto = npy for a .npy file and a flat folder of .npy files, else files"},
       Words<ShardFormat>{&IndexOptions::format},
       0,
       0},
      {{"record_bytes", "behaviour", "bytes", "raw: of each sample"}, &IndexOptions::record_bytes, 0, 9.0e18},
      {{"header_bytes", "behaviour", "bytes", "raw: of each file before its first sample"}, &IndexOptions::header_bytes, 0, 9.0e18},
      {{"labels", "behaviour", "text", "npy, raw, npy-files: file with the labels of all samples; empty: labels.npy in the folder, else classes"},
       &IndexOptions::labels,
       0,
       0},
      {{"include", "behaviour", "text",
        "Globs of the files of a folder that are samples, with commas between them. Empty = all but names that are no data, such as lost+found "
        "and *.tmp"},
       &IndexOptions::include,
       0,
       0},
      {{"exclude", "behaviour", "text", "Globs of files and folders that are left out, with commas between them"},
       &IndexOptions::exclude,
       0,
       0},
      {{"extensions", "behaviour", "text", "Endings of the files of a folder that are samples: jpg,png. Empty = all"},
       &IndexOptions::extensions,
       0,
       0},
      {{"classes", "behaviour", "text",
        "Which number each class folder has. Empty = its place in byte order. numeric = its place in the order of the numbers that folders are "
        "named by. @PATH = as another data set, its manifest, or a file of names. Else the names, with commas between them"},
       &IndexOptions::classes,
       0,
       0},
      {{"unknown_classes", "behaviour", "refuse|leave-out", "What becomes of class folders that classes does not have"},
       Words<UnknownClasses>{&IndexOptions::unknown_classes},
       0,
       0},
      {{"keep_stale", "behaviour", "boolean", "open: serve a saved manifest that is older than its data set"},
       &IndexOptions::keep_stale,
       0,
       1},
      {{"wait_s", "behaviour", "number", "how long to wait for another process that indexes the same data set"},
       &IndexOptions::wait_s,
       0,
       1e6},
  });
  return *table;
}

}  // namespace

absl::Span<const OptionInfo> IndexOptionTable() { return Rows().infos(); }
absl::Status SetOption(IndexOptions& options, absl::string_view name, absl::string_view value) { return Rows().Set(options, name, value); }
std::string GetOption(const IndexOptions& options, absl::string_view name) { return Rows().Get(options, name); }

}  // namespace penstock
