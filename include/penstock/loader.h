// The front door of penstock.
#ifndef PENSTOCK_LOADER_H_
#define PENSTOCK_LOADER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "penstock/batch.h"
#include "penstock/export.h"
#include "penstock/manifest.h"
#include "penstock/options.h"
#include "penstock/stats.h"

namespace penstock {

class LoaderCore;
class RuntimeCore;

/// The budgets of one Runtime, over all its loaders.
struct RuntimeOptions {
  int64_t memory_bytes = 0;     // cap on the arenas of all its loaders; 0: none beyond each loader's own
  int32_t queue_depth = 0;      // reads in flight of all its loaders; keep it below the device's nr_requests. 0: 256, and up to 1,024
                                // on stores where no read returns at once (network file systems), as far as they bring more
  int32_t io_workers = 16;      // threads of the shared pread pool, and those that loaders with io_workers = 0 find to bring more there
  int32_t loaders = 1;          // that read at the same time, one per GPU: each has its part of the cores, cpu_share and queue_depth
};

/// The same by name, as for LoaderOptions in options.h.
PENSTOCK_EXPORT absl::Span<const OptionInfo> RuntimeOptionTable();
PENSTOCK_EXPORT absl::Status SetOption(RuntimeOptions& options, absl::string_view name, absl::string_view value);
PENSTOCK_EXPORT std::string GetOption(const RuntimeOptions& options, absl::string_view name);

/// What the loaders of a process share: manifests, the map of the cores, the budgets of memory and reads in flight, and the pread pool.
///
/// Lifetime: kept alive by its loaders.
/// Threads:  any.
class PENSTOCK_EXPORT Runtime {
 public:
  /// Makes one. Starts no thread and takes no memory yet.
  static std::shared_ptr<Runtime> Create(const RuntimeOptions& options = {});
  /// The one that loaders use who are not given another. It is never destroyed.
  static std::shared_ptr<Runtime> Default();
  ~Runtime();

 private:
  friend class Loader;
  friend class RuntimeCore;
  explicit Runtime(std::unique_ptr<RuntimeCore> core);
  std::unique_ptr<RuntimeCore> core_;
};

/// One rank's stream of batches, into one device (or host memory).
class PENSTOCK_EXPORT Loader {
 public:
  /// Opens (or builds) the manifest, sets up memory, rings and streams, and begins to read.
  ///
  /// Errors:   InvalidArgument    an option, named with what it takes; one of the order that differs from the state, with both values.
  ///           NotFound, DataLoss the data set or its manifest; see manifest.h.
  ///           ResourceExhausted  memory, descriptors, RLIMIT_MEMLOCK: how much is needed, and what to raise. Also a batch that
  ///                              cannot fit memory_bytes: named by its largest samples.
  ///           FailedPrecondition a state of another data set or list of ids; verify_crc without checksums in the manifest.
  ///           DeadlineExceeded   another process has been indexing the data set for longer than deadline_s.
  ///           Unavailable        engine=uring where io_uring is denied, or a device that cannot be opened.
  /// Threads:  any.
  static absl::StatusOr<std::unique_ptr<Loader>> Open(LoaderOptions options, std::shared_ptr<Runtime> runtime = nullptr);

  /// Ends all reading. Returns within 5 s also while reads hang; their memory is kept aside until the kernel is done with it.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Returns the next batch of the current epoch, waiting until its bytes are in place (in device memory with options.device >= 0).
  ///
  /// Behind an epoch's last batch it returns OK with no batch: end_of_epoch() is true and size() is 0. It does so until StartEpoch() begins
  /// the next epoch. No error means that an epoch has ended.
  ///
  ///     for (;;) {
  ///       absl::StatusOr<penstock::Batch> batch = loader->Next();
  ///       if (!batch.ok()) return batch.status();
  ///       if (batch->end_of_epoch()) break;
  ///       ...
  ///     }
  ///
  /// Shape:    options.batch_size samples; the last batch of an epoch may have fewer, even none (only with tail=partial).
  /// Errors:   DataLoss, NotFound, PermissionDenied...  a sample cannot be read (policy=fail); the message names the object, the byte range
  ///                              and the sample. The loader stays usable, the position does not advance.
  ///           DeadlineExceeded   nothing came within options.deadline_s; the message says what is waited for.
  ///           ResourceExhausted  all memory is in batches that were not released; their ids are named.
  ///           Cancelled          Stop() was called.
  ///           FailedPrecondition in a forked child; or another thread is in Next() at this moment.
  /// Threads:  one consumer at a time, today this thread and tomorrow another; Stop() may be called from any thread.
  [[nodiscard]] absl::StatusOr<Batch> Next();

  /// The same, but waits for at most `wait_ms` milliseconds (0: not at all). Where nothing came in that time it returns OK with no batch
  /// (`!*batch`), and end_of_epoch() is false. For a consumer that has to look after something else meanwhile. options.deadline_s counts
  /// from the first call that waits for this batch.
  ///
  /// Errors:   as Next(); and InvalidArgument, a wait below 0.
  /// Threads:  as Next().
  [[nodiscard]] absl::StatusOr<Batch> NextWithin(int64_t wait_ms);

  /// Begins the next epoch (or epoch `epoch`, from its start). What was read ahead for it is used; batches of the current epoch that were
  /// not taken are given up, those that were handed out stay valid.
  ///
  /// Errors:   InvalidArgument     an epoch below 0, or kEpochMax and more.
  ///           Cancelled           Stop() was called.
  ///           FailedPrecondition  in a forked child; another thread is in Next() at this moment; an epoch that begins before the last
  ///                               change of a mixture's weights, or ends behind its kOrderMax positions.
  /// Threads:  the consumer's.
  absl::Status StartEpoch();
  absl::Status StartEpoch(int64_t epoch);

  /// Passes over the next `steps` batches of the current epoch, as if Next() had handed them out: the state, step() and what Next() gives
  /// then are the same. O(1) in `steps`. What was read ahead of them is given up, what was read ahead behind them is used. A batch that
  /// failed is passed over like any other. The report counts their samples in EpochReport::passed.
  ///
  /// Errors:   InvalidArgument     steps below 0.
  ///           OutOfRange          more than the epoch has left; the message has the numbers, and nothing was passed over.
  ///           Cancelled           Stop() was called.
  ///           FailedPrecondition  in a forked child; or another thread is in Next() at this moment.
  /// Threads:  the consumer's.
  absl::Status Skip(int64_t steps);

  /// Changes the weights of options.mixture from the next batch on: what was read ahead with the old ones is given up, and no data set
  /// loses or repeats a sample. All ranks of a job have to do it at the same step, for their batches are parts of one sequence. The state
  /// keeps them. Epochs, or places in this one, that lie before it cannot be gone back to.
  ///
  /// Errors:   InvalidArgument     not one weight for each data set, or one that Mixture::Create() refuses.
  ///           FailedPrecondition  options.mixture was empty; in a forked child; or another thread is in Next() at this moment.
  ///           Cancelled           Stop() was called.
  /// Threads:  the consumer's.
  absl::Status SetWeights(absl::Span<const double> weights);

  /// Ends waiting and reading. Next() returns Cancelled from then on.
  ///
  /// Threads:  any, also while the consumer waits in Next().
  void Stop();

  /// Where the loader stands. -1 in a forked child.
  int64_t epoch() const;
  int64_t steps() const;       // of the whole current epoch, the same on every rank, also where a state goes on in the middle of it
  int64_t steps_left() const;  // that Next() has still to give in it, the same on every rank (at the same step)
  int64_t step() const;        // taken in it by this loader

  /// What to give to options.state to go on after the last batch that Next() handed out: below 1 KiB of JSON (8 KiB with a mixture of 256
  /// data sets), the same on every rank (at the same step), valid for any world size, batch size, stream count, prefetch depth or engine.
  /// After an epoch's last batch it is the start of the next one.
  ///
  /// Threads:  any.
  std::string state() const;

  /// The current epoch, up to now; what was chosen at Open(), and why; the data set.
  ///
  /// Threads:  any.
  EpochReport report() const;
  SetupReport setup() const;
  std::shared_ptr<const Manifest> manifest() const;

 private:
  explicit Loader(std::shared_ptr<LoaderCore> core);
  static absl::StatusOr<Batch> NextOf(LoaderCore& core, int64_t within_ns);
  std::shared_ptr<LoaderCore> core_;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_H_
