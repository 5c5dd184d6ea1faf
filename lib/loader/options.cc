// The one option table.
#include "penstock/options.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <unistd.h>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"

extern char** environ;

namespace penstock {
namespace {

// A word option is an enum whose values are 0, 1, 2... in the order of the words.
template <typename E>
struct Words {
  E LoaderOptions::*member;
};

// shuffle: a boolean, or the third word.
struct ShuffleWord {};

using Member = std::variant<ShuffleWord, Words<WarmAhead>, std::string LoaderOptions::*, int32_t LoaderOptions::*, int64_t LoaderOptions::*,
                            uint64_t LoaderOptions::*, double LoaderOptions::*, bool LoaderOptions::*, Words<EngineOption>, Words<IoMode>,
                            Words<ErrorPolicy>, Words<Verify>, Words<Layout>, Words<Tail>>;

struct Row {
  OptionInfo info;
  Member member;
  double least;
  double most;
};

constexpr double kMost32 = std::numeric_limits<int32_t>::max();
constexpr double kMost64 = 9.0e18;

const std::vector<Row>& Rows() {
  static const auto* rows = new std::vector<Row>{
      {{"root", "behaviour", "text", "folder of class folders, flat folder, or list file"}, &LoaderOptions::root, 0, 0},
      {{"manifest_path", "behaviour", "text", "where the manifest is saved; empty: the default place"},
       &LoaderOptions::manifest_path,
       0,
       0},
      {{"rank", "behaviour", "integer", "0 <= rank < world_size; -1: ask the launcher's environment"}, &LoaderOptions::rank, -1, kMost32},
      {{"world_size", "behaviour", "integer", "ranks in all; -1: ask the launcher's environment"}, &LoaderOptions::world_size, -1, kMost32},
      {{"batch_size", "behaviour", "integer", "samples per rank and step"}, &LoaderOptions::batch_size, 1, 1 << 24},
      {{"seed", "behaviour", "integer", "of the shuffle"}, &LoaderOptions::seed, 0, 1.8e19},
      {{"shuffle", "behaviour", "true|false|disk-blocks", "false: the order of the ids; disk-blocks: blocks of neighbours on the drive"},
       ShuffleWord(),
       0,
       0},
      {{"block_samples", "behaviour", "integer", "neighbours that stay together in the shuffle (b)"},
       &LoaderOptions::block_samples,
       1,
       kMost64},
      {{"window_samples", "behaviour", "integer", "window of the shuffle inside a chunk (w), a multiple of block_samples"},
       &LoaderOptions::window_samples,
       1,
       kMost64},
      {{"virtual_streams", "behaviour", "integer", "chunks of the epoch (V)"}, &LoaderOptions::virtual_streams, 1, kMost64},
      {{"tail", "behaviour", "drop|pad|partial", "what becomes of an epoch's last, incomplete step"},
       Words<Tail>{&LoaderOptions::tail},
       0,
       0},
      {{"state", "behaviour", "text", "JSON from Loader::state(): go on from there"}, &LoaderOptions::state, 0, 0},
      {{"layout", "behaviour", "ragged|dense", "places with holes, or [B, stride] of equal sizes"},
       Words<Layout>{&LoaderOptions::layout},
       0,
       0},
      {{"policy", "behaviour", "fail|skip|substitute", "what happens to a sample that cannot be read"},
       Words<ErrorPolicy>{&LoaderOptions::policy},
       0,
       0},
      {{"verify", "behaviour", "none|stat", "what is compared with the index beside the length"},
       Words<Verify>{&LoaderOptions::verify},
       0,
       0},
      {{"retries", "behaviour", "integer", "further tries of a failed read, before the policy"}, &LoaderOptions::retries, 0, 1000},
      {{"skip_max", "behaviour", "integer", "samples skipped or substituted per epoch, before it fails after all"},
       &LoaderOptions::skip_max,
       0,
       kMost64},
      {{"deadline_s", "behaviour", "number", "of every wait, in seconds"}, &LoaderOptions::deadline_s, 0.01, 1e6},
      {{"device", "behaviour", "integer", "CUDA ordinal; -1: batches stay in host memory"}, &LoaderOptions::device, -1, 1023},
      {{"next_epoch_prefetch", "behaviour", "boolean", "read on into the next epoch before the last batch is taken"},
       &LoaderOptions::next_epoch_prefetch,
       0,
       1},
      {{"engine", "speed", "auto|uring|threads", "how bytes are moved"}, Words<EngineOption>{&LoaderOptions::engine}, 0, 0},
      {{"io", "speed", "auto|buffered|direct", "through the page cache or past it"}, Words<IoMode>{&LoaderOptions::io}, 0, 0},
      {{"warm", "speed", "auto|off|on", "read ahead into the page cache in the order of place"},
       Words<WarmAhead>{&LoaderOptions::warm},
       0,
       0},
      {{"streams", "speed", "integer", "I/O streams; 0: by cpu_share"}, &LoaderOptions::streams, 0, 4096},
      {{"cpu_share", "speed", "number", "of the allowed cores"}, &LoaderOptions::cpu_share, 0.001, 1},
      {{"queue_depth", "speed", "integer", "reads in flight; 0: 64 per stream, 256 at most"}, &LoaderOptions::queue_depth, 0, 1 << 20},
      {{"read_bytes_max", "speed", "bytes", "largest single read"}, &LoaderOptions::read_bytes_max, 4096, 1 << 30},
      {{"piece_bytes", "speed", "bytes", "what one stream fills and one copy moves"}, &LoaderOptions::piece_bytes, 64 << 10, 1 << 30},
      {{"memory_bytes", "speed", "bytes", "hard cap on the arena"}, &LoaderOptions::memory_bytes, 4 << 20, kMost64},
      {{"device_bytes", "speed", "bytes", "the device's ring of batches"}, &LoaderOptions::device_bytes, 1 << 20, kMost64},
      {{"max_quarantine_bytes", "speed", "bytes", "memory given up to reads that never end; 0: a quarter of memory_bytes"},
       &LoaderOptions::max_quarantine_bytes,
       0,
       kMost64},
      {{"prefetch_batches", "speed", "integer", "batches ahead of the consumer; 0: by batch and piece size"},
       &LoaderOptions::prefetch_batches,
       0,
       1 << 20},
      {{"coalesce_gap_bytes", "speed", "bytes", "unwanted bytes worth reading to save one read; -1: measured"},
       &LoaderOptions::coalesce_gap_bytes,
       -1,
       1 << 30},
      {{"io_workers", "speed", "integer", "both io-wq limits (io_uring); threads of the pread pool"}, &LoaderOptions::io_workers, 1, 4096},
      {{"open_files", "speed", "integer", "files kept open from one read to the next; -1: what RLIMIT_NOFILE allows; 0: none"},
       &LoaderOptions::open_files,
       -1,
       1 << 20},
      {{"huge_pages", "speed", "boolean", "2 MiB pages where they can be had"}, &LoaderOptions::huge_pages, 0, 1},
      {{"pin_cpus", "speed", "boolean", "each stream on its core"}, &LoaderOptions::pin_cpus, 0, 1},
  };
  return *rows;
}

const Row* Find(absl::string_view name) {
  for (const Row& row : Rows()) {
    if (name == row.info.name) return &row;
  }
  return nullptr;
}

// The number of single-letter changes between two names, for "did you mean".
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

absl::Status Bad(const Row& row, absl::string_view value, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("option ", row.info.name, " = \"", EscapeName(value), "\": ", why, " (", row.info.type, ": ", row.info.help, ")"));
}

template <typename T>
absl::Status InRange(const Row& row, absl::string_view text, T value, T& out) {
  if (!(static_cast<double>(value) >= row.least && static_cast<double>(value) <= row.most)) {
    return Bad(row, text, absl::StrFormat("not in [%.15g, %.15g]", row.least, row.most));
  }
  out = value;
  return absl::OkStatus();
}

struct Setter {
  const Row& row;
  LoaderOptions& options;
  absl::string_view value;

  absl::Status operator()(std::string LoaderOptions::*member) {
    options.*member = std::string(value);
    return absl::OkStatus();
  }
  absl::Status operator()(ShuffleWord) {
    const bool disk_blocks = value == "disk-blocks";
    bool shuffle = true;
    if (!disk_blocks && !absl::SimpleAtob(value, &shuffle)) return Bad(row, value, "not one of the words");
    options.shuffle = shuffle;
    options.disk_blocks = disk_blocks;
    return absl::OkStatus();
  }
  absl::Status operator()(bool LoaderOptions::*member) {
    return absl::SimpleAtob(value, &(options.*member)) ? absl::OkStatus() : Bad(row, value, "neither true nor false");
  }
  absl::Status operator()(double LoaderOptions::*member) {
    double number = 0;
    if (!absl::SimpleAtod(value, &number)) return Bad(row, value, "not a number");
    return InRange(row, value, number, options.*member);
  }
  absl::Status operator()(int32_t LoaderOptions::*member) { return Integer(options.*member); }
  absl::Status operator()(int64_t LoaderOptions::*member) { return Integer(options.*member); }
  absl::Status operator()(uint64_t LoaderOptions::*member) { return Integer(options.*member); }
  template <typename T>
  absl::Status Integer(T& out) {
    if (absl::string_view(row.info.type) == "bytes" && !(row.least < 0 && value == "-1")) {
      const absl::StatusOr<int64_t> bytes = ParseBytes(value);
      if (!bytes.ok()) return Bad(row, value, bytes.status().message());
      return InRange(row, value, static_cast<T>(*bytes), out);
    }
    T number = 0;
    if (!absl::SimpleAtoi(value, &number)) return Bad(row, value, "not an integer in range");
    return InRange(row, value, number, out);
  }
  template <typename E>
  absl::Status operator()(Words<E> words) {
    const std::vector<std::string> known = absl::StrSplit(row.info.type, '|');
    for (size_t i = 0; i < known.size(); ++i) {
      if (value != known[i]) continue;
      options.*(words.member) = static_cast<E>(i);
      return absl::OkStatus();
    }
    return Bad(row, value, "not one of the words");
  }
};

struct Getter {
  const Row& row;
  const LoaderOptions& options;
  std::string operator()(ShuffleWord) { return options.disk_blocks ? "disk-blocks" : options.shuffle ? "true" : "false"; }
  std::string operator()(std::string LoaderOptions::*member) { return options.*member; }
  std::string operator()(bool LoaderOptions::*member) { return options.*member ? "true" : "false"; }
  std::string operator()(double LoaderOptions::*member) { return absl::StrFormat("%.15g", options.*member); }
  std::string operator()(int32_t LoaderOptions::*member) { return absl::StrCat(options.*member); }
  std::string operator()(int64_t LoaderOptions::*member) { return absl::StrCat(options.*member); }
  std::string operator()(uint64_t LoaderOptions::*member) { return absl::StrCat(options.*member); }
  template <typename E>
  std::string operator()(Words<E> words) {
    const std::vector<std::string> known = absl::StrSplit(row.info.type, '|');
    return known[static_cast<size_t>(options.*(words.member))];
  }
};

}  // namespace

absl::Span<const OptionInfo> OptionTable() {
  static const auto* table = [] {
    auto* infos = new std::vector<OptionInfo>;
    for (const Row& row : Rows()) infos->push_back(row.info);
    return infos;
  }();
  return *table;
}

absl::Status SetOption(LoaderOptions& options, absl::string_view name, absl::string_view value) {
  const Row* row = Find(name);
  if (row == nullptr) {
    const Row* nearest = &*std::min_element(Rows().begin(), Rows().end(), [&](const Row& a, const Row& b) {
      return Distance(name, a.info.name) < Distance(name, b.info.name);
    });
    return absl::InvalidArgumentError(
        absl::StrCat("there is no option \"", EscapeName(name), "\"; did you mean ", nearest->info.name, "?"));
  }
  return std::visit(Setter{*row, options, value}, row->member);
}

std::string GetOption(const LoaderOptions& options, absl::string_view name) {
  const Row* row = Find(name);
  return row == nullptr ? std::string() : std::visit(Getter{*row, options}, row->member);
}

absl::Status ApplyEnvironment(LoaderOptions& options) {
  static constexpr absl::string_view kPrefix = "PENSTOCK_";
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const absl::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos || text.substr(0, kPrefix.size()) != kPrefix) continue;
    const std::string name = absl::AsciiStrToLower(text.substr(kPrefix.size(), equals - kPrefix.size()));
    const Row* row = Find(name);
    if (row == nullptr) continue;  // other programs of the project have variables too (PENSTOCK_DATA)
    if (absl::string_view(row->info.kind) != "speed") {
      return absl::InvalidArgumentError(absl::StrCat("environment variable ", text.substr(0, equals), ": ", name,
                                                     " changes what is delivered, which the environment must not; set it in the program"));
    }
    if (absl::Status status = SetOption(options, name, text.substr(equals + 1)); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("environment variable ", text.substr(0, equals), ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace penstock
