#include "penstock/manifest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "manifest/joined.h"
#include "manifest/layout.h"
#include "manifest/manifest_data.h"
#include "manifest/open.h"
#include "manifest/place.h"
#include "manifest/scan.h"
#include "store/file_store.h"
#include "store/joined_store.h"
#include "store/name_table.h"

namespace penstock {
namespace {

constexpr uint64_t kVerifiedAtOpenMax = uint64_t{64} << 20;
constexpr absl::string_view kRebuild = ". Rebuild it (penstock index), or remove it";

}  // namespace

struct Manifest::Impl {
  std::string path;
  std::string root;
  std::string shown;  // the manifest, for messages
  std::shared_ptr<const MappedFile> file;
  const layout::Header* header = nullptr;
  const layout::Column* columns = nullptr;
  NameTable names;
  const int64_t* folder_times = nullptr;
  const uint64_t* folder_hashes = nullptr;
  const layout::Identity* identity = nullptr;
  std::string saved_root;  // where the set was when it was indexed
  const uint64_t* class_offsets = nullptr;
  const char* class_names = nullptr;
  uint64_t class_names_bytes = 0;
  const uint64_t* range_bases = nullptr;
  const uint16_t* range_fields = nullptr;
  layout::ListFile list{};
  std::string list_name;
  const layout::RecordRun* runs = nullptr;  // one per object, where samples are records
  bool has_record_source = false;
  layout::RecordSource record_source{};
  std::string labels_path;
  std::vector<FieldType> field_types;
  std::string options_text;
  PlaceOrder place_kind = PlaceOrder::kNone;

  absl::Status Damaged(absl::string_view why) const {
    return absl::DataLossError(absl::StrCat("manifest ", shown, " is damaged: ", why, kRebuild));
  }
};

Manifest::Manifest() : impl_(new Impl) {}
Manifest::~Manifest() = default;

absl::StatusOr<std::shared_ptr<const Manifest>> ManifestOpener::FromPath(const std::string& path, const std::string& root,
                                                                         ManifestCheck check, const Trust& trust) {
  absl::StatusOr<std::shared_ptr<const MappedFile>> file = MappedFile::Open(path, MappedFile::Mode::kAuto, &trust);
  if (!file.ok()) return file.status();
  return FromMapping(*std::move(file), path, root, check);
}

absl::StatusOr<std::shared_ptr<const Manifest>> ManifestOpener::FromMapping(std::shared_ptr<const MappedFile> file, const std::string& path,
                                                                            const std::string& root, ManifestCheck check) {
  std::shared_ptr<Manifest> manifest(new Manifest);
  Manifest::Impl& impl = *manifest->impl_;
  impl.path = path;
  impl.shown = path.empty() ? "in memory" : EscapeName(path);
  impl.file = std::move(file);
  const unsigned char* data = impl.file->data();
  const uint64_t bytes = impl.file->bytes();
  if (bytes < sizeof(layout::Header)) return impl.Damaged(absl::StrCat("it has ", bytes, " bytes, less than its header"));
  if (std::memcmp(data, layout::kMagic, sizeof layout::kMagic) != 0) return impl.Damaged("it does not begin as a manifest does");
  // The mapping begins at a page, so that the header and all columns (multiples of 64) are aligned.
  const auto* header = reinterpret_cast<const layout::Header*>(data);
  if (header->column_count > layout::kColumnsMax) return impl.Damaged(absl::StrCat("it claims ", header->column_count, " columns"));
  const uint64_t directory_bytes = uint64_t{header->column_count} * sizeof(layout::Column);
  if (bytes - sizeof(layout::Header) < directory_bytes) {
    return impl.Damaged(absl::StrCat("it has ", bytes, " bytes, less than its column directory"));
  }
  layout::Header without_crc = *header;
  without_crc.header_crc = 0;
  const uint32_t crc = Crc32c(data + sizeof(layout::Header), directory_bytes, Crc32c(&without_crc, sizeof without_crc));
  if (crc != header->header_crc) return impl.Damaged("the checksum of its header is wrong");
  // Only an intact header can tell of another version.
  if (header->version != layout::kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("manifest ", impl.shown, " has the layout version ", header->version, ", this penstock reads version ",
                     layout::kVersion,
                     header->version > layout::kVersion ? ". Use a newer penstock, or another manifest_path"
                                                        : ". Index the data set again (penstock index), or use another manifest_path"));
  }
  if (header->file_bytes != bytes) return impl.Damaged(absl::StrCat("it has ", bytes, " of ", header->file_bytes, " bytes"));
  if (header->sample_count > uint64_t{INT64_MAX} || header->object_count > UINT32_MAX || header->folder_count > UINT32_MAX ||
      header->class_count > INT32_MAX || header->range_count < header->sample_count) {
    return impl.Damaged("its counts are out of range");
  }
  if (header->sample_count > 0 && header->object_count == 0) return impl.Damaged("it has samples and no objects");
  // Whatever the columns hold, no answer is larger than these, and no sum of a sample wraps.
  if (header->max_stored_bytes > layout::kRangeBytesMax || header->max_delivered_bytes > layout::kRangeBytesMax) {
    return impl.Damaged(absl::StrCat("its largest sample has ", std::max(header->max_stored_bytes, header->max_delivered_bytes),
                                     " bytes; the limit is 2^48-1"));
  }
  if (static_cast<unsigned __int128>(header->max_delivered_bytes) * header->sample_count < header->total_bytes) {
    return impl.Damaged(absl::StrCat("its ", header->sample_count, " samples of at most ", header->max_delivered_bytes,
                                     " bytes cannot have ", header->total_bytes, " in all"));
  }
  if ((header->flags & ~layout::kFlagsKnown) != 0) {
    return impl.Damaged(absl::StrCat("its flags are ", header->flags, ", of which only ", layout::kFlagsKnown, " are known"));
  }
  impl.header = header;
  impl.columns = reinterpret_cast<const layout::Column*>(data + sizeof(layout::Header));

  std::unordered_map<uint32_t, const layout::Column*> by_tag;
  for (uint32_t i = 0; i < header->column_count; ++i) {
    const layout::Column& column = impl.columns[i];
    const uint64_t begin = sizeof(layout::Header) + directory_bytes;
    if (column.offset_bytes % layout::kColumnAlignment != 0 || column.offset_bytes < begin || column.offset_bytes > bytes ||
        column.bytes > bytes - column.offset_bytes) {
      return impl.Damaged(absl::StrCat("column ", i, " lies outside of it"));
    }
    if (!by_tag.emplace(column.tag, &column).second) return impl.Damaged(absl::StrCat("column ", i, " is there twice"));
  }

  // A column of `count` values; nullptr where it is absent.
  absl::Status problem;
  const auto take = [&]<typename T>(const T*& values, uint32_t tag, uint64_t count, bool needed) {
    const auto found = by_tag.find(tag);
    const std::string name(reinterpret_cast<const char*>(&tag), sizeof tag);
    if (found == by_tag.end()) {
      if (needed && problem.ok()) problem = impl.Damaged(absl::StrCat("its column ", name, " is missing"));
      return;
    }
    const layout::Column& column = *found->second;
    if (column.bytes % sizeof(T) != 0 || column.bytes / sizeof(T) != count) {
      if (problem.ok()) {
        problem = impl.Damaged(absl::StrCat("its column ", name, " has ", column.bytes, " bytes, not those of ", count, " values"));
      }
      return;
    }
    values = reinterpret_cast<const T*>(data + column.offset_bytes);
    by_tag.erase(found);
  };
  // NUL-terminated names; the last byte is looked at so that every name inside ends inside.
  const auto take_names = [&](const char*& names, uint64_t& names_bytes, uint32_t tag, bool needed) {
    const auto found = by_tag.find(tag);
    names_bytes = found == by_tag.end() ? 0 : found->second->bytes;
    take(names, tag, names_bytes, needed);
    if (names_bytes > 0 && names[names_bytes - 1] != '\0' && problem.ok()) problem = impl.Damaged("its names do not end");
  };
  const uint64_t samples = header->sample_count;
  const uint64_t objects = header->object_count;
  const uint64_t ranges = header->range_count;
  const auto blocks = [](uint64_t count) {
    return (count >> NameTable::kBlockShift) + ((count & ((1 << NameTable::kBlockShift) - 1)) != 0 ? 1 : 0);
  };
  NameTable& names = impl.names;
  names.object_count = objects;
  names.folder_count = header->folder_count;
  take(names.folder_offset, layout::kFolderOffsets, header->folder_count, true);
  take_names(names.folder_names, names.folder_names_bytes, layout::kFolderNames, true);
  take(impl.folder_times, layout::kFolderTimes, header->folder_count, false);
  take(impl.folder_hashes, layout::kFolderHashes, header->folder_count, false);
  take(impl.identity, layout::kIdentity, 1, false);
  take(names.name_base, layout::kNameBases, blocks(objects), true);
  take(names.name_offset, layout::kNameOffsets, objects, true);
  take_names(names.names, names.names_bytes, layout::kNames, true);
  take(names.folder, layout::kObjectFolders, objects, true);
  take(manifest->object_bytes_, layout::kObjectBytes, objects, true);
  take(manifest->object_places_, layout::kObjectPlaces, objects, false);
  take(manifest->object_mtimes_, layout::kObjectTimes, objects, false);
  const uint32_t* by_extent = nullptr;
  take(manifest->place_order_, layout::kOrderByInode, samples, false);
  take(by_extent, layout::kOrderByExtent, samples, false);
  impl.place_kind = by_extent != nullptr ? PlaceOrder::kExtent : manifest->place_order_ != nullptr ? PlaceOrder::kInode : PlaceOrder::kNone;
  if (by_extent != nullptr && std::exchange(manifest->place_order_, by_extent) != nullptr) {
    return impl.Damaged("it has two orders of place");
  }
  take(manifest->labels_, layout::kLabels, samples, false);
  take(impl.class_offsets, layout::kClassOffsets, header->class_count, header->class_count > 0);
  take_names(impl.class_names, impl.class_names_bytes, layout::kClassNames, header->class_count > 0);
  const layout::PackedRange* packed = nullptr;
  take(packed, layout::kRanges, ranges, false);
  manifest->ranges_ = packed;
  take(impl.range_bases, layout::kRangeBases, blocks(samples + 1), ranges > samples);
  take(manifest->range_first_, layout::kRangeFirst, samples + 1, ranges > samples);
  take(manifest->range_delivered_, layout::kRangeDelivered, ranges, false);
  take(impl.range_fields, layout::kRangeFields, ranges, false);
  take(manifest->range_crc_, layout::kRangeCrcs, ranges, false);
  const char* saved_root = nullptr;
  uint64_t saved_root_bytes = 0;
  if (const auto found = by_tag.find(layout::kRoot); found != by_tag.end()) saved_root_bytes = found->second->bytes;
  take(saved_root, layout::kRoot, saved_root_bytes, true);
  if (const auto found = by_tag.find(layout::kList); found != by_tag.end()) {
    const layout::Column& column = *found->second;
    if (column.bytes < sizeof(layout::ListFile)) return impl.Damaged("its column LIST is too short");
    std::memcpy(&impl.list, data + column.offset_bytes, sizeof impl.list);
    impl.list_name.assign(reinterpret_cast<const char*>(data + column.offset_bytes + sizeof impl.list), column.bytes - sizeof impl.list);
    by_tag.erase(found);
  }
  const uint64_t* records = nullptr;
  take(records, layout::kRecords, 1 + 2 * objects, false);
  if (const auto found = by_tag.find(layout::kRecordSource); found != by_tag.end()) {
    const layout::Column& column = *found->second;
    if (column.bytes < sizeof(layout::RecordSource)) return impl.Damaged("its column RECS is too short");
    impl.has_record_source = true;
    std::memcpy(&impl.record_source, data + column.offset_bytes, sizeof impl.record_source);
    impl.labels_path.assign(reinterpret_cast<const char*>(data + column.offset_bytes + sizeof impl.record_source),
                            column.bytes - sizeof impl.record_source);
    by_tag.erase(found);
  }
  if (const auto found = by_tag.find(layout::kIndexOptions); found != by_tag.end()) {
    impl.options_text.assign(reinterpret_cast<const char*>(data + found->second->offset_bytes), found->second->bytes);
    by_tag.erase(found);
  }
  if (const auto found = by_tag.find(layout::kFieldTypes); found != by_tag.end()) {
    const layout::Column& column = *found->second;
    if (!UnpackFieldTypes(absl::string_view(reinterpret_cast<const char*>(data + column.offset_bytes), column.bytes), impl.field_types)) {
      return impl.Damaged("its column FTYP is malformed");
    }
    by_tag.erase(found);
  }
  if (!problem.ok()) return problem;
  for (const auto& [tag, column] : by_tag) {
    if ((column->flags & layout::kColumnRequired) == 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("manifest ", impl.shown, " cannot be read without its column ",
                     EscapeName(std::string(reinterpret_cast<const char*>(&tag), sizeof tag)),
                     ", which this penstock does not know. Use a newer penstock, or another manifest_path"));
  }
  if (records != nullptr) {
    if (packed != nullptr || manifest->range_first_ != nullptr || manifest->range_delivered_ != nullptr || impl.range_fields != nullptr ||
        ranges != samples || (objects == 0 && samples > 0)) {
      return impl.Damaged("its column FIXR does not go with its other columns and counts");
    }
    // Not always verified: whatever it holds, a record is no longer than the header says of the longest.
    manifest->record_bytes_ = std::min({records[0], header->max_stored_bytes, header->max_delivered_bytes});
    if (manifest->record_bytes_ == 0) return impl.Damaged("its records have 0 bytes");
    impl.runs = reinterpret_cast<const layout::RecordRun*>(records + 1);
  } else if (packed == nullptr && (ranges != samples || samples > objects)) {
    return impl.Damaged("it has more samples than objects and no ranges");
  } else if (packed == nullptr && (manifest->range_delivered_ != nullptr || impl.range_fields != nullptr)) {
    return impl.Damaged("its columns RDLV and RFLD need the column RANG");
  }
  if (manifest->range_delivered_ == nullptr && header->max_stored_bytes != header->max_delivered_bytes) {
    return impl.Damaged(absl::StrCat("its largest sample is stored in ", header->max_stored_bytes, " bytes and delivered in ",
                                     header->max_delivered_bytes, ", and it has no column RDLV"));
  }
  if ((manifest->range_first_ == nullptr) != (impl.range_bases == nullptr)) {
    return impl.Damaged("of its columns RBAS and RFST one is missing");
  }
  if (packed == nullptr && manifest->range_first_ != nullptr) return impl.Damaged("its column RANG is missing");

  manifest->is_mapped_ = !impl.file->copied();
  manifest->sample_count_ = static_cast<int64_t>(samples);
  manifest->object_count_ = static_cast<int64_t>(objects);
  manifest->range_count_ = static_cast<int64_t>(ranges);
  manifest->packed_ = records != nullptr || (header->flags & layout::kFlagShared) != 0;
  manifest->max_stored_bytes_ = header->max_stored_bytes;
  manifest->max_delivered_bytes_ = header->max_delivered_bytes;
  manifest->total_bytes_ = header->total_bytes;
  impl.saved_root.assign(saved_root, saved_root_bytes);
  impl.root = root.empty() ? impl.saved_root : AbsolutePath(root);

  // What was copied from a network file system has just been read whole, so looking at it once more costs little.
  if (check == ManifestCheck::kAll || (check == ManifestCheck::kAuto && (bytes <= kVerifiedAtOpenMax || impl.file->copied()))) {
    const absl::Status status = manifest->Verify();
    if (!status.ok()) return status;
  }
  return std::shared_ptr<const Manifest>(std::move(manifest));
}

namespace {

int64_t MtimeNs(const struct stat& info) { return int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec; }

// All of `count` up to the bound, else as many evenly spread ones, the first among them.
template <typename Ask>
absl::Status AskEvenly(uint64_t count, const Ask& ask) {
  const uint64_t asked = std::min(count, kAskedMax);
  for (uint64_t i = 0; i < asked; ++i) {
    const double share = static_cast<double>(count) / static_cast<double>(asked);
    const absl::Status status = ask(count <= asked ? i : static_cast<uint64_t>(static_cast<double>(i) * share));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Whether inode numbers of this file system stay. Where they are made anew at each mount (FUSE, layers) they say nothing.
bool InodesStay(int fd) {
  struct statfs info;
  constexpr uint32_t kOverlay = 0x794C7630;
  return ::fstatfs(fd, &info) == 0 && static_cast<uint32_t>(info.f_type) != kOverlay &&
         IsLocalFileSystem(static_cast<int64_t>(static_cast<uint32_t>(info.f_type)));
}

bool IsOnePath(const std::string& a, const std::string& b) {
  if (a == b) return true;
  char real_a[PATH_MAX];
  char real_b[PATH_MAX];
  return ::realpath(a.c_str(), real_a) != nullptr && ::realpath(b.c_str(), real_b) != nullptr && std::strcmp(real_a, real_b) == 0;
}

}  // namespace

absl::Status ManifestOpener::CheckFresh(const Manifest& manifest, Whose& whose) {
  const Manifest::Impl& impl = *manifest.impl_;
  whose = Whose::kThis;
  const UniqueFd root_fd(::open(impl.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const UniqueFd path_fd(root_fd.valid() ? -1 : ::open(impl.root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const int at = root_fd.valid() ? root_fd.get() : path_fd.get();
  struct stat root;
  if (at < 0 || ::fstat(at, &root) != 0) {
    const int error_number = errno;
    return absl::Status(ErrnoToCode(error_number),
                        absl::StrCat("data set ", EscapeName(impl.root), " of the manifest ", impl.shown, ": ", ErrnoText(error_number),
                                     ". Check that its file system is mounted on this node, or give the root where it is now"));
  }
  const layout::Identity* const identity = impl.identity;
  const bool root_inode = identity != nullptr && identity->root_inode == root.st_ino;
  const bool inodes_stay = at == root_fd.get() && InodesStay(at);
  // Copied or mounted elsewhere it is the same set where nothing differs. Where something does, path and inode tell a changed set from
  // another one.
  if (identity != nullptr && !root_inode) {
    whose = !IsOnePath(impl.root, impl.saved_root) ? Whose::kOther : inodes_stay ? Whose::kReplaced : Whose::kThis;
  }
  const bool inodes = root_inode && inodes_stay;
  const auto stale = [&](absl::string_view what, absl::string_view how) {
    const std::string path = !what.empty() && what[0] == '/' ? std::string(what) : absl::StrCat(impl.root, what.empty() ? "" : "/", what);
    const std::string is = whose == Whose::kOther      ? absl::StrCat("of the data set ", EscapeName(impl.saved_root), ", not of this one")
                           : whose == Whose::kReplaced ? "of a folder that lay here before, and was replaced"
                                                       : "older than its data set";
    return absl::FailedPreconditionError(absl::StrCat("manifest ", impl.shown, " is ", is, ": ", EscapeName(path), " ", how));
  };
  const auto check = [&](const std::string& name, int64_t mtime_ns, uint64_t bytes, uint64_t inode) -> absl::Status {
    struct stat info;
    if (::fstatat(at, name.c_str(), &info, 0) != 0) return stale(name, absl::StrCat("cannot be looked at any more: ", ErrnoText(errno)));
    if (static_cast<uint64_t>(info.st_size) != bytes) {
      return stale(name, absl::StrCat("was written since: it had ", bytes, " bytes and has ", info.st_size));
    }
    if (mtime_ns != kMtimeUnknown && MtimeNs(info) != mtime_ns) return stale(name, "was written since: its time of modification is another");
    if (inodes && inode != 0 && info.st_ino != inode) return stale(name, "was replaced since: its inode is another");
    return absl::OkStatus();
  };
  if (impl.header->rule == layout::kRuleList) {
    const absl::Status status = check(impl.list_name, impl.list.mtime_ns, impl.list.bytes, identity != nullptr ? identity->list.inode : 0);
    if (!status.ok()) return status;
  }
  if (identity != nullptr && identity->labels.inode != 0 && !impl.labels_path.empty()) {
    std::string path = impl.labels_path;
    // Labels in the data set's folder went along with it.
    const std::string inside = absl::StrCat(impl.saved_root, "/");
    if (absl::StartsWith(path, inside)) path = path.substr(inside.size());
    const layout::FileIdentity& labels = identity->labels;
    if (absl::Status status = check(path, labels.mtime_ns, labels.bytes, labels.inode); !status.ok()) return status;
  }
  if (manifest.record_bytes_ != 0) {
    const absl::Status status = AskEvenly(impl.header->object_count, [&](uint64_t object) {
      std::string name;
      impl.names.RelativeName(static_cast<uint32_t>(object), name);
      return check(name, manifest.object_mtimes_ == nullptr ? kMtimeUnknown : manifest.object_mtimes_[object], manifest.object_bytes_[object],
                   manifest.object_places_ == nullptr ? 0 : manifest.object_places_[object]);
    });
    if (!status.ok()) return status;
  }
  if (impl.folder_times == nullptr) return absl::OkStatus();
  IndexOptions asked;
  asked.include = SavedOption(manifest, "include");
  asked.exclude = SavedOption(manifest, "exclude");
  asked.extensions = SavedOption(manifest, "extensions");
  const NameFilter names(asked);
  return AskEvenly(impl.header->folder_count, [&](uint64_t folder) -> absl::Status {
    if (impl.folder_times[folder] == kMtimeUnknown) return absl::OkStatus();
    const char* name = impl.names.FolderName(static_cast<uint32_t>(folder));
    struct stat info;
    if (::fstatat(at, *name == '\0' ? "." : name, &info, 0) != 0) return stale(name, "cannot be found any more");
    if (MtimeNs(info) == impl.folder_times[folder]) return absl::OkStatus();
    // Something came or went. Where all that counts is as it was, it was a hidden name.
    if (impl.folder_hashes != nullptr) {
      const absl::StatusOr<uint64_t> hash = HashFolder(at, name, *name == '\0' && impl.header->rule == layout::kRuleClasses, names);
      if (hash.ok() && *hash == impl.folder_hashes[folder]) return absl::OkStatus();
    }
    return stale(name, "has had files added, removed or renamed since");
  });
}

int64_t ManifestOpener::ScannedUnixNs(const Manifest& manifest) { return manifest.impl_->header->scanned_unix_ns; }
std::optional<layout::RecordSource> ManifestOpener::RecordSource(const Manifest& manifest) {
  if (!manifest.impl_->has_record_source) return std::nullopt;
  return manifest.impl_->record_source;
}
std::string ManifestOpener::SavedOption(const Manifest& manifest, absl::string_view name) {
  for (const absl::string_view option : absl::StrSplit(manifest.impl_->options_text, '\0')) {
    if (absl::StartsWith(option, name) && option.substr(name.size(), 1) == "=") return std::string(option.substr(name.size() + 1));
  }
  return "";
}

std::string ManifestOpener::LabelsPath(const Manifest& manifest) { return manifest.impl_->labels_path; }
std::string ManifestOpener::ListName(const Manifest& manifest) { return manifest.impl_->list_name; }

absl::StatusOr<std::shared_ptr<const Manifest>> Manifest::OpenSaved(absl::string_view manifest_path, const OpenSavedOptions& options) {
  // Without a root nothing but the manifest itself tells of its data set, and so of its owner.
  const Trust trust = options.root.empty() ? Trust() : Trust::OfDataSet(AbsolutePath(options.root), "");
  absl::StatusOr<std::shared_ptr<const Manifest>> manifest =
      ManifestOpener::FromPath(AbsolutePath(manifest_path), options.root, options.check, trust);
  if (!manifest.ok() || !options.check_root) return manifest;
  ManifestOpener::Whose whose;
  const absl::Status status = ManifestOpener::CheckFresh(**manifest, whose);
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    return absl::FailedPreconditionError(absl::StrCat(
        status.message(), whose == ManifestOpener::Whose::kOther ? ". Give the manifest of this data set" : ". Bring it up to date (penstock index --update)"));
  }
  if (!status.ok()) return status;
  return manifest;
}

absl::Status Manifest::CheckMapping() const {
  if (joined_ == nullptr) return impl_->file->CheckIntact();
  for (const auto& member : joined_->members) {
    if (absl::Status status = member->CheckIntact(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Manifest::Verify() const {
  if (joined_ != nullptr) {
    for (const auto& member : joined_->members) {
      if (absl::Status status = member->Verify(); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  const Impl& impl = *impl_;
  for (uint32_t i = 0; i < impl.header->column_count; ++i) {
    const layout::Column& column = impl.columns[i];
    if (Crc32c(impl.file->data() + column.offset_bytes, column.bytes) != column.crc) {
      return impl.Damaged(absl::StrCat("the checksum of its column ",
                                       EscapeName(std::string(reinterpret_cast<const char*>(&column.tag), sizeof column.tag)),
                                       " is wrong"));
    }
  }
  return CheckNumbers();
}

// What the columns say of each other. A manifest whose checksums are right can still be wrong: a program other than penstock wrote it, or
// memory failed while it was written.
absl::Status Manifest::CheckNumbers() const {
  const Impl& impl = *impl_;
  const NameTable& names = impl.names;
  const auto of = [](absl::string_view what, int64_t number, absl::string_view why) { return absl::StrCat(what, " ", number, " ", why); };
  for (int64_t folder = 0; folder < static_cast<int64_t>(names.folder_count); ++folder) {
    if (names.folder_offset[folder] >= names.folder_names_bytes) return impl.Damaged(of("folder", folder, "has its name outside of the names"));
  }
  for (int64_t object = 0; object < object_count_; ++object) {
    if (*names.LastName(static_cast<uint32_t>(object)) == '\0') return impl.Damaged(of("object", object, "has no name"));
    if (object_bytes_[object] > layout::kRangeBytesMax) return impl.Damaged(of("object", object, "has 2^48 bytes or more"));
  }
  for (int64_t label = 0; label < static_cast<int64_t>(impl.header->class_count); ++label) {
    if (impl.class_offsets[label] >= impl.class_names_bytes) return impl.Damaged(of("class", label, "has its name outside of the names"));
  }
  for (int64_t id = 0; labels_ != nullptr && id < sample_count_; ++id) {
    if (labels_[id] < -1) return impl.Damaged(of("sample", id, absl::StrCat("has the label ", labels_[id])));
  }
  if (place_order_ != nullptr) {
    std::vector<bool> seen(static_cast<size_t>(sample_count_));
    for (int64_t place = 0; place < sample_count_; ++place) {
      const uint32_t id = place_order_[place];
      if (id >= seen.size() || seen[id]) return impl.Damaged(of("its order of place has the sample", id, "twice, or there is no such sample"));
      seen[id] = true;
    }
  }
  if (impl.runs != nullptr) return CheckRecords();
  uint64_t largest_stored = 0;
  uint64_t largest_delivered = 0;
  uint64_t total = 0;
  uint64_t next_range = 0;
  for (int64_t id = 0; id < sample_count_; ++id) {
    uint64_t end = next_range + 1;
    if (range_first_ != nullptr) {
      const uint64_t first = impl.range_bases[id >> NameTable::kBlockShift] + range_first_[id];
      end = impl.range_bases[(id + 1) >> NameTable::kBlockShift] + range_first_[id + 1];
      if (first != next_range || end <= first) return impl.Damaged(of("sample", id, "does not begin where the one before it ends"));
    }
    if (end > static_cast<uint64_t>(range_count_)) return impl.Damaged(of("sample", id, "has ranges that are not there"));
    uint64_t stored = 0;
    uint64_t delivered = 0;
    for (; next_range < end; ++next_range) {
      uint64_t range_stored = 0;
      if (ranges_ == nullptr) {
        range_stored = object_bytes_[next_range];
      } else {
        const layout::PackedRange& packed = static_cast<const layout::PackedRange*>(ranges_)[next_range];
        range_stored = PackedStored(packed);
        if (packed.object >= static_cast<uint64_t>(object_count_)) {
          return impl.Damaged(of("sample", id, absl::StrCat("has a range of object ", packed.object, " of ", object_count_)));
        }
        if (PackedOffset(packed) + range_stored > object_bytes_[packed.object]) {
          return impl.Damaged(of("sample", id, absl::StrCat("has a range of ", range_stored, " bytes at ", PackedOffset(packed), " of object ",
                                                            packed.object, ", which has ", object_bytes_[packed.object], " bytes")));
        }
      }
      // Each part is bounded before the sum is, so that the sum cannot wrap.
      const uint64_t range_delivered = range_delivered_ == nullptr ? range_stored : range_delivered_[next_range];
      if (range_delivered > layout::kRangeBytesMax || (stored += range_stored) > layout::kRangeBytesMax ||
          (delivered += range_delivered) > layout::kRangeBytesMax) {
        return impl.Damaged(of("sample", id, "has 2^48 bytes or more"));
      }
    }
    largest_stored = std::max(largest_stored, stored);
    largest_delivered = std::max(largest_delivered, delivered);
    total += delivered;
  }
  if (next_range != static_cast<uint64_t>(range_count_)) return impl.Damaged("it has ranges of no sample");
  if (largest_stored != max_stored_bytes_ || largest_delivered != max_delivered_bytes_ || total != total_bytes_) {
    return impl.Damaged(absl::StrCat("its largest sample is stored in ", largest_stored, " and delivered in ", largest_delivered, " bytes, all in ",
                                     total, ", and its header says ", max_stored_bytes_, ", ", max_delivered_bytes_, " and ", total_bytes_));
  }
  return absl::OkStatus();
}

absl::Status Manifest::CheckRecords() const {
  const Impl& impl = *impl_;
  uint64_t samples = 0;
  for (int64_t object = 0; object < object_count_; ++object) {
    const layout::RecordRun& run = impl.runs[object];
    const uint64_t bytes = object_bytes_[object] - std::min(object_bytes_[object], run.offset_bytes);
    if (run.first_sample != samples || run.offset_bytes > object_bytes_[object] || bytes % record_bytes_ != 0 || bytes == 0) {
      return impl.Damaged(absl::StrCat("object ", object, " of ", object_bytes_[object], " bytes begins with sample ", run.first_sample, " at ",
                                       run.offset_bytes, ", which does not fit ", samples, " samples before it and records of ", record_bytes_,
                                       " bytes"));
    }
    samples += bytes / record_bytes_;
  }
  if (samples != static_cast<uint64_t>(sample_count_) || max_stored_bytes_ != record_bytes_ || max_delivered_bytes_ != record_bytes_ ||
      total_bytes_ != record_bytes_ * samples) {
    return impl.Damaged(absl::StrCat("its files hold ", samples, " records of ", record_bytes_, " bytes, and its header says ", sample_count_,
                                     " of ", max_stored_bytes_, " bytes, ", total_bytes_, " in all"));
  }
  return absl::OkStatus();
}

// Columns are not always verified, so whatever they hold the answers below stay inside the manifest: at least one range per
// sample, all of them existing, none longer than the longest.

uint64_t Manifest::FirstRange(int64_t id) const {
  const uint64_t first = impl_->range_bases[id >> NameTable::kBlockShift] + range_first_[id];
  return std::min(first, static_cast<uint64_t>(range_count_) - 1);
}

int Manifest::CountOfRanges(int64_t id) const {
  if (joined_ != nullptr) {
    const Joined::Place place = joined_->OfId(id);
    return place.manifest.RangeCount(place.id);
  }
  const uint64_t first = FirstRange(id);
  const uint64_t end =
      std::min(impl_->range_bases[(id + 1) >> NameTable::kBlockShift] + range_first_[id + 1], static_cast<uint64_t>(range_count_));
  return end <= first ? 1 : static_cast<int>(std::min<uint64_t>(end - first, INT_MAX));
}

// Bounds a sample's range by what the sample's earlier ranges leave of the largest sample, so that no sum wraps.
struct BytesLeft {
  uint64_t stored;
  uint64_t delivered;

  void Bound(Range& range) {
    range.stored_bytes = std::min(range.stored_bytes, stored);
    range.delivered_bytes = std::min(range.delivered_bytes, delivered);
    stored -= range.stored_bytes;
    delivered -= range.delivered_bytes;
  }
};

Range Manifest::FurtherRange(int64_t id, int i) const {
  std::vector<Range> ranges;
  AppendRanges(id, ranges);
  return ranges[std::min(static_cast<size_t>(i), ranges.size() - 1)];
}

void Manifest::AppendFurtherRanges(int64_t id, int count, std::vector<Range>& ranges) const {
  if (joined_ != nullptr) {
    const size_t member = joined_->MemberOf(id);
    ranges.pop_back();
    const size_t begin = ranges.size();
    joined_->members[member]->AppendRanges(id - joined_->first_ids[member], ranges);
    for (size_t r = begin; r < ranges.size(); ++r) ranges[r].object += static_cast<uint32_t>(joined_->first_objects[member]);
    return;
  }
  BytesLeft left{max_stored_bytes_ - ranges.back().stored_bytes, max_delivered_bytes_ - ranges.back().delivered_bytes};
  for (int i = 1; i < count; ++i) left.Bound(ranges.emplace_back(PackedRangeAt(id, i)));
}

Range Manifest::PackedRangeAt(int64_t id, int i) const {
  if (joined_ != nullptr) {
    const size_t member = joined_->MemberOf(id);
    Range range = joined_->members[member]->RangeAt(id - joined_->first_ids[member], i);
    range.object += static_cast<uint32_t>(joined_->first_objects[member]);
    return range;
  }
  const uint64_t index = range_first_ == nullptr
                             ? static_cast<uint64_t>(id)
                             : std::min(FirstRange(id) + static_cast<uint64_t>(i), static_cast<uint64_t>(range_count_) - 1);
  Range range;
  const layout::PackedRange& packed = static_cast<const layout::PackedRange*>(ranges_)[index];
  range.object = std::min(packed.object, static_cast<uint32_t>(object_count_ - 1));
  range.offset_bytes = PackedOffset(packed);
  range.stored_bytes = PackedStored(packed);
  range.stored_bytes = std::min(range.stored_bytes, max_stored_bytes_);
  range.delivered_bytes = std::min(range_delivered_ == nullptr ? range.stored_bytes : range_delivered_[index], max_delivered_bytes_);
  if (impl_->range_fields != nullptr) range.field = impl_->range_fields[index];
  return range;
}

// In which object a record lies: shards are mostly alike, so a guess by the share of all samples mostly hits; else the runs are searched.
void Manifest::RecordAt(int64_t id, Range& range) const {
  const layout::RecordRun* const runs = impl_->runs;
  const auto sample = static_cast<uint64_t>(id);
  const auto objects = static_cast<uint64_t>(object_count_);
  uint64_t object = 0;
  if (objects > 1) {
    object = std::min(objects - 1,
                      static_cast<uint64_t>(static_cast<double>(id) / static_cast<double>(sample_count_) * static_cast<double>(objects)));
  }
  if (runs[object].first_sample > sample || (object + 1 < objects && runs[object + 1].first_sample <= sample)) {
    const auto* const after = std::upper_bound(runs, runs + objects, sample,
                                               [](uint64_t value, const layout::RecordRun& run) { return value < run.first_sample; });
    object = after == runs ? 0 : static_cast<uint64_t>(after - runs) - 1;
  }
  range.object = static_cast<uint32_t>(object);
  range.stored_bytes = range.delivered_bytes = record_bytes_;
  // Damaged runs give a wrong place, never one that wraps.
  const uint64_t index = sample - std::min(sample, runs[object].first_sample);
  const uint64_t begin = std::min(layout::kRangeBytesMax, runs[object].offset_bytes);
  uint64_t before = 0;
  const bool wraps = __builtin_mul_overflow(index, record_bytes_, &before);
  range.offset_bytes = wraps || before > layout::kRangeBytesMax - begin ? layout::kRangeBytesMax : begin + before;
}

uint64_t Manifest::SumOfRanges(int64_t id, bool delivered) const {
  if (joined_ != nullptr) {
    const Joined::Place place = joined_->OfId(id);
    return delivered ? place.manifest.DeliveredBytes(place.id) : place.manifest.StoredBytes(place.id);
  }
  BytesLeft left{max_stored_bytes_, max_delivered_bytes_};
  for (int i = 0, count = RangeCount(id); i < count; ++i) {
    Range range = PackedRangeAt(id, i);
    left.Bound(range);
  }
  return delivered ? max_delivered_bytes_ - left.delivered : max_stored_bytes_ - left.stored;
}

std::string Manifest::Name(int64_t id) const { return ObjectName(RangeAt(id, 0).object); }

std::string Manifest::ObjectName(uint32_t object) const {
  if (joined_ != nullptr) {
    const Joined::Place place = joined_->OfObject(object);
    std::string name = place.manifest.ObjectName(static_cast<uint32_t>(place.id));
    return !name.empty() && name[0] == '/' ? name : absl::StrCat(place.manifest.root(), "/", name);
  }
  std::string name;
  impl_->names.RelativeName(object, name);
  return name;
}

int64_t Manifest::class_count() const {
  if (joined_ != nullptr) return joined_->same_classes ? joined_->members[0]->class_count() : 0;
  return static_cast<int64_t>(impl_->header->class_count);
}

std::string Manifest::class_name(int32_t label) const {
  if (joined_ != nullptr) return joined_->same_classes ? joined_->members[0]->class_name(label) : "";
  if (label < 0 || label >= class_count() || impl_->class_offsets[label] >= impl_->class_names_bytes) return "";
  return impl_->class_names + impl_->class_offsets[label];
}

std::string Manifest::fingerprint() const {
  if (joined_ != nullptr) return joined_->fingerprint;
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(impl_->header->fingerprint), sizeof impl_->header->fingerprint));
}

const std::string& Manifest::root() const { return joined_ == nullptr ? impl_->root : joined_->root; }
const std::string& Manifest::path() const { return impl_->path; }

int64_t Manifest::folder_count() const {
  if (joined_ == nullptr) return static_cast<int64_t>(impl_->header->folder_count);
  int64_t count = 0;
  for (const auto& member : joined_->members) count += member->folder_count();
  return count;
}

uint64_t Manifest::file_bytes() const {
  if (joined_ == nullptr) return impl_->file->bytes();
  uint64_t bytes = 0;
  for (const auto& member : joined_->members) bytes += member->file_bytes();
  return bytes;
}

PlaceOrder Manifest::place_order() const { return impl_->place_kind; }

ShardFormat Manifest::format() const {
  if (joined_ != nullptr) {
    const ShardFormat first = joined_->members[0]->format();
    const bool all = std::all_of(joined_->members.begin(), joined_->members.end(), [&](const auto& m) { return m->format() == first; });
    return all ? first : ShardFormat::kFiles;
  }
  if (record_bytes_ == 0) {
    return impl_->record_source.format == layout::kFormatNpyFiles ? ShardFormat::kNpyFiles : ShardFormat::kFiles;
  }
  return impl_->record_source.format == layout::kFormatNpy ? ShardFormat::kNpy : ShardFormat::kRaw;
}

std::vector<FieldType> Manifest::field_types() const {
  if (joined_ == nullptr) return impl_->field_types;
  std::vector<FieldType> first = joined_->members[0]->field_types();
  const bool all = std::all_of(joined_->members.begin(), joined_->members.end(), [&](const auto& m) { return m->field_types() == first; });
  return all ? first : std::vector<FieldType>();
}

TreeRule Manifest::rule() const {
  if (joined_ != nullptr) return TreeRule::kAuto;
  switch (impl_->header->rule) {
    case layout::kRuleClasses: return TreeRule::kClasses;
    case layout::kRuleFlat: return TreeRule::kFlat;
    case layout::kRuleList: return TreeRule::kList;
    default: return TreeRule::kAuto;
  }
}

std::shared_ptr<const ObjectStore> Manifest::OpenObjects() const {
  if (joined_ != nullptr) {
    std::vector<std::shared_ptr<const ObjectStore>> stores;
    for (const auto& member : joined_->members) stores.push_back(member->OpenObjects());
    return std::make_shared<JoinedStore>(std::move(stores), joined_->first_objects);
  }
  return std::make_shared<FileStore>(impl_->root, impl_->names, impl_->file);
}

}  // namespace penstock
