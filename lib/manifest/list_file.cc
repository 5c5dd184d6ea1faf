// List files: `path[TAB label]`, one sample a line.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <limits>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "manifest/place.h"
#include "manifest/scan.h"
#include "manifest/workers.h"

namespace penstock {
namespace {

constexpr size_t kClaimedAtOnce = 256;

struct Line {
  absl::string_view path;
  int32_t label = -1;
  bool changed = false;
  uint64_t bytes = 0;
  uint64_t inode = 0;
  int64_t mtime_ns = kMtimeUnknown;
};

absl::Status ReadList(const std::string& path, std::string& text, layout::ListFile& list) {
  const std::string shown = EscapeName(path);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info;
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return IoError(errno, absl::StrCat("open of the list file ", shown));
  // A list written within the last clock tick could be written again without a new mtime; so that tick is waited for, as scan.cc
  // does for folders.
  SleepNs(kMtimeTickNs);
  if (::fstat(fd.get(), &info) != 0) return IoError(errno, absl::StrCat("fstat of the list file ", shown));
  list = {int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec, static_cast<uint64_t>(info.st_size)};
  text.resize(list.bytes);
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::pread(fd.get(), text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, absl::StrCat("read of the list file ", shown));
    if (got == 0) {
      return absl::DataLossError(absl::StrCat("the list file ", shown, " became shorter while it was read. Try again when it is complete"));
    }
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ScanList(const ScanOptions& options, const std::string& list_name, ScanOutput& out) {
  const std::string& root = out.data->root();
  const std::string list_path = absl::StrCat(root == "/" ? "" : root, "/", list_name);
  const auto at_line = [&](size_t line) { return absl::StrCat("list file ", EscapeName(list_path), ", line ", line + 1); };
  std::string text;
  layout::ListFile list{};
  absl::Status status = ReadList(list_path, text, list);
  if (!status.ok()) return status;
  out.data->SetRule(layout::kRuleList);
  out.data->SetListFile(list, list_name);

  std::vector<Line> lines;
  lines.reserve(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const absl::string_view whole(text.data() + begin, end - begin);
    begin = end + 1;
    const auto bad = [&](absl::string_view why) {
      const absl::string_view cure =
          !whole.empty() && whole.back() == '\r' ? ". The line ends in a carriage return: convert the list (dos2unix)" : "";
      return absl::InvalidArgumentError(absl::StrCat(at_line(lines.size()), ": ", why, cure));
    };
    Line line;
    const size_t tab = whole.rfind('\t');
    line.path = whole.substr(0, tab);
    if (tab != absl::string_view::npos) {
      const absl::string_view label = whole.substr(tab + 1);
      const bool digits = !label.empty() && std::all_of(label.begin(), label.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
      if (!digits || !absl::SimpleAtoi(label, &line.label)) {
        return bad(absl::StrCat("\"", EscapeName(label), "\" is no label; write path, TAB, a number of 0 to ",
                                std::numeric_limits<int32_t>::max()));
      }
    }
    if (line.path.empty()) return bad("there is no path");
    if (line.path.back() == '/') return bad(absl::StrCat("\"", EscapeName(line.path), "\" is a folder"));
    if (line.path.find('\0') != absl::string_view::npos) return bad("its path has a NUL byte");
    lines.push_back(line);
  }
  if (lines.empty()) return absl::NotFoundError(absl::StrCat("list file ", EscapeName(list_path), " is empty. Write one path a line"));

  if (options.found) {
    FileKinds kinds;
    for (const Line& line : lines) CountKind(SplitAtLastSlash(line.path).name, kinds);
    if (status = options.found(kinds); !status.ok()) return status;
  }

  {
    std::vector<std::pair<uint64_t, size_t>> hashes;
    hashes.reserve(lines.size());
    for (size_t i = 0; i < lines.size(); ++i) hashes.emplace_back(XXH3_64bits(lines[i].path.data(), lines[i].path.size()), i);
    std::sort(hashes.begin(), hashes.end());
    for (size_t i = 1; i < hashes.size(); ++i) {
      // Equal hashes lie together; different paths with one hash are rare, so the neighbours are enough to look at in practice and
      // all of the run in principle.
      for (size_t j = i; j-- > 0 && hashes[j].first == hashes[i].first;) {
        if (lines[hashes[j].second].path != lines[hashes[i].second].path) continue;
        return absl::InvalidArgumentError(absl::StrCat(at_line(hashes[i].second), ": ", EscapeName(lines[hashes[i].second].path),
                                                       " is also in line ", hashes[j].second + 1, ". Remove one of them"));
      }
    }
  }

  const UniqueFd root_fd(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root_fd.valid()) return IoError(errno, absl::StrCat("open of the folder ", EscapeName(root)));
  const bool want_ctime = options.changed_since_ns != std::numeric_limits<int64_t>::max();
  const unsigned mask = STATX_TYPE | STATX_SIZE | STATX_INO | (want_ctime ? STATX_CTIME : 0) | (options.want_mtimes ? STATX_MTIME : 0);
  std::atomic<size_t> next{0};
  std::atomic<int64_t> files{0};
  std::atomic<int64_t> bytes{0};
  std::mutex mutex;
  size_t error_line = lines.size();
  absl::Status error;

  const auto measure = [&](Line& line, size_t number) -> absl::Status {
    struct statx info;
    const std::string path(line.path);
    if (::statx(root_fd.get(), path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, mask, &info) != 0) {
      const int error_number = errno;
      if (error_number != ENOENT && error_number != ENOTDIR) {
        return IoError(error_number, absl::StrCat(at_line(number), ": statx of ", EscapeName(path)));
      }
      return absl::NotFoundError(
          absl::StrCat(at_line(number), ": ", EscapeName(path), ": ", ErrnoText(error_number), ". Paths are relative to ", EscapeName(root),
                       !path.empty() && path.back() == '\r' ? "; the line ends in a carriage return: convert the list (dos2unix)"
                                                            : "; restore the file or remove the line"));
    }
    if (!S_ISREG(info.stx_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(at_line(number), ": ", EscapeName(path), " is ",
                                                     S_ISDIR(info.stx_mode) ? "a folder" : "not a regular file",
                                                     ". A list names files only"));
    }
    line.bytes = info.stx_size;
    line.inode = info.stx_ino;
    if (options.want_mtimes) line.mtime_ns = int64_t{info.stx_mtime.tv_sec} * kNsPerSecond + info.stx_mtime.tv_nsec;
    line.changed = want_ctime && ((info.stx_mask & STATX_CTIME) == 0 ||
                                  int64_t{info.stx_ctime.tv_sec} * kNsPerSecond + info.stx_ctime.tv_nsec >= options.changed_since_ns);
    files.fetch_add(1, std::memory_order_relaxed);
    bytes.fetch_add(static_cast<int64_t>(info.stx_size), std::memory_order_relaxed);
    return absl::OkStatus();
  };
  const auto work = [&] {
    for (;;) {
      const size_t begin = next.fetch_add(kClaimedAtOnce);
      if (begin >= lines.size()) return;
      const size_t end = std::min(begin + kClaimedAtOnce, lines.size());
      for (size_t i = begin; i < end; ++i) {
        const absl::Status measured = measure(lines[i], i);
        if (measured.ok()) continue;
        // The first bad line is reported, whichever thread is faster: chunks before this one are already claimed.
        std::lock_guard<std::mutex> lock(mutex);
        if (i < error_line) {
          error_line = i;
          error = measured;
        }
        next.store(lines.size());
        break;
      }
    }
  };
  const int64_t start_ns = MonotonicNs();
  std::function<void()> tick;
  if (options.progress) {
    tick = [&] {
      IndexProgress now;
      now.files = files.load(std::memory_order_relaxed);
      now.bytes = bytes.load(std::memory_order_relaxed);
      now.files_total = static_cast<int64_t>(lines.size());
      now.seconds = static_cast<double>(MonotonicNs() - start_ns) / kNsPerSecond;
      options.progress(now);
    };
  }
  RunWorkers(options.threads, work, tick);
  if (!error.ok()) return error;

  uint64_t name_bytes = 0;
  for (const Line& line : lines) name_bytes += SplitAtLastSlash(line.path).name.size() + 1;
  out.data->Reserve(lines.size(), name_bytes);
  std::unordered_map<std::string, uint32_t> folders;
  std::string last_folder;
  uint32_t last_index = 0;
  for (const Line& line : lines) {
    const SplitName split = SplitAtLastSlash(line.path);
    if (folders.empty() || split.folder != last_folder) {
      last_folder = std::string(split.folder);
      const auto [found, is_new] = folders.try_emplace(last_folder, 0);
      if (is_new) found->second = out.data->AddFolder(last_folder, kMtimeUnknown);
      last_index = found->second;
    }
    status = out.data->AddFile(last_index, split.name, line.bytes, line.inode, line.mtime_ns, line.label);
    if (!status.ok()) return status;
    if (want_ctime) out.changed.push_back(line.changed);
  }
  return absl::OkStatus();
}

}  // namespace penstock
