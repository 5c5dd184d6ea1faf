#include "penstock/order.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <list>
#include <mutex>
#include <optional>
#include <utility>

#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/check.h"
#include "order/permutation.h"
#include "order/window_cache.h"
#include "penstock/mixture.h"

namespace penstock {
namespace {

constexpr int64_t kWindowCacheBytes = int64_t{31} << 20;
constexpr int64_t kTinyWindow = 64;  // shuffled anew when met: cheaper than to keep that many
constexpr size_t kEpochsKept = 4;  // the current one, the next (prefetch), and two for whoever looks around

// What an epoch needs, made once.
struct EpochSchedule {
  EpochSchedule(uint64_t seed, int64_t epoch, int64_t sample_count, int64_t block_samples)
      : blocks(BlockKey(seed, epoch), static_cast<int64_t>(CeilDiv(sample_count, block_samples))) {
    const int64_t whole_blocks = sample_count / block_samples;
    short_samples = sample_count % block_samples;
    short_place = short_samples == 0 ? whole_blocks : blocks.Invert(whole_blocks);
  }

  Permutation blocks;         // place in the sequence -> block
  int64_t short_samples = 0;  // c = N mod b
  int64_t short_place = 0;    // k: the short block's place; behind the last place if there is none
};

// Told apart by a number that is never used twice, since an address may be.
uint64_t NextOrderNumber() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

absl::Status CheckRange(const char* name, int64_t value, const char* cure) {
  if (value >= 1 && value <= kOrderMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", and must be from 1 to 2^56: ", cure));
}

}  // namespace

struct Order::Impl {
  Impl(int64_t count, const OrderOptions& order_options)
      : size(count),
        options(order_options),
        short_chunk_samples(count / order_options.virtual_streams),
        long_chunks(count % order_options.virtual_streams) {}

  const EpochSchedule& ScheduleOf(int64_t epoch) const;
  std::shared_ptr<const EpochSchedule> MakeSchedule(int64_t epoch) const;

  // Where position p reads: chunk p mod V, its sample p div V, which lies in a window and is shuffled there.
  struct Place {
    int64_t chunk_start = 0;  // of the sequence
    WindowId window;
    int64_t window_start = 0;    // of the chunk
    int64_t window_samples = 0;  // in this one
    int64_t offset = 0;          // in the window
  };
  Place PlaceOf(int64_t epoch, int64_t chunk, int64_t index) const;
  // The block that was used last: in tiny windows the next sample is of the same one.
  struct LastBlock {
    int64_t place = -1;
    int64_t first_id = 0;
  };
  // Sequence position -> id and back.
  int64_t IdOfSequence(const EpochSchedule& schedule, int64_t sequence, LastBlock& last) const;
  int64_t SequenceOfId(const EpochSchedule& schedule, int64_t id) const;

  // The window that was used last, so that neighbouring positions need not ask the cache.
  struct LastWindow {
    WindowId id{.epoch = -1};
    std::shared_ptr<const Permutation> permutation;
    std::array<uint8_t, kTinyWindow> tiny;  // in place of `permutation` for windows up to kTinyWindow
  };
  const Permutation& PermutationOf(const Place& place, LastWindow& last) const;
  int64_t ShuffledOffset(const Place& place, LastWindow& last) const;
  int64_t SequenceAt(int64_t epoch, int64_t position, LastWindow& last) const;

  bool windowed() const { return options.block_samples > 1 && options.window_samples > 1; }
  bool listed() const { return hash != 0; }

  const int64_t size;
  const OrderOptions options;
  // The sequence is cut into a chunk for each virtual stream; the first ones are longer by one.
  const int64_t short_chunk_samples;
  const int64_t long_chunks;
  const uint64_t number = NextOrderNumber();
  std::vector<int64_t> ids;  // FromIds
  uint64_t hash = 0;         // 0: no list
  std::optional<Mixture> mixture;  // FromMixture

  mutable std::mutex mutex;
  mutable std::list<std::pair<int64_t, std::shared_ptr<const EpochSchedule>>> schedules;  // by epoch, the last used first
  mutable WindowCache windows{kWindowCacheBytes};
};

// Each thread remembers the schedules that it used last, so that no sample costs a lock. The reference is valid until this thread's next
// call. What is remembered outlives the order, by at most four schedules (256 KiB each, shared by all threads).
const EpochSchedule& Order::Impl::ScheduleOf(int64_t epoch) const {
  struct Recent {
    uint64_t number = 0;
    int64_t epoch = 0;
    std::shared_ptr<const EpochSchedule> schedule;
  };
  thread_local Recent recent[kEpochsKept];
  thread_local size_t oldest = 0;
  for (const Recent& entry : recent) {
    if (entry.number == number && entry.epoch == epoch) return *entry.schedule;
  }
  Recent& entry = recent[oldest];
  oldest = (oldest + 1) % kEpochsKept;
  entry = {number, epoch, MakeSchedule(epoch)};
  return *entry.schedule;
}

std::shared_ptr<const EpochSchedule> Order::Impl::MakeSchedule(int64_t epoch) const {
  const std::lock_guard<std::mutex> lock(mutex);
  for (auto it = schedules.begin(); it != schedules.end(); ++it) {
    if (it->first != epoch) continue;
    schedules.splice(schedules.begin(), schedules, it);
    return it->second;
  }
  schedules.emplace_front(epoch, std::make_shared<const EpochSchedule>(options.seed, epoch, size, options.block_samples));
  if (schedules.size() > kEpochsKept) schedules.pop_back();
  return schedules.front().second;
}

Order::Impl::Place Order::Impl::PlaceOf(int64_t epoch, int64_t chunk, int64_t index) const {
  const int64_t chunk_samples = short_chunk_samples + (chunk < long_chunks ? 1 : 0);
  Place place;
  place.chunk_start = chunk * short_chunk_samples + std::min(chunk, long_chunks);
  place.window = {epoch, chunk, index / options.window_samples};
  place.window_start = place.window.window * options.window_samples;
  place.window_samples = std::min(options.window_samples, chunk_samples - place.window_start);
  place.offset = index - place.window_start;
  return place;
}

const Permutation& Order::Impl::PermutationOf(const Place& place, LastWindow& last) const {
  if (!(last.id == place.window)) {
    last.permutation = windows.Get(options.seed, place.window, place.window_samples);
    last.id = place.window;
  }
  return *last.permutation;
}

int64_t Order::Impl::ShuffledOffset(const Place& place, LastWindow& last) const {
  if (place.window_samples > kTinyWindow) return PermutationOf(place, last).Apply(place.offset);
  if (!(last.id == place.window)) {
    FillShuffled(WindowKey(options.seed, place.window.epoch, place.window.chunk, place.window.window),
                 absl::MakeSpan(last.tiny.data(), static_cast<size_t>(place.window_samples)));
    last.id = place.window;
  }
  return last.tiny[static_cast<size_t>(place.offset)];
}

int64_t Order::Impl::IdOfSequence(const EpochSchedule& schedule, int64_t sequence, LastBlock& last) const {
  const int64_t b = options.block_samples;
  if (b == 1) return schedule.blocks.Apply(sequence);
  const int64_t short_start = schedule.short_place * b;
  if (sequence >= short_start && sequence < short_start + schedule.short_samples) return size / b * b + (sequence - short_start);
  // Behind the short block, places are found as if it were a whole one.
  const int64_t filled = sequence < short_start ? sequence : sequence + b - schedule.short_samples;
  if (const int64_t place = filled / b; place != last.place) last = {place, schedule.blocks.Apply(place) * b};
  return last.first_id + filled - last.place * b;
}

int64_t Order::Impl::SequenceOfId(const EpochSchedule& schedule, int64_t id) const {
  const int64_t b = options.block_samples;
  const int64_t place = schedule.blocks.Invert(id / b);
  return place * b + id % b - (place > schedule.short_place ? b - schedule.short_samples : 0);
}

int64_t Order::Impl::SequenceAt(int64_t epoch, int64_t position, LastWindow& last) const {
  const int64_t streams = options.virtual_streams;
  if (streams == 1 && !windowed()) return position;
  const Place place = streams == 1 ? PlaceOf(epoch, 0, position) : PlaceOf(epoch, position % streams, position / streams);
  return place.chunk_start + place.window_start + (windowed() ? ShuffledOffset(place, last) : place.offset);
}

absl::StatusOr<Order> Order::Create(int64_t sample_count, const OrderOptions& options) {
  for (const absl::Status& status :
       {CheckRange("sample_count", sample_count, "an order needs samples; is the data set empty?"),
        CheckRange("block_samples", options.block_samples, "1 shuffles single samples"),
        CheckRange("window_samples", options.window_samples, "1 with block_samples 1, else a multiple of block_samples"),
        CheckRange("virtual_streams", options.virtual_streams, "1 reads one shuffled sequence")}) {
    if (!status.ok()) return status;
  }
  if (options.window_samples % options.block_samples != 0) {
    return absl::InvalidArgumentError(absl::StrCat("window_samples is ", options.window_samples, ", not a multiple of block_samples, ",
                                                   options.block_samples, ": set it to ",
                                                   CeilDiv(options.window_samples, options.block_samples) * options.block_samples));
  }
  return Order(std::make_shared<const Impl>(sample_count, options));
}

absl::StatusOr<Order> Order::FromIds(std::vector<int64_t> ids, int64_t sample_count) {
  if (absl::Status status = CheckRange("sample_count", sample_count, "an order needs samples; is the data set empty?"); !status.ok()) {
    return status;
  }
  if (ids.empty()) return absl::InvalidArgumentError("the list of ids is empty: give at least one, or none of the option");
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < sample_count) continue;
    return absl::InvalidArgumentError(absl::StrCat("ids[", i, "] is ", ids[i], ": the data set has ", sample_count,
                                                   " samples, so ids are from 0 to ", sample_count - 1));
  }
  auto impl = std::make_shared<Impl>(static_cast<int64_t>(ids.size()), OrderOptions());
  static_assert(std::endian::native == std::endian::little, "the hash is defined over little-endian integers");
  impl->hash = std::max<uint64_t>(1, XXH3_64bits(ids.data(), ids.size() * sizeof(int64_t)));
  impl->ids = std::move(ids);
  return Order(std::move(impl));
}

Order Order::FromMixture(const Mixture& mixture) {
  auto impl = std::make_shared<Impl>(mixture.epoch_samples(), OrderOptions());
  impl->mixture.emplace(mixture);
  return Order(std::move(impl));
}

Order::Order(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

int64_t Order::size() const { return impl_->size; }

int64_t Order::IdAt(int64_t epoch, int64_t position) const {
  PENSTOCK_CHECK(epoch >= 0 && position >= 0 && position < impl_->size, "a position outside the epoch");
  if (impl_->listed()) return impl_->ids[static_cast<size_t>(position)];
  if (impl_->mixture.has_value()) return impl_->mixture->At(epoch, position).id;
  if (!impl_->options.shuffle) return position;
  Impl::LastWindow last;
  Impl::LastBlock block;
  return impl_->IdOfSequence(impl_->ScheduleOf(epoch), impl_->SequenceAt(epoch, position, last), block);
}

int64_t Order::PositionOf(int64_t epoch, int64_t id) const {
  if (impl_->listed() || impl_->mixture.has_value()) return -1;
  PENSTOCK_CHECK(epoch >= 0 && id >= 0 && id < impl_->size, "an id outside the data set");
  if (!impl_->options.shuffle) return id;
  const int64_t streams = impl_->options.virtual_streams;
  const int64_t sequence = impl_->SequenceOfId(impl_->ScheduleOf(epoch), id);
  if (streams == 1 && !impl_->windowed()) return sequence;
  const int64_t chunk_samples = impl_->short_chunk_samples;
  const int64_t long_end = impl_->long_chunks * (chunk_samples + 1);
  int64_t chunk, index;
  if (sequence < long_end) {
    chunk = sequence / (chunk_samples + 1);
    index = sequence % (chunk_samples + 1);
  } else {
    chunk = impl_->long_chunks + (sequence - long_end) / chunk_samples;
    index = (sequence - long_end) % chunk_samples;
  }
  if (impl_->windowed()) {
    const Impl::Place place = impl_->PlaceOf(epoch, chunk, index);
    Impl::LastWindow last;
    index = place.window_start + impl_->PermutationOf(place, last).Invert(place.offset);
  }
  return index * streams + chunk;
}

void Order::IdsAt(int64_t epoch, absl::Span<const int64_t> positions, absl::Span<int64_t> ids) const {
  PENSTOCK_CHECK(epoch >= 0 && positions.size() == ids.size(), "as many ids as positions");
  const Impl& impl = *impl_;
  for (const int64_t position : positions) PENSTOCK_CHECK(position >= 0 && position < impl.size, "a position outside the epoch");
  if (impl.listed()) {
    std::transform(positions.begin(), positions.end(), ids.begin(), [&](int64_t p) { return impl.ids[static_cast<size_t>(p)]; });
  } else if (impl.mixture.has_value()) {
    impl.mixture->IdsAt(epoch, positions, ids);
  } else if (!impl.options.shuffle) {
    std::copy(positions.begin(), positions.end(), ids.begin());
  } else {
    const EpochSchedule& schedule = impl.ScheduleOf(epoch);
    if (impl.options.virtual_streams == 1 && !impl.windowed()) {
      std::copy(positions.begin(), positions.end(), ids.begin());
    } else {
      Impl::LastWindow last;
      for (size_t i = 0; i < positions.size(); ++i) ids[i] = impl.SequenceAt(epoch, positions[i], last);
    }
    if (impl.options.block_samples == 1) {
      schedule.blocks.ApplyAll(ids);
    } else {
      Impl::LastBlock last;
      for (int64_t& id : ids) id = impl.IdOfSequence(schedule, id, last);
    }
  }
}

void Order::IdsOfPlan(int64_t epoch, absl::Span<const int64_t> positions, absl::Span<int64_t> ids) const {
  const int64_t count = size();
  const auto beyond = std::find_if(positions.begin(), positions.end(), [count](int64_t position) { return position >= count; });
  if (beyond == positions.end()) return IdsAt(epoch, positions, ids);
  const bool goes_on = mixture() != nullptr;
  std::vector<int64_t> own;
  // By the epoch that they are read in: with a global batch larger than an epoch of a mixture there are more than two.
  for (size_t begin = 0; begin < positions.size();) {
    const int64_t ahead = goes_on ? positions[begin] / count : 0;
    size_t end = begin;
    own.clear();
    for (; end < positions.size() && (!goes_on || positions[end] / count == ahead); ++end)
      own.push_back(StepPlan::Wrap(positions[end], count));
    IdsAt(epoch + ahead, own, ids.subspan(begin, end - begin));
    begin = end;
  }
}

int64_t Order::IdOfPlan(int64_t epoch, int64_t position) const {
  int64_t id = 0;
  IdsOfPlan(epoch, absl::MakeConstSpan(&position, 1), absl::MakeSpan(&id, 1));
  return id;
}

bool Order::Reaches(int64_t epoch, int64_t beyond) const {
  if (epoch < 0 || epoch >= kEpochMax || beyond < 0 || beyond > kOrderMax) return false;
  return mixture() == nullptr || (static_cast<__int128>(epoch) + 1) * size() + beyond <= kOrderMax;
}

const Mixture* Order::mixture() const { return impl_->mixture.has_value() ? &*impl_->mixture : nullptr; }

uint64_t Order::ids_hash() const { return impl_->hash; }

std::string Order::ids_hash_text() const { return impl_->listed() ? absl::StrCat(absl::Hex(impl_->hash, absl::kZeroPad16)) : ""; }

}  // namespace penstock
