#include "manifest/scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/cancel.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "manifest/workers.h"

namespace penstock {
namespace {

// One getdents64(2) call. Its kernel part takes what fits; 256 KiB are about 5,000 names.
constexpr size_t kListBytes = size_t{256} << 10;
// Files whose sizes are asked for as one piece of work: enough to make the queue's lock cheap, few enough that several threads
// share one large folder.
constexpr size_t kChunkFiles = 1024;
// Below this the thread that listed a folder asks for the sizes itself.
constexpr size_t kShareFilesMin = 128;

struct Entry {
  enum Kind : uint64_t { kGone, kFile, kFolder, kUnknown };
  const char* name;
  uint64_t bytes : 58;  // of a file; of a folder, its index in Scanner::folders_
  uint64_t kind : 3;
  uint64_t looked_at : 1;  // its name is one to take
  uint64_t linked : 1;   // found as a symbolic link
  uint64_t changed : 1;  // since ScanOptions::changed_since_ns
  uint64_t inode;
  int64_t mtime_ns;      // where it was asked for
};
static_assert(sizeof(Entry) == 32, "10^6 files take 32 MB while they are scanned");

struct Chunk {
  std::unique_ptr<char[]> names;
  std::vector<Entry> entries;
};

struct Folder {
  Folder(Folder* parent_folder, std::string own_name) : parent(parent_folder), name(std::move(own_name)) {}
  Folder* parent;
  std::string name;
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t mtime_ns = 0;
  bool left_out = false;        // this name of it
  Folder* original = nullptr;   // the one that was listed, where this is another name of it
  bool claimed = false;         // a name that is not left out leads to it; of what was listed
  Folder* within = nullptr;     // then the folder that has this name
  std::vector<std::unique_ptr<Chunk>> chunks;

  Folder& Listed() { return original == nullptr ? *this : *original; }
};

struct OpenFolder {
  Folder* folder;
  UniqueFd fd;
};

// A piece of work: a folder to list, or a chunk of its files to measure.
struct Job {
  Folder* folder = nullptr;
  std::shared_ptr<OpenFolder> open;
  Chunk* chunk = nullptr;
};

int64_t ToNs(const timespec& time) { return int64_t{time.tv_sec} * kNsPerSecond + time.tv_nsec; }

int64_t ToNs(const statx_timestamp& time) { return int64_t{time.tv_sec} * kNsPerSecond + time.tv_nsec; }

int64_t WallClockNs() {
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  return ToNs(now);
}

// Sorts the entries of one folder. Names of one folder often begin alike ("img_00001.jpg"), so eight bytes after what they have
// in common decide nearly every comparison without touching the names.
class Sorter {
 public:
  // `path_order`: a folder's name counts with the slash that follows it in a path, so that walking the result gives paths in
  // byte order.
  explicit Sorter(bool path_order) : path_order_(path_order) {}

  std::vector<const Entry*> Sort(const Folder& folder) {
    std::vector<Key> keys;
    size_t count = 0;
    for (const auto& chunk : folder.chunks) count += chunk->entries.size();
    keys.reserve(count);
    const char* first = nullptr;
    size_t common = 0;
    for (const auto& chunk : folder.chunks) {
      for (const Entry& entry : chunk->entries) {
        if (entry.kind == Entry::kGone) continue;
        if (first == nullptr) {
          first = entry.name;
          common = std::strlen(first);
        }
        size_t same = 0;
        while (same < common && entry.name[same] == first[same]) ++same;
        common = same;
        keys.push_back({0, &entry});
      }
    }
    for (Key& key : keys) key.prefix = Prefix(*key.entry, common);
    std::sort(keys.begin(), keys.end(), [&](const Key& a, const Key& b) {
      if (a.prefix != b.prefix) return a.prefix < b.prefix;
      // A prefix that ends with a NUL byte holds the whole name.
      return (a.prefix & 0xFF) != 0 && Less(*a.entry, *b.entry, common + sizeof(uint64_t));
    });
    std::vector<const Entry*> sorted;
    sorted.reserve(keys.size());
    for (const Key& key : keys) sorted.push_back(key.entry);
    return sorted;
  }

 private:
  struct Key {
    uint64_t prefix;
    const Entry* entry;
  };

  bool HasSlash(const Entry& entry) const { return path_order_ && entry.kind == Entry::kFolder; }

  // Eight bytes from `begin`, filled up with NUL bytes, so that they compare as numbers.
  uint64_t Prefix(const Entry& entry, size_t begin) const {
    unsigned char bytes[sizeof(uint64_t)] = {};
    size_t used = 0;
    for (const char* next = entry.name + begin; used < sizeof bytes && *next != '\0'; ++next) {
      bytes[used++] = static_cast<unsigned char>(*next);
    }
    if (used < sizeof bytes && HasSlash(entry)) bytes[used] = '/';
    uint64_t value;
    std::memcpy(&value, bytes, sizeof value);
    return __builtin_bswap64(value);
  }

  // Both are equal before `begin`, which may be just behind the end of a name (where its slash was the last byte of the prefix).
  bool Less(const Entry& a, const Entry& b, size_t begin) const {
    const auto at = [this](const Entry& entry, size_t length, size_t i) -> unsigned {
      return i < length ? static_cast<unsigned char>(entry.name[i]) : i == length && HasSlash(entry) ? unsigned{'/'} : 0u;
    };
    const size_t a_length = std::strlen(a.name);
    const size_t b_length = std::strlen(b.name);
    for (size_t i = begin;; ++i) {
      const unsigned x = at(a, a_length, i);
      const unsigned y = at(b, b_length, i);
      if (x != y) return x < y;
      if (x == 0) return false;
    }
  }

  const bool path_order_;
};

class Scanner {
 public:
  Scanner(const ScanOptions& options, ScanOutput& out) : options_(options), out_(out), root_path_(out.data->root()) {}

  absl::Status Run() {
    root_fd_ = UniqueFd(::open(root_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root_fd_.valid()) return IoError(errno, absl::StrCat("scan: open of the folder ", EscapeName(root_path_)));
    folders_.emplace_back(nullptr, "");
    Push({&folders_.front(), nullptr, nullptr});
    const int64_t start_ns = MonotonicNs();
    std::function<void()> tick;
    if (options_.progress) {
      tick = [&] {
        IndexProgress now;
        now.files = files_.load(std::memory_order_relaxed);
        now.folders = folder_count_.load(std::memory_order_relaxed);
        now.bytes = bytes_.load(std::memory_order_relaxed);
        now.seconds = static_cast<double>(MonotonicNs() - start_ns) / kNsPerSecond;
        options_.progress(now);
      };
    }
    RunWorkers(options_.threads, [this] { Work(); }, tick);
    if (!error_.ok()) return error_;
    return Emit();
  }

 private:
  // --- The queue. Measuring goes before listing, so that few folders are open and few lists wait at any time.
  void Push(Job job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++pending_;
      (job.chunk != nullptr ? chunk_jobs_ : folder_jobs_).push_back(std::move(job));
    }
    changed_.notify_one();
  }

  void Work() {
    const std::unique_ptr<char[]> list(new char[kListBytes]);
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !chunk_jobs_.empty() || !folder_jobs_.empty() || pending_ == 0 || !error_.ok(); });
      if (Cancelled() && error_.ok()) {
        error_ = CancelledStatus();
        changed_.notify_all();
      }
      if (pending_ == 0 || !error_.ok()) return;
      std::vector<Job>& jobs = chunk_jobs_.empty() ? folder_jobs_ : chunk_jobs_;
      Job job = std::move(jobs.back());
      jobs.pop_back();
      lock.unlock();
      const absl::Status status = job.chunk != nullptr ? Measure(*job.open, *job.chunk) : List(*job.folder, list.get());
      job = Job();
      lock.lock();
      if (!status.ok() && error_.ok()) error_ = status;
      if (--pending_ == 0 || !error_.ok()) changed_.notify_all();
    }
  }

  Folder* NewFolder(Folder* parent, const char* name, uint64_t& index) {
    std::lock_guard<std::mutex> lock(mutex_);
    index = folders_.size();
    return &folders_.emplace_back(parent, name);
  }

  std::string PathOf(const Folder& folder) const {
    if (folder.parent == nullptr) return "";
    const std::string above = PathOf(*folder.parent);
    return above.empty() ? folder.name : absl::StrCat(above, "/", folder.name);
  }

  std::string ShownFile(const Folder& folder, const char* name) const {
    const std::string path = PathOf(folder);
    return EscapeName(absl::StrCat(root_path_, "/", path, path.empty() ? "" : "/", name));
  }

  void LeaveOut(int64_t IndexCounts::*count, absl::string_view what, const Folder* folder, absl::string_view name) {
    std::string path = folder == nullptr ? "" : PathOf(*folder);
    std::lock_guard<std::mutex> lock(mutex_);
    left_out_.Note(out_.counts.*count, what, path.empty() || name.empty() ? absl::StrCat(path, name) : absl::StrCat(path, "/", name));
  }

  bool LeftOutByName(const Folder& folder, const std::string& path, const char* name, bool is_folder) {
    const std::string whole = path.empty() ? std::string(name) : absl::StrCat(path, "/", name);
    const NameFilter::Verdict verdict = is_folder ? options_.names.OfFolder(whole) : options_.names.OfFile(whole);
    if (verdict == NameFilter::Verdict::kNoData) LeaveOut(&IndexCounts::no_data, "no data by its name", &folder, name);
    if (verdict == NameFilter::Verdict::kExcluded) LeaveOut(&IndexCounts::excluded, "excluded", &folder, name);
    return verdict != NameFilter::Verdict::kTake;
  }

  // --- Listing one folder.
  absl::Status List(Folder& folder, char* list) {
    const std::string path = PathOf(folder);
    const auto shown = [&] { return EscapeName(absl::StrCat(root_path_, path.empty() ? "" : "/", path)); };
    auto open = std::make_shared<OpenFolder>();
    open->folder = &folder;
    open->fd = UniqueFd(::openat(root_fd_.get(), path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!open->fd.valid()) {
      const int error_number = errno;
      if (!path.empty() && (error_number == ENOENT || error_number == ENOTDIR)) {
        folder.left_out = true;
        LeaveOut(&IndexCounts::vanished, "vanished", &folder, "");
        return absl::OkStatus();
      }
      return IoError(error_number, absl::StrCat("scan: open of the folder ", shown()));
    }
    struct stat info;
    if (::fstat(open->fd.get(), &info) != 0) return IoError(errno, absl::StrCat("scan: fstat of the folder ", shown()));
    folder.device = info.st_dev;
    folder.inode = info.st_ino;
    {
      // Each folder is listed once, by whichever name comes first; ClaimFolders() decides which name it keeps.
      std::lock_guard<std::mutex> lock(mutex_);
      const auto [found, is_new] = listed_.try_emplace(std::pair(folder.device, folder.inode), &folder);
      if (!is_new) {
        folder.original = found->second;
        return absl::OkStatus();
      }
    }
    if (const int64_t age_ns = WallClockNs() - ToNs(info.st_mtim); age_ns >= 0 && age_ns < kMtimeTickNs) {
      SleepNs(kMtimeTickNs - age_ns);
      if (::fstat(open->fd.get(), &info) != 0) return IoError(errno, absl::StrCat("scan: fstat of the folder ", shown()));
    }
    folder.mtime_ns = ToNs(info.st_mtim);
    folder_count_.fetch_add(1, std::memory_order_relaxed);

    std::string names;
    std::vector<Entry> entries;
    std::vector<size_t> name_offsets;
    const auto flush = [&](bool last) -> absl::Status {
      if (entries.empty()) return absl::OkStatus();
      auto chunk = std::make_unique<Chunk>();
      chunk->names.reset(new char[names.size()]);
      std::memcpy(chunk->names.get(), names.data(), names.size());
      for (size_t i = 0; i < entries.size(); ++i) entries[i].name = chunk->names.get() + name_offsets[i];
      chunk->entries.assign(entries.begin(), entries.end());
      Chunk* made = chunk.get();
      // Only the thread that lists a folder touches this vector until all threads have ended.
      folder.chunks.push_back(std::move(chunk));
      names.clear();
      entries.clear();
      name_offsets.clear();
      if (last && made->entries.size() < kShareFilesMin) return Measure(*open, *made);
      Push({&folder, open, made});
      return absl::OkStatus();
    };
    for (;;) {
      const long got = ::syscall(SYS_getdents64, open->fd.get(), list, kListBytes);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == ENOENT) break;  // removed while it was listed
      if (got < 0) return IoError(errno, absl::StrCat("scan: listing of the folder ", shown()));
      if (got == 0) break;
      for (long at = 0; at < got;) {
        const auto* entry = reinterpret_cast<const dirent64*>(list + at);
        at += entry->d_reclen;
        const char* name = entry->d_name;
        if (name[0] == '.') {
          if (std::strcmp(name, ".") != 0 && std::strcmp(name, "..") != 0 && !IsManifestName(name)) {
            LeaveOut(&IndexCounts::hidden, "hidden", &folder, name);
          }
          continue;
        }
        Entry made{nullptr, 0, Entry::kUnknown, entry->d_type == DT_REG || entry->d_type == DT_DIR, entry->d_type == DT_LNK, 0, entry->d_ino, kMtimeUnknown};
        switch (entry->d_type) {
          case DT_REG:
            if (LeftOutByName(folder, path, name, /*is_folder=*/false)) continue;
            break;
          case DT_LNK:
          case DT_UNKNOWN: break;
          case DT_DIR: {
            if (LeftOutByName(folder, path, name, /*is_folder=*/true)) continue;
            uint64_t index;
            Folder* below = NewFolder(&folder, name, index);
            made.kind = Entry::kFolder;
            made.bytes = index;
            Push({below, nullptr, nullptr});
            break;
          }
          default: LeaveOut(&IndexCounts::non_regular, "not a regular file", &folder, name); continue;
        }
        name_offsets.push_back(names.size());
        names.append(name, std::strlen(name) + 1);
        entries.push_back(made);
        if (entries.size() == kChunkFiles) {
          const absl::Status status = flush(/*last=*/false);
          if (!status.ok()) return status;
        }
      }
    }
    return flush(/*last=*/true);
  }

  // --- The sizes of one chunk's files.
  absl::Status Measure(const OpenFolder& open, Chunk& chunk) {
    std::vector<uint32_t> order;
    order.reserve(chunk.entries.size());
    for (size_t i = 0; i < chunk.entries.size(); ++i) {
      if (chunk.entries[i].kind == Entry::kUnknown) order.push_back(static_cast<uint32_t>(i));
    }
    // Cold, inodes that are neighbours come from the drive together; ext4 lists them in the order of a hash.
    if (order.size() >= kShareFilesMin) {
      std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return chunk.entries[a].inode < chunk.entries[b].inode; });
    }
    const bool want_ctime = options_.changed_since_ns != std::numeric_limits<int64_t>::max();
    const unsigned mask = STATX_TYPE | STATX_SIZE | STATX_INO | (want_ctime ? STATX_CTIME : 0) | (options_.want_mtimes ? STATX_MTIME : 0);
    int64_t files = 0;
    int64_t bytes = 0;
    for (const uint32_t i : order) {
      if (Cancelled()) return CancelledStatus();
      Entry& entry = chunk.entries[i];
      struct statx info;
      // DONT_SYNC: what the listing brought along is good enough, a network file system need not be asked again.
      if (::statx(open.fd.get(), entry.name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, mask, &info) != 0) {
        const int error_number = errno;
        entry.kind = Entry::kGone;
        if (error_number == ENOENT || error_number == ENOTDIR || error_number == ELOOP) {
          if (entry.linked) {
            LeaveOut(&IndexCounts::broken_links, "a link to nowhere", open.folder, entry.name);
          } else {
            LeaveOut(&IndexCounts::vanished, "vanished", open.folder, entry.name);
          }
          continue;
        }
        return IoError(error_number, absl::StrCat("scan: statx of ", ShownFile(*open.folder, entry.name)));
      }
      if (!entry.looked_at && (S_ISREG(info.stx_mode) || S_ISDIR(info.stx_mode)) &&
          LeftOutByName(*open.folder, PathOf(*open.folder), entry.name, S_ISDIR(info.stx_mode))) {
        entry.kind = Entry::kGone;
        continue;
      }
      if (S_ISREG(info.stx_mode)) {
        if (info.stx_size > layout::kRangeBytesMax) {
          return absl::InvalidArgumentError(absl::StrCat("scan: ", ShownFile(*open.folder, entry.name), " has ",
                                                         info.stx_size, " bytes; the limit is 2^48-1. Move it out of the data set"));
        }
        entry.kind = Entry::kFile;
        entry.bytes = info.stx_size;
        entry.inode = info.stx_ino;
        if (options_.want_mtimes) entry.mtime_ns = ToNs(info.stx_mtime);
        if (want_ctime) {
          entry.changed = (info.stx_mask & STATX_CTIME) == 0 || ToNs(info.stx_ctime) >= options_.changed_since_ns;
        }
        ++files;
        bytes += static_cast<int64_t>(info.stx_size);
      } else if (S_ISDIR(info.stx_mode)) {
        uint64_t index;
        Folder* below = NewFolder(open.folder, entry.name, index);
        entry.kind = Entry::kFolder;
        entry.bytes = index;
        Push({below, nullptr, nullptr});
      } else {
        entry.kind = Entry::kGone;
        LeaveOut(&IndexCounts::non_regular, "not a regular file", open.folder, entry.name);
      }
    }
    files_.fetch_add(files, std::memory_order_relaxed);
    bytes_.fetch_add(bytes, std::memory_order_relaxed);
    return absl::OkStatus();
  }

  // Gives each folder one name, where links or bind mounts give it several: the one without a link, else the first in byte order. The other
  // names are left out, so that no file comes twice, and links within links do not multiply. It depends on the names alone, and not on which
  // thread was faster.
  void ClaimFolders() {
    Folder& root = folders_.front();
    root.claimed = true;
    std::map<std::string, std::pair<Folder*, Folder*>> links;  // path, the name, and the folder that has it
    ClaimBelow(root, "", links);
    while (!links.empty()) {
      const auto [path, link] = *links.begin();
      links.erase(links.begin());
      Claim(*link.first, *link.second, path, links);
    }
  }

  void Claim(Folder& name, Folder& within, const std::string& path, std::map<std::string, std::pair<Folder*, Folder*>>& links) {
    Folder& folder = name.Listed();
    if (!folder.claimed) {
      folder.claimed = true;
      folder.within = &within;
      return ClaimBelow(folder, path, links);
    }
    name.left_out = true;
    bool above = false;
    for (const Folder* next = &within; next != nullptr && !above; next = next->within) above = next == &folder;
    if (above) {
      LeaveOut(&IndexCounts::cycles, "leads back to a folder above it", nullptr, path);
    } else {
      LeaveOut(&IndexCounts::repeated_folders, "a folder that has another name too", nullptr, path);
    }
  }

  void ClaimBelow(Folder& folder, const std::string& path, std::map<std::string, std::pair<Folder*, Folder*>>& links) {
    std::vector<std::pair<std::string, Folder*>> below;
    for (const auto& chunk : folder.chunks) {
      for (const Entry& entry : chunk->entries) {
        if (entry.kind != Entry::kFolder || folders_[entry.bytes].left_out) continue;
        std::string name = absl::StrCat(path, path.empty() ? "" : "/", entry.name);
        if (entry.linked) {
          links.emplace(std::move(name), std::pair(&folders_[entry.bytes], &folder));
        } else {
          below.emplace_back(std::move(name), &folders_[entry.bytes]);
        }
      }
    }
    std::sort(below.begin(), below.end());
    for (const auto& [name, next] : below) Claim(*next, folder, name, links);
  }

  FileKinds Kinds(bool has_sub_folders) const {
    FileKinds kinds;
    kinds.classes = options_.rule == TreeRule::kClasses || (options_.rule == TreeRule::kAuto && has_sub_folders);
    for (const Folder& folder : folders_) {
      if (!folder.claimed) continue;
      for (const auto& chunk : folder.chunks) {
        for (const Entry& entry : chunk->entries) {
          if (entry.kind != Entry::kFile) continue;
          const bool in_root = folder.parent == nullptr;
          if (in_root && std::strcmp(entry.name, "labels.npy") == 0) {
            kinds.labels = true;
          } else if (!in_root || !kinds.classes) {  // what lies beside class folders is no sample
            CountKind(entry.name, kinds);
          }
        }
      }
    }
    return kinds;
  }

  // --- The result, on one thread. Each folder's list is freed as soon as it is written out.
  absl::Status Emit() {
    Folder& root = folders_.front();
    ClaimFolders();
    std::vector<std::pair<std::string, Folder*>> classes;
    for (const auto& chunk : root.chunks) {
      for (const Entry& entry : chunk->entries) {
        if (entry.kind == Entry::kFolder && !folders_[entry.bytes].left_out) classes.emplace_back(entry.name, &folders_[entry.bytes].Listed());
      }
    }
    if (options_.found) {
      if (absl::Status status = options_.found(Kinds(!classes.empty())); !status.ok()) return status;
    }
    const bool by_class = options_.rule == TreeRule::kClasses || (options_.rule == TreeRule::kAuto && !classes.empty());
    if (by_class && classes.empty()) {
      return absl::NotFoundError(absl::StrCat("data set ", EscapeName(root_path_),
                                              ": it has no sub-folder to be a class. Use the rule flat, or put each class in a folder",
                                              out_.counts.hidden > 0 ? " (hidden ones do not count)" : ""));
    }
    if (!by_class && (options_.numeric_classes || !options_.classes.empty())) {
      return absl::InvalidArgumentError(
          absl::StrCat("data set ", EscapeName(root_path_), ": classes belong to class folders, and it is read as a flat folder"));
    }
    out_.data->SetRule(by_class ? layout::kRuleClasses : layout::kRuleFlat);
    uint64_t name_bytes = 0;
    for (const Folder& folder : folders_) {
      if (!folder.claimed) continue;
      for (const auto& chunk : folder.chunks) {
        for (const Entry& entry : chunk->entries) {
          if (entry.kind == Entry::kFile) name_bytes += std::strlen(entry.name) + 1;
        }
      }
    }
    out_.data->Reserve(static_cast<uint64_t>(files_.load()), name_bytes);
    std::string path;
    if (!by_class) {
      const absl::Status status = EmitFolder(root, path, -1);
      if (!status.ok()) return status;
    } else {
      out_.data->AddFolder("", root.mtime_ns, HashOf(root, /*folders_only=*/true));
      for (const auto& chunk : root.chunks) {
        for (const Entry& entry : chunk->entries) {
          if (entry.kind == Entry::kFile) LeaveOut(&IndexCounts::unlabeled, "in no class", nullptr, entry.name);
        }
      }
      std::sort(classes.begin(), classes.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      if (absl::Status status = NumberClasses(classes); !status.ok()) return status;
      if (classes.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
        return absl::ResourceExhaustedError(absl::StrCat("data set ", EscapeName(root_path_), ": more than 2^31-1 classes"));
      }
      std::vector<std::string> class_names;
      for (size_t label = 0; label < classes.size(); ++label) {
        const uint64_t before = out_.data->sample_count();
        path = classes[label].first;
        if (classes[label].second != nullptr) {
          const absl::Status status = EmitFolder(*classes[label].second, path, static_cast<int32_t>(label));
          if (!status.ok()) return status;
        }
        if (out_.data->sample_count() == before) {
          LeaveOut(&IndexCounts::empty_classes, classes[label].second == nullptr ? "a class without a folder" : "a class without files", nullptr,
                   classes[label].first);
        }
        class_names.push_back(std::move(classes[label].first));
      }
      out_.data->SetClassNames(std::move(class_names));
    }
    out_.counts.examples = left_out_.TakeExamples();
    if (out_.data->sample_count() > 0) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("data set ", EscapeName(root_path_), ": ", by_class ? "its class folders have" : "it has",
                                            " no files",
                                            out_.counts.examples.empty() ? "" : absl::StrCat(" (left out: ", out_.counts.examples, ")"),
                                            ". Check the path, and that its file system is mounted on this node"));
  }

  // Brings the class folders, sorted by name, into the order of their labels. A class without a folder is null.
  absl::Status NumberClasses(std::vector<std::pair<std::string, Folder*>>& classes) {
    const auto unknown = [&](const std::string& name, absl::string_view why) -> absl::Status {
      if (options_.leave_out_unknown_classes) {
        LeaveOut(&IndexCounts::unknown_classes, "a class that was not asked for", nullptr, name);
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError(absl::StrCat("data set ", EscapeName(root_path_), ": the class folder ", EscapeName(name), " ", why,
                                                     ". Leave out such folders (unknown_classes=leave-out), or give other classes"));
    };
    std::vector<std::pair<std::string, Folder*>> ordered;
    if (options_.numeric_classes) {
      // Numbers of any length: without leading zeros the longer one is the larger.
      const auto digits = [](const std::string& name) {
        const absl::string_view text(name);
        return text.substr(std::min(text.find_first_not_of('0'), text.size()));
      };
      for (auto& named : classes) {
        const bool number =
            !named.first.empty() && std::all_of(named.first.begin(), named.first.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
        if (number) {
          ordered.push_back(std::move(named));
        } else if (absl::Status status = unknown(named.first, "is no number, and classes=numeric"); !status.ok()) {
          return status;
        }
      }
      std::stable_sort(ordered.begin(), ordered.end(), [&](const auto& a, const auto& b) {
        const absl::string_view x = digits(a.first);
        const absl::string_view y = digits(b.first);
        return x.size() != y.size() ? x.size() < y.size() : x < y;
      });
      for (size_t i = 1; i < ordered.size(); ++i) {
        if (digits(ordered[i - 1].first) != digits(ordered[i].first)) continue;
        return absl::InvalidArgumentError(absl::StrCat("data set ", EscapeName(root_path_), ": the class folders ", EscapeName(ordered[i - 1].first),
                                                       " and ", EscapeName(ordered[i].first),
                                                       " are one number, and classes=numeric. Rename one"));
      }
      classes = std::move(ordered);
    } else if (!options_.classes.empty()) {
      std::unordered_map<std::string, size_t> labels;
      for (const std::string& name : options_.classes) {
        labels.emplace(name, ordered.size());
        ordered.emplace_back(name, nullptr);
      }
      for (const auto& [name, folder] : classes) {
        if (const auto found = labels.find(name); found != labels.end()) {
          ordered[found->second].second = folder;
        } else if (absl::Status status = unknown(name, "is none of the classes asked for"); !status.ok()) {
          return status;
        }
      }
      classes = std::move(ordered);
    }
    return absl::OkStatus();
  }

  static uint64_t HashOf(const Folder& folder, bool folders_only) {
    FolderHash hash;
    for (const auto& chunk : folder.chunks) {
      for (const Entry& entry : chunk->entries) {
        if (entry.kind == Entry::kFolder) hash.AddFolder(entry.name);
        if (entry.kind == Entry::kFile && !folders_only) hash.AddFile(entry.name, entry.bytes, entry.inode);
      }
    }
    return hash.value();
  }

  absl::Status EmitFolder(Folder& folder, std::string& path, int32_t label) {
    const uint32_t index = out_.data->AddFolder(path, folder.mtime_ns, HashOf(folder, /*folders_only=*/false));
    const std::vector<const Entry*> sorted = Sorter(/*path_order=*/true).Sort(folder);
    for (const Entry* entry : sorted) {
      if (entry->kind == Entry::kFile) {
        if (options_.wanted) {
          const std::string name = path.empty() ? entry->name : absl::StrCat(path, "/", entry->name);
          const ScanOptions::Want want = options_.wanted(name);
          if (want == ScanOptions::Want::kNo) LeaveOut(&IndexCounts::no_shards, "not of the format", nullptr, name);
          if (want != ScanOptions::Want::kYes) continue;
        }
        const absl::Status status = out_.data->AddFile(index, entry->name, entry->bytes, entry->inode, entry->mtime_ns, label);
        if (!status.ok()) return status;
        if (options_.changed_since_ns != std::numeric_limits<int64_t>::max()) out_.changed.push_back(entry->changed);
        continue;
      }
      if (folders_[entry->bytes].left_out) continue;
      Folder& below = folders_[entry->bytes].Listed();
      const size_t path_bytes = path.size();
      if (!path.empty()) path += '/';
      path += entry->name;
      const absl::Status status = EmitFolder(below, path, label);
      if (!status.ok()) return status;
      path.resize(path_bytes);
    }
    folder.chunks.clear();
    folder.chunks.shrink_to_fit();
    return absl::OkStatus();
  }

  const ScanOptions& options_;
  ScanOutput& out_;
  const std::string root_path_;
  UniqueFd root_fd_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job> chunk_jobs_;
  std::vector<Job> folder_jobs_;
  int64_t pending_ = 0;  // jobs waiting or at work
  absl::Status error_;
  std::map<std::pair<uint64_t, uint64_t>, Folder*> listed_;  // by device and inode
  std::deque<Folder> folders_;  // the root first; addresses stay
  LeftOut left_out_;

  std::atomic<int64_t> files_{0};
  std::atomic<int64_t> folder_count_{0};
  std::atomic<int64_t> bytes_{0};
};

}  // namespace

void LeftOut::Note(int64_t& count, absl::string_view what, absl::string_view name) {
  static constexpr int kShownMax = 5;
  ++count;
  if (shown_ >= kShownMax) return;
  absl::StrAppend(&examples_, shown_ == 0 ? "" : ", ", EscapeName(name), " (", what, ")");
  if (++shown_ == kShownMax) absl::StrAppend(&examples_, ", ...");
}

void CountKind(absl::string_view name, FileKinds& kinds) {
  const auto count = [&](int64_t& number, std::string& example) {
    if (number++ == 0) example = std::string(name);
  };
  if (absl::EndsWith(name, ".npy")) return count(kinds.npy, kinds.npy_name);
  static constexpr absl::string_view kEndings[] = {".txt", ".md", ".rst", ".html", ".pdf", ".json", ".yaml", ".yml", ".csv", ".tsv", ".xml"};
  static constexpr absl::string_view kBeginnings[] = {"README", "LICENSE", "COPYING", "CHANGELOG"};
  const bool document =
      std::any_of(std::begin(kEndings), std::end(kEndings), [&](absl::string_view end) { return absl::EndsWithIgnoreCase(name, end); }) ||
      std::any_of(std::begin(kBeginnings), std::end(kBeginnings), [&](absl::string_view begin) { return absl::StartsWith(name, begin); });
  count(document ? kinds.documents : kinds.others, document ? kinds.document_name : kinds.other_name);
}

void FolderHash::AddFile(absl::string_view name, uint64_t bytes, uint64_t inode) {
  const uint64_t numbers[2] = {bytes, inode};
  sum_ += XXH3_64bits_withSeed(name.data(), name.size(), XXH3_64bits(numbers, sizeof numbers));
}

void FolderHash::AddFolder(absl::string_view name) { sum_ += XXH3_64bits_withSeed(name.data(), name.size(), 1); }

bool IsManifestName(absl::string_view name) { return absl::StartsWith(name, ".") && absl::StrContains(name, ".penstock"); }

absl::StatusOr<uint64_t> HashFolder(int root_fd, const char* name, bool folders_only, const NameFilter& names) {
  const UniqueFd fd(::openat(root_fd, *name == '\0' ? "." : name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return IoError(errno, absl::StrCat("open of the folder ", EscapeName(name)));
  const std::unique_ptr<char[]> list(new char[kListBytes]);
  FolderHash hash;
  for (;;) {
    const long got = ::syscall(SYS_getdents64, fd.get(), list.get(), kListBytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, absl::StrCat("listing of the folder ", EscapeName(name)));
    if (got == 0) return hash.value();
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const dirent64*>(list.get() + at);
      at += entry->d_reclen;
      if (entry->d_name[0] == '.') continue;
      const std::string path = *name == '\0' ? std::string(entry->d_name) : absl::StrCat(name, "/", entry->d_name);
      const auto add_folder = [&] {
        if (names.OfFolder(path) == NameFilter::Verdict::kTake) hash.AddFolder(entry->d_name);
      };
      if (entry->d_type == DT_DIR) {
        add_folder();
        continue;
      }
      struct statx info;
      if (::statx(fd.get(), entry->d_name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_SIZE | STATX_INO, &info) != 0) {
        if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) continue;
        return IoError(errno, absl::StrCat("statx of ", EscapeName(path)));
      }
      if (S_ISDIR(info.stx_mode)) add_folder();
      if (S_ISREG(info.stx_mode) && !folders_only && names.OfFile(path) == NameFilter::Verdict::kTake) hash.AddFile(entry->d_name, info.stx_size, info.stx_ino);
    }
  }
}

absl::Status ScanTree(const ScanOptions& options, ScanOutput& out) { return Scanner(options, out).Run(); }

}  // namespace penstock
