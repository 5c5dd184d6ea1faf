// The one option table, and the small one of what loaders share.
#include "penstock/options.h"

#include <iterator>
#include <limits>
#include <string>
#include <unistd.h>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/option_rows.h"
#include "loader/mixture_option.h"
#include "loader/order_defaults.h"
#include "penstock/loader.h"
#include "penstock/mixture.h"

extern char** environ;

namespace penstock {
namespace {

using Table = OptionRows<LoaderOptions, WarmAhead, EngineOption, IoMode, ErrorPolicy, Verify, Layout>;
template <typename E>
using Words = OptionWords<LoaderOptions, E>;

// shuffle: a boolean, or the third word.
constexpr OptionFunctions<LoaderOptions> kShuffleWord = {
    [](const OptionInfo& info, const OptionBounds&, absl::string_view text, LoaderOptions& options) {
      const bool disk_blocks = text == "disk-blocks";
      bool shuffle = true;
      if (!disk_blocks && !absl::SimpleAtob(text, &shuffle)) return BadOption(info, text, "not one of the words");
      options.shuffle = shuffle;
      options.disk_blocks = disk_blocks;
      return absl::OkStatus();
    },
    [](const LoaderOptions& options) -> std::string { 
      return options.disk_blocks ? "disk-blocks" : FormatOption(options.shuffle.value_or(kDefaultShuffle));
    }};

// pin_cpus: a boolean, or auto where it is not given.
constexpr OptionFunctions<LoaderOptions> kPinCpus = {
    [](const OptionInfo& info, const OptionBounds&, absl::string_view text, LoaderOptions& options) {
      bool pin = true;
      if (text != "auto" && !absl::SimpleAtob(text, &pin)) return BadOption(info, text, "not one of the words");
      options.pin_cpus = text == "auto" ? std::nullopt : std::optional<bool>(pin);
      return absl::OkStatus();
    },
    [](const LoaderOptions& options) { return options.pin_cpus.has_value() ? FormatOption(*options.pin_cpus) : std::string("auto"); }};

// An option of the order: whether it was given counts beside a state.
template <auto kMember, auto kInitial>
constexpr OptionFunctions<LoaderOptions> kOrder = {
    [](const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, LoaderOptions& options) {
      auto value = kInitial;
      absl::Status status = ParseOption(info, bounds, text, value);
      if (status.ok()) options.*kMember = value;
      return status;
    },
    [](const LoaderOptions& options) { return FormatOption((options.*kMember).value_or(kInitial)); }};

constexpr OptionFunctions<LoaderOptions> kTailWord = {
    [](const OptionInfo& info, const OptionBounds&, absl::string_view text, LoaderOptions& options) {
      size_t word = 0;
      absl::Status status = ParseOptionWord(info, text, word);
      if (status.ok()) options.tail = static_cast<Tail>(word);
      return status;
    },
    [](const LoaderOptions& options) {
      static constexpr const char* kWords[] = {"drop", "pad", "partial"};
      const auto word = static_cast<size_t>(options.tail.value_or(kDefaultTail));
      return std::string(word < std::size(kWords) ? kWords[word] : "");
    }};


// mixture: JSON.
constexpr OptionFunctions<LoaderOptions> kMixture = {
    [](const OptionInfo& info, const OptionBounds&, absl::string_view text, LoaderOptions& options) {
      absl::StatusOr<std::vector<MixtureMember>> members = ParseMixture(text);
      if (!members.ok()) return BadOption(info, text, members.status().message());
      options.mixture = *std::move(members);
      return absl::OkStatus();
    },
    [](const LoaderOptions& options) { return FormatMixture(options.mixture); }};

// An option of the codec.
template <auto kMember>
constexpr OptionFunctions<LoaderOptions> kCodec = {
    [](const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, LoaderOptions& options) {
      return ParseOption(info, bounds, text, options.codec.*kMember);
    },
    [](const LoaderOptions& options) { return FormatOption(options.codec.*kMember); }};

// memory_bytes: 0, or enough for an arena.
constexpr OptionFunctions<LoaderOptions> kMemoryBytes = {
    [](const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, LoaderOptions& options) {
      int64_t bytes = 0;
      if (absl::SimpleAtoi(text, &bytes) && bytes == 0) {
        options.memory_bytes = 0;
        return absl::OkStatus();
      }
      return ParseOption(info, bounds, text, options.memory_bytes);
    },
    [](const LoaderOptions& options) { return FormatOption(options.memory_bytes); }};

constexpr double kMost32 = std::numeric_limits<int32_t>::max();
constexpr double kMost64 = 9.0e18;

const Table& Rows() {
  static const auto* table = new Table({
      {{"root", "behaviour", "text", "folder of class folders, flat folder, or list file"}, &LoaderOptions::root, 0, 0},
      {{"manifest_path", "behaviour", "text", "where the manifest is saved; empty: the default place"},
       &LoaderOptions::manifest_path,
       0,
       0},
      {{"mixture", "behaviour", "text", "several data sets by weight instead of root: [{\"root\": \"a\", \"weight\": 0.7}, ...]"},
       kMixture,
       0,
       0},
      {{"mixture_period", "behaviour", "integer", "positions of a mixture that hold each data set as often as its weight says (M)"},
       kOrder<&LoaderOptions::mixture_period, kDefaultPeriod>,
       1,
       kMixturePeriodMax},
      {{"epoch_samples", "behaviour", "integer", "positions of an epoch of a mixture, all ranks; 0: as many as its data sets have samples"},
       kOrder<&LoaderOptions::epoch_samples, kDefaultEpochSamples>,
       0,
       kMost64},
      {{"rank", "behaviour", "integer", "0 <= rank < world_size; -1: ask the launcher's environment"}, &LoaderOptions::rank, -1, kMost32},
      {{"world_size", "behaviour", "integer", "ranks in all; -1: ask the launcher's environment"}, &LoaderOptions::world_size, -1, kMost32},
      {{"rank_source", "behaviour", "text", "What gave rank and world_size, as setup() and the log name it. Empty = arguments"},
       &LoaderOptions::rank_source,
       0,
       0},
      {{"batch_size", "behaviour", "integer", "samples per rank and step"}, &LoaderOptions::batch_size, 1, 1 << 24},
      {{"seed", "behaviour", "integer", "of the shuffle"}, kOrder<&LoaderOptions::seed, kDefaultSeed>, 0, 1.8e19},
      {{"shuffle", "behaviour", "true|false|disk-blocks", "false: the order of the ids; disk-blocks: blocks of neighbours on the drive"},
       kShuffleWord,
       0,
       0},
      {{"block_samples", "behaviour", "integer", "neighbours that stay together in the shuffle (b)"},
       kOrder<&LoaderOptions::block_samples, kDefaultBlock>,
       1,
       kMost64},
      {{"window_samples", "behaviour", "integer", "window of the shuffle inside a chunk (w), a multiple of block_samples"},
       kOrder<&LoaderOptions::window_samples, kDefaultWindow>,
       1,
       kMost64},
      {{"virtual_streams", "behaviour", "integer", "chunks of the epoch (V)"}, kOrder<&LoaderOptions::virtual_streams, kDefaultVirtualStreams>, 1, kMost64},
      {{"tail", "behaviour", "drop|pad|partial", "what becomes of an epoch's last, incomplete step"},
       kTailWord,
       0,
       0},
      {{"state", "behaviour", "text", "JSON from Loader::state(): go on from there. The order is the state's: an option of it that is given and differs is an error"}, &LoaderOptions::state, 0, 0},
      {{"ledger_path", "behaviour", "text", "what the error policy did is appended to <ledger_path>.<rank>; empty: nowhere"},
       &LoaderOptions::ledger_path,
       0,
       0},
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
      {{"skip_max", "behaviour", "integer", "Bound of the samples that are skipped or substituted in an epoch; with more of them the epoch fails"},
       &LoaderOptions::skip_max,
       0,
       kMost64},
      {{"skip_share_max", "behaviour", "number", "The same bound as a share of the rank's samples in the epoch. 1: no bound"},
       &LoaderOptions::skip_share_max,
       0,
       1},
      {{"skip_run_max", "behaviour", "integer",
        "Bound of the samples in a row, of different files, that are skipped or substituted. 0: no bound"},
       &LoaderOptions::skip_run_max,
       0,
       kMost64},
      {{"deadline_s", "behaviour", "number", "of every wait, in seconds"}, &LoaderOptions::deadline_s, 0.01, 1e6},
      {{"device", "behaviour", "integer", "CUDA ordinal; -1: batches stay in host memory"}, &LoaderOptions::device, -1, 1023},
      {{"verify_crc", "behaviour", "boolean", "compare each sample's stored bytes with the CRC-32C of its index"},
       kCodec<&CodecOptions::verify_crc>,
       0,
       1},
      {{"codec_delivered_bytes_max", "behaviour", "bytes", "what a codec function may deliver for one sample; 0: not set"},
       kCodec<&CodecOptions::delivered_bytes_max_per_sample>,
       0,
       kMost64},
      {{"codec_expansion_max", "behaviour", "number", "the same as a multiple of the stored bytes; 0: not set"},
       kCodec<&CodecOptions::expansion_max>,
       0,
       1e9},
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
      {{"epochs", "speed", "integer", "that will be read in all; 0: not known. Nothing is read ahead beyond the last"},
       &LoaderOptions::epochs,
       0,
       kMost64},
      {{"streams", "speed", "integer", "I/O streams; 0: by cpu_share"}, &LoaderOptions::streams, 0, 4096},
      {{"cpu_share", "speed", "number", "of the allowed cores"}, &LoaderOptions::cpu_share, 0.001, 1},
      {{"queue_depth", "speed", "integer", "reads in flight; 0: 64 per stream (128 for direct reads of files), 256 at most; tuned on network file systems"},
       &LoaderOptions::queue_depth,
       0,
       1 << 20},
      {{"read_bytes_max", "speed", "bytes", "largest single read"}, &LoaderOptions::read_bytes_max, 4096, 1 << 30},
      {{"piece_bytes", "speed", "bytes", "what one stream fills and one copy moves"}, &LoaderOptions::piece_bytes, 64 << 10, 1 << 30},
      {{"memory_bytes", "speed", "bytes",
        "Hard cap on the arena. 0 = a quarter of what the machine and the memory cgroup leave, divided by the local ranks, 1 GiB at most"},
       kMemoryBytes,
       4 << 20,
       kMost64},
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
      {{"io_workers", "speed", "integer", "both io-wq limits; threads of the pread pool; 0: 16, or 64 for direct reads of files; tuned on network file systems"},
       &LoaderOptions::io_workers,
       0,
       4096},
      {{"open_files", "speed", "integer", "files kept open from one read to the next; -1: half of RLIMIT_NOFILE at most; 0: none"},
       &LoaderOptions::open_files,
       -1,
       1 << 20},
      {{"huge_pages", "speed", "boolean", "2 MiB pages where they can be had"}, &LoaderOptions::huge_pages, 0, 1},
      {{"pin_cpus", "speed", "true|false|auto", "Whether each stream is pinned to a core. auto = where a launcher counts several processes on the node, or the runtime several loaders"},
       kPinCpus,
       0,
       0},
  });
  return *table;
}

const OptionRows<RuntimeOptions>& RuntimeRows() {
  static const auto* table = new OptionRows<RuntimeOptions>({
      {{"memory_bytes", "behaviour", "bytes", "cap on the arenas of all its loaders; 0: none beyond each loader's own"},
       &RuntimeOptions::memory_bytes,
       0,
       kMost64},
      {{"queue_depth", "speed", "integer", "reads in flight of all its loaders; 0: 256, and up to 1,024 on network file systems"},
       &RuntimeOptions::queue_depth, 0, 1 << 20},
      {{"io_workers", "speed", "integer", "threads of the shared pread pool, beside those that loaders find to bring more"},
       &RuntimeOptions::io_workers, 1, 4096},
      {{"loaders", "speed", "integer", "that read at the same time, one per GPU: each has its part of the cores and of queue_depth"},
       &RuntimeOptions::loaders,
       1,
       1024},
  });
  return *table;
}

}  // namespace

absl::Span<const OptionInfo> RuntimeOptionTable() { return RuntimeRows().infos(); }

absl::Status SetOption(RuntimeOptions& options, absl::string_view name, absl::string_view value) {
  return RuntimeRows().Set(options, name, value);
}

std::string GetOption(const RuntimeOptions& options, absl::string_view name) { return RuntimeRows().Get(options, name); }

absl::Span<const OptionInfo> OptionTable() { return Rows().infos(); }

absl::Status SetOption(LoaderOptions& options, absl::string_view name, absl::string_view value) {
  return Rows().Set(options, name, value);
}

std::string GetOption(const LoaderOptions& options, absl::string_view name) { return Rows().Get(options, name); }

absl::Status ApplyEnvironment(LoaderOptions& options) {
  static constexpr absl::string_view kPrefix = "PENSTOCK_";
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const absl::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos || text.substr(0, kPrefix.size()) != kPrefix) continue;
    const std::string name = absl::AsciiStrToLower(text.substr(kPrefix.size(), equals - kPrefix.size()));
    const Table::Row* row = Rows().Find(name);
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
