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
#include "base/clock.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "manifest/checksums.h"
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

int ThreadCount(const DataSet& data_set, int asked) {
  if (asked > 0) return std::min(asked, 1024);
  const UniqueFd fd(::open(data_set.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Over a network each answer takes its time, and many can be waited for at once.
  if (fd.valid() && IsOnNetwork(fd.get())) return 32;
  cpu_set_t cores;
  const int count = ::sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 2;
  return std::clamp(count, 2, 16);
}

// A visible manifest inside the data set would become a sample, and saving it would make itself stale.
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
  for (const absl::string_view part : absl::StrSplit(absl::string_view(folder).substr(root.size()), '/', absl::SkipEmpty())) {
    if (part[0] == '.') return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("manifest_path ", EscapeName(path), " lies among the samples of ", data_set.shown(),
                   ", whose folder would change with every save. Put it outside, or into a hidden folder as .penstock"));
}

// The saved manifest, if it serves: intact, of this data set, not older than it, with what was asked for.
//
// Errors: NotFound            there is none.
//         DataLoss            damaged.
//         FailedPrecondition  stale; or, `readable` false, of a newer penstock.
absl::StatusOr<std::shared_ptr<const Manifest>> OpenServing(const std::string& path, const DataSet& data_set, const IndexOptions& options,
                                                            bool& readable) {
  readable = true;
  absl::StatusOr<std::shared_ptr<const Manifest>> manifest = ManifestOpener::FromPath(path, data_set.root, ManifestCheck::kAuto);
  if (!manifest.ok()) {
    readable = manifest.status().code() != absl::StatusCode::kFailedPrecondition;
    return manifest.status();
  }
  const auto unfit = [&](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat("manifest ", EscapeName(path), " ", why));
  };
  const TreeRule rule = (*manifest)->rule();
  if (ManifestOpener::ListName(**manifest) != data_set.list_name) return unfit("is of another list file");
  if (rule != TreeRule::kAuto && data_set.rule != TreeRule::kAuto && rule != data_set.rule) return unfit("was made by another rule");
  if (options.crc && !(*manifest)->has_crc()) return unfit("has no checksums");
  if (options.stat && !(*manifest)->has_mtimes()) return unfit("has no times of modification");
  if (options.place != PlaceOrder::kNone && (*manifest)->record_bytes() == 0 && (*manifest)->place_order() != options.place) {
    return unfit("has not that order of place");
  }
  if (options.format != ShardFormat::kAuto && options.format != (*manifest)->format()) return unfit("was made by another format");
  if (options.record_bytes > 0 && static_cast<uint64_t>(options.record_bytes) != (*manifest)->record_bytes()) {
    return unfit("was made with another record_bytes");
  }
  const absl::Status fresh = ManifestOpener::CheckFresh(**manifest);
  if (fresh.code() == absl::StatusCode::kFailedPrecondition && options.keep_stale) {
    Log(LogLevel::kWarning, absl::StrCat(fresh.message(),
                                         ". The run goes on with the saved manifest: what is new is not seen, what is gone fails by name; "
                                         "penstock index --update looks again"));
    return manifest;
  }
  if (!fresh.ok()) return fresh;
  return manifest;
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
  add(counts.vanished, "name that vanished", "names that vanished");
  add(counts.no_shards, "file of another format", "files of another format");
  add(counts.unlabeled, "file beside the class folders", "files beside the class folders");
  add(counts.empty_classes, "class without a file (its label stays)", "classes without a file (their labels stay)");
  if (!text.empty()) Log(LogLevel::kWarning, absl::StrCat("indexing ", data_set.shown(), " left out ", text, ": ", counts.examples));
}

// Scans, and writes to `path`; empty: into memory.
absl::StatusOr<IndexResult> BuildAt(const DataSet& data_set, const RecordsPlan& records, const std::string& path,
                                    const IndexOptions& options, Mode mode) {
  const int64_t start_ns = MonotonicNs();
  // What Update() compares with. One that cannot be read is as good as none.
  std::shared_ptr<const Manifest> before;
  if (mode == Mode::kUpdate && !path.empty()) {
    absl::StatusOr<std::shared_ptr<const Manifest>> saved = ManifestOpener::FromPath(path, data_set.root, ManifestCheck::kAll);
    if (saved.ok()) before = *std::move(saved);
    if (!saved.ok() && saved.status().code() != absl::StatusCode::kNotFound) {
      Log(LogLevel::kWarning, absl::StrCat(saved.status().message(), " It is rebuilt from nothing"));
    }
  }
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  const int64_t scanned_ns = int64_t{now.tv_sec} * kNsPerSecond + now.tv_nsec;

  ManifestData data(data_set.root);
  data.SetScanTime(scanned_ns);
  ScanOptions scan;
  scan.rule = data_set.rule;
  scan.threads = ThreadCount(data_set, options.threads);
  scan.progress = options.progress;
  scan.wanted = ShardFilter(records, data_set);
  // Labels of their own leave nothing for class folders to say.
  if (!records.labels.empty() && scan.rule == TreeRule::kAuto) scan.rule = TreeRule::kFlat;
  if (before != nullptr) scan.changed_since_ns = ManifestOpener::ScannedUnixNs(*before) - kMtimeTickNs;
  scan.want_mtimes = options.stat || (before != nullptr && before->has_mtimes());
  ScanOutput out;
  out.data = &data;
  absl::Status scanned = records.one_shard                  ? ScanOneShard(data_set.list_name, out)
                         : data_set.rule == TreeRule::kList ? ScanList(scan, data_set.list_name, out)
                                                            : ScanTree(scan, out);
  if (scanned.ok() && records.format != ShardFormat::kFiles) scanned = MakeRecords(records, scan.threads, options.progress, data);
  if (!scanned.ok()) return scanned;

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
        data.record_bytes() == 0) {
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
  LogResult(data_set, data, out.counts, start_ns);

  absl::StatusOr<std::shared_ptr<const Manifest>> manifest = absl::UnknownError("");
  if (path.empty()) {
    absl::StatusOr<std::shared_ptr<const MappedFile>> mapped =
        MappedFile::FromDescriptor(file->TakeDescriptor(), EscapeName(data_set.root), MappedFile::Mode::kAuto);
    if (!mapped.ok()) return mapped.status();
    manifest = ManifestOpener::FromMapping(*std::move(mapped), "", data_set.root, ManifestCheck::kHeader);
  } else {
    manifest = ManifestOpener::FromPath(path, data_set.root, ManifestCheck::kHeader);
  }
  if (!manifest.ok()) return manifest.status();
  return IndexResult{*std::move(manifest), out.counts};
}

// Builds at `path` under its lease, or waits for who holds it.
absl::StatusOr<IndexResult> BuildUnderLease(const DataSet& data_set, const RecordsPlan& records, const std::string& path,
                                            const IndexOptions& options, Mode mode) {
  const std::string lease_path = absl::StrCat(path, ".lease");
  LeaseWatch watch(lease_path);
  const int64_t start_ns = MonotonicNs();
  int64_t reported_ns = start_ns;
  bool waited = false;
  for (;;) {
    absl::StatusOr<std::unique_ptr<Lease>> lease = Lease::TryAcquire(lease_path);
    if (!lease.ok()) return lease.status();
    if (*lease != nullptr) {
      if (mode == Mode::kOpen) {
        // Somebody may have finished between our look and the lease.
        bool readable;
        absl::StatusOr<std::shared_ptr<const Manifest>> saved = OpenServing(path, data_set, options, readable);
        if (saved.ok()) return IndexResult{*std::move(saved), {}};
        if (!readable) return saved.status();
        if (saved.status().code() != absl::StatusCode::kNotFound) {
          Log(LogLevel::kWarning, absl::StrCat(saved.status().message(), ". It is rebuilt now"));
        }
      }
      return BuildAt(data_set, records, path, options, mode);
    }
    LeaseWatch::State state = watch.Look();
    if (state == LeaseWatch::State::kDead) {
      Log(LogLevel::kWarning,
          absl::StrCat("the lease ", EscapeName(lease_path), " of ", watch.holder(), " is taken over: its holder has ended"));
      watch.Remove();
      continue;
    }
    if (!waited) Log(LogLevel::kInfo, absl::StrCat("waiting for ", watch.holder(), ", which indexes ", data_set.shown()));
    waited = true;
    for (int64_t pause_ns = 5 * kNsPerMs; state == LeaseWatch::State::kHeld; state = watch.Look()) {
      const int64_t now_ns = MonotonicNs();
      const double waited_s = static_cast<double>(now_ns - start_ns) / kNsPerSecond;
      if (waited_s >= options.wait_s) {
        return absl::DeadlineExceededError(
            absl::StrFormat("data set %s: waited %.1f s for %s, which holds the lease %s. If it does not index any more, remove that file; "
                            "else wait longer (wait_s)",
                            data_set.shown(), waited_s, watch.holder(), EscapeName(lease_path)));
      }
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
    if (mode == Mode::kOpen && state == LeaseWatch::State::kGone) {
      // Looked at without the lease, so that all who waited go on at once.
      bool readable;
      absl::StatusOr<std::shared_ptr<const Manifest>> saved = OpenServing(path, data_set, options, readable);
      if (saved.ok()) return IndexResult{*std::move(saved), {}};
    }
  }
}

// How the data set was indexed before, where its samples were records: so that it can be indexed again without being told.
std::optional<RecordsPlan> SavedRecords(const std::vector<std::string>& places, const DataSet& data_set) {
  for (const std::string& place : places) {
    const absl::StatusOr<std::shared_ptr<const Manifest>> saved = ManifestOpener::FromPath(place, data_set.root, ManifestCheck::kHeader);
    if (!saved.ok()) continue;
    if ((*saved)->record_bytes() == 0 || ManifestOpener::ListName(**saved) != data_set.list_name) return std::nullopt;
    const layout::RecordSource source = ManifestOpener::RecordSource(**saved);
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

absl::StatusOr<IndexResult> Index(absl::string_view root, const IndexOptions& options, Mode mode) {
  const absl::StatusOr<DataSet> data_set = FindDataSet(root, options.rule);
  if (!data_set.ok()) return data_set.status();
  const absl::Status path_status = CheckManifestPath(*data_set, options.manifest_path);
  if (!path_status.ok()) return path_status;
  const std::vector<std::string> places = ManifestPlaces(*data_set, options.manifest_path);
  if (mode == Mode::kOpen) {
    for (const std::string& place : places) {
      bool readable;
      absl::StatusOr<std::shared_ptr<const Manifest>> saved = OpenServing(place, *data_set, options, readable);
      if (saved.ok()) return IndexResult{*std::move(saved), {}};
      if (!readable) return saved.status();
    }
  }
  std::optional<RecordsPlan> saved_records;
  if (options.format == ShardFormat::kAuto && mode != Mode::kBuild) saved_records = SavedRecords(places, *data_set);
  const absl::StatusOr<RecordsPlan> records = PlanRecords(*data_set, options, saved_records.has_value() ? &*saved_records : nullptr);
  if (!records.ok()) return records.status();
  std::string refused;
  for (const std::string& place : places) {
    absl::Status status = PreparePlace(place);
    if (status.ok()) {
      // Whether the place can be written shows at its lease, before the scan.
      absl::StatusOr<IndexResult> result = BuildUnderLease(*data_set, *records, place, options, mode);
      if (result.ok()) return result;
      status = result.status();
      if (!IsUnwritable(status) || ::access(ParentFolder(place).c_str(), W_OK) == 0) return status;
    } else if (!IsUnwritable(status)) {
      return status;
    }
    absl::StrAppend(&refused, refused.empty() ? "" : "; ", status.message());
  }
  if (!options.manifest_path.empty() || mode != Mode::kOpen) {
    return absl::PermissionDeniedError(absl::StrCat("the manifest of ", data_set->shown(), " can be saved nowhere: ", refused,
                                                    ". Give manifest_path, or set XDG_CACHE_HOME"));
  }
  Log(LogLevel::kWarning, absl::StrCat("the manifest of ", data_set->shown(), " can be saved nowhere and is made anew in each run: ",
                                       refused, ". Give manifest_path, or set XDG_CACHE_HOME"));
  return BuildAt(*data_set, *records, "", options, mode);
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
