// What an epoch did, and what bounded it.
#ifndef PENSTOCK_STATS_H_
#define PENSTOCK_STATS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "penstock/export.h"

namespace penstock {

/// What the consumer's waits were for. Only one of them is the verdict.
enum class Bound {
  kNothing,         ///< no wait worth a word
  kConsumer,        ///< batches were ready: the loader waited for the trainer
  kStoreLatency,    ///< reads took long however few were in flight
  kStoreBandwidth,  ///< reads took long because many bytes were in flight
  kOpen,            ///< opening files (cold metadata)
  kCodec,
  kCopy,            ///< the copy to the device
  kCpu,             ///< the streams' own cores were busy
};

/// "store latency", "codec" and so on, as in the verdict. A static text.
PENSTOCK_EXPORT const char* BoundName(Bound bound);

/// Why positions were not delivered as planned.
struct LedgerEntry {
  int64_t epoch = 0;
  int64_t position = 0;
  int64_t id = 0;          // the sample that failed
  int64_t substitute = -1; // the sample in its place; -1: skipped
  std::string reason;
};

/// One epoch of one rank, up to now; once its last batch was taken or passed over, as it was at that moment. delivered + substituted + skipped + passed = taken; at the epoch's end taken = expected.
struct EpochReport {
  int64_t epoch = 0;
  int64_t expected = 0;      // samples of this rank in the epoch (from its origin)
  int64_t taken = 0;         // handed out by Next(), or passed over, up to now
  int64_t delivered = 0;
  int64_t substituted = 0;
  int64_t skipped = 0;
  int64_t passed = 0;        // of batches that Loader::Skip() passed over
  int64_t dropped = 0;       // all ranks: what tail=drop leaves
  int64_t padded = 0;        // all ranks: what tail=pad repeats
  int64_t batches = 0;
  int64_t bytes = 0;         // delivered sample bytes
  std::vector<int64_t> member_samples;  // of a mixture: samples of each data set in the batches handed out, substitutes included
  double wall_s = 0;         // from the epoch's first Next() until its last batch was taken (or until now)
  double wait_s = 0;         // of that, inside Next()
  double first_batch_s = 0;  // from Open to the first batch (first epoch), or of the first Next()
  double stream_cpu_s = 0;   // CPU time of the I/O streams' threads
  double next_p50_us = 0;    // of Next()
  double next_p99_us = 0;
  // Of the streams' time, summed over streams.
  double open_s = 0;         // requests' time in opens / requests in flight on average
  double transfer_s = 0;
  double idle_s = 0;         // no memory, or far enough ahead: back-pressure
  double codec_s = 0;
  double copy_s = 0;         // Next() waited for copies to the device alone
  double read_latency_us = 0;     // mean time of one transfer
  double open_latency_us = 0;     // mean time of one open
  double latency_floor_us = 0;    // of a transfer with nothing else in flight (regression)
  double bandwidth_mb_per_s = 0;  // of the store with everything in flight (regression); 0: not seen
  // Of the batches handed out, as they were planned: neighbours in one file share a read.
  int64_t reads = 0;
  int64_t read_bytes = 0;           // with the unwanted bytes between neighbours
  double reads_per_sample = 0;
  double read_bytes_per_byte = 0;   // per delivered byte
  // With disk_blocks and labels: the mean over batches of the total variation distance between the batch's labels and the data set's (0:
  // the data set in small, 1: nothing in common), and what it would be with a full shuffle.
  double label_distance = 0;
  double label_distance_full_shuffle = 0;
  int64_t warmed_samples = 0;       // read ahead into the page cache in the order of place
  int64_t warmed_bytes = 0;
  int64_t requests = 0;             // handed to the store in this time, reading ahead and retries included
  int64_t kept_open = 0;            // requests that found their file open (open_files)
  int64_t memory_known = 0;         // requests of which is known whether their bytes were in the page cache
  int64_t from_memory = 0;          // requests of these whose bytes were
  int64_t retries = 0;
  int64_t late_reports = 0;       // waits over 30 s that were reported
  int32_t queue_depth = 0;        // reads that may be in flight now, all streams of this loader
  int32_t io_workers = 0;         // and the threads that do them, where they need any
  std::string queue_depth_why;    // what was found, where it is tuned
  std::string io;                 // "buffered" or "direct": how this epoch's reads were planned
  std::string io_why;
  Bound bound = Bound::kNothing;
  std::string verdict;            // one line: what bounded it, with the figure and what to change
  std::vector<LedgerEntry> ledger;  // at most 1,000 entries; the counts above are exact
};

/// One data set of a mixture.
struct MemberReport {
  std::string root;
  std::string fingerprint;
  int64_t samples = 0;
  int64_t first_id = 0;        // its ids are first_id .. first_id + samples - 1
  int64_t period_samples = 0;  // its positions in each period of the mixture: what its weight came to
};

/// How a loader was set up: what was chosen, and why.
struct SetupReport {
  int32_t rank = 0;
  int32_t world_size = 1;
  int32_t local_rank = 0;    // of the ranks on this node, as far as the launcher says
  int32_t local_world_size = 1;
  std::string rank_why;      // "rank 3 of 8 (from torchrun; local rank 1 of 4)"
  std::string engine;        // "uring", "threads"
  std::string engine_why;
  std::string io;            // "buffered", "direct"
  std::string io_why;
  int32_t streams = 0;
  int32_t queue_depth = 0;   // reads in flight, all streams of this loader; now, where they are tuned
  int32_t io_workers = 0;    // threads at most that do them: of each ring with io_uring, of the pool with threads; likewise
  std::string queue_depth_why;
  std::string streams_why;   // "cpu_share = 0.4 of 2 cores ..."
  std::vector<int32_t> cpus; // of each stream; -1: not pinned
  std::string cpus_why;      // why streams are pinned, or not
  int32_t numa_node = -1;
  int64_t arena_bytes = 0;
  std::string memory_why;    // where memory_bytes comes from, and what binds it
  std::string device;        // "CUDA device 0 (0000:1b:00.0)"; empty: batches stay in host memory
  int64_t device_bytes = 0;  // of its memory, taken for batches
  std::string pages;
  std::string binding;
  std::string pinning;
  int64_t batch_bytes_max = 0;   // a bound for the largest batch
  int32_t prefetch_batches = 0;
  int64_t open_files_max = 0;    // files that may be kept open; shared by the loaders of one data set
  int64_t open_files = 0;        // now
  std::string open_files_why;
  int64_t coalesce_gap_bytes = 0; // 0 too where every file is one sample
  std::string coalesce_gap_why;
  std::string warm;               // what is read ahead in the order of place, or why nothing is
  int64_t quarantined_bytes = 0; // now
  std::string fingerprint;       // of the manifest; of a mixture, over those of its data sets
  std::vector<MemberReport> members;  // of a mixture, as its weights are now
  int64_t mixture_period = 0;         // M; 0: no mixture
  int64_t epoch_samples = 0;          // positions of an epoch, over all ranks
  std::vector<std::string> warnings;
};

}  // namespace penstock

#endif  // PENSTOCK_STATS_H_
