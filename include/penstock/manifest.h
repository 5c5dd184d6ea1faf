// What a data set consists of: its samples, where their bytes lie, how long they are, and their labels.
#ifndef PENSTOCK_MANIFEST_H_
#define PENSTOCK_MANIFEST_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "penstock/export.h"
#include "penstock/option_table.h"

namespace penstock {

class ObjectStore;

/// A time of modification that is not known.
inline constexpr int64_t kMtimeUnknown = INT64_MIN;

/// One contiguous part of an object (a file) that belongs to a sample. A sample is a list of ranges, nearly always one.
struct Range {
  uint32_t object = 0;           // 0 .. object_count()-1
  uint64_t offset_bytes = 0;     // from the object's start
  uint64_t stored_bytes = 0;     // what is read
  uint64_t delivered_bytes = 0;  // what a codec makes of it; the same without one
  uint16_t field = 0;            // which part of the sample it is (image, mask, caption), numbered by the format
};

/// How a path becomes samples.
enum class TreeRule {
  kAuto,     // a file is a list file; a folder with sub-folders has classes; any other folder is flat
  kClasses,  // each sub-folder is a class, label = index of its name in byte order; files beside them are left out
  kFlat,     // every file below the folder, without labels
  kList,     // a text file: one sample a line, `path[TAB label]`, paths relative to the list's folder, ids in line order
};

/// What lies in a file of the data set.
enum class ShardFormat {
  kAuto,   // as the saved manifest has it; else kNpy for a .npy file and for a flat folder of .npy files; else kFiles. Class folders and
           // lists of .npy files could be either, and are refused
  kFiles,  // one sample
  kNpy,    // samples along the first axis of a NumPy array, all of one dtype and shape
  kRaw,    // records of IndexOptions::record_bytes behind header_bytes of something else
  kNpyFiles,  // one sample, a NumPy array: its bytes are those behind the header, its dtype and shape are kept
};

/// How the bytes of one field of a sample are to be read.
struct FieldType {
  std::string name;            // empty: the only one
  std::string dtype;           // as NumPy writes it: "<f4", ">i2", "|u1"; a structure as a list of its members
  bool has_shape = true;       // false: the samples' shapes differ
  std::vector<int64_t> shape;  // of one sample; without axes: one number

  friend bool operator==(const FieldType&, const FieldType&) = default;
};

/// What becomes of a class folder that IndexOptions::classes does not have.
enum class UnknownClasses {
  kRefuse,    // InvalidArgument
  kLeaveOut,  // counted and named
};

/// By what the order of place was made, in which files lie on their drive.
enum class PlaceOrder {
  kNone,
  kInode,   // inode numbers: a listing gives them for nothing
  kExtent,  // the address of each file's first extent (FIEMAP): every file is opened once
};

/// Where an indexing run stands.
struct IndexProgress {
  enum class Phase { kWaiting, kScanning, kChecksums, kSaving };
  Phase phase = Phase::kScanning;
  int64_t files = 0;        // found (kScanning) or checksummed (kChecksums)
  int64_t folders = 0;
  int64_t bytes = 0;
  int64_t files_total = 0;  // 0: not known yet
  double seconds = 0;       // since the start of this phase
  std::string note;         // kWaiting: for whom
};

/// How a data set is indexed.
struct IndexOptions {
  TreeRule rule = TreeRule::kAuto;
  /// Where the manifest is saved. Empty: the hidden file `.NAME.penstock` beside the data set NAME (inside a root that is a mount point), or
  /// below $XDG_CACHE_HOME/penstock (~/.cache/penstock) where that cannot be written. One file is for one data set.
  std::string manifest_path;
  int threads = 0;  // 0: as many as cores to be used (2 to 16), 32 on a network file system
  /// Called about ten times a second on the thread that called Open, Build or Update. It must not throw.
  std::function<void(const IndexProgress&)> progress;
  bool crc = false;  // read all bytes and keep a CRC-32C per range
  bool stat = false; // keep each file's time of modification, for LoaderOptions::verify = stat; 8 bytes more per file
  /// Save the order of place, which shuffle=disk-blocks needs. It is part of the fingerprint: copy the manifest with the data set, or
  /// index without it. Update() keeps it up. Records lie in the order of their ids and need none.
  PlaceOrder place = PlaceOrder::kNone;
  /// Files that hold many samples each. The rule says which files: one, a folder of them (sub-folders are classes), or a list.
  ShardFormat format = ShardFormat::kAuto;
  int64_t record_bytes = 0;  // kRaw
  int64_t header_bytes = 0;  // kRaw: of each file, before its first record
  /// Labels of all samples in the order of the ids (kNpy, kRaw, kNpyFiles): a .npy file of integers, a text file (.txt, .list, .tsv, .csv) with a
  /// number a line, or little-endian integers of 1 (unsigned), 2, 4 or 8 bytes. Empty: `labels.npy` in the folder where it is there, else
  /// the classes.
  std::string labels;
  /// Which files of a folder are samples. Globs (fnmatch(3); '*' also takes slashes) with commas between them, of the last name, or of the path
  /// from the root where they have a slash. `exclude` also leaves out folders. `include` empty: all but names that are no data, as
  /// lib/manifest/README.md lists them (lost+found, __MACOSX, Thumbs.db, *.tmp...). An update keeps what is not said anew.
  std::string include;
  std::string exclude;
  std::string extensions;  // "jpg,png": files that end so, in any case of letters; empty: all
  /// What number a class folder has. Empty: its place in byte order. "numeric": its place in the order of the numbers that folders are
  /// named by. "@PATH": as another data set (its root or its saved manifest), or as a text file of names, one a line. Else the names, with
  /// commas between them, or line feeds where a name has a comma. An update keeps what is not said anew.
  std::string classes;
  UnknownClasses unknown_classes = UnknownClasses::kRefuse;  // folders that `classes` does not have
  /// Manifest::Open serves a saved manifest that is older than its data set, with a warning that names what differs, instead of making it
  /// anew. Loaders do that: a run must not change its samples, and with them its order and its state, because somebody touched a folder; a
  /// file that is gone fails by its name. The manifest of another data set is never served.
  bool keep_stale = false;
  double wait_s = 600;  // how long to wait for another process that indexes the same data set
};

/// The same by name, as for LoaderOptions in options.h (without `progress`).
PENSTOCK_EXPORT absl::Span<const OptionInfo> IndexOptionTable();
PENSTOCK_EXPORT absl::Status SetOption(IndexOptions& options, absl::string_view name, absl::string_view value);
PENSTOCK_EXPORT std::string GetOption(const IndexOptions& options, absl::string_view name);

/// How much of a saved manifest is checked when it is opened. Header, column directory and sizes always are.
enum class ManifestCheck {
  kAuto,    // the columns of a manifest of at most 64 MiB too (that takes about 10 ms)
  kHeader,  // nothing more: opening is O(1). Damaged columns give wrong, never invalid, answers
  kAll,     // every column, whatever it costs
};

/// How a saved manifest is opened.
struct OpenSavedOptions {
  std::string root;         // the data set's folder; empty: where it was when it was indexed
  /// Refuse a manifest that is older than its data set, or of another one: list, labels, up to 1,000 folders and up to 1,000 shards are asked.
  bool check_root = true;
  ManifestCheck check = ManifestCheck::kAuto;
};

/// What a scan left out, and what an update found.
struct IndexCounts {
  int64_t added = 0;         // samples whose name is new (all of them where nothing was saved)
  int64_t removed = 0;
  int64_t changed = 0;       // size, inode or change time differ
  int64_t hidden = 0;        // names with a leading dot, files and folders: left out
  int64_t non_regular = 0;   // FIFOs, sockets, devices: never opened, left out
  int64_t broken_links = 0;  // symbolic links to nowhere: left out
  int64_t cycles = 0;        // folders that lead back to one of their ancestors: left out
  int64_t repeated_folders = 0;  // names of a folder that has another name too (links, bind mounts): left out
  int64_t vanished = 0;      // removed while the scan ran: left out
  int64_t no_shards = 0;     // files that are none of the format asked for: left out
  int64_t no_data = 0;       // names that systems and tools make (lost+found, Thumbs.db, *.tmp): left out
  int64_t excluded = 0;      // names that include, exclude and extensions leave out
  int64_t unknown_classes = 0;  // class folders that `classes` does not have: left out
  int64_t unlabeled = 0;     // files beside the class folders: left out
  int64_t empty_classes = 0; // class folders without a file: they keep their label
  int64_t empty_lines = 0;   // of a list
  int64_t comment_lines = 0; // of a list: lines that begin with '#'
  std::string examples;      // some names of what was left out, escaped; empty where nothing was
};

class Manifest;

/// A manifest just made, and what its scan met.
struct IndexResult {
  std::shared_ptr<const Manifest> manifest;
  IndexCounts counts;
};

/// The samples of one data set, mapped from a file. Ids are 0 .. sample_count()-1; asking for another id is a mistake of the
/// caller and not checked in the inline functions.
///
/// Lifetime: immutable; what OpenObjects() returned may outlive it.
/// Threads:  all functions may be called from any thread at once.
/// Source:   lib/manifest/README.md publishes the file's layout.
class PENSTOCK_EXPORT Manifest {
 public:
  /// Opens the manifest saved for `root`, the newest where there are several; builds it where there is none, and again where it is damaged,
  /// older than the data set, or of another one (a line in the log says so). One process builds, others wait for it.
  ///
  /// Errors:   NotFound            there is no `root`, it has no files, or a list names a missing file.
  ///           InvalidArgument     the rule does not fit, or a line of a list is malformed.
  ///           FailedPrecondition  options.manifest_path is of another data set, or was written by a newer penstock.
  ///           DeadlineExceeded    another process has been indexing for longer than options.wait_s.
  ///           PermissionDenied    options.manifest_path is a symbolic link, or a file that others can write (SECURITY.md).
  ///           PermissionDenied, ResourceExhausted, DataLoss, Internal   from the data set's file system; the message says what to do.
  ///           That a manifest cannot be saved is never an error here: it goes to the next place, at last to memory, with a warning.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<const Manifest>> Open(absl::string_view root, const IndexOptions& options = {});

  /// Opens a saved manifest and never builds one.
  ///
  /// Errors:   NotFound            there is no such file, or no root.
  ///           PermissionDenied    it is a symbolic link, or neither this user's nor root's nor of the owner of options.root, or others can
  ///                               write it.
  ///           DataLoss            it is damaged; the message says how to rebuild it.
  ///           FailedPrecondition  the data set has changed since, or a newer penstock wrote it.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<const Manifest>> OpenSaved(absl::string_view manifest_path,
                                                                                 const OpenSavedOptions& options = {});

  /// Scans `root` and saves its manifest, whatever was saved before. Errors as Open(), and where it can be saved nowhere.
  [[nodiscard]] static absl::StatusOr<IndexResult> Build(absl::string_view root, const IndexOptions& options = {});

  /// As Build(), and tells what changed. Checksums are kept for files whose size, inode and change time say that they are the same;
  /// they are kept up where the saved manifest has them, asked for or not.
  [[nodiscard]] static absl::StatusOr<IndexResult> Update(absl::string_view root, const IndexOptions& options = {});

  /// Several manifests as one, for a mixture: the ids of member d begin where those of member d-1 end, and so do its objects. In all else a
  /// sample is as its own manifest has it, its label too. Nothing is copied or saved: path() is empty, root() is "/" and names are
  /// absolute, there is no order of place, and classes have names only where all members have the same.
  ///
  /// Errors:   InvalidArgument  no member, more than 256, or one that is joined itself; more than 2^32-1 objects in all.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<const Manifest>> Join(absl::Span<const std::shared_ptr<const Manifest>> members);

  ~Manifest();
  Manifest(const Manifest&) = delete;
  Manifest& operator=(const Manifest&) = delete;

  /// Of a joined manifest: its members, 0 .. member_count()-1. Any other is its own only member.
  int64_t member_count() const;
  const Manifest& member(int64_t member) const;
  int64_t FirstIdOf(int64_t member) const;  // of member_count(): sample_count()
  int64_t MemberOf(int64_t id) const { return joined_ == nullptr ? 0 : JoinedMemberOf(id); }

  int64_t sample_count() const { return sample_count_; }
  int64_t object_count() const { return object_count_; }
  int64_t range_count() const { return range_count_; }

  /// Bytes to be read for one sample. O(1) for a sample of one range.
  uint64_t StoredBytes(int64_t id) const {
    if (record_bytes_ != 0) return record_bytes_;
    if (ranges_ == nullptr && joined_ == nullptr) return std::min(object_bytes_[id], max_stored_bytes_);
    return SumOfRanges(id, /*delivered=*/false);
  }
  /// Bytes that one sample has in a batch. O(1) for a sample of one range.
  uint64_t DeliveredBytes(int64_t id) const {
    if (record_bytes_ != 0) return record_bytes_;
    if (ranges_ == nullptr && joined_ == nullptr) return std::min(object_bytes_[id], max_stored_bytes_);
    return SumOfRanges(id, /*delivered=*/true);
  }
  /// The sample's label, or -1.
  int32_t Label(int64_t id) const { return labels_ != nullptr ? labels_[id] : joined_ == nullptr ? -1 : JoinedLabel(id); }
  /// Whether any of them has one.
  bool has_labels() const { return labels_ != nullptr || (joined_ != nullptr && JoinedHasLabels()); }

  /// How many ranges a sample has; at least one.
  int RangeCount(int64_t id) const { return range_first_ == nullptr && joined_ == nullptr ? 1 : CountOfRanges(id); }
  /// Range `i` of a sample, 0 <= i < RangeCount(id). O(i): AppendRanges() is the way to all of them.
  Range RangeAt(int64_t id, int i) const {
    Range range;
    if (i == 0) {
      FillRange(id, range);
    } else {
      range = FurtherRange(id, i);
    }
    return range;
  }
  /// Appends all ranges of a sample. They have at most max_stored_bytes() and max_delivered_bytes() in all.
  void AppendRanges(int64_t id, std::vector<Range>& ranges) const {
    FillRange(id, ranges.emplace_back());
    if (const int count = RangeCount(id); count > 1) AppendFurtherRanges(id, count, ranges);
  }

  /// Whether every range has one.
  bool has_crc() const { return joined_ == nullptr ? range_crc_ != nullptr : JoinedHasCrc(); }
  /// The CRC-32C of the stored bytes of one range. Only where has_crc().
  uint32_t Crc(int64_t id, int i) const {
    if (joined_ != nullptr) return JoinedCrc(id, i);
    return range_crc_[range_first_ == nullptr ? static_cast<uint64_t>(id) : FirstRange(id) + static_cast<uint64_t>(i)];
  }

  /// The name of the sample's first object relative to root(), byte for byte (see EscapeName for showing it).
  std::string Name(int64_t id) const;
  std::string ObjectName(uint32_t object) const;
  uint64_t ObjectBytes(uint32_t object) const { return joined_ == nullptr ? object_bytes_[object] : JoinedObjectBytes(object); }
  /// A hint of where the object lies on its drive: its inode number, 0 where that is not known.
  uint64_t place_hint(uint32_t object) const {
    return object_places_ != nullptr ? object_places_[object] : joined_ == nullptr ? 0 : JoinedPlaceHint(object);
  }

  /// Whether every object has one.
  bool has_mtimes() const { return joined_ == nullptr ? object_mtimes_ != nullptr : JoinedHasMtimes(); }
  /// When the object was modified last, in ns since 1970; kMtimeUnknown where that was not kept.
  int64_t mtime_ns(uint32_t object) const {
    return object_mtimes_ != nullptr ? object_mtimes_[object] : joined_ == nullptr ? kMtimeUnknown : JoinedMtime(object);
  }

  /// Whether an object holds parts of more than one sample; true for shards, also for one of a single record.
  bool packed() const { return joined_ == nullptr ? packed_ : JoinedPacked(); }
  /// Whether the range ends where its object ended when it was indexed, and its object belongs to one sample: then more bytes behind the
  /// range show that the file has changed.
  bool EndsObject(const Range& range) const {
    if (joined_ != nullptr) return JoinedEndsObject(range);
    return !packed_ && (ranges_ == nullptr || range.offset_bytes + range.stored_bytes == object_bytes_[range.object]);
  }

  /// Whether samples can be asked for in the order in which they lie on the drive: it was saved, or they are records.
  bool has_place_order() const { return place_order_ != nullptr || record_bytes_ != 0; }
  /// The id that is `place`-th in that order: a permutation of the ids. Only where has_place_order().
  int64_t IdAtPlace(int64_t place) const {
    return place_order_ == nullptr ? place : std::min<int64_t>(place_order_[place], sample_count_ - 1);
  }
  /// By what it was saved; kNone for records too.
  PlaceOrder place_order() const;

  /// Classes, where folders gave the labels; a list's labels have no names and count no classes. A label without a name gives "".
  int64_t class_count() const;
  std::string class_name(int32_t label) const;

  /// 32 hexadecimal digits over count, relative names, ranges, lengths, labels and fields in id order. Equal for a copy of the
  /// data set elsewhere.
  std::string fingerprint() const;
  /// The largest StoredBytes() of a sample.
  uint64_t max_stored_bytes() const { return max_stored_bytes_; }
  /// The largest and the sum of DeliveredBytes().
  uint64_t max_delivered_bytes() const { return max_delivered_bytes_; }
  uint64_t total_bytes() const { return total_bytes_; }

  /// The data set's folder (a list file's folder), absolute.
  const std::string& root() const;
  /// The manifest's own file; empty where none could be written and it lives in memory.
  const std::string& path() const;
  TreeRule rule() const;
  /// kFiles, kNpy, kRaw or kNpyFiles; kFiles too where a ManifestBuilder made it, and where the members of a joined one differ.
  ShardFormat format() const;
  /// What the bytes of a sample are, field by field; empty where that is not known (plain files, raw records, members of a joined manifest
  /// that differ). Bytes are delivered as they are stored: a dtype of the other byte order is the reader's to swap.
  std::vector<FieldType> field_types() const;
  /// The size of every sample, where the files are shards of such records; else 0.
  uint64_t record_bytes() const { return record_bytes_; }
  int64_t folder_count() const;
  /// Bytes of the manifest's file.
  uint64_t file_bytes() const;

  /// Reads every column and compares its checksum. About 0.1 s per GiB.
  ///
  /// Errors:   DataLoss  a column is damaged; the message names it and says how to rebuild.
  [[nodiscard]] absl::Status Verify() const;

  /// Whether the manifest's own file is still as it was opened. One of up to 64 MiB was read into memory, and always is. A larger one is
  /// mapped: whoever cuts it off or writes over it in place (`: > FILE`, `cp`) takes it from those who use it, and answers since may be
  /// anything. Renaming a whole file over it, as penstock index does, does no harm. Costs one fstat(2) then; loaders ask before and after
  /// each batch.
  ///
  /// Errors:   DataLoss  the message names the file.
  [[nodiscard]] absl::Status CheckIntact() const { return is_mapped_ ? CheckMapping() : absl::OkStatus(); }

  /// The files as a store for the ring. Opens nothing yet; folders are opened when they are first needed and kept.
  std::shared_ptr<const ObjectStore> OpenObjects() const;

 private:
  friend class ManifestOpener;
  struct Impl;
  struct Joined;

  Manifest();
  absl::Status CheckMapping() const;
  int64_t JoinedMemberOf(int64_t id) const;
  int32_t JoinedLabel(int64_t id) const;
  bool JoinedHasLabels() const;
  bool JoinedHasCrc() const;
  bool JoinedHasMtimes() const;
  bool JoinedPacked() const;
  bool JoinedEndsObject(const Range& range) const;
  uint32_t JoinedCrc(int64_t id, int i) const;
  uint64_t JoinedObjectBytes(uint32_t object) const;
  uint64_t JoinedPlaceHint(uint32_t object) const;
  int64_t JoinedMtime(uint32_t object) const;
  uint64_t FirstRange(int64_t id) const;
  int CountOfRanges(int64_t id) const;
  uint64_t SumOfRanges(int64_t id, bool delivered) const;
  Range PackedRangeAt(int64_t id, int i) const;
  Range FurtherRange(int64_t id, int i) const;
  void AppendFurtherRanges(int64_t id, int count, std::vector<Range>& ranges) const;
  absl::Status CheckNumbers() const;
  absl::Status CheckRecords() const;
  void RecordAt(int64_t id, Range& range) const;
  // `range` is as it was made. Written where it stays, for each sample of a run: a copy of what was just written costs more than writing
  // it.
  void FillRange(int64_t id, Range& range) const {
    if (record_bytes_ != 0) return RecordAt(id, range);
    if (ranges_ != nullptr || joined_ != nullptr) {
      range = PackedRangeAt(id, 0);
      return;
    }
    range.object = static_cast<uint32_t>(id);
    range.stored_bytes = range.delivered_bytes = std::min(object_bytes_[id], max_stored_bytes_);
  }

  // Copies of what the inline functions need; the columns lie in the mapping that impl_ owns.
  int64_t sample_count_ = 0;
  int64_t object_count_ = 0;
  int64_t range_count_ = 0;
  bool packed_ = false;
  uint64_t max_stored_bytes_ = 0;  // of one sample
  uint64_t max_delivered_bytes_ = 0;
  uint64_t total_bytes_ = 0;
  uint64_t record_bytes_ = 0;  // not 0: all samples are records of so many bytes
  bool is_mapped_ = false;     // of a file that others can change
  const uint64_t* object_bytes_ = nullptr;
  const uint64_t* object_places_ = nullptr;
  const int64_t* object_mtimes_ = nullptr;
  const uint32_t* place_order_ = nullptr;
  const int32_t* labels_ = nullptr;
  const void* ranges_ = nullptr;
  const uint32_t* range_first_ = nullptr;
  const uint64_t* range_delivered_ = nullptr;
  const uint32_t* range_crc_ = nullptr;
  std::unique_ptr<Impl> impl_;
  std::unique_ptr<const Joined> joined_;  // null: a data set of its own; else nothing of the above but the counts is there
};

/// What ManifestBuilder::Write finds out by itself.
struct ManifestWriteOptions {
  bool crc = false;                     // read all ranges and keep a CRC-32C of each; not beside checksums that were added
  PlaceOrder place = PlaceOrder::kNone; // save the order in which samples lie on their drive; inode numbers are those that were added
  int threads = 2;
};

/// Makes a manifest sample by sample, for formats that know themselves what lies where.
///
/// Threads:  one at a time.
class PENSTOCK_EXPORT ManifestBuilder {
 public:
  /// `root`: the folder that names are relative to; it need not exist yet.
  explicit ManifestBuilder(absl::string_view root);
  ~ManifestBuilder();
  ManifestBuilder(const ManifestBuilder&) = delete;
  ManifestBuilder& operator=(const ManifestBuilder&) = delete;

  /// Adds a file and returns its number, counting from 0.
  ///
  /// Errors:   InvalidArgument     an empty name, one that ends in a slash, or one with a NUL byte.
  ///           ResourceExhausted   more than 2^32-1 objects.
  absl::StatusOr<uint32_t> AddObject(absl::string_view name, uint64_t bytes, uint64_t inode = 0, int64_t mtime_ns = kMtimeUnknown);

  /// Adds a sample of one or more ranges and returns its id. `crcs`: one CRC-32C per range for all samples, or none.
  ///
  /// Errors:   InvalidArgument   no range, an unknown object, a range beyond its object's end or of 2^48 bytes and more, a
  ///                             label below -1, or checksums for some samples only.
  absl::StatusOr<int64_t> AddSample(int32_t label, absl::Span<const Range> ranges, absl::Span<const uint32_t> crcs = {});

  /// Names the labels: 0 is the first. Labels without a name are allowed.
  void SetClassNames(absl::Span<const std::string> names);

  /// Saves the manifest: a new file beside it, synced, renamed over `path`, the folder synced. What was there stays until then.
  ///
  /// Errors:   NotFound, PermissionDenied, ResourceExhausted, DataLoss   from the file system, with the path; then nothing is left behind.
  ///           FailedPrecondition   options ask for what lies in the files, and a file is not as it was added.
  absl::Status Write(absl::string_view path, const ManifestWriteOptions& options = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_H_
