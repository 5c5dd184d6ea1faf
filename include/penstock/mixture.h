// Several data sets by weight: which of them a position reads, and which of its samples.
#ifndef PENSTOCK_MIXTURE_H_
#define PENSTOCK_MIXTURE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "penstock/export.h"
#include "penstock/order.h"

namespace penstock {

/// The longest period of a mixture.
inline constexpr int64_t kMixturePeriodMax = int64_t{1} << 16;

/// The most members of a mixture.
inline constexpr int64_t kMixtureMembersMax = 256;

struct MixtureOptions {
  OrderOptions order;         // how each member is shuffled; its own seed is made of this one and its place among the members
  int64_t period = 1000;      // M: every M positions hold each member exactly as often as its weight says
  int64_t epoch_samples = 1;  // positions of an epoch of the mixture; each member has its own epochs, as long as it is
};

/// Position -> (member, its epoch, its position) -> id: a pure function, the same on every machine, rank and world size.
///
/// The positions of all epochs are one sequence: position p of epoch e is g = e * epoch_samples + p. It is cut into blocks of M, from the
/// segment's start on. In each block a keyed permutation says which places are whose, and a member's samples come in its own order: its
/// place of rank i in block k reads its position n + k * c + i, where c is its count in a block and n what it had given before the segment.
/// That position lies in its own epoch (n + k * c + i) div N. Ids of all members are one space: member d's begin where those of member d-1
/// end.
///
/// New weights begin a new segment, at any position: no member loses or repeats a sample.
///
/// Lifetime: immutable. Copies share their parts and are cheap.
/// Threads:  any.
class PENSTOCK_EXPORT Mixture {
 public:
  /// A mixture from its first position on. Weights are finite, at least 0 and not all 0; they are relative, and quantised to counts of
  /// whole samples per period (largest remainder; the first of equal ones).
  ///
  /// Errors: InvalidArgument  no members, as many weights as members not given, a bad weight, a period that gives a member with a weight no
  ///                          place (it must be longer), or what Order::Create() refuses.
  static absl::StatusOr<Mixture> Create(absl::Span<const int64_t> sample_counts, absl::Span<const double> weights,
                                        const MixtureOptions& options);

  /// What ToText() said, over the same members. `order` as in MixtureOptions.
  ///
  /// Errors: InvalidArgument     not a mixture's text.
  ///         FailedPrecondition  it is of another number of members.
  static absl::StatusOr<Mixture> FromText(absl::string_view text, absl::Span<const int64_t> sample_counts, const OrderOptions& order);

  /// The same members from position `position` of epoch `epoch` on with new weights and perhaps another period (0: the same). Where the
  /// counts come out as they are, this is the mixture itself. Earlier positions are no longer to be asked for.
  ///
  /// Errors: as Create(), and FailedPrecondition for a position before first_position().
  absl::StatusOr<Mixture> WithWeights(int64_t epoch, int64_t position, absl::Span<const double> weights, int64_t period = 0) const;

  /// One JSON object on one line, for State::mixture.
  std::string ToText() const;

  int64_t member_count() const;
  int64_t sample_count(int64_t member) const;
  int64_t first_id(int64_t member) const;  // of its ids in the common space; of member_count(): the number of all ids
  int64_t period() const;                  // M
  int64_t count(int64_t member) const;     // c: its places in each period
  int64_t epoch_samples() const;
  int64_t first_position() const;  // g, where the segment begins: 0, or where the weights were changed last

  /// Whether position `position` of epoch `epoch` may be asked for: not before first_position(), and g below kOrderMax.
  bool Covers(int64_t epoch, int64_t position) const;

  struct Place {
    int64_t member = 0;
    int64_t epoch = 0;     // the member's own
    int64_t position = 0;  // in that epoch
    int64_t id = 0;        // in the common space
    friend bool operator==(const Place&, const Place&) = default;
  };
  /// What a position reads. Covers(epoch, position) is a precondition, checked.
  Place At(int64_t epoch, int64_t position) const;

  /// ids[i] = At(epoch, positions[i]).id, faster than one by one.
  void IdsAt(int64_t epoch, absl::Span<const int64_t> positions, absl::Span<int64_t> ids) const;

  /// The position of the common sequence (g) at which a member gives its position `position` of its epoch `epoch`; -1 where it is before
  /// this segment, or the member has no places in it.
  int64_t PositionOf(int64_t member, int64_t epoch, int64_t position) const;

  /// How many samples a member has given before a position: what a new segment there begins with. Covers(epoch, position) is checked.
  int64_t GivenBefore(int64_t member, int64_t epoch, int64_t position) const;

 private:
  struct Impl;
  explicit Mixture(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace penstock

#endif  // PENSTOCK_MIXTURE_H_
