// Open, Build and Update: which saved manifest serves, who builds a new one, and where it goes.
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "base/cancel.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "manifest/checksums.h"
#include "manifest/class_list.h"
#include "manifest/lease.h"
#include "manifest/manifest_data.h"
#include "manifest/map_file.h"
#include "manifest/open.h"
#include "manifest/place.h"
#include "manifest/place_order.h"
#include "manifest/records.h"
#include "manifest/save_file.h"
#include "manifest/scan.h"
#include "penstock/manifest.h"

namespace penstock {
namespace {

constexpr int64_t kWaitReportNs = 30 * kNsPerSecond;

enum class Mode { kOpen, kBuild, kUpdate };

constexpr absl::string_view kHandMade =
    ". A program made it (ManifestBuilder), and what lies in the folder does not say its samples: make it again there, give another "
    "manifest_path, or replace it by one of the files (penstock index)";

int ThreadCount(const DataSet& data_set, int asked) {
  if (asked > 0) return std::min(asked, 1024);
  const UniqueFd fd(::open(data_set.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Over a network each answer takes its time, and many can be waited for at once.
  if (fd.valid() && IsOnNetwork(fd.get())) return 32;
  cpu_set_t cores;
  const int count = ::sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 2;
  return std::clamp(count, 2, 16);
}

// A visible manifest inside the data set would become a sample.
absl::Status CheckManifestPath(const DataSet& data_set, const std::string& manifest_path) {
  if (manifest_path.empty() || data_set.rule == TreeRule::kList) return absl::OkStatus();
  const std::string path = AbsolutePath(manifest_path);
  char real_root[PATH_MAX];
  char real_folder[PATH_MAX];
  if (::realpath(data_set.root.c_str(), real_root) == nullptr || ::realpath(ParentFolder(path).c_str(), real_folder) == nullptr) {
    return absl::OkStatus();
  }
  const std::string root = absl::StrCat(real_root, "/");
  const std::string folder = absl::StrCat(real_folder, "/");
  if (!absl::StartsWith(folder, root)) return absl::OkStatus();
  if (path[path.rfind('/') + 1] == '.') return absl::OkStatus();
  for (const absl::string_view part : absl::StrSplit(absl::string_view(folder).substr(root.size()), '/', absl::SkipEmpty())) {
    if (part[0] == '.') return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("manifest_path ", EscapeName(path), " lies among the samples of ", data_set.shown(),
                   ", and would be one of them. Put it outside, or give it a hidden name (.name)"));
}

// What lies at one place, and what it is good for.
struct Look {
  enum class Kind {
    kNothing,
    kServes,
    kStale,    // of this data set and with what was asked for, but older
    kRebuild,  // damaged, or without what was asked for
    kOther,    // of another data set
    kRefused,  // not to be believed, of a newer penstock, or not to be read: neither used nor overwritten by an open
    kHandMade,  // a program made it, and it is without what was asked for: nothing that a scan finds replaces it
  };
  Kind kind = Kind::kNothing;
  std::shared_ptr<const Manifest> manifest;  // kServes and kStale
  absl::Status why;                          // of all but kServes
};

Look LookAt(const std::string& path, const DataSet& data_set, const IndexOptions& options) {
  using Kind = Look::Kind;
  absl::StatusOr<std::shared_ptr<const Manifest>> manifest =
      ManifestOpener::FromPath(path, data_set.root, ManifestCheck::kAuto, data_set.trust());
  if (!manifest.ok()) {
    const bool damaged = manifest.status().code() == absl::StatusCode::kDataLoss;
    return {absl::IsNotFound(manifest.status()) ? Kind::kNothing : damaged ? Kind::kRebuild : Kind::kRefused, nullptr, manifest.status()};
  }
  const TreeRule rule = (*manifest)->rule();
  const auto unfit = [&](absl::string_view why) -> Look {
    const bool hand_made = rule == TreeRule::kAuto;
    return {hand_made ? Kind::kHandMade : Kind::kRebuild, nullptr,
            absl::FailedPreconditionError(absl::StrCat("manifest ", EscapeName(path), " ", why, hand_made ? kHandMade : ""))};
  };
  if (ManifestOpener::ListName(**manifest) != data_set.list_name) return unfit("is of another list file");
  if (rule != TreeRule::kAuto && data_set.rule != TreeRule::kAuto && rule != data_set.rule) return unfit("was made by another rule");
  if (options.crc && !(*manifest)->has_crc()) return unfit("has no checksums");
  if (options.stat && !(*manifest)->has_mtimes()) return unfit("has no times of modification");
  if (options.place != PlaceOrder::kNone && (*manifest)->record_bytes() == 0 && (*manifest)->place_order() != options.place) {
    return unfit("has not that order of place");
  }
  if (options.format != ShardFormat::kAuto && options.format != (*manifest)->format()) return unfit("was made by another format");
  for (const absl::string_view name : {"include", "exclude", "extensions", "classes"}) {
    const std::string asked = GetOption(options, name);
    if (!asked.empty() && ManifestOpener::SavedOption(**manifest, name) != asked) return unfit(absl::StrCat("was indexed with other ", name));
  }
  if (options.record_bytes > 0 && static_cast<uint64_t>(options.record_bytes) != (*manifest)->record_bytes()) {
    return unfit("was made with another record_bytes");
  }
  ManifestOpener::Whose whose;
  const absl::Status fresh = ManifestOpener::CheckFresh(**manifest, whose);
  if (absl::IsFailedPrecondition(fresh) && whose != ManifestOpener::Whose::kThis) {
    return {whose == ManifestOpener::Whose::kOther ? Kind::kOther : Kind::kRebuild, nullptr, fresh};
  }
  if (fresh.ok()) return {Kind::kServes, *std::move(manifest), fresh};
  if (absl::IsFailedPrecondition(fresh)) return {Kind::kStale, *std::move(manifest), fresh};
  return {Kind::kRefused, nullptr, fresh};
}

bool IsOfOther(const Manifest& manifest) {
  ManifestOpener::Whose whose;
  return absl::IsFailedPrecondition(ManifestOpener::CheckFresh(manifest, whose)) && whose == ManifestOpener::Whose::kOther;
}

// Of several that would serve, the one that was made last: an index that could not be saved beside the data set went to the cache folder.
const Look* Newest(const std::vector<Look>& looks, Look::Kind kind) {
  const Look* newest = nullptr;
  for (const Look& look : looks) {
    if (look.kind != kind) continue;
    if (newest == nullptr || ManifestOpener::ScannedUnixNs(*look.manifest) > ManifestOpener::ScannedUnixNs(*newest->manifest)) newest = &look;
  }
  return newest;
}

std::vector<Look> LookAtAll(const std::vector<std::string>& places, const DataSet& data_set, const IndexOptions& options) {
  std::vector<Look> looks;
  for (const std::string& place : places) looks.push_back(LookAt(place, data_set, options));
  return looks;
}

// Tells the samples of one manifest by name.
class NameIndex {
 public:
  explicit NameIndex(const Manifest& manifest) : manifest_(manifest) {
    hashes_.reserve(static_cast<size_t>(manifest.object_count()));
    for (int64_t object = 0; object < manifest.object_count(); ++object) {
      const std::string name = manifest.ObjectName(static_cast<uint32_t>(object));
      hashes_.emplace_back(XXH3_64bits(name.data(), name.size()), static_cast<uint32_t>(object));
    }
    std::sort(hashes_.begin(), hashes_.end());
  }
  bool Find(const std::string& name, uint32_t& object) const {
    const uint64_t hash = XXH3_64bits(name.data(), name.size());
    for (auto found = std::lower_bound(hashes_.begin(), hashes_.end(), std::make_pair(hash, uint32_t{0}));
         found != hashes_.end() && found->first == hash; ++found) {
      object = found->second;
      if (manifest_.ObjectName(object) == name) return true;
    }
    return false;
  }

 private:
  const Manifest& manifest_;
  std::vector<std::pair<uint64_t, uint32_t>> hashes_;
};

std::string CountText(int64_t count, absl::string_view one, absl::string_view many) {
  return absl::StrCat(count, " ", count == 1 ? one : many);
}

void LogResult(const DataSet& data_set, const ManifestData& data, const IndexCounts& counts, int64_t start_ns) {
  Log(LogLevel::kInfo, absl::StrFormat("indexed %s: %s, %s, in %.1f s", data_set.shown(),
                                       CountText(static_cast<int64_t>(data.sample_count()), "sample", "samples"),
                                       FormatBytes(static_cast<int64_t>(data.total_object_bytes())),
                                       static_cast<double>(MonotonicNs() - start_ns) / kNsPerSecond));
  std::string text;
  const auto add = [&](int64_t count, absl::string_view one, absl::string_view many) {
    if (count > 0) absl::StrAppend(&text, text.empty() ? "" : ", ", CountText(count, one, many));
  };
  add(counts.hidden, "hidden name", "hidden names");
  add(counts.non_regular, "name that is no regular file", "names that are no regular files");
  add(counts.broken_links, "link to nowhere", "links to nowhere");
  add(counts.cycles, "folder that leads back to one above it", "folders that lead back to one above them");
  add(counts.repeated_folders, "further name of a folder", "further names of folders");
  add(counts.vanished, "name that vanished", "names that vanished");
  add(counts.no_shards, "file of another format", "files of another format");
  add(counts.no_data, "name that is no data", "names that are no data");
  add(counts.excluded, "excluded name", "excluded names");
  add(counts.unknown_classes, "class that was not asked for", "classes that were not asked for");
  add(counts.unlabeled, "file beside the class folders", "files beside the class folders");
  add(counts.empty_lines, "empty line", "empty lines");
  add(counts.comment_lines, "comment line", "comment lines");
  add(counts.empty_classes, "class without a file (its label stays)", "classes without a file (their labels stay)");
  if (!text.empty()) Log(LogLevel::kWarning, absl::StrCat("indexing ", data_set.shown(), " left out ", text, ": ", counts.examples));
}

// What a scan found: a manifest that is not saved yet.
struct Scanned {
  explicit Scanned(const std::string& root) : data(root) {}
  ManifestData data;
  IndexCounts counts;
};

// What the manifest is made from beside the samples.
layout::Identity IdentityOf(const DataSet& data_set, const RecordsPlan& records) {
  layout::Identity identity{};
  struct stat info;
  if (::stat(data_set.root.c_str(), &info) == 0) {
    identity.root_device = info.st_dev;
    identity.root_inode = info.st_ino;
  }
  const auto ask = [&](const std::string& path, layout::FileIdentity& file) {
    if (path.empty() || ::stat(path.c_str(), &info) != 0) return;
    file = {int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec, static_cast<uint64_t>(info.st_size), info.st_ino};
  };
  // A file that was written within the last tick of the clock could be written again without a new time.
  if (!data_set.list_name.empty() || !records.labels.empty()) SleepNs(kMtimeTickNs);
  if (!data_set.list_name.empty()) ask(absl::StrCat(data_set.root == "/" ? "" : data_set.root, "/", data_set.list_name), identity.list);
  ask(records.labels, identity.labels);
  return identity;
}

// `before`: what an update compares with, or null.
//
// Errors: those of the data set.
absl::StatusOr<std::unique_ptr<Scanned>> Scan(const DataSet& data_set, const RecordsPlan& plan, const Manifest* before,
                                              const IndexOptions& options) {
  const int64_t start_ns = MonotonicNs();
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  const int64_t scanned_ns = int64_t{now.tv_sec} * kNsPerSecond + now.tv_nsec;

  auto result = std::make_unique<Scanned>(data_set.root);
  ManifestData& data = result->data;
  data.SetScanTime(scanned_ns);
  ScanOptions scan;
  scan.rule = data_set.rule;
  scan.threads = ThreadCount(data_set, options.threads);
  scan.progress = options.progress;
  scan.names = NameFilter(options);
  scan.classes = ClassNames(options.classes);
  scan.numeric_classes = options.classes == kNumericClasses;
  scan.leave_out_unknown_classes = options.unknown_classes == UnknownClasses::kLeaveOut;
  std::string options_text;
  for (const char* name : {"include", "exclude", "extensions", "classes", "unknown_classes"}) {
    const std::string value = GetOption(options, name);
    if (!value.empty() && value != "refuse") absl::StrAppend(&options_text, name, "=", value, absl::string_view("\0", 1));
  }
  data.SetOptionsText(std::move(options_text));
  RecordsPlan records = plan;
  scan.wanted = ShardFilter(records, data_set);
  scan.found = [&](const FileKinds& kinds) {
    absl::Status status = DecideFormat(kinds, data_set, options, records);
    if (records.format == ShardFormat::kFiles && !records.leave_out_labels) scan.wanted = nullptr;
    // Labels of their own leave nothing for class folders to say.
    if (!records.labels.empty() && scan.rule == TreeRule::kAuto) scan.rule = TreeRule::kFlat;
    return status;
  };
  if (before != nullptr) scan.changed_since_ns = ManifestOpener::ScannedUnixNs(*before) - kMtimeTickNs;
  // Of shards there are few, and each holds many samples: whether one was written since is asked at each open.
  const bool keep_mtimes = options.stat || (before != nullptr && before->has_mtimes());
  scan.want_mtimes = keep_mtimes || records.format != ShardFormat::kFiles;
  ScanOutput out;
  out.data = &data;
  absl::Status scanned = records.one_shard                  ? ScanOneShard(data_set.list_name, out)
                         : data_set.rule == TreeRule::kList ? ScanList(scan, data_set.list_name, out)
                                                            : ScanTree(scan, out);
  // Before labels and headers of shards are read: what is written meanwhile differs at the next open.
  if (scanned.ok()) data.SetIdentity(IdentityOf(data_set, records));
  if (records.format == ShardFormat::kFiles && records.said) data.SetRecordSource({}, "");
  if (scanned.ok() && records.format != ShardFormat::kFiles) scanned = MakeRecords(records, scan.threads, options.progress, data);
  if (!scanned.ok()) return scanned;
  if (!keep_mtimes && data.record_bytes() == 0) data.DropObjectTimes();

  const PlaceOrder place = options.place == PlaceOrder::kNone && before != nullptr ? before->place_order() : options.place;
  if (place != PlaceOrder::kNone && data.record_bytes() == 0) {
    absl::StatusOr<std::vector<uint32_t>> order = OrderByPlace(data, place, scan.threads, options.progress);
    if (!order.ok()) return order.status();
    data.SetPlaceOrder(place, *std::move(order));
  }

  // The object of the saved manifest that each object is the same as, or the count of objects.
  std::vector<uint32_t> same;
  if (before == nullptr) {
    out.counts.added = static_cast<int64_t>(data.sample_count());
  } else {
    const NameTable names = data.Names();
    const NameIndex index(*before);
    const auto none = std::numeric_limits<uint32_t>::max();
    same.assign(data.object_count(), none);
    int64_t kept = 0;
    std::string name;
    for (uint32_t object = 0; object < data.object_count(); ++object) {
      names.RelativeName(object, name);
      uint32_t old = 0;
      if (!index.Find(name, old)) {
        ++out.counts.added;
        continue;
      }
      ++kept;
      if (data.object_bytes(object) != before->ObjectBytes(old) || data.object_place(object) != before->place_hint(old) ||
          out.changed[object]) {
        ++out.counts.changed;
      } else {
        same[object] = old;
      }
    }
    out.counts.removed = before->object_count() - kept;
  }

  if (options.crc || (before != nullptr && before->has_crc())) {
    std::function<bool(uint32_t, uint32_t&)> known;
    // Trees and lists have one range per sample, so that a sample's number is its object's.
    if (before != nullptr && before->has_crc() && before->rule() != TreeRule::kAuto && before->record_bytes() == 0 &&
        data.record_bytes() == 0 && before->format() == (records.format == ShardFormat::kNpyFiles ? ShardFormat::kNpyFiles : ShardFormat::kFiles)) {
      known = [&](uint32_t object, uint32_t& crc) {
        if (same[object] == std::numeric_limits<uint32_t>::max()) return false;
        crc = before->Crc(same[object], 0);
        return true;
      };
    }
    absl::StatusOr<std::vector<uint32_t>> crcs = ComputeChecksums(data, scan.threads, known, options.progress);
    if (!crcs.ok()) return crcs.status();
    data.SetCrcs(*std::move(crcs));
  }

  LogResult(data_set, data, out.counts, start_ns);
  result->counts = std::move(out.counts);
  return result;
}

// Writes what was scanned to `path`, or into memory where that is empty, and opens it.
absl::StatusOr<std::shared_ptr<const Manifest>> SaveAt(const std::string& path, const DataSet& data_set, const ManifestData& data,
                                                       const IndexOptions& options) {
  if (options.progress) {
    IndexProgress saving;
    saving.phase = IndexProgress::Phase::kSaving;
    saving.files = saving.files_total = static_cast<int64_t>(data.sample_count());
    saving.bytes = static_cast<int64_t>(data.total_object_bytes());
    options.progress(saving);
  }
  absl::StatusOr<SaveFile> file = path.empty() ? SaveFile::CreateInMemory(data_set.root) : SaveFile::Create(path);
  if (!file.ok()) return file.status();
  absl::Status status = data.WriteTo(*file);
  if (status.ok()) status = file->Commit();
  if (!status.ok()) return status;
  if (!path.empty()) return ManifestOpener::FromPath(path, data_set.root, ManifestCheck::kHeader, data_set.trust());
  return ManifestOpener::FromMapping(MappedFile::FromMemory(file->TakeMemory()), "", data_set.root, ManifestCheck::kHeader);
}

// Whose turn it is to build at one place.
struct Turn {
  std::unique_ptr<Lease> lease;              // ours; null where the holder ended without a manifest, and we build beside the next one
  std::shared_ptr<const Manifest> manifest;  // or the holder has made one that serves
  absl::Status unusable;                     // or nobody can build there
};

// Takes the lease of `place`, or waits for its holder. Each way round the loop either waits for a living holder, removes a dead one's
// lease, or lost to another process that did; all of them end at the deadline.
//
// Errors: DeadlineExceeded  a living holder has been indexing for longer than options.wait_s.
absl::StatusOr<Turn> TakeTurn(const std::string& place, const std::vector<std::string>& places, const DataSet& data_set,
                              const IndexOptions& options, Mode mode) {
  Turn turn;
  const std::string lease_path = absl::StrCat(place, ".lease");
  LeaseWatch watch(lease_path, data_set.trust());
  const int64_t start_ns = MonotonicNs();
  int64_t reported_ns = start_ns;
  bool waited = false;
  for (;;) {
    absl::StatusOr<std::unique_ptr<Lease>> lease = Lease::TryAcquire(lease_path);
    if (!lease.ok()) {
      turn.unusable = lease.status();
      return turn;
    }
    if (*lease != nullptr) {
      turn.lease = *std::move(lease);
      return turn;
    }
    const auto deadline = [&] {
      return absl::DeadlineExceededError(
          absl::StrFormat("data set %s: waited %.1f s for %s, which holds the lease %s. If it does not index any more, remove that file; "
                          "else wait longer (wait_s)",
                          data_set.shown(), static_cast<double>(MonotonicNs() - start_ns) / kNsPerSecond, watch.holder(),
                          EscapeName(lease_path)));
    };
    LeaseWatch::State state = watch.Look();
    if (state == LeaseWatch::State::kDead) {
      const std::string holder = watch.holder();
      if (!watch.Remove()) {
        turn.unusable = absl::PermissionDeniedError(watch.why());
        return turn;
      }
      Log(LogLevel::kWarning, absl::StrCat("the lease ", EscapeName(lease_path), " of ", holder, " is taken over: its holder has ended"));
    }
    if (state == LeaseWatch::State::kHeld) {
      // The one that was waited for has ended, without a manifest that serves. Those who waited do not queue up behind each other.
      if (waited && mode == Mode::kOpen) return turn;
      if (!waited) Log(LogLevel::kInfo, absl::StrCat("waiting for ", watch.holder(), ", which indexes ", data_set.shown()));
      waited = true;
    }
    bool ended = state == LeaseWatch::State::kGone;
    for (int64_t pause_ns = 5 * kNsPerMs; state == LeaseWatch::State::kHeld && !ended; state = watch.Look(), ended = watch.changed_hands()) {
      const int64_t now_ns = MonotonicNs();
      const double waited_s = static_cast<double>(now_ns - start_ns) / kNsPerSecond;
      if (Cancelled()) return CancelledStatus();
      if (waited_s >= options.wait_s) return deadline();
      if (now_ns - reported_ns >= kWaitReportNs) {
        reported_ns = now_ns;
        Log(LogLevel::kInfo, absl::StrFormat("waiting for %s, which indexes %s, for %.0f s of at most %.0f s", watch.holder(),
                                             data_set.shown(), waited_s, options.wait_s));
      }
      if (options.progress) {
        IndexProgress waiting;
        waiting.phase = IndexProgress::Phase::kWaiting;
        waiting.seconds = waited_s;
        waiting.note = watch.holder();
        options.progress(waiting);
      }
      std::this_thread::sleep_for(std::chrono::nanoseconds(pause_ns));
      pause_ns = std::min(pause_ns * 2, 100 * kNsPerMs);
    }
    if (state == LeaseWatch::State::kUnusable) {
      turn.unusable = absl::PermissionDeniedError(watch.why());
      return turn;
    }
    if (mode == Mode::kOpen && (ended || state == LeaseWatch::State::kGone)) {
      // Looked at without the lease, so that all who waited go on at once.
      const std::vector<Look> looks = LookAtAll(places, data_set, options);
      if (const Look* found = Newest(looks, Look::Kind::kServes); found != nullptr) {
        turn.manifest = found->manifest;
        return turn;
      }
    }
    if (static_cast<double>(MonotonicNs() - start_ns) / kNsPerSecond >= options.wait_s) return deadline();
    SleepNs(kNsPerMs);
  }
}

// How the data set was indexed before, where its samples were records: so that it can be indexed again without being told.
std::optional<RecordsPlan> SavedRecords(const std::vector<std::string>& places, const DataSet& data_set) {
  for (const std::string& place : places) {
    const absl::StatusOr<std::shared_ptr<const Manifest>> saved =
        ManifestOpener::FromPath(place, data_set.root, ManifestCheck::kHeader, data_set.trust());
    if (!saved.ok() || IsOfOther(**saved)) continue;
    const std::optional<layout::RecordSource> found = ManifestOpener::RecordSource(**saved);
    if (!found.has_value() || ManifestOpener::ListName(**saved) != data_set.list_name) return std::nullopt;
    const layout::RecordSource& source = *found;
    RecordsPlan plan;
    plan.format = (*saved)->format();
    plan.record_bytes = source.record_bytes;
    plan.header_bytes = source.header_bytes;
    plan.labels = ManifestOpener::LabelsPath(**saved);
    // A list of shards has more objects than the one that is a shard itself, or another name for it.
    plan.one_shard = !data_set.list_name.empty() && (*saved)->object_count() == 1 && (*saved)->ObjectName(0) == data_set.list_name;
    return plan;
  }
  return std::nullopt;
}

// What the saved manifest was indexed with, where nothing else is asked for.
void KeepSavedOptions(const std::vector<std::string>& places, const DataSet& data_set, IndexOptions& options) {
  for (const std::string& place : places) {
    const absl::StatusOr<std::shared_ptr<const Manifest>> saved =
        ManifestOpener::FromPath(place, data_set.root, ManifestCheck::kHeader, data_set.trust());
    if (!saved.ok() || ManifestOpener::ListName(**saved) != data_set.list_name) continue;
    const auto keep = [&](std::string& option, absl::string_view name) {
      if (option.empty()) option = ManifestOpener::SavedOption(**saved, name);
    };
    keep(options.include, "include");
    keep(options.exclude, "exclude");
    keep(options.extensions, "extensions");
    if (!options.classes.empty()) return;
    keep(options.classes, "classes");
    if (ManifestOpener::SavedOption(**saved, "unknown_classes") == "leave-out") options.unknown_classes = UnknownClasses::kLeaveOut;
    return;
  }
}

// What an update compares with: the newest that is saved. One that cannot be read is as good as none.
std::shared_ptr<const Manifest> SavedBefore(const std::vector<std::string>& places, const DataSet& data_set) {
  std::vector<Look> looks;
  for (const std::string& place : places) {
    absl::StatusOr<std::shared_ptr<const Manifest>> saved =
        ManifestOpener::FromPath(place, data_set.root, ManifestCheck::kAll, data_set.trust());
    if (saved.ok() && IsOfOther(**saved)) continue;
    if (saved.ok()) {
      looks.push_back({Look::Kind::kServes, *std::move(saved), absl::OkStatus()});
    } else if (!absl::IsNotFound(saved.status())) {
      Log(LogLevel::kWarning, absl::StrCat(saved.status().message(), " It is rebuilt from nothing"));
    }
  }
  const Look* newest = Newest(looks, Look::Kind::kServes);
  return newest == nullptr ? nullptr : newest->manifest;
}

// An open that finds nothing that serves; a build; an update. What was scanned is saved at the first place that takes it: whatever keeps a
// place from that, the next one is tried. For an open the last is memory.
absl::StatusOr<IndexResult> MakeManifest(const DataSet& data_set, const std::vector<std::string>& places, IndexOptions options,
                                         Mode mode, std::string refused) {
  if (data_set.rule == TreeRule::kList && (!options.include.empty() || !options.exclude.empty() || !options.extensions.empty() ||
                                           !options.classes.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("data set ", data_set.shown(),
                                                   ": include, exclude, extensions and classes belong to folders; a list names its files"));
  }
  if (mode != Mode::kBuild) KeepSavedOptions(places, data_set, options);
  std::optional<RecordsPlan> saved_records;
  if (options.format == ShardFormat::kAuto && mode != Mode::kBuild) saved_records = SavedRecords(places, data_set);
  const absl::StatusOr<RecordsPlan> records = PlanRecords(data_set, options, saved_records.has_value() ? &*saved_records : nullptr);
  if (!records.ok()) return records.status();

  std::unique_ptr<Scanned> scanned;
  const auto scan = [&]() -> absl::Status {
    if (scanned != nullptr) return absl::OkStatus();
    std::shared_ptr<const Manifest> before;
    if (mode == Mode::kUpdate) before = SavedBefore(places, data_set);
    if (before != nullptr && before->rule() == TreeRule::kAuto) {
      return absl::FailedPreconditionError(absl::StrCat("manifest ", EscapeName(before->path()), " cannot be updated", kHandMade));
    }
    absl::StatusOr<std::unique_ptr<Scanned>> result = Scan(data_set, *records, before.get(), options);
    if (result.ok()) scanned = *std::move(result);
    return result.status();
  };
  absl::StatusCode code = absl::StatusCode::kPermissionDenied;
  bool unwritable = true;  // by permission, which is no fault
  // Kept until the end: who waits for one of them finds the manifest at another place.
  std::vector<std::unique_ptr<Lease>> leases;
  for (const std::string& place : places) {
    absl::Status status = PreparePlace(place);
    if (status.ok()) {
      // Whether the place can be written shows at its lease, before the scan.
      absl::StatusOr<Turn> turn = TakeTurn(place, places, data_set, options, mode);
      // After the scan another process's is not waited for.
      if (!turn.ok() && (scanned == nullptr || absl::IsCancelled(turn.status()))) return turn.status();
      status = turn.ok() ? turn->unusable : turn.status();
      if (status.ok() && turn->manifest != nullptr) return IndexResult{std::move(turn->manifest), {}};
      if (status.ok()) {
        if (turn->lease != nullptr) leases.push_back(std::move(turn->lease));
        if (mode == Mode::kOpen && scanned == nullptr) {
          // Somebody may have finished between our look and the lease.
          const std::vector<Look> looks = LookAtAll(places, data_set, options);
          if (const Look* found = Newest(looks, Look::Kind::kServes); found != nullptr) return IndexResult{found->manifest, {}};
          for (const Look& look : looks) {
            if (look.kind == Look::Kind::kNothing || look.kind == Look::Kind::kRefused) continue;
            Log(LogLevel::kWarning, absl::StrCat(look.why.message(), ". It is rebuilt now"));
            break;
          }
        }
        if (absl::Status error = scan(); !error.ok()) return error;
        if (Cancelled()) return CancelledStatus();
        absl::StatusOr<std::shared_ptr<const Manifest>> saved = SaveAt(place, data_set, scanned->data, options);
        if (saved.ok()) {
          if (!refused.empty()) {
            Log(unwritable ? LogLevel::kInfo : LogLevel::kWarning,
                absl::StrCat("the manifest of ", data_set.shown(), " is saved at ", EscapeName(place), ": ", refused,
                             unwritable ? "" : ". Mend that, or give manifest_path"));
          }
          WarnOfOtherNumbers(data_set, **saved);
          return IndexResult{*std::move(saved), std::move(scanned->counts)};
        }
        status = saved.status();
      }
    }
    if (refused.empty()) code = status.code();
    unwritable = unwritable && IsUnwritable(status);
    absl::StrAppend(&refused, refused.empty() ? "" : "; ", status.message());
  }
  if (refused.empty()) refused = "there is no place for it";
  const std::string saved_nowhere = absl::StrCat("the manifest of ", data_set.shown(), " can be saved nowhere");
  constexpr absl::string_view kCure = ". Give manifest_path, or set XDG_CACHE_HOME to a folder that can be written";
  if (mode != Mode::kOpen) return absl::Status(code, absl::StrCat(saved_nowhere, ": ", refused, kCure));
  Log(LogLevel::kWarning, absl::StrCat(saved_nowhere, " and is made anew in each run: ", refused, kCure));
  if (absl::Status error = scan(); !error.ok()) return error;
  absl::StatusOr<std::shared_ptr<const Manifest>> in_memory = SaveAt("", data_set, scanned->data, options);
  if (!in_memory.ok()) return in_memory.status();
  return IndexResult{*std::move(in_memory), std::move(scanned->counts)};
}

absl::StatusOr<IndexResult> Index(absl::string_view root, const IndexOptions& given, Mode mode) {
  absl::StatusOr<std::string> classes = ResolveClasses(given.classes);
  if (!classes.ok()) return classes.status();
  IndexOptions options = given;
  options.classes = *std::move(classes);
  const absl::StatusOr<DataSet> data_set = FindDataSet(root, options.rule);
  if (!data_set.ok()) return data_set.status();
  const absl::Status path_status = CheckManifestPath(*data_set, options.manifest_path);
  if (!path_status.ok()) return path_status;
  std::vector<std::string> places = ManifestPlaces(*data_set, options.manifest_path);
  std::string refused;
  if (mode == Mode::kOpen) {
    const std::vector<Look> looks = LookAtAll(places, *data_set, options);
    if (const Look* found = Newest(looks, Look::Kind::kServes); found != nullptr) return IndexResult{found->manifest, {}};
    for (const Look& look : looks) {
      if (look.kind == Look::Kind::kHandMade) return look.why;
    }
    if (const Look* stale = Newest(looks, Look::Kind::kStale); stale != nullptr && options.keep_stale) {
      Log(LogLevel::kWarning, absl::StrCat(stale->why.message(),
                                           ". The run goes on with the saved manifest: what is new is not seen, what is gone fails by name; "
                                           "penstock index --update looks again"));
      return IndexResult{stale->manifest, {}};
    }
    std::vector<std::string> usable;
    for (size_t i = 0; i < places.size(); ++i) {
      // Two data sets that share a manifest_path would make it anew in turn for ever.
      if (looks[i].kind == Look::Kind::kOther && !options.manifest_path.empty()) {
        return absl::FailedPreconditionError(
            absl::StrCat(looks[i].why.message(), ". Give each data set a manifest_path of its own, or none"));
      }
      if (looks[i].kind != Look::Kind::kRefused) {
        usable.push_back(std::move(places[i]));
        continue;
      }
      // What the user named is used or is an error; the default places are a convenience.
      if (!options.manifest_path.empty()) return looks[i].why;
      absl::StrAppend(&refused, refused.empty() ? "" : "; ", looks[i].why.message());
    }
    places = std::move(usable);
  }
  if (mode != Mode::kOpen && !options.manifest_path.empty()) {
    const Look look = LookAt(places[0], *data_set, options);
    if (look.kind == Look::Kind::kOther) Log(LogLevel::kWarning, absl::StrCat(look.why.message(), ". It is replaced"));
  }
  return MakeManifest(*data_set, places, options, mode, std::move(refused));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Manifest>> Manifest::Open(absl::string_view root, const IndexOptions& options) {
  absl::StatusOr<IndexResult> result = Index(root, options, Mode::kOpen);
  if (!result.ok()) return result.status();
  return std::move(result->manifest);
}

absl::StatusOr<IndexResult> Manifest::Build(absl::string_view root, const IndexOptions& options) {
  return Index(root, options, Mode::kBuild);
}
absl::StatusOr<IndexResult> Manifest::Update(absl::string_view root, const IndexOptions& options) {
  return Index(root, options, Mode::kUpdate);
}

}  // namespace penstock
