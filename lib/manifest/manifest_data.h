// A manifest while it is made: its columns as they will lie in the file.
#ifndef PENSTOCK_MANIFEST_MANIFEST_DATA_H_
#define PENSTOCK_MANIFEST_MANIFEST_DATA_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "manifest/layout.h"
#include "manifest/save_file.h"
#include "penstock/manifest.h"
#include "store/name_table.h"

namespace penstock {

class ManifestData {
 public:
  explicit ManifestData(std::string root) : root_(std::move(root)) {}

  // Folders and objects are numbered from 0 in the order of the calls. Names have no NUL byte and, for objects, no slash.
  // `hash`: of what lies in the folder (FolderHash in scan.h), where `mtime_ns` is known.
  uint32_t AddFolder(absl::string_view path, int64_t mtime_ns, uint64_t hash = 0);
  absl::StatusOr<uint32_t> AddObject(uint32_t folder, absl::string_view name, uint64_t bytes, uint64_t inode, int64_t mtime_ns);
  absl::StatusOr<int64_t> AddSample(int32_t label, absl::Span<const Range> ranges, absl::Span<const uint32_t> crcs);
  // One object that is one sample.
  absl::Status AddFile(uint32_t folder, absl::string_view name, uint64_t bytes, uint64_t inode, int64_t mtime_ns, int32_t label);

  void Reserve(uint64_t objects, uint64_t name_bytes);
  void SetClassNames(std::vector<std::string> names) { class_names_ = std::move(names); }
  void SetRule(layout::Rule rule) { rule_ = rule; }
  void SetScanTime(int64_t unix_ns) { scanned_unix_ns_ = unix_ns; }
  void SetListFile(const layout::ListFile& list, std::string name) { list_ = list, list_name_ = std::move(name); }
  void SetIdentity(const layout::Identity& identity) { identity_ = identity, has_identity_ = true; }
  // One per range.
  void SetCrcs(std::vector<uint32_t> crcs) { crcs_ = std::move(crcs); }

  bool has_crcs() const { return !crcs_.empty(); }

  void DropObjectTimes() { object_times_.clear(); }

  uint64_t object_count() const { return object_bytes_.size(); }
  uint64_t sample_count() const { return sample_count_; }
  uint64_t object_bytes(uint32_t object) const { return object_bytes_[object]; }
  uint64_t object_place(uint32_t object) const { return places_[object]; }
  uint64_t total_object_bytes() const { return total_object_bytes_; }
  const std::string& root() const { return root_; }
  // Valid until the next change.
  NameTable Names() const;

  // Turns files, one sample each until now, into shards of fixed-size records: `runs` has one entry per object. `labels`: one per record,
  // or none; then each record has its file's label. `labels_path` is kept for indexing again.
  void MakeRecords(uint64_t record_bytes, std::vector<layout::RecordRun> runs, uint64_t sample_count, std::vector<int32_t> labels);
  void SetRecordSource(const layout::RecordSource& source, std::string labels_path) {
    has_record_source_ = true, record_source_ = source, labels_path_ = std::move(labels_path);
  }
  // Leaves out the first bytes of each object, which is one sample until now.
  void LeaveOutHeaders(const std::vector<uint64_t>& header_bytes);
  // One per sample, in the place of those that folders gave.
  void SetLabels(std::vector<int32_t> labels);
  // How the data set was indexed: "name=value" and a NUL byte for each option.
  void SetOptionsText(std::string text) { options_text_ = std::move(text); }
  void SetFieldTypes(std::vector<FieldType> types) { field_types_ = std::move(types); }
  // Ids in the order of place, a permutation of all.
  void SetPlaceOrder(PlaceOrder kind, std::vector<uint32_t> order) { place_kind_ = kind, place_order_ = std::move(order); }
  // True while sample i is the whole of object i.
  bool whole_objects() const { return implicit_ && record_bytes_ == 0; }
  uint64_t range_count() const { return record_bytes_ != 0 || implicit_ ? sample_count_ : ranges_.size(); }
  // All ranges in the order of the samples; only where samples are neither whole objects nor records.
  absl::Span<const layout::PackedRange> ranges() const { return ranges_; }
  // The first range of a sample; of sample_count(): the count of ranges.
  uint64_t first_range(uint64_t sample) const { return sample < sample_count_ ? FirstRange(sample) : ranges_.size(); }
  uint64_t record_bytes() const { return record_bytes_; }
  const std::vector<layout::RecordRun>& runs() const { return runs_; }

  // Writes the whole file. `out` is empty at first.
  absl::Status WriteTo(SaveFile& out) const;

 private:
  bool IsWholeObject(const Range& range) const;
  // Whether an object has ranges of more than one sample.
  bool SharesObjects() const;
  void MakeRangesExplicit();
  uint64_t FirstRange(uint64_t sample) const { return range_bases_[sample >> NameTable::kBlockShift] + range_first_[sample]; }
  // The sums and the fingerprint.
  void Summarise(layout::Header& header) const;

  std::string root_;
  layout::Rule rule_ = layout::kRuleOther;
  int64_t scanned_unix_ns_ = 0;
  layout::ListFile list_{};
  std::string list_name_;
  layout::Identity identity_{};
  bool has_identity_ = false;
  std::vector<std::string> class_names_;

  std::vector<uint64_t> name_bases_;
  std::vector<uint32_t> name_offsets_;
  std::string names_;
  std::vector<uint32_t> folders_;
  std::vector<uint64_t> object_bytes_;
  std::vector<uint64_t> places_;
  bool has_places_ = false;
  std::vector<int64_t> object_times_;  // empty while none is known
  uint64_t total_object_bytes_ = 0;

  std::vector<uint64_t> folder_offsets_;
  std::string folder_names_;
  std::vector<int64_t> folder_times_;
  std::vector<uint64_t> folder_hashes_;
  bool has_folder_times_ = false;

  uint64_t sample_count_ = 0;
  std::vector<int32_t> labels_;
  bool has_labels_ = false;

  // Empty while sample i is the whole of object i (implicit_).
  bool implicit_ = true;
  std::vector<layout::PackedRange> ranges_;
  std::vector<uint64_t> range_bases_;   // per 2^16 samples
  std::vector<uint32_t> range_first_;   // per sample
  std::vector<uint64_t> range_delivered_;
  std::vector<uint16_t> range_fields_;
  bool one_range_each_ = true;
  bool has_delivered_ = false;
  bool has_fields_ = false;
  std::vector<uint32_t> crcs_;

  PlaceOrder place_kind_ = PlaceOrder::kNone;
  std::vector<uint32_t> place_order_;

  uint64_t record_bytes_ = 0;  // not 0: samples are records
  std::vector<layout::RecordRun> runs_;
  bool has_record_source_ = false;
  layout::RecordSource record_source_{};
  std::vector<FieldType> field_types_;
  std::string options_text_;
  std::string labels_path_;
};

// The column FTYP: for each field its name, dtype and shape, each ended by a NUL byte. A shape is its axes with commas between them, or "?".
std::string PackFieldTypes(const std::vector<FieldType>& types);
// False: malformed.
bool UnpackFieldTypes(absl::string_view text, std::vector<FieldType>& types);

inline layout::PackedRange PackRange(const Range& range) {
  return {range.object, static_cast<uint16_t>(range.offset_bytes >> 32), static_cast<uint16_t>(range.stored_bytes >> 32),
          static_cast<uint32_t>(range.offset_bytes), static_cast<uint32_t>(range.stored_bytes)};
}
inline uint64_t PackedOffset(const layout::PackedRange& range) { return uint64_t{range.offset_high} << 32 | range.offset_low; }
inline uint64_t PackedStored(const layout::PackedRange& range) { return uint64_t{range.stored_high} << 32 | range.stored_low; }

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_MANIFEST_DATA_H_
