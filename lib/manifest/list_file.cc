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
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "base/cancel.h"
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
  size_t number = 0;  // of the line in the file, from 0
  bool single = false;  // the file has one name, so that the same inode again is the same file
  int32_t label = -1;
  bool changed = false;
  uint64_t bytes = 0;
  uint64_t device = 0;
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

// How many bytes of a mark a text begins with. `problem`: the encoding that the mark is of, where it is none that is read.
size_t ByteOrderMark(absl::string_view text, absl::string_view& problem) {
  if (absl::StartsWith(text, "\xEF\xBB\xBF")) return 3;
  if (absl::StartsWith(text, "\xFF\xFE")) problem = "UTF-16 (little-endian)";
  if (absl::StartsWith(text, "\xFE\xFF")) problem = "UTF-16 (big-endian)";
  return 0;
}

// Whether Plain() would leave the path as it is.
bool IsPlain(absl::string_view path) {
  return path[0] != '/' && !absl::StartsWith(path, "./") && !absl::StrContains(path, "//") && !absl::StrContains(path, "/./");
}

// The path without "." and empty parts, and relative to the root where it lies below. ".." stays: what it means depends on links.
std::string Plain(absl::string_view path, const std::string& root) {
  const bool absolute = path[0] == '/';
  std::string plain;
  for (const absl::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    if (part != ".") absl::StrAppend(&plain, plain.empty() && !absolute ? "" : "/", part);
  }
  const std::string below = absl::StrCat(root == "/" ? "" : root, "/");
  return absl::StartsWith(plain, below) ? plain.substr(below.size()) : plain;
}

// What to do about a line whose file is not there.
std::string CureOf(int root_fd, const Line& line) {
  struct stat info;
  const std::string stripped(absl::StripAsciiWhitespace(line.path));
  if (stripped != line.path && !stripped.empty() && ::fstatat(root_fd, stripped.c_str(), &info, 0) == 0) {
    return absl::StrCat(EscapeName(stripped), " is there: remove the blanks at the line's ends");
  }
  const size_t blank = stripped.find_last_of(" ,;");
  if (blank != std::string::npos && line.label < 0) {
    const absl::string_view last = absl::string_view(stripped).substr(blank + 1);
    const std::string first(absl::StripTrailingAsciiWhitespace(absl::string_view(stripped).substr(0, blank)));
    const bool digits = !last.empty() && std::all_of(last.begin(), last.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
    if (digits && !first.empty() && ::fstatat(root_fd, first.c_str(), &info, 0) == 0) {
      return absl::StrCat(EscapeName(first), " is there: put a TAB before the label (sed -E 's/[ ,;]+([0-9]+)$/\\t\\1/')");
    }
  }
  return "restore the file or remove the line";
}

// Two lines of one file under two spellings, the later one first; or two equal numbers. A link's name and its file's are two names.
std::pair<size_t, size_t> SameFile(int root_fd, const std::vector<Line>& lines) {
  std::vector<size_t> order;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].single && lines[i].inode != 0) order.push_back(i);
  }
  const auto key = [&](size_t i) { return std::tuple(lines[i].device, lines[i].inode, i); };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  const auto is_link = [&](size_t i) {
    struct stat info;
    const std::string path(lines[i].path);
    return ::fstatat(root_fd, path.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 || S_ISLNK(info.st_mode);
  };
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && lines[order[end]].device == lines[order[begin]].device && lines[order[end]].inode == lines[order[begin]].inode) ++end;
    const size_t none = lines.size();
    size_t first = none;
    for (size_t i = begin; end - begin > 1 && i < end; ++i) {
      if (is_link(order[i])) continue;
      if (first != none) return {order[i], first};
      first = order[i];
    }
    begin = end;
  }
  return {0, 0};
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

  const UniqueFd root_fd(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root_fd.valid()) return IoError(errno, absl::StrCat("open of the folder ", EscapeName(root)));
  absl::string_view problem;
  static_cast<void>(ByteOrderMark(text, problem));
  if (!problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("list file ", EscapeName(list_path), " is written in ", problem,
                                                   ". Convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)"));
  }
  LeftOut left_out;
  std::vector<Line> lines;
  lines.reserve(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1);
  size_t number = 0;
  for (size_t begin = ByteOrderMark(text, problem); begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    absl::string_view whole(text.data() + begin, end - begin);
    begin = end + 1;
    const auto bad = [&](absl::string_view why) { return absl::InvalidArgumentError(absl::StrCat(at_line(number), ": ", why)); };
    // What Windows puts at the end of a line, and no name ends with.
    if (!whole.empty() && whole.back() == '\r') whole.remove_suffix(1);
    if (absl::StripAsciiWhitespace(whole).empty()) {
      left_out.Note(out.counts.empty_lines, "an empty line", absl::StrCat("line ", number + 1));
      continue;
    }
    Line line;
    line.number = number;
    const size_t tab = whole.rfind('\t');
    line.path = whole.substr(0, tab);
    if (whole.front() == '#') {
      struct stat info;
      const std::string name(line.path);
      if (::fstatat(root_fd.get(), name.c_str(), &info, 0) == 0) {
        return bad(absl::StrCat("\"", EscapeName(whole), "\" begins as a comment does, and there is a file of this name. Write ./",
                                EscapeName(line.path), " for the file, or remove the line"));
      }
      left_out.Note(out.counts.comment_lines, "a comment", absl::StrCat("line ", number + 1));
      continue;
    }
    if (tab != absl::string_view::npos) {
      const absl::string_view label = absl::StripAsciiWhitespace(whole.substr(tab + 1));
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
  out.counts.examples = left_out.TakeExamples();
  if (lines.empty()) return absl::NotFoundError(absl::StrCat("list file ", EscapeName(list_path), " is empty. Write one path a line"));

  if (options.found) {
    FileKinds kinds;
    for (const Line& line : lines) CountKind(SplitAtLastSlash(line.path).name, kinds);
    if (status = options.found(kinds); !status.ok()) return status;
  }

  const auto doubled = [&](const Line& again, const Line& first) {
    return absl::InvalidArgumentError(absl::StrCat(
        at_line(again.number), ": ", EscapeName(again.path), " is also in line ", first.number + 1,
        again.path == first.path ? "" : absl::StrCat(", as ", EscapeName(first.path)), ". Remove one of them"));
  };
  {
    std::vector<std::pair<uint64_t, size_t>> hashes;
    hashes.reserve(lines.size());
    // Names that differ in "./", "//" or the list's own folder are one name.
    std::vector<std::string> respelled;
    std::vector<absl::string_view> spelling;
    respelled.reserve(lines.size());  // so that the views stay
    for (const Line& line : lines) {
      if (IsPlain(line.path)) {
        spelling.push_back(line.path);
      } else {
        spelling.push_back(respelled.emplace_back(Plain(line.path, root)));
      }
    }
    for (size_t i = 0; i < lines.size(); ++i) hashes.emplace_back(XXH3_64bits(spelling[i].data(), spelling[i].size()), i);
    std::sort(hashes.begin(), hashes.end());
    for (size_t i = 1; i < hashes.size(); ++i) {
      // Equal hashes lie together; different paths with one hash are rare, so the neighbours are enough to look at in practice and
      // all of the run in principle.
      for (size_t j = i; j-- > 0 && hashes[j].first == hashes[i].first;) {
        if (spelling[hashes[j].second] != spelling[hashes[i].second]) continue;
        return doubled(lines[hashes[i].second], lines[hashes[j].second]);
      }
    }
  }

  const bool want_ctime = options.changed_since_ns != std::numeric_limits<int64_t>::max();
  const unsigned mask = STATX_TYPE | STATX_SIZE | STATX_INO | STATX_NLINK | (want_ctime ? STATX_CTIME : 0) | (options.want_mtimes ? STATX_MTIME : 0);
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
      return absl::NotFoundError(absl::StrCat(at_line(number), ": ", EscapeName(path), ": ", ErrnoText(error_number),
                                              ". Paths are relative to ", EscapeName(root), "; ", CureOf(root_fd.get(), line)));
    }
    if (!S_ISREG(info.stx_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(at_line(number), ": ", EscapeName(path), " is ",
                                                     S_ISDIR(info.stx_mode) ? "a folder" : "not a regular file",
                                                     ". A list names files only"));
    }
    line.bytes = info.stx_size;
    line.inode = info.stx_ino;
    line.device = uint64_t{info.stx_dev_major} << 32 | info.stx_dev_minor;
    line.single = (info.stx_mask & STATX_NLINK) != 0 && info.stx_nlink == 1;
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
        const absl::Status measured = Cancelled() ? CancelledStatus() : measure(lines[i], lines[i].number);
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
  if (const std::pair<size_t, size_t> same = SameFile(root_fd.get(), lines); same.first != same.second) {
    return doubled(lines[same.first], lines[same.second]);
  }

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
