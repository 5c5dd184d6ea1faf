// Which sample is read when: position -> id, steps and ranks, and the state from which a run goes on.
#ifndef PENSTOCK_ORDER_H_
#define PENSTOCK_ORDER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "penstock/export.h"

namespace penstock {

class Mixture;

/// What happens to the last positions of an epoch when they do not fill a step of all ranks.
enum class Tail {
  kDrop,     ///< they are left out
  kPad,      ///< the step is filled up: position p >= N reads p mod N of the same epoch; of a mixture, p - N of the next
  kPartial,  ///< the last step is smaller; rank batches differ by at most one and may be empty
};

/// The order that Order makes today. A change of any id at any position is a new number; states name theirs.
inline constexpr int kOrderVersion = 1;

/// Bound of sample_count, block_samples, window_samples, virtual_streams and StepPlan's fields, so that no sum or product overflows.
inline constexpr int64_t kOrderMax = int64_t{1} << 56;

/// Epochs are counted from 0 and below this bound, so that no sum or product overflows.
inline constexpr int64_t kEpochMax = int64_t{1} << 40;

/// How the samples are shuffled. The default is the true global shuffle; larger blocks keep neighbours together for stores where
/// random access is dear.
struct OrderOptions {
  int64_t block_samples = 1;    // b: neighbours that stay together; blocks are shuffled
  int64_t window_samples = 1;   // w: samples are shuffled again inside windows of w; a multiple of b. Unused with b = 1
  int64_t virtual_streams = 1;  // V: the sequence of blocks is cut into V chunks, position p reads from chunk p mod V
  uint64_t seed = 0;
  bool shuffle = true;          // false: id = position in every epoch (for validation); b, w and V are then unused
};

/// Position -> id: a pure function of sample count, options, epoch and position, the same on every machine and rank.
///
/// Lifetime: immutable. Copies share their parts and are cheap. An order keeps at most 32 MiB of tables (1 MiB with b = 1).
/// Threads:  any.
class PENSTOCK_EXPORT Order {
 public:
  /// The order of `sample_count` samples. O(1) in the sample count.
  ///
  /// Errors: InvalidArgument  a count below 1 or above kOrderMax, or a window that is not a multiple of the block; what it takes is named.
  static absl::StatusOr<Order> Create(int64_t sample_count, const OrderOptions& options);

  /// The order that is `ids` itself, in every epoch: a custom sampler, a curriculum, a subset. An id may come more than once, or never.
  ///
  /// Errors: InvalidArgument  no ids, or one outside [0, sample_count), with its place.
  static absl::StatusOr<Order> FromIds(std::vector<int64_t> ids, int64_t sample_count);

  /// The order of several data sets by weight (mixture.h); ids are those of their common space.
  static Order FromMixture(const Mixture& mixture);

  /// N, the positions of an epoch: the sample count, the number of ids, or the mixture's epoch_samples().
  int64_t size() const;

  /// The id at a position. epoch >= 0 and 0 <= position < size() are preconditions, checked; of a mixture, what Mixture::Covers() says.
  int64_t IdAt(int64_t epoch, int64_t position) const;

  /// The position at which an epoch reads an id of [0, size()). With FromIds and FromMixture there is no inverse: -1
  /// (see Mixture::PositionOf).
  int64_t PositionOf(int64_t epoch, int64_t id) const;

  /// ids[i] = IdAt(epoch, positions[i]), faster than one by one. Both have the same length.
  void IdsAt(int64_t epoch, absl::Span<const int64_t> positions, absl::Span<int64_t> ids) const;

  /// The same for positions of a StepPlan, which with Tail::kPad may be size() or more: they wrap to the epoch's start. A mixture's are one
  /// sequence over all epochs, so that there they go on into the next one.
  void IdsOfPlan(int64_t epoch, absl::Span<const int64_t> positions, absl::Span<int64_t> ids) const;
  int64_t IdOfPlan(int64_t epoch, int64_t position) const;

  /// Whether the positions 0 .. size() + beyond - 1 of an epoch may be asked for by IdsOfPlan(). False for epochs of kEpochMax and more, and
  /// for those of a mixture that lie behind its kOrderMax positions. Where a mixture begins is not looked at (Mixture::Covers() is).
  bool Reaches(int64_t epoch, int64_t beyond) const;

  /// A hash of the ids given to FromIds, never 0; 0 with Create.
  ///
  /// Source: XXH3 64 bit over the ids as little-endian 64-bit integers (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
  uint64_t ids_hash() const;

  /// The mixture given to FromMixture; else null. Lives as long as this order or a copy of it.
  const Mixture* mixture() const;

  /// ids_hash() as State::ids_hash has it: 16 hexadecimal digits, empty with Create.
  std::string ids_hash_text() const;

 private:
  struct Impl;
  explicit Order(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

/// A run's steps through (the rest of) an epoch. Step k covers the positions [origin + k*G, origin + (k+1)*G) with G = batch_size *
/// world_size; rank r takes those with p mod world_size = r. So an unchanged G means the same steps for every world size, and a run
/// that goes on from `origin` with another world or batch size reads exactly the rest.
///
/// Units:  samples; counts are over all ranks.
struct PENSTOCK_EXPORT StepPlan {
  int64_t sample_count = 1;  // N: Order::size()
  int64_t origin = 0;        // P0: the restored position, 0 at an epoch's start; below N
  int64_t batch_size = 1;    // B: of one rank and step
  int64_t world_size = 1;    // W
  Tail tail = Tail::kDrop;

  /// InvalidArgument where a field is out of range: 1 <= N, 0 <= origin < N, 1 <= B, 1 <= W, B * W <= kOrderMax. The functions below
  /// need a valid plan.
  absl::Status Validate() const;

  int64_t global_batch() const { return batch_size * world_size; }  // G
  int64_t steps() const;                                            // the same on every rank; 0 with kDrop and less than G left
  int64_t expected_samples() const;                                 // positions covered by all steps
  int64_t dropped() const;                                          // positions left out (kDrop), else 0
  int64_t padded() const;                                           // positions >= N (kPad), else 0

  /// Sets `positions` to the rank's positions of a step, ascending: batch_size of them, fewer (even none) only in kPartial's last step.
  /// With kPad they may be N or more: Order::IdsOfPlan() has their ids. 0 <= step < steps() and 0 <= rank < world_size are checked.
  void Positions(int64_t step, int64_t rank, std::vector<int64_t>& positions) const;

  /// The position to read for a logical position: p mod N.
  static int64_t Wrap(int64_t position, int64_t sample_count) { return position < sample_count ? position : position % sample_count; }

  /// Where a run stands that has taken `steps_taken` of these steps: what goes into State::epoch and State::position. After the last
  /// step that is {epoch + 1, 0}: a position of N or more never comes out.
  void Advance(int64_t steps_taken, int64_t& epoch, int64_t& position) const;
};

/// What a run needs to go on elsewhere: the same on every rank, valid for any world size, batch size, stream count, prefetch depth or
/// engine.
struct PENSTOCK_EXPORT State {
  /// The newest format that FromJson() reads. ToJson() writes the oldest one that can say it: 2 with disk_blocks, else 1.
  static constexpr int kFormatVersion = 2;

  int format_version = 1;
  int order_version = kOrderVersion;
  std::string fingerprint;  // of the manifest: 32 hexadecimal digits
  uint64_t seed = 0;
  int64_t epoch = 0;
  int64_t position = 0;  // the first position of the epoch that was not handed out
  int64_t block_samples = 1;
  int64_t window_samples = 1;
  int64_t virtual_streams = 1;
  Tail tail = Tail::kDrop;
  std::string mixture;   // JSON text of the mixture segment; empty: no mixture
  std::string ids_hash;  // Order::ids_hash_text(); empty: no list of ids
  bool shuffle = true;
  bool disk_blocks = false;  // the order counts places on the drive instead of ids (LoaderOptions::disk_blocks)

  /// One JSON object on one line, with a CRC-32C of the rest in it: below 1 KiB with a mixture of up to 240 characters.
  std::string ToJson() const;

  /// Reads what ToJson() wrote; white space and the order of the fields may have changed.
  ///
  /// Errors: InvalidArgument     not a state: not JSON, a field missing, unknown, twice, of the wrong type or out of range.
  ///         DataLoss            the checksum does not fit.
  ///         FailedPrecondition  written by a newer penstock: its format or order is not known here.
  static absl::StatusOr<State> FromJson(absl::string_view text);

  /// Whether a run over this data set and order can go on from here.
  ///
  /// Errors: FailedPrecondition  another data set (fingerprint), a mixture where this is none or the other way round, another list of ids,
  ///                             or a position beyond the epoch's end.
  absl::Status Matches(absl::string_view manifest_fingerprint, const Order& order) const;

  friend bool operator==(const State&, const State&) = default;
};

}  // namespace penstock

#endif  // PENSTOCK_ORDER_H_
