#include "manifest/records.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <limits>
#include <mutex>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/cancel.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "manifest/npy.h"
#include "manifest/save_file.h"
#include "manifest/workers.h"
#include "store/file_store.h"

namespace penstock {
namespace {

constexpr absl::string_view kLabelsName = "labels.npy";
constexpr size_t kBeginBytes = 4096;       // holds the header of nearly every .npy file
constexpr int64_t kDocumentsMax = 8;       // beside shards
constexpr uint64_t kSamplesMax = uint64_t{1} << 56;
constexpr uint64_t kLabelBytesMax = uint64_t{64} << 30;

std::string InFolder(const std::string& folder, absl::string_view name) { return absl::StrCat(folder == "/" ? "" : folder, "/", name); }

// Reads `bytes` at `offset`, or fewer where the file ends.
absl::Status ReadAt(int fd, const std::string& shown, uint64_t offset, uint64_t bytes, std::string& text) {
  text.resize(bytes);
  size_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(fd, text.data() + done, bytes - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, absl::StrCat("read of ", shown, " at ", offset + done));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return absl::OkStatus();
}

// The header of the .npy file behind `fd`.
absl::StatusOr<NpyHeader> ReadNpy(int fd, uint64_t file_bytes, const std::string& shown, NpyUse use = NpyUse::kShard) {
  std::string begin;
  if (absl::Status status = ReadAt(fd, shown, 0, kBeginBytes, begin); !status.ok()) return status;
  absl::StatusOr<uint64_t> header_bytes = NpyHeaderBytes(begin, shown);
  if (!header_bytes.ok()) return header_bytes.status();
  if (*header_bytes > begin.size() && begin.size() == kBeginBytes) {
    if (absl::Status status = ReadAt(fd, shown, 0, *header_bytes, begin); !status.ok()) return status;
  }
  return ParseNpy(begin, file_bytes, shown, use);
}

// One number of `bytes` bytes as a label.
bool LabelOf(const char* at, uint64_t bytes, bool is_signed, bool big_endian, int32_t& label) {
  uint64_t value = 0;
  for (uint64_t i = 0; i < bytes; ++i) {
    const auto byte = static_cast<unsigned char>(at[big_endian ? i : bytes - 1 - i]);
    value = value << 8 | byte;
  }
  const bool negative = is_signed && (value >> (8 * bytes - 1) & 1) != 0;
  if (negative) {
    const uint64_t all_ones = bytes == 8 ? UINT64_MAX : (uint64_t{1} << (8 * bytes)) - 1;
    label = -1;
    return value == all_ones;  // -1: no label
  }
  label = static_cast<int32_t>(value);
  return value <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
}

absl::StatusOr<std::vector<int32_t>> ReadLabels(const std::string& path, uint64_t samples) {
  const std::string shown = absl::StrCat("labels ", EscapeName(path));
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info;
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return IoError(errno, absl::StrCat("open of ", shown));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(shown, " are no regular file"));
  const auto file_bytes = static_cast<uint64_t>(info.st_size);
  if (file_bytes > kLabelBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(shown, " have ", file_bytes, " bytes; 64 GiB is the limit"));
  }
  const auto miscounted = [&](uint64_t count) {
    return absl::InvalidArgumentError(absl::StrCat(shown, " hold ", count, " labels, and the shards hold ", samples,
                                                   " samples. Give one label per sample, in the order of the shards' names"));
  };
  const auto bad = [&](uint64_t sample) {
    return absl::InvalidArgumentError(absl::StrCat(shown, ": the label of sample ", sample, " is not between 0 and ",
                                                   std::numeric_limits<int32_t>::max(), " (or -1: none)"));
  };
  std::string text;
  std::vector<int32_t> labels;
  const auto numbers = [&](uint64_t header_bytes, uint64_t item_bytes, bool is_signed, bool big_endian) -> absl::Status {
    if (absl::Status status = ReadAt(fd.get(), shown, header_bytes, samples * item_bytes, text); !status.ok()) return status;
    if (text.size() != samples * item_bytes) return absl::DataLossError(absl::StrCat(shown, " became shorter while they were read"));
    labels.resize(samples);
    for (uint64_t i = 0; i < samples; ++i) {
      if (!LabelOf(text.data() + i * item_bytes, item_bytes, is_signed, big_endian, labels[i])) return bad(i);
    }
    return absl::OkStatus();
  };
  absl::Status status;
  if (absl::EndsWith(path, ".npy")) {
    absl::StatusOr<NpyHeader> npy = ReadNpy(fd.get(), file_bytes, shown);
    if (!npy.ok()) return npy.status();
    if (npy->record_bytes != npy->item_bytes || (npy->kind != 'i' && npy->kind != 'u' && npy->kind != 'b') || npy->item_bytes > 8) {
      return absl::InvalidArgumentError(
          absl::StrCat(shown, " hold ", EscapeName(npy->descr), " of shape (", npy->sample_count, ",", npy->inner_shape,
                       "); labels are integers along one axis. Save array.argmax(axis=1) or array.astype(numpy.int32)"));
    }
    if (npy->sample_count != samples) return miscounted(npy->sample_count);
    status = numbers(npy->header_bytes, npy->item_bytes, npy->kind == 'i', npy->big_endian);
  } else if (absl::EndsWith(path, ".txt") || absl::EndsWith(path, ".list") || absl::EndsWith(path, ".tsv") ||
             absl::EndsWith(path, ".csv")) {
    status = ReadAt(fd.get(), shown, 0, file_bytes, text);
    if (!status.ok()) return status;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      const absl::string_view line = absl::StripAsciiWhitespace(absl::string_view(text).substr(begin, end - begin));
      begin = end + 1;
      int32_t label = 0;
      if (!absl::SimpleAtoi(line, &label) || label < -1) {
        return absl::InvalidArgumentError(absl::StrCat(shown, ", line ", labels.size() + 1, ": \"",
                                                       EscapeName(std::string(line.substr(0, 40))),
                                                       "\" is no label; write one number a line"));
      }
      labels.push_back(label);
    }
    if (labels.size() != samples) return miscounted(labels.size());
  } else {
    uint64_t width = 0;
    for (const uint64_t bytes : {1, 2, 4, 8}) {
      if (file_bytes == samples * bytes) width = bytes;
    }
    if (width == 0) {
      return absl::InvalidArgumentError(absl::StrCat(shown, " have ", file_bytes, " bytes; for ", samples, " samples it would be ", samples,
                                                     " (unsigned bytes), ", 2 * samples, ", ", 4 * samples, " or ", 8 * samples,
                                                     " (little-endian integers). A list of numbers is to be named .txt"));
    }
    status = numbers(0, width, /*is_signed=*/width > 1, /*big_endian=*/false);
  }
  if (!status.ok()) return status;
  return labels;
}

absl::Status FilesHaveNoLabels(const DataSet& data_set) {
  return absl::InvalidArgumentError(
      absl::StrCat("data set ", data_set.shown(),
                   ": labels of their own belong to the formats npy, npy-files and raw; files get theirs from class folders or a list file"));
}

// What the options say besides, once the format is known.
absl::Status FinishPlan(const DataSet& data_set, const IndexOptions& options, RecordsPlan& plan) {
  if (plan.format == ShardFormat::kRaw && plan.record_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("data set ", data_set.shown(), ": format raw needs the bytes of a record (record_bytes, --record-bytes N)"));
  }
  if (plan.format != ShardFormat::kRaw && (plan.record_bytes > 0 || plan.header_bytes > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data set ", data_set.shown(), ": record_bytes and header_bytes belong to the format raw; a .npy file's header says them"));
  }
  if (plan.format == ShardFormat::kFiles && !plan.labels.empty()) return FilesHaveNoLabels(data_set);
  struct stat info;
  if (plan.format != ShardFormat::kFiles && data_set.list_name.empty() && plan.labels.empty() && options.rule != TreeRule::kClasses) {
    const std::string path = InFolder(data_set.root, kLabelsName);
    if (::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode)) plan.labels = path;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RecordsPlan> PlanRecords(const DataSet& data_set, const IndexOptions& options, const RecordsPlan* saved) {
  RecordsPlan plan;
  plan.format = options.format;
  if (options.record_bytes < 0 || options.header_bytes < 0 || static_cast<uint64_t>(options.record_bytes) > layout::kRangeBytesMax ||
      static_cast<uint64_t>(options.header_bytes) > layout::kRangeBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("record_bytes ", options.record_bytes, " and header_bytes ", options.header_bytes, ": both are from 0 to 2^48-1"));
  }
  plan.record_bytes = static_cast<uint64_t>(options.record_bytes);
  plan.header_bytes = static_cast<uint64_t>(options.header_bytes);
  if (!options.labels.empty()) plan.labels = AbsolutePath(options.labels);
  if (plan.format == ShardFormat::kAuto && plan.record_bytes > 0) plan.format = ShardFormat::kRaw;
  plan.said = plan.format != ShardFormat::kAuto;
  if (plan.format == ShardFormat::kAuto && saved != nullptr) {
    const std::string labels = std::move(plan.labels);
    plan = *saved;
    plan.said = true;
    if (!labels.empty()) plan.labels = labels;
    if (plan.format == ShardFormat::kFiles && !plan.labels.empty()) return FilesHaveNoLabels(data_set);
    return plan;
  }
  struct stat info;
  std::string begin;
  uint64_t file_bytes = 0;
  if (!data_set.list_name.empty() && plan.format != ShardFormat::kFiles) {
    const std::string path = InFolder(data_set.root, data_set.list_name);
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return IoError(errno, absl::StrCat("open of ", data_set.shown()));
    file_bytes = static_cast<uint64_t>(info.st_size);
    if (absl::Status status = ReadAt(fd.get(), data_set.shown(), 0, kBeginBytes, begin); !status.ok()) return status;
    const bool npy = IsNpy(begin);
    if (plan.format == ShardFormat::kAuto && npy && options.rule != TreeRule::kList) plan.format = ShardFormat::kNpy;
    plan.one_shard =
        options.rule != TreeRule::kList &&
        (plan.format == ShardFormat::kRaw || ((plan.format == ShardFormat::kNpy || plan.format == ShardFormat::kNpyFiles) &&
                                              (npy || absl::EndsWith(data_set.list_name, ".npy"))));
    // A list of so many NUL bytes is none, and reading it whole would take its size in memory.
    if (plan.format == ShardFormat::kAuto && file_bytes > kBeginBytes && begin.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(data_set.shown(),
                                                     " is neither a list file nor a .npy file. Records of one size are indexed with "
                                                     "penstock index --format raw --record-bytes N"));
    }
  }
  if (plan.format == ShardFormat::kAuto) return plan;
  if (absl::Status status = FinishPlan(data_set, options, plan); !status.ok()) return status;
  return plan;
}

absl::Status DecideFormat(const FileKinds& kinds, const DataSet& data_set, const IndexOptions& options, RecordsPlan& plan) {
  if (plan.format != ShardFormat::kAuto) return absl::OkStatus();
  const bool labels = kinds.labels && options.rule != TreeRule::kClasses;
  // Some documents describe the data; many are data.
  const int64_t others = kinds.others + (kinds.documents > kDocumentsMax ? kinds.documents : 0);
  if (kinds.npy > 0 && others == 0) {
    // Of class folders and lists each file is mostly one sample, of a flat folder mostly a shard; an array tells neither.
    if (!data_set.list_name.empty() || (kinds.classes && !labels && plan.labels.empty())) {
      return absl::InvalidArgumentError(absl::StrCat(
          "data set ", data_set.shown(), ": its files are NumPy arrays (", EscapeName(kinds.npy_name),
          "). Say what one holds: format=npy (--format npy) for samples along its first axis, format=npy-files for one sample, its whole "
          "array; or format=files for the bytes of the file, header and all"));
    }
    plan.format = ShardFormat::kNpy;
    if (!labels && plan.labels.empty()) {
      Log(LogLevel::kWarning, absl::StrCat("data set ", data_set.shown(), ": its ", kinds.npy, " .npy files are taken for shards, whose first "
                                           "axis counts the samples. Where each is one sample, index it with --format npy-files"));
    }
  } else if (kinds.npy > 0 && labels) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data set ", data_set.shown(), ": beside ", kLabelsName, " lie ", kinds.npy, " .npy files (", EscapeName(kinds.npy_name), ") and ",
        others, " others (", EscapeName(kinds.others > 0 ? kinds.other_name : kinds.document_name),
        "). Say which are the samples: format=npy (--format npy) or format=files; or move the others elsewhere"));
  } else {
    plan.format = ShardFormat::kFiles;
    plan.leave_out_labels = labels;
    if (labels && others > 0) {
      Log(LogLevel::kWarning, absl::StrCat("data set ", data_set.shown(), ": ", kLabelsName, " is left out: it lies beside ", others,
                                           " files that are no .npy shards (",
                                           EscapeName(kinds.others > 0 ? kinds.other_name : kinds.document_name),
                                           "). Files get their labels from class folders or from a list file"));
    }
  }
  return FinishPlan(data_set, options, plan);
}

absl::Status ScanOneShard(const std::string& name, ScanOutput& out) {
  const std::string path = InFolder(out.data->root(), name);
  struct stat info;
  // As for lists: a file written within the last tick of the clock could be written again without a new mtime.
  SleepNs(kMtimeTickNs);
  if (::stat(path.c_str(), &info) != 0) return IoError(errno, absl::StrCat("stat of ", EscapeName(path)));
  out.data->SetRule(layout::kRuleList);
  out.data->SetListFile({int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec, static_cast<uint64_t>(info.st_size)}, name);
  out.changed.push_back(true);
  return out.data->AddFile(out.data->AddFolder("", kMtimeUnknown), name, static_cast<uint64_t>(info.st_size), info.st_ino,
                           int64_t{info.st_mtim.tv_sec} * kNsPerSecond + info.st_mtim.tv_nsec, -1);
}

std::function<ScanOptions::Want(absl::string_view)> ShardFilter(const RecordsPlan& plan, const DataSet& data_set) {
  if (plan.format == ShardFormat::kFiles) return nullptr;
  return [&plan, root = data_set.root](absl::string_view name) {
    using Want = ScanOptions::Want;
    if (!plan.labels.empty() && InFolder(root, name) == plan.labels) return Want::kNoAndKnown;
    if (plan.format == ShardFormat::kFiles) return plan.leave_out_labels && name == kLabelsName ? Want::kNo : Want::kYes;
    return plan.format == ShardFormat::kRaw || absl::EndsWith(name, ".npy") ? Want::kYes : Want::kNo;
  };
}

absl::Status MakeRecords(const RecordsPlan& plan, int threads, const std::function<void(const IndexProgress&)>& progress,
                         ManifestData& data) {
  const auto count = static_cast<uint32_t>(data.object_count());
  const FileStore store(data.root(), data.Names(), nullptr);
  const bool one_each = plan.format == ShardFormat::kNpyFiles;
  std::vector<NpyHeader> headers(plan.format == ShardFormat::kNpy || one_each ? count : 0);
  std::vector<uint64_t> counts(count);
  std::mutex mutex;
  uint32_t error_object = count;
  absl::Status error;
  std::atomic<uint32_t> next{0};

  const auto look = [&](uint32_t object, std::string& scratch) -> absl::Status {
    const uint64_t bytes = data.object_bytes(object);
    const std::string shown = EscapeName(store.Name(object));
    if (plan.format == ShardFormat::kRaw) {
      const uint64_t records = bytes - std::min(bytes, plan.header_bytes);
      if (bytes <= plan.header_bytes) {
        return absl::NotFoundError(absl::StrCat(shown, " has ", bytes, " bytes, and its header alone ", plan.header_bytes,
                                                ": it holds 0 samples. Leave it out of the data set"));
      }
      if (records % plan.record_bytes != 0) {
        return absl::InvalidArgumentError(absl::StrCat(shown, " has ", bytes, " bytes: ", plan.header_bytes, " of header, ",
                                                       records / plan.record_bytes, " records of ", plan.record_bytes, ", and ",
                                                       records % plan.record_bytes,
                                                       " bytes over. It was cut short, or record_bytes or header_bytes is wrong"));
      }
      counts[object] = records / plan.record_bytes;
      return absl::OkStatus();
    }
    const absl::StatusOr<OpenTarget> target = store.Target(object, scratch);
    if (!target.ok()) return target.status();
    const UniqueFd fd(::openat(target->dir_fd, target->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.valid()) return IoError(errno, absl::StrCat("open of ", shown));
    absl::StatusOr<NpyHeader> header = ReadNpy(fd.get(), bytes, shown, one_each ? NpyUse::kSample : NpyUse::kShard);
    if (!header.ok()) return header.status();
    counts[object] = header->sample_count;
    headers[object] = *std::move(header);
    return absl::OkStatus();
  };
  RunWorkers(
      threads,
      [&] {
        std::string scratch;
        for (uint32_t object = next.fetch_add(1); object < count; object = next.fetch_add(1)) {
          const absl::Status status = Cancelled() ? CancelledStatus() : look(object, scratch);
          if (status.ok()) continue;
          // The first bad shard is named, whichever thread is faster.
          std::lock_guard<std::mutex> lock(mutex);
          if (object < error_object) {
            error_object = object;
            error = status;
          }
          next.store(count);
        }
      },
      nullptr);
  if (!error.ok()) return error;

  uint64_t record_bytes = plan.record_bytes;
  if (plan.format == ShardFormat::kNpy) record_bytes = headers.empty() ? 1 : headers[0].record_bytes;
  std::vector<layout::RecordRun> runs(count);
  uint64_t samples = 0;
  bool same_shape = true;
  for (uint32_t object = 0; object < count; ++object) {
    const bool other_shape = !headers.empty() && headers[object].shape != headers[0].shape;
    same_shape = same_shape && !other_shape;
    if (!headers.empty() && (headers[object].descr != headers[0].descr || (other_shape && !one_each))) {
      const auto text = [](const NpyHeader& header) {
        return absl::StrCat(EscapeName(header.descr), " of shape (", header.inner_shape, ")");
      };
      return absl::InvalidArgumentError(absl::StrCat(EscapeName(store.Name(object)), " holds samples of ", text(headers[object]), ", and ",
                                                     EscapeName(store.Name(0)), " of ", text(headers[0]),
                                                     one_each ? ": the files of a data set have one dtype. Convert one, or make two data sets"
                                                              : ": the shards of a data set are alike. Convert one, make two data sets, or, "
                                                                "where each file is one sample, index with format=npy-files (--format npy-files)"));
    }
    runs[object] = {samples, headers.empty() ? plan.header_bytes : headers[object].header_bytes};
    samples += counts[object];
    if (samples > kSamplesMax) {
      return absl::InvalidArgumentError(absl::StrCat("data set ", EscapeName(data.root()), ": more than 2^56 samples"));
    }
  }
  if (progress) {
    IndexProgress now;
    now.files = now.files_total = count;
    now.bytes = static_cast<int64_t>(data.total_object_bytes());
    progress(now);
  }
  std::vector<int32_t> labels;
  if (!plan.labels.empty()) {
    absl::StatusOr<std::vector<int32_t>> read = ReadLabels(plan.labels, samples);
    if (!read.ok()) return read.status();
    labels = *std::move(read);
  }
  if (one_each) {
    std::vector<uint64_t> header_bytes;
    for (const NpyHeader& header : headers) header_bytes.push_back(header.header_bytes);
    data.LeaveOutHeaders(header_bytes);
    if (!labels.empty()) data.SetLabels(std::move(labels));
  } else {
    data.MakeRecords(record_bytes, std::move(runs), samples, std::move(labels));
  }
  if (!headers.empty()) {
    FieldType type{"", headers[0].dtype, same_shape, {}};
    if (same_shape) type.shape = headers[0].shape;
    data.SetFieldTypes({std::move(type)});
  }
  layout::RecordSource source{};
  source.format = one_each                            ? layout::kFormatNpyFiles
                  : plan.format == ShardFormat::kNpy ? layout::kFormatNpy
                                                     : layout::kFormatRaw;
  source.record_bytes = plan.record_bytes;
  source.header_bytes = plan.header_bytes;
  data.SetRecordSource(source, plan.labels);
  return absl::OkStatus();
}

}  // namespace penstock
