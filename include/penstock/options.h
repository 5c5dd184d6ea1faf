// What a loader can be told. One struct; one table of the same options by name, for the command line, the environment
// and the other languages.
#ifndef PENSTOCK_OPTIONS_H_
#define PENSTOCK_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "penstock/codec.h"
#include "penstock/export.h"
#include "penstock/option_table.h"
#include "penstock/order.h"

namespace penstock {

/// How bytes are moved. kAuto probes by doing, and the report names what it chose and why.
enum class EngineOption { kAuto, kUring, kThreads };

/// Buffered (page cache) or direct (O_DIRECT) reads. kAuto: direct where the data set is larger than the available memory, or the page
/// cache did not keep it, and the file system allows it; where only one of `epochs` is read, also where that was measured to be faster.
/// Looked at again for each epoch; EpochReport::io_why says what was found.
enum class IoMode { kAuto, kBuffered, kDirect };

/// What happens to a sample that cannot be read, after `retries` further tries.
enum class ErrorPolicy {
  kFail,        ///< Next() returns the error; the position does not advance, and calling Next() again tries again
  kSkip,        ///< length 0, valid[i] = 0; the batch keeps its places
  kSubstitute,  ///< another sample of the run (of `ids`, if given) and of the same data set, chosen by a keyed function of seed, epoch,
                ///< position and try
};

/// What is compared with the index beside the length, which always is.
enum class Verify {
  kNone,
  /// Each file's time of modification, once per read: sees a file that was replaced by one of the same length, unless that has the old
  /// time too. Needs `penstock index --stat`. Costs one statx(2) or fstat(2) per read; empty files are not opened, and not looked at.
  kStat,
};

/// Whether samples are read ahead into the page cache in the order in which they lie on the drive, by a thread of its own, while batches go
/// out in shuffle order: the whole set in the first epoch where it fits in memory, window by window with disk_blocks.
enum class WarmAhead {
  kAuto,  ///< where reads are buffered, files are small, and not half of them is in the page cache already
  kOff,
  kOn,    ///< wherever reads are buffered and every file is one sample
};

/// How samples lie in a batch.
enum class Layout {
  kRagged,  ///< 64-byte aligned places, in any order, with holes; offset[i] and length[i] say where
  kDense,   ///< [B, stride] in batch order; every sample must have the same size
};

/// One data set of a mixture.
struct MixtureMember {
  std::string root;           // as LoaderOptions::root
  double weight = 1;          // relative to those of the others; 0: none of its samples until SetWeights() says otherwise
  std::string manifest_path;  // as LoaderOptions::manifest_path
};

/// What a loader can be told. What the option table below would refuse is refused by Loader::Open() too, however the struct was filled.
///
/// Units:  as the names end (_bytes, _s, _samples); a rank's share unless said otherwise.
struct LoaderOptions {
  // Behaviour.
  std::string root;           // a folder (class folders or flat) or a list file: see manifest.h
  std::string manifest_path;  // empty: the default place, see IndexOptions
  /// Not empty: several data sets by weight instead of `root` and `manifest_path` (mixture.h). By name it is text, a JSON array:
  /// [{"root": "a", "weight": 0.7}, {"root": "b", "weight": 0.3}]. Each member has a shuffle and epochs of its own.
  std::vector<MixtureMember> mixture;
  // These, and those of the shuffle below, are what the state keeps. An option that is not given has the state's value, without a state the
  // one that is named here. One that is given and differs from the state is an error.
  std::optional<int64_t> mixture_period;  // M: every M positions hold each member exactly as often as its weight says. 1000
  std::optional<int64_t> epoch_samples;   // of a mixture: positions of an epoch, over all ranks; 0: as many as its members have samples. 0
  int32_t rank = -1;          // 0 <= rank < world_size; -1: ask the launcher's environment
  int32_t world_size = -1;
  std::string rank_source;    // what gave rank and world_size, as setup() and the log name it; empty: "arguments"
  int64_t batch_size = 256;   // samples, of this rank and step
  std::optional<uint64_t> seed;            // 0
  std::optional<bool> shuffle;             // true
  bool disk_blocks = false;                // shuffle=disk-blocks: the neighbours of a block are neighbours on the drive (penstock index --place)
  std::optional<int64_t> block_samples;    // b: neighbours that stay together. 1; with disk_blocks 64
  std::optional<int64_t> window_samples;   // w: a multiple of b. 1; with disk_blocks 64
  std::optional<int64_t> virtual_streams;  // V. 1
  std::optional<Tail> tail;                // kDrop
  std::vector<int64_t> ids;     // not empty: order = ids
  std::string state;            // JSON from Loader::state(): go on from there
  std::string ledger_path;      // what the error policy did, appended to <ledger_path>.<rank> (ledger.h); empty: only in report()
  Layout layout = Layout::kRagged;
  ErrorPolicy policy = ErrorPolicy::kFail;
  Verify verify = Verify::kNone;
  int32_t retries = 1;          // further tries of a failed read, before the policy
  // Bounds of what the policies skip and substitute hide. Beyond one of them Next() fails with the cause, and tries the batch again when it
  // is called again.
  int64_t skip_max = 1000;      // samples skipped or substituted in an epoch
  double skip_share_max = 0.25; // the same as a share of the rank's samples in the epoch; 1: no bound
  int64_t skip_run_max = 32;    // samples in a row, of different files: the sign of a data set that is gone. 0: no bound
  double deadline_s = 600;      // of every wait; an NFS failover takes minutes
  CodecOptions codec;           // identity by default
  int32_t device = -1;          // CUDA ordinal; -1: batches stay in host memory
  bool next_epoch_prefetch = true;  // streams go on into the next epoch before the last batch is taken

  // Speed. `penstock bench` shows what these do on a given machine.
  EngineOption engine = EngineOption::kAuto;
  IoMode io = IoMode::kAuto;
  WarmAhead warm = WarmAhead::kOff;         // measured slower than the streams alone on one virtio volume: see lib/loader/warmer.h
  int64_t epochs = 0;                       // that will be read, from the first on; 0: not known. Nothing is read ahead beyond the last
  int32_t streams = 0;                      // I/O streams; 0: by cpu_share
  double cpu_share = 0.4;                   // of the allowed cores; the trainer needs the rest
  int32_t queue_depth = 0;                  // reads in flight per process; 0: 64 per stream (128 for direct reads of files), 256 at most;
                                            // where no read returns at once (network file systems) found out while running, up to 1,024
  int64_t read_bytes_max = 512 << 10;       // largest single read
  int64_t piece_bytes = 4 << 20;            // what one stream fills and one copy moves
  int64_t memory_bytes = 0;                 // hard cap on the arena; 0: a quarter of what the machine and the memory cgroup leave, divided
                                            // by the local ranks, 1 GiB at most
  int64_t device_bytes = int64_t{1} << 30;  // the device's ring of batches
  int64_t max_quarantine_bytes = 0;         // memory given up to reads that never end; 0: a quarter of memory_bytes
  int32_t prefetch_batches = 0;             // batches ahead of the consumer; 0: by batch and piece size
  int64_t coalesce_gap_bytes = -1;          // unwanted bytes worth reading to save one read; -1: measured at Open
  int32_t io_workers = 0;                   // both io-wq limits; threads of the pread pool; 0: 16, or 64 for direct reads of files, and
                                            // where each read takes one as many as reads in flight
  int64_t open_files = -1;                  // files kept open from one read to the next; -1: half of RLIMIT_NOFILE at most; 0: none
  bool huge_pages = true;
  /// Whether each stream is pinned to a core of its own. Not given: where a launcher counts several processes on this node, or
  /// RuntimeOptions::loaders several loaders in this process: these share out the cores. Two jobs that know nothing of each other would pin their streams to the same core, and each would get half of it. A stream
  /// that is not pinned runs on any core of its NUMA node.
  std::optional<bool> pin_cpus;
};

/// All options that can be set by name, in the order of the struct.
PENSTOCK_EXPORT absl::Span<const OptionInfo> OptionTable();

/// Sets one option from text ("batch_size", "256").
///
/// Errors: InvalidArgument  unknown name (the nearest known one is named) or a bad value (what it takes is named).
PENSTOCK_EXPORT absl::Status SetOption(LoaderOptions& options, absl::string_view name, absl::string_view value);

/// The option's value as SetOption would take it, of an option that was not given the default; empty for an unknown name.
PENSTOCK_EXPORT std::string GetOption(const LoaderOptions& options, absl::string_view name);

/// Overrides the speed options from the environment: PENSTOCK_QUEUE_DEPTH=128 and so on. Loader::Open calls it.
///
/// Errors: InvalidArgument  a bad value, or a PENSTOCK_ variable that names a behaviour option, which the environment must not change.
PENSTOCK_EXPORT absl::Status ApplyEnvironment(LoaderOptions& options);

}  // namespace penstock

#endif  // PENSTOCK_OPTIONS_H_
