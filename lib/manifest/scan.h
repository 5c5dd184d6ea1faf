// Lists a folder with everything below it into a manifest.
#ifndef PENSTOCK_MANIFEST_SCAN_H_
#define PENSTOCK_MANIFEST_SCAN_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "manifest/manifest_data.h"
#include "manifest/name_filter.h"
#include "penstock/manifest.h"

namespace penstock {

// File systems stamp times with the clock tick of the kernel, 1 to 10 ms: what changed less than this ago could change again without
// showing it. So folders are listed, and files looked at, a little later.
inline constexpr int64_t kMtimeTickNs = 20 * kNsPerMs;

// What kinds of files a data set has; what is left out by its name does not count.
struct FileKinds {
  int64_t npy = 0;
  int64_t documents = 0;  // README, .txt, .json and the like, which lie beside data
  int64_t others = 0;
  bool labels = false;    // labels.npy in the root, which counts as no .npy file
  bool classes = false;   // the rule is kClasses, or kAuto and there are sub-folders
  std::string npy_name, document_name, other_name;  // one of each
};

struct ScanOptions {
  TreeRule rule = TreeRule::kAuto;
  int threads = 1;
  // Files whose inode changed (st_ctime) at this time or later get a mark; INT64_MAX: not asked for.
  int64_t changed_since_ns = INT64_MAX;
  bool want_mtimes = false;  // keep each file's st_mtime
  std::function<void(const IndexProgress&)> progress;
  NameFilter names;  // of a tree
  // The class folders' names in the order of their labels; empty: by byte order.
  std::vector<std::string> classes;
  bool numeric_classes = false;  // by the numbers that they are
  bool leave_out_unknown_classes = false;
  // Which files of a tree are samples (or shards), by their path from the root; null: all.
  enum class Want { kYes, kNo, kNoAndKnown };  // kNo is counted and named
  std::function<Want(absl::string_view)> wanted;
  // Called once when all names are known, before `wanted` and before `rule` is looked at for the last time; null: not asked for.
  std::function<absl::Status(const FileKinds&)> found;
};

// What lies in a folder, as a scan counts it: names, kinds, sizes and inodes, in any order. A folder's mtime also changes where hidden names
// come and go, among them the manifests of the sets below it; this does not.
class FolderHash {
 public:
  void AddFile(absl::string_view name, uint64_t bytes, uint64_t inode);
  void AddFolder(absl::string_view name);
  uint64_t value() const { return sum_; }

 private:
  uint64_t sum_ = 0;
};

// The same of the folder `name` below `root_fd` as it is now. `folders_only`: files beside class folders do not count. `names`: as for the scan.
//
// Errors: those of open(2), getdents(2) and statx(2).
absl::StatusOr<uint64_t> HashFolder(int root_fd, const char* name, bool folders_only, const NameFilter& names);

// Whether a hidden name is that of a manifest or of its lease.
bool IsManifestName(absl::string_view name);

struct ScanOutput {
  ManifestData* data = nullptr;  // filled by the scan
  IndexCounts counts;
  std::vector<bool> changed;     // per object, where it was asked for
};

// A folder. Hidden names are skipped, symbolic links followed, a folder that has several names has one, and of what is no
// regular file nothing is opened. Ids are in byte order: first of the class's name, then of the path.
//
// Errors: NotFound         no file at all, or a class rule without a class.
//         those of opening and listing a folder, with its name.
absl::Status ScanTree(const ScanOptions& options, ScanOutput& out);

// A list file (list_file.cc): `path[TAB label]`, one a line.
//
// Errors: NotFound         the list or a file in it is missing; the message has the line's number.
//         InvalidArgument  a line has a label that is no number of 0..2^31-1, names no regular file, or names a file twice, by whatever
//                          spelling; the list is written in UTF-16.
absl::Status ScanList(const ScanOptions& options, const std::string& list_name, ScanOutput& out);

// Counts a file by its last name.
void CountKind(absl::string_view name, FileKinds& kinds);

// Collects counts and a few names of what is left out.
class LeftOut {
 public:
  void Note(int64_t& count, absl::string_view what, absl::string_view name);
  std::string TakeExamples() { return std::move(examples_); }

 private:
  std::string examples_;
  int shown_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_SCAN_H_
