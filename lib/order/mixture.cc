#include "penstock/mixture.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "nlohmann/json.hpp"
#include "order/permutation.h"

namespace penstock {
namespace {

using Json = nlohmann::json;

constexpr size_t kBlocksKept = 4;

// Who has which place of one block.
struct Block {
  std::vector<uint8_t> member;   // of each place
  std::vector<uint16_t> rank;    // of each place among those of its member
  std::vector<uint16_t> places;  // member after member, ascending: the inverse
};
static_assert(kMixtureMembersMax <= 256 && kMixturePeriodMax <= 65536, "the types above");

// Weights to counts that sum to `period`, each at least its share rounded down; the largest remainders get what is left. Integers
// throughout, so that no compiler's way with floating point can make two machines disagree: a division and a scaling by a power of two
// round everywhere alike.
absl::StatusOr<std::vector<int64_t>> Quantise(absl::Span<const double> weights, int64_t period) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] >= 0) || !std::isfinite(weights[i])) {
      return absl::InvalidArgumentError(absl::StrCat("weight ", i, " of the mixture is ", weights[i], ": weights are numbers from 0 up"));
    }
    sum += weights[i];
  }
  if (!(sum > 0) || !std::isfinite(sum))
    return absl::InvalidArgumentError("the weights of the mixture are all 0, or too large to be added up");
  std::vector<int64_t> shares;
  __int128 total = 0;
  for (const double weight : weights) {
    shares.push_back(std::llround(std::ldexp(weight / sum, 52)));
    total += shares.back();
  }
  std::vector<int64_t> counts;
  std::vector<std::pair<__int128, size_t>> remainders;  // the largest first, of equal ones the first member
  int64_t left = period;
  for (size_t i = 0; i < shares.size(); ++i) {
    const __int128 scaled = static_cast<__int128>(shares[i]) * period;
    counts.push_back(static_cast<int64_t>(scaled / total));
    left -= counts.back();
    remainders.emplace_back(-(scaled % total), i);
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t i = 0; i < static_cast<size_t>(left); ++i) ++counts[remainders[i].second];
  for (size_t i = 0; i < counts.size(); ++i) {
    if (weights[i] == 0 || counts[i] > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("weight ", i, " of the mixture is ", weights[i], " of ", sum,
                                                   ", which is no sample in a period of ", period, ": give a longer period (up to ",
                                                   kMixturePeriodMax, "), or weight 0"));
  }
  return counts;
}

absl::Status CheckPeriod(int64_t period, size_t members) {
  if (period >= 1 && period <= kMixturePeriodMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the mixture's period is ", period, ", and must be from 1 to ", kMixturePeriodMax, "; it has ", members, " members"));
}

absl::Status NotAMixture(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("not the mixture of a penstock state: ", what));
}

// The numbers of an array, each from 0 to `max`.
bool GetNumbers(const Json& json, const char* name, int64_t max, std::vector<int64_t>& numbers) {
  const auto found = json.find(name);
  if (found == json.end() || !found->is_array()) return false;
  for (const Json& number : *found) {
    if (!number.is_number_unsigned() || number.get<uint64_t>() > static_cast<uint64_t>(max)) return false;
    numbers.push_back(number.get<int64_t>());
  }
  return true;
}

}  // namespace

struct Mixture::Impl {
  std::vector<Order> orders;
  std::vector<int64_t> first_ids;  // and the number of all ids
  OrderOptions order;
  int64_t period = 1;
  int64_t epoch_samples = 1;
  int64_t begin = 0;            // of the segment
  std::vector<int64_t> counts;  // of a period
  std::vector<int64_t> firsts;  // sums of the counts before
  std::vector<int64_t> given;   // before the segment

  mutable std::mutex mutex;
  mutable std::list<std::pair<int64_t, std::shared_ptr<const Block>>> blocks;  // the last used first

  std::shared_ptr<const Block> MakeBlock(int64_t number) const {
    // Which of the M numbers a place has; they are dealt out to the members in their order.
    std::vector<uint16_t> numbers(static_cast<size_t>(period));
    FillShuffled(MixtureKey(order.seed, begin, number), absl::MakeSpan(numbers));
    std::vector<uint8_t> owner(numbers.size());
    for (size_t d = 0; d < counts.size(); ++d) std::fill_n(owner.begin() + firsts[d], counts[d], static_cast<uint8_t>(d));
    auto block = std::make_shared<Block>();
    block->member.resize(numbers.size());
    block->rank.resize(numbers.size());
    block->places.resize(numbers.size());
    std::vector<uint16_t> next(counts.size(), 0);
    for (size_t place = 0; place < numbers.size(); ++place) {
      const uint8_t d = owner[numbers[place]];
      block->member[place] = d;
      block->rank[place] = next[d];
      block->places[static_cast<size_t>(firsts[d]) + next[d]] = static_cast<uint16_t>(place);
      ++next[d];
    }
    return block;
  }

  std::shared_ptr<const Block> BlockOf(int64_t number) const {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      for (auto it = blocks.begin(); it != blocks.end(); ++it) {
        if (it->first != number) continue;
        blocks.splice(blocks.begin(), blocks, it);
        return it->second;
      }
    }
    // Outside the lock: two threads may make the same one.
    std::shared_ptr<const Block> made = MakeBlock(number);
    const std::lock_guard<std::mutex> lock(mutex);
    blocks.emplace_front(number, made);
    if (blocks.size() > kBlocksKept) blocks.pop_back();
    return made;
  }

  int64_t GlobalOf(int64_t epoch, int64_t position) const { return epoch * epoch_samples + position; }

  // A member and its own position in all its epochs.
  std::pair<size_t, int64_t> OwnAt(int64_t global, const Block& block) const {
    const int64_t offset = global - begin;
    const auto place = static_cast<size_t>(offset % period);
    const size_t d = block.member[place];
    return {d, given[d] + offset / period * counts[d] + block.rank[place]};
  }

  absl::Status AddMembers(absl::Span<const int64_t> sample_counts) {
    if (sample_counts.empty() || static_cast<int64_t>(sample_counts.size()) > kMixtureMembersMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("a mixture of ", sample_counts.size(), " data sets: it takes from 1 to ", kMixtureMembersMax));
    }
    first_ids = {0};
    for (size_t d = 0; d < sample_counts.size(); ++d) {
      OrderOptions own = order;
      own.seed = MemberSeed(order.seed, static_cast<int64_t>(d));
      absl::StatusOr<Order> made = Order::Create(sample_counts[d], own);
      if (!made.ok()) return absl::Status(made.status().code(), absl::StrCat("member ", d, " of the mixture: ", made.status().message()));
      if (sample_counts[d] > kOrderMax - first_ids.back())
        return absl::InvalidArgumentError("the data sets of the mixture have more than 2^56 samples");
      orders.push_back(*std::move(made));
      first_ids.push_back(first_ids.back() + sample_counts[d]);
    }
    return absl::OkStatus();
  }

  void SetCounts(std::vector<int64_t> new_counts) {
    counts = std::move(new_counts);
    firsts.assign(1, 0);
    for (const int64_t count : counts) firsts.push_back(firsts.back() + count);
    period = firsts.back();
  }
};

Mixture::Mixture(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<Mixture> Mixture::Create(absl::Span<const int64_t> sample_counts, absl::Span<const double> weights,
                                        const MixtureOptions& options) {
  auto impl = std::make_shared<Impl>();
  impl->order = options.order;
  if (absl::Status status = impl->AddMembers(sample_counts); !status.ok()) return status;
  if (weights.size() != sample_counts.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a mixture of ", sample_counts.size(), " data sets has ", weights.size(), " weights: give one for each"));
  }
  if (absl::Status status = CheckPeriod(options.period, weights.size()); !status.ok()) return status;
  if (options.epoch_samples < 1 || options.epoch_samples > kOrderMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("epoch_samples of the mixture is ", options.epoch_samples, ", and must be from 1 to 2^56"));
  }
  absl::StatusOr<std::vector<int64_t>> counts = Quantise(weights, options.period);
  if (!counts.ok()) return counts.status();
  impl->SetCounts(*std::move(counts));
  impl->epoch_samples = options.epoch_samples;
  impl->given.assign(sample_counts.size(), 0);
  return Mixture(std::move(impl));
}

absl::StatusOr<Mixture> Mixture::FromText(absl::string_view text, absl::Span<const int64_t> sample_counts, const OrderOptions& order) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.size() != 4) return NotAMixture("it is not a JSON object of four fields");
  std::vector<int64_t> counts, given, begin, epoch_samples;
  Json single = {{"begin", Json::array({json.value("begin", Json())})}, {"epoch", Json::array({json.value("epoch", Json())})}};
  if (!GetNumbers(json, "counts", kMixturePeriodMax, counts) || !GetNumbers(json, "given", kOrderMax, given) ||
      !GetNumbers(single, "begin", kOrderMax, begin) || !GetNumbers(single, "epoch", kOrderMax, epoch_samples) || epoch_samples[0] < 1) {
    return NotAMixture("\"begin\", \"counts\", \"epoch\" or \"given\" is missing, or out of range");
  }
  int64_t period = 0;
  __int128 before = 0;
  for (const int64_t count : counts) period += count;
  for (const int64_t count : given) before += count;
  if (counts.empty() || counts.size() != given.size() || static_cast<int64_t>(counts.size()) > kMixtureMembersMax || period < 1 ||
      period > kMixturePeriodMax) {
    return NotAMixture(
        absl::StrCat("its counts are of ", counts.size(), " members and sum to ", period, ", what was given before is of ", given.size()));
  }
  if (before != begin[0]) return NotAMixture(absl::StrCat("what its members gave is not the ", begin[0], " samples before its segment"));
  if (counts.size() != sample_counts.size()) {
    return absl::FailedPreconditionError(absl::StrCat("the state was made with a mixture of ", counts.size(),
                                                      " data sets, and this run has ", sample_counts.size(), ": give the same ones"));
  }
  auto impl = std::make_shared<Impl>();
  impl->order = order;
  if (absl::Status status = impl->AddMembers(sample_counts); !status.ok()) return status;
  impl->SetCounts(std::move(counts));
  impl->given = std::move(given);
  impl->begin = begin[0];
  impl->epoch_samples = epoch_samples[0];
  return Mixture(std::move(impl));
}

absl::StatusOr<Mixture> Mixture::WithWeights(int64_t epoch, int64_t position, absl::Span<const double> weights, int64_t period) const {
  if (period == 0) period = impl_->period;
  if (static_cast<int64_t>(weights.size()) != member_count()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a mixture of ", member_count(), " data sets has ", weights.size(), " new weights: give one for each"));
  }
  if (absl::Status status = CheckPeriod(period, weights.size()); !status.ok()) return status;
  if (!Covers(epoch, position)) {
    return absl::FailedPreconditionError(absl::StrCat("the mixture's weights were changed last at position ", impl_->begin,
                                                      " of all epochs together, and position ", position, " of epoch ", epoch, " of ",
                                                      impl_->epoch_samples, " is not behind that"));
  }
  absl::StatusOr<std::vector<int64_t>> counts = Quantise(weights, period);
  if (!counts.ok()) return counts.status();
  if (*counts == impl_->counts) return *this;
  auto impl = std::make_shared<Impl>();
  impl->orders = impl_->orders;
  impl->first_ids = impl_->first_ids;
  impl->order = impl_->order;
  impl->epoch_samples = impl_->epoch_samples;
  impl->begin = impl_->GlobalOf(epoch, position);
  for (int64_t d = 0; d < member_count(); ++d) impl->given.push_back(GivenBefore(d, epoch, position));
  impl->SetCounts(*std::move(counts));
  return Mixture(std::move(impl));
}

std::string Mixture::ToText() const {
  return Json({{"begin", static_cast<uint64_t>(impl_->begin)},
               {"counts", std::vector<uint64_t>(impl_->counts.begin(), impl_->counts.end())},
               {"epoch", static_cast<uint64_t>(impl_->epoch_samples)},
               {"given", std::vector<uint64_t>(impl_->given.begin(), impl_->given.end())}})
      .dump();
}

int64_t Mixture::member_count() const { return static_cast<int64_t>(impl_->orders.size()); }
int64_t Mixture::sample_count(int64_t member) const { return impl_->orders[static_cast<size_t>(member)].size(); }
int64_t Mixture::first_id(int64_t member) const { return impl_->first_ids[static_cast<size_t>(member)]; }
int64_t Mixture::period() const { return impl_->period; }
int64_t Mixture::count(int64_t member) const { return impl_->counts[static_cast<size_t>(member)]; }
int64_t Mixture::epoch_samples() const { return impl_->epoch_samples; }
int64_t Mixture::first_position() const { return impl_->begin; }

bool Mixture::Covers(int64_t epoch, int64_t position) const {
  if (epoch < 0 || position < 0 || position >= impl_->epoch_samples || epoch > kOrderMax / impl_->epoch_samples) return false;
  const int64_t global = impl_->GlobalOf(epoch, position);
  return global >= impl_->begin && global < kOrderMax;
}

Mixture::Place Mixture::At(int64_t epoch, int64_t position) const {
  PENSTOCK_CHECK(Covers(epoch, position), "a position outside the mixture's segment");
  const int64_t global = impl_->GlobalOf(epoch, position);
  const auto [d, own] = impl_->OwnAt(global, *impl_->BlockOf((global - impl_->begin) / impl_->period));
  const Order& order = impl_->orders[d];
  Place place;
  place.member = static_cast<int64_t>(d);
  place.epoch = own / order.size();
  place.position = own % order.size();
  place.id = impl_->first_ids[d] + order.IdAt(place.epoch, place.position);
  return place;
}

void Mixture::IdsAt(int64_t epoch, absl::Span<const int64_t> positions, absl::Span<int64_t> ids) const {
  PENSTOCK_CHECK(positions.size() == ids.size(), "as many ids as positions");
  // Gathered by member and its epoch, whose order then makes them all at once.
  struct Gathered {
    int64_t epoch = -1;
    std::vector<int64_t> positions;
    std::vector<size_t> where;
  };
  std::vector<Gathered> members(impl_->orders.size());
  std::vector<int64_t> own_ids;
  const auto flush = [&](size_t d) {
    Gathered& gathered = members[d];
    own_ids.resize(gathered.positions.size());
    impl_->orders[d].IdsAt(std::max<int64_t>(0, gathered.epoch), gathered.positions, absl::MakeSpan(own_ids));
    for (size_t i = 0; i < own_ids.size(); ++i) ids[gathered.where[i]] = impl_->first_ids[d] + own_ids[i];
    gathered.positions.clear();
    gathered.where.clear();
  };
  std::shared_ptr<const Block> block;
  int64_t block_number = -1;
  for (size_t i = 0; i < positions.size(); ++i) {
    PENSTOCK_CHECK(Covers(epoch, positions[i]), "a position outside the mixture's segment");
    const int64_t global = impl_->GlobalOf(epoch, positions[i]);
    const int64_t number = (global - impl_->begin) / impl_->period;
    if (number != block_number) {
      block = impl_->BlockOf(number);
      block_number = number;
    }
    const auto [d, own] = impl_->OwnAt(global, *block);
    const int64_t size = impl_->orders[d].size();
    if (members[d].epoch != own / size) {
      flush(d);
      members[d].epoch = own / size;
    }
    members[d].positions.push_back(own % size);
    members[d].where.push_back(i);
  }
  for (size_t d = 0; d < members.size(); ++d) flush(d);
}

int64_t Mixture::PositionOf(int64_t member, int64_t epoch, int64_t position) const {
  const auto d = static_cast<size_t>(member);
  PENSTOCK_CHECK(member >= 0 && member < member_count() && epoch >= 0 && position >= 0 && position < sample_count(member),
                 "a place outside the mixture");
  const int64_t count = impl_->counts[d];
  const int64_t own = epoch * sample_count(member) + position - impl_->given[d];
  if (own < 0 || count == 0) return -1;
  const auto block = impl_->BlockOf(own / count);
  return impl_->begin + own / count * impl_->period + block->places[static_cast<size_t>(impl_->firsts[d] + own % count)];
}

int64_t Mixture::GivenBefore(int64_t member, int64_t epoch, int64_t position) const {
  PENSTOCK_CHECK(member >= 0 && member < member_count() && Covers(epoch, position), "a place outside the mixture");
  const auto d = static_cast<size_t>(member);
  const int64_t offset = impl_->GlobalOf(epoch, position) - impl_->begin;
  const auto block = impl_->BlockOf(offset / impl_->period);
  const auto begin = block->places.begin() + impl_->firsts[d];
  const auto before = std::lower_bound(begin, begin + impl_->counts[d], static_cast<uint16_t>(offset % impl_->period)) - begin;
  return impl_->given[d] + offset / impl_->period * impl_->counts[d] + before;
}

}  // namespace penstock
