#include "manifest/manifest_data.h"

#include <xxhash.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <limits>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/align.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"

namespace penstock {
namespace {

constexpr uint64_t kBlockMask = (uint64_t{1} << NameTable::kBlockShift) - 1;

// Collects small parts so that the hash gets large ones.
class FingerprintHash {
 public:
  FingerprintHash() : state_(XXH3_createState(), XXH3_freeState) {
    PENSTOCK_CHECK(state_ != nullptr, "out of memory");
    XXH3_128bits_reset(state_.get());
  }
  void Add(const void* data, size_t bytes) {
    if (used_ + bytes > sizeof buffer_) Flush();
    if (bytes > sizeof buffer_) {
      XXH3_128bits_update(state_.get(), data, bytes);
      return;
    }
    if (bytes > 0) std::memcpy(buffer_ + used_, data, bytes);
    used_ += bytes;
  }
  template <typename T>
  void AddNumber(T number) {
    Add(&number, sizeof number);
  }
  void Finish(unsigned char out[16]) {
    Flush();
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    std::memcpy(out, canonical.digest, 16);
  }

 private:
  void Flush() {
    XXH3_128bits_update(state_.get(), buffer_, used_);
    used_ = 0;
  }

  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
  unsigned char buffer_[16384];
  size_t used_ = 0;
};

}  // namespace

uint32_t ManifestData::AddFolder(absl::string_view path, int64_t mtime_ns, uint64_t hash) {
  PENSTOCK_CHECK(folder_offsets_.size() < std::numeric_limits<uint32_t>::max(), "fewer folders than objects");
  folder_offsets_.push_back(folder_names_.size());
  folder_names_.append(path.data(), path.size());
  folder_names_ += '\0';
  folder_times_.push_back(mtime_ns);
  folder_hashes_.push_back(hash);
  has_folder_times_ = has_folder_times_ || mtime_ns != kMtimeUnknown;
  return static_cast<uint32_t>(folder_offsets_.size() - 1);
}

absl::StatusOr<uint32_t> ManifestData::AddObject(uint32_t folder, absl::string_view name, uint64_t bytes, uint64_t inode,
                                                 int64_t mtime_ns) {
  if (object_bytes_.size() >= std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("manifest of ", EscapeName(root_), ": more than 2^32-1 objects. Split the data set, or pack it"));
  }
  if (bytes > layout::kRangeBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("manifest of ", EscapeName(root_), ": ", EscapeName(name), " has ", bytes, " bytes; the limit is 2^48-1"));
  }
  if ((object_bytes_.size() & kBlockMask) == 0) name_bases_.push_back(names_.size());
  const uint64_t offset = names_.size() - name_bases_.back();
  // 2^16 names of at most PATH_MAX bytes fit; other callers' names are bounded here.
  if (offset > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("manifest of ", EscapeName(root_), ": 65,536 names have more than 4 GiB"));
  }
  name_offsets_.push_back(static_cast<uint32_t>(offset));
  names_.append(name.data(), name.size());
  names_ += '\0';
  folders_.push_back(folder);
  object_bytes_.push_back(bytes);
  if (mtime_ns != kMtimeUnknown || !object_times_.empty()) {
    object_times_.resize(places_.size(), kMtimeUnknown);
    object_times_.push_back(mtime_ns);
  }
  places_.push_back(inode);
  has_places_ = has_places_ || inode != 0;
  total_object_bytes_ += bytes;
  return static_cast<uint32_t>(object_bytes_.size() - 1);
}

bool ManifestData::IsWholeObject(const Range& range) const {
  return range.offset_bytes == 0 && range.stored_bytes == object_bytes_[range.object] && range.delivered_bytes == range.stored_bytes &&
         range.field == 0;
}

bool ManifestData::SharesObjects() const {
  if (implicit_) return false;
  std::vector<uint64_t> owner(object_bytes_.size(), UINT64_MAX);  // the sample that has a range of the object
  for (uint64_t id = 0; id < sample_count_; ++id) {
    const uint64_t end = id + 1 < sample_count_ ? FirstRange(id + 1) : ranges_.size();
    for (uint64_t r = FirstRange(id); r < end; ++r) {
      uint64_t& of = owner[ranges_[r].object];
      if (of != UINT64_MAX && of != id) return true;
      of = id;
    }
  }
  return false;
}

void ManifestData::MakeRangesExplicit() {
  implicit_ = false;
  for (uint64_t i = 0; i < sample_count_; ++i) {
    if ((i & kBlockMask) == 0) range_bases_.push_back(i);
    range_first_.push_back(static_cast<uint32_t>(i & kBlockMask));
    ranges_.push_back(PackRange({static_cast<uint32_t>(i), 0, object_bytes_[i], object_bytes_[i], 0}));
    range_delivered_.push_back(object_bytes_[i]);
    range_fields_.push_back(0);
  }
}

absl::StatusOr<int64_t> ManifestData::AddSample(int32_t label, absl::Span<const Range> ranges, absl::Span<const uint32_t> crcs) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("manifest of ", EscapeName(root_), ", sample ", sample_count_, ": ", why));
  };
  if (label < -1) return bad(absl::StrCat("label ", label, " is negative; -1 means none"));
  if (ranges.empty()) return bad("it has no range; an empty sample has one of 0 bytes");
  if (ranges.size() > INT_MAX) return bad("it has more than 2^31-1 ranges");
  uint64_t stored = 0;
  uint64_t delivered = 0;
  for (const Range& range : ranges) {
    if (range.object >= object_bytes_.size()) {
      return bad(absl::StrCat("object ", range.object, " was not added; there are ", object_bytes_.size()));
    }
    const uint64_t whole = object_bytes_[range.object];
    if (range.offset_bytes > whole || range.stored_bytes > whole - range.offset_bytes) {
      return bad(absl::StrCat("its range of ", range.stored_bytes, " bytes at ", range.offset_bytes, " ends beyond object ", range.object,
                              ", which has ", whole));
    }
    // Each part is bounded before the sum is, so that the sum cannot wrap.
    if (range.delivered_bytes > layout::kRangeBytesMax || (delivered += range.delivered_bytes) > layout::kRangeBytesMax) {
      return bad("it delivers 2^48 bytes or more");
    }
    if ((stored += range.stored_bytes) > layout::kRangeBytesMax) return bad("it stores 2^48 bytes or more");
  }
  const uint64_t ranges_before = implicit_ ? sample_count_ : ranges_.size();
  if (crcs.empty() ? !crcs_.empty() : crcs.size() != ranges.size() || crcs_.size() != ranges_before) {
    return bad("checksums belong to every range of every sample, or to none");
  }
  if (implicit_ && !(ranges.size() == 1 && ranges[0].object == sample_count_ && IsWholeObject(ranges[0]))) MakeRangesExplicit();
  if (!implicit_) {
    if ((sample_count_ & kBlockMask) == 0) range_bases_.push_back(ranges_.size());
    const uint64_t first = ranges_.size() - range_bases_.back();
    if (first > std::numeric_limits<uint32_t>::max()) return bad("65,536 samples have more than 2^32 ranges");
    range_first_.push_back(static_cast<uint32_t>(first));
    one_range_each_ = one_range_each_ && ranges.size() == 1;
    for (const Range& range : ranges) {
      ranges_.push_back(PackRange(range));
      range_delivered_.push_back(range.delivered_bytes);
      range_fields_.push_back(range.field);
      has_delivered_ = has_delivered_ || range.delivered_bytes != range.stored_bytes;
      has_fields_ = has_fields_ || range.field != 0;
    }
  }
  crcs_.insert(crcs_.end(), crcs.begin(), crcs.end());
  labels_.push_back(label);
  has_labels_ = has_labels_ || label >= 0;
  return static_cast<int64_t>(sample_count_++);
}

absl::Status ManifestData::AddFile(uint32_t folder, absl::string_view name, uint64_t bytes, uint64_t inode, int64_t mtime_ns,
                                   int32_t label) {
  PENSTOCK_CHECK(implicit_ && sample_count_ == object_bytes_.size(), "files and samples are not mixed");
  const absl::StatusOr<uint32_t> object = AddObject(folder, name, bytes, inode, mtime_ns);
  if (!object.ok()) return object.status();
  labels_.push_back(label);
  has_labels_ = has_labels_ || label >= 0;
  ++sample_count_;
  return absl::OkStatus();
}

void ManifestData::Reserve(uint64_t objects, uint64_t name_bytes) {
  name_offsets_.reserve(objects);
  names_.reserve(name_bytes);
  folders_.reserve(objects);
  object_bytes_.reserve(objects);
  places_.reserve(objects);
  labels_.reserve(objects);
}

void ManifestData::MakeRecords(uint64_t record_bytes, std::vector<layout::RecordRun> runs, uint64_t sample_count,
                               std::vector<int32_t> labels) {
  PENSTOCK_CHECK(implicit_ && sample_count_ == object_bytes_.size() && runs.size() == sample_count_ && record_bytes > 0,
                 "files become shards once, all of them");
  PENSTOCK_CHECK(labels.empty() || labels.size() == sample_count, "one label per record");
  if (labels.empty() && has_labels_) {
    labels.reserve(sample_count);
    for (size_t object = 0; object < runs.size(); ++object) {
      const uint64_t end = object + 1 < runs.size() ? runs[object + 1].first_sample : sample_count;
      labels.insert(labels.end(), end - runs[object].first_sample, labels_[object]);
    }
  }
  has_labels_ = !labels.empty();
  labels_ = std::move(labels);
  record_bytes_ = record_bytes;
  runs_ = std::move(runs);
  sample_count_ = sample_count;
}

void ManifestData::LeaveOutHeaders(const std::vector<uint64_t>& header_bytes) {
  PENSTOCK_CHECK(implicit_ && record_bytes_ == 0 && header_bytes.size() == sample_count_, "each object is one sample");
  MakeRangesExplicit();
  for (uint64_t i = 0; i < sample_count_; ++i) {
    PENSTOCK_CHECK(header_bytes[i] <= object_bytes_[i], "a header lies in its file");
    range_delivered_[i] = object_bytes_[i] - header_bytes[i];
    ranges_[i] = PackRange({static_cast<uint32_t>(i), header_bytes[i], range_delivered_[i], range_delivered_[i], 0});
  }
}

void ManifestData::SetLabels(std::vector<int32_t> labels) {
  PENSTOCK_CHECK(labels.size() == sample_count_, "one label per sample");
  labels_ = std::move(labels);
  has_labels_ = true;
}

std::string PackFieldTypes(const std::vector<FieldType>& types) {
  std::string text;
  for (const FieldType& type : types) {
    absl::StrAppend(&text, type.name, absl::string_view("\0", 1), type.dtype, absl::string_view("\0", 1),
                    type.has_shape ? absl::StrJoin(type.shape, ",") : "?", absl::string_view("\0", 1));
  }
  return text;
}

bool UnpackFieldTypes(absl::string_view text, std::vector<FieldType>& types) {
  types.clear();
  if (text.empty() || text.back() != '\0') return false;
  text.remove_suffix(1);
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '\0');
  if (parts.size() % 3 != 0) return false;
  for (size_t i = 0; i < parts.size(); i += 3) {
    FieldType& type = types.emplace_back();
    type.name = std::string(parts[i]);
    type.dtype = std::string(parts[i + 1]);
    type.has_shape = parts[i + 2] != "?";
    if (type.dtype.empty()) return false;
    if (!type.has_shape || parts[i + 2].empty()) continue;
    for (const absl::string_view axis : absl::StrSplit(parts[i + 2], ',')) {
      if (!absl::SimpleAtoi(axis, &type.shape.emplace_back()) || type.shape.back() < 0) return false;
    }
  }
  return true;
}

NameTable ManifestData::Names() const {
  NameTable table;
  table.object_count = object_bytes_.size();
  table.name_base = name_bases_.data();
  table.name_offset = name_offsets_.data();
  table.names = names_.data();
  table.names_bytes = names_.size();
  table.folder = folders_.data();
  table.folder_count = folder_offsets_.size();
  table.folder_offset = folder_offsets_.data();
  table.folder_names = folder_names_.data();
  table.folder_names_bytes = folder_names_.size();
  return table;
}

void ManifestData::Summarise(layout::Header& header) const {
  const NameTable names = Names();
  FingerprintHash hash;
  hash.AddNumber(sample_count_);
  std::string name;
  size_t object_of_record = 0;
  for (uint64_t id = 0; record_bytes_ != 0 && id < sample_count_; ++id) {
    // As if each record had a range of its own: the fingerprint says nothing of the layout.
    const bool next = object_of_record + 1 < runs_.size() && runs_[object_of_record + 1].first_sample == id;
    if (next) ++object_of_record;
    if (next || id == 0) names.RelativeName(static_cast<uint32_t>(object_of_record), name);
    hash.AddNumber(labels_.empty() ? int32_t{-1} : labels_[id]);
    hash.AddNumber(uint32_t{1});
    hash.AddNumber(static_cast<uint32_t>(name.size()));
    hash.Add(name.data(), name.size());
    hash.AddNumber(runs_[object_of_record].offset_bytes + (id - runs_[object_of_record].first_sample) * record_bytes_);
    hash.AddNumber(record_bytes_);
    hash.AddNumber(record_bytes_);
    hash.AddNumber(uint16_t{0});
  }
  if (record_bytes_ != 0) {
    header.max_stored_bytes = header.max_delivered_bytes = record_bytes_;
    header.total_bytes = record_bytes_ * sample_count_;
  }
  for (uint64_t id = 0; record_bytes_ == 0 && id < sample_count_; ++id) {
    const uint64_t first = implicit_ ? id : FirstRange(id);
    const uint64_t end = implicit_ ? id + 1 : id + 1 < sample_count_ ? FirstRange(id + 1) : ranges_.size();
    hash.AddNumber(labels_[id]);
    hash.AddNumber(static_cast<uint32_t>(end - first));
    uint64_t all_stored = 0;
    uint64_t delivered = 0;
    for (uint64_t r = first; r < end; ++r) {
      const uint32_t object = implicit_ ? static_cast<uint32_t>(id) : ranges_[r].object;
      const uint64_t stored = implicit_ ? object_bytes_[id] : PackedStored(ranges_[r]);
      const uint64_t range_delivered = implicit_ ? stored : range_delivered_[r];
      names.RelativeName(object, name);
      hash.AddNumber(static_cast<uint32_t>(name.size()));
      hash.Add(name.data(), name.size());
      hash.AddNumber(implicit_ ? uint64_t{0} : PackedOffset(ranges_[r]));
      hash.AddNumber(stored);
      hash.AddNumber(range_delivered);
      hash.AddNumber(implicit_ ? uint16_t{0} : range_fields_[r]);
      all_stored += stored;
      delivered += range_delivered;
    }
    header.max_stored_bytes = std::max(header.max_stored_bytes, all_stored);
    header.max_delivered_bytes = std::max(header.max_delivered_bytes, delivered);
    header.total_bytes += delivered;
  }
  if (place_kind_ != PlaceOrder::kNone) {
    hash.AddNumber(place_kind_ == PlaceOrder::kInode ? layout::kOrderByInode : layout::kOrderByExtent);
    hash.Add(place_order_.data(), place_order_.size() * sizeof(place_order_[0]));
  }
  hash.Finish(header.fingerprint);
}

absl::Status ManifestData::WriteTo(SaveFile& out) const {
  if (!crcs_.empty() && crcs_.size() != (implicit_ ? sample_count_ : ranges_.size())) {
    return absl::InternalError(
        absl::StrCat("manifest of ", EscapeName(root_), ": ", crcs_.size(), " checksums for ", sample_count_, " samples"));
  }
  layout::Header header{};
  std::memcpy(header.magic, layout::kMagic, sizeof header.magic);
  header.version = layout::kVersion;
  header.sample_count = sample_count_;
  header.object_count = object_bytes_.size();
  header.range_count = implicit_ ? sample_count_ : ranges_.size();
  header.folder_count = folder_offsets_.size();
  header.class_count = class_names_.size();
  header.scanned_unix_ns = scanned_unix_ns_;
  header.rule = rule_;
  if (record_bytes_ != 0 || SharesObjects()) header.flags |= layout::kFlagShared;
  Summarise(header);

  struct Source {
    uint32_t tag;
    const void* data;
    uint64_t bytes;
    uint32_t flags = 0;
  };
  std::vector<Source> sources;
  const auto add = [&](uint32_t tag, const auto& values) { sources.push_back({tag, values.data(), values.size() * sizeof(values[0])}); };
  add(layout::kRoot, root_);
  std::string list;
  if (rule_ == layout::kRuleList) {
    list.assign(reinterpret_cast<const char*>(&list_), sizeof list_);
    list += list_name_;
    add(layout::kList, list);
  }
  std::vector<uint64_t> class_offsets;
  std::string class_names;
  for (const std::string& name : class_names_) {
    class_offsets.push_back(class_names.size());
    class_names += name;
    class_names += '\0';
  }
  if (!class_names_.empty()) {
    add(layout::kClassOffsets, class_offsets);
    add(layout::kClassNames, class_names);
  }
  add(layout::kFolderOffsets, folder_offsets_);
  add(layout::kFolderNames, folder_names_);
  if (has_folder_times_) {
    add(layout::kFolderTimes, folder_times_);
    add(layout::kFolderHashes, folder_hashes_);
  }
  std::string identity;
  if (has_identity_) {
    identity.assign(reinterpret_cast<const char*>(&identity_), sizeof identity_);
    add(layout::kIdentity, identity);
  }
  add(layout::kNameBases, name_bases_);
  add(layout::kNameOffsets, name_offsets_);
  add(layout::kNames, names_);
  add(layout::kObjectFolders, folders_);
  add(layout::kObjectBytes, object_bytes_);
  if (has_places_) add(layout::kObjectPlaces, places_);
  if (!object_times_.empty()) add(layout::kObjectTimes, object_times_);
  if (place_kind_ != PlaceOrder::kNone) {
    add(place_kind_ == PlaceOrder::kInode ? layout::kOrderByInode : layout::kOrderByExtent, place_order_);
  }
  if (has_labels_) add(layout::kLabels, labels_);
  std::vector<uint64_t> range_bases;
  std::vector<uint32_t> range_first;
  if (!implicit_) {
    add(layout::kRanges, ranges_);
    if (!one_range_each_) {
      // One entry more than samples, so that a sample's end is the next one's start.
      range_bases = range_bases_;
      range_first = range_first_;
      if ((sample_count_ & kBlockMask) == 0) range_bases.push_back(ranges_.size());
      const uint64_t end = ranges_.size() - range_bases.back();
      if (end > std::numeric_limits<uint32_t>::max()) {
        return absl::InvalidArgumentError(absl::StrCat("manifest of ", EscapeName(root_), ": 65,536 samples have more than 2^32 ranges"));
      }
      range_first.push_back(static_cast<uint32_t>(end));
      add(layout::kRangeBases, range_bases);
      add(layout::kRangeFirst, range_first);
    }
    if (has_delivered_) add(layout::kRangeDelivered, range_delivered_);
    if (has_fields_) add(layout::kRangeFields, range_fields_);
  }
  const std::string field_types = PackFieldTypes(field_types_);
  if (!options_text_.empty()) add(layout::kIndexOptions, options_text_);
  if (!field_types_.empty()) add(layout::kFieldTypes, field_types);
  std::vector<uint64_t> records;
  std::string record_source;
  if (record_bytes_ != 0) {
    records.push_back(record_bytes_);
    for (const layout::RecordRun& run : runs_) records.insert(records.end(), {run.first_sample, run.offset_bytes});
    add(layout::kRecords, records);
    sources.back().flags = layout::kColumnRequired;  // a reader without it would take each file for a sample
  }
  if (has_record_source_) {
    record_source.assign(reinterpret_cast<const char*>(&record_source_), sizeof record_source_);
    record_source += labels_path_;
    add(layout::kRecordSource, record_source);
  }
  if (!crcs_.empty()) add(layout::kRangeCrcs, crcs_);

  std::vector<layout::Column> columns;
  header.column_count = static_cast<uint32_t>(sources.size());
  uint64_t offset = AlignUp(sizeof header + sources.size() * sizeof(layout::Column), layout::kColumnAlignment);
  for (const Source& source : sources) {
    columns.push_back({source.tag, source.flags, offset, source.bytes, Crc32c(source.data, source.bytes), 0});
    offset = AlignUp(offset + source.bytes, layout::kColumnAlignment);
  }
  header.file_bytes = offset;
  header.header_crc = Crc32c(columns.data(), columns.size() * sizeof(layout::Column), Crc32c(&header, sizeof header));

  uint64_t written = 0;
  const auto write = [&](const void* data, uint64_t bytes) {
    written += bytes;
    return out.Write(data, bytes);
  };
  const auto pad = [&]() {
    static constexpr char kZeros[layout::kColumnAlignment] = {};
    return write(kZeros, AlignUp(written, layout::kColumnAlignment) - written);
  };
  absl::Status status = out.Reserve(header.file_bytes);
  if (status.ok()) status = write(&header, sizeof header);
  if (status.ok()) status = write(columns.data(), columns.size() * sizeof(layout::Column));
  if (status.ok()) status = pad();
  for (size_t i = 0; i < sources.size() && status.ok(); ++i) {
    PENSTOCK_CHECK(written == columns[i].offset_bytes, "columns lie where the directory says");
    status = write(sources[i].data, sources[i].bytes);
    if (status.ok()) status = pad();
  }
  return status;
}

}  // namespace penstock
