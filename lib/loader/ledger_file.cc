#include "loader/ledger_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/bytes.h"
#include "base/io_error.h"
#include "nlohmann/json.hpp"
#include "penstock/ledger.h"

namespace penstock {
namespace {

using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr const char* kFormatField = "penstock_ledger";  // a run's line has it, an entry's has not
constexpr const char* kCappedField = "capped";

// Bytes that are not UTF-8 are replaced: it never throws.
std::string Line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

std::string EntryLine(const LedgerEntry& entry) {
  return Line(
      {{"epoch", entry.epoch}, {"position", entry.position}, {"id", entry.id}, {"substitute", entry.substitute}, {"reason", entry.reason}});
}

}  // namespace

LedgerFile::LedgerFile(std::string path, UniqueFd fd, int64_t bytes, int64_t bytes_max)
    : path_(std::move(path)), fd_(std::move(fd)), bytes_(bytes), bytes_max_(bytes_max) {}

absl::StatusOr<LedgerFile> LedgerFile::Open(const std::string& path, const LedgerRun& run, int64_t bytes_max) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666));
  if (!fd.valid()) return IoError(errno, absl::StrCat("open the ledger ", EscapeName(path)), IoOperation::kWrite);
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return IoError(errno, absl::StrCat("stat the ledger ", EscapeName(path)), IoOperation::kWrite);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("open the ledger ", EscapeName(path), ": not a regular file; ledger_path names one"));
  }
  // A run that was killed may have left a part of a line, which ends here.
  char last = '\n';
  const bool cut = info.st_size > 0 && ::pread(fd.get(), &last, 1, info.st_size - 1) == 1 && last != '\n';
  const std::string line = Line({{kFormatField, kFormat},
                                 {"fingerprint", run.fingerprint},
                                 {"rank", run.rank},
                                 {"world_size", run.world_size},
                                 {"epoch", run.epoch},
                                 {"position", run.position}});
  LedgerFile file(path, std::move(fd), info.st_size, bytes_max);
  if (absl::Status status = file.Write(absl::StrCat(cut ? "\n" : "", line)); !status.ok()) return status;
  return file;
}

absl::Status LedgerFile::Append(absl::Span<const LedgerEntry> entries) {
  std::string text;
  for (const LedgerEntry& entry : entries) {
    if (full_) break;
    const std::string line = EntryLine(entry);
    full_ = bytes_ + static_cast<int64_t>(text.size() + line.size()) > bytes_max_;
    absl::StrAppend(&text, full_ ? Line({{kCappedField, true}}) : line);
  }
  return text.empty() ? absl::OkStatus() : Write(text);
}

absl::Status LedgerFile::Write(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(fd_.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return IoError(errno, absl::StrCat("write ", text.size() - done, " bytes to the ledger ", EscapeName(path_)), IoOperation::kWrite);
    }
    done += static_cast<size_t>(count);
    bytes_ += count;
  }
  return absl::OkStatus();
}

namespace {

// Position and sample: with substitutes several samples may fail at one position.
using Key = std::tuple<int64_t, int64_t, int64_t>;

struct Merging {
  MergedLedger merged;
  std::map<Key, LedgerEntry> entries;
  std::set<int32_t> ranks;
};

bool GetInteger(const Json& json, const char* name, int64_t min, int64_t& value) {
  const auto found = json.find(name);
  if (found == json.end() || !found->is_number_integer()) return false;
  if (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return false;
  value = found->get<int64_t>();
  return value >= min;
}

absl::Status AddRun(const Json& json, const std::string& where, Merging& merging) {
  int64_t format = 0, rank = 0, world_size = 0, epoch = 0, position = 0;
  if (!GetInteger(json, kFormatField, 1, format)) return absl::DataLossError(absl::StrCat(where, ": no number in \"", kFormatField, "\""));
  if (format > kFormat) {
    return absl::FailedPreconditionError(absl::StrCat(where, ": the ledger has format ", format, ", and this penstock reads formats up to ",
                                                      kFormat, ": merge it with the penstock that wrote it, or a newer one"));
  }
  const auto fingerprint = json.find("fingerprint");
  if (fingerprint == json.end() || !fingerprint->is_string() || !GetInteger(json, "rank", 0, rank) ||
      !GetInteger(json, "world_size", 1, world_size) || !GetInteger(json, "epoch", 0, epoch) ||
      !GetInteger(json, "position", 0, position) || rank >= world_size || world_size > INT32_MAX) {
    return absl::DataLossError(absl::StrCat(where, ": not the line of a run"));
  }
  const std::string text = fingerprint->get<std::string>();
  if (merging.merged.fingerprint.empty()) merging.merged.fingerprint = text;
  if (text != merging.merged.fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(where, ": a run over the data set with fingerprint ", EscapeName(text),
                                                      ", and the runs before are over ", EscapeName(merging.merged.fingerprint),
                                                      ": merge the ledgers of one data set at a time"));
  }
  merging.ranks.insert(static_cast<int32_t>(rank));
  return absl::OkStatus();
}

absl::Status AddEntry(const Json& json, const std::string& where, Merging& merging) {
  LedgerEntry entry;
  const auto reason = json.find("reason");
  if (!GetInteger(json, "epoch", 0, entry.epoch) || !GetInteger(json, "position", 0, entry.position) ||
      !GetInteger(json, "id", 0, entry.id) || !GetInteger(json, "substitute", -1, entry.substitute) || reason == json.end() ||
      !reason->is_string()) {
    return absl::DataLossError(absl::StrCat(where, ": not the line of an entry"));
  }
  entry.reason = reason->get<std::string>();
  const Key key(entry.epoch, entry.position, entry.id);
  merging.merged.repeated += merging.entries.count(key) > 0 ? 1 : 0;
  merging.entries[key] = std::move(entry);
  return absl::OkStatus();
}

// Whether a line begins as ours do.
bool BeginsAsOurs(absl::string_view line) {
  for (const absl::string_view whole : {R"({"epoch":)", R"({"capped":)"}) {
    if (line.substr(0, whole.size()) == whole.substr(0, line.size())) return true;
  }
  return false;
}

absl::Status AddFile(const std::string& path, Merging& merging) {
  // Before it is opened as a stream, which waits for the writer of a FIFO.
  const UniqueFd look(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat info;
  if (!look.valid() || ::fstat(look.get(), &info) != 0) return IoError(errno, absl::StrCat("open the ledger ", EscapeName(path)));
  if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("open the ledger ", EscapeName(path), ": not a regular file (a FIFO, a pipe or a device); copy it to a file first"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return IoError(errno == 0 ? EIO : errno, absl::StrCat("open the ledger ", EscapeName(path)));
  if (S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(EscapeName(path), " is a folder: name the ledgers in it"));
  std::string line;
  bool any_run = false;
  std::string cut;  // where a line was cut off: a kill does that to the last line of a run
  const auto damaged = [](const std::string& where) { return absl::DataLossError(absl::StrCat(where, ": the ledger is damaged there")); };
  for (int64_t number = 1; std::getline(file, line); ++number) {
    if (line.empty()) continue;
    const std::string where = absl::StrCat(EscapeName(path), " line ", number);
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool run = json.is_object() && json.contains(kFormatField);
    if (!cut.empty() && !run) return damaged(cut);
    cut.clear();
    if (!json.is_object()) {
      if (!BeginsAsOurs(line)) {
        return any_run ? damaged(where)
                       : absl::InvalidArgumentError(
                             absl::StrCat(EscapeName(path), " is not a ledger: its first line is not one that a loader wrote"));
      }
      cut = where;
      ++merging.merged.cut_lines;
      continue;
    }
    absl::Status status = absl::OkStatus();
    if (run) {
      status = AddRun(json, where, merging);
      any_run = true;
    } else if (!any_run) {
      return absl::InvalidArgumentError(absl::StrCat(EscapeName(path), " is not a ledger: its first line is not that of a run"));
    } else if (json.contains(kCappedField)) {
      merging.merged.capped = true;
    } else {
      status = AddEntry(json, where, merging);
    }
    if (!status.ok()) return status;
  }
  if (!any_run) return absl::InvalidArgumentError(absl::StrCat(EscapeName(path), " is not a ledger: it has no line of a run"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MergedLedger> MergeLedgers(absl::Span<const std::string> paths) {
  if (paths.empty()) return absl::InvalidArgumentError("no ledgers to merge: name at least one file");
  Merging merging;
  for (const std::string& path : paths) {
    if (absl::Status status = AddFile(path, merging); !status.ok()) return status;
  }
  MergedLedger merged = std::move(merging.merged);
  merged.ranks.assign(merging.ranks.begin(), merging.ranks.end());
  for (auto& [key, entry] : merging.entries) {
    (entry.substitute < 0 ? merged.skipped : merged.substituted) += 1;
    merged.entries.push_back(std::move(entry));
  }
  return merged;
}

}  // namespace penstock
