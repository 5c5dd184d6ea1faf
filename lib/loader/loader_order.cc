#include "penstock/loader_order.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "loader/mixture_option.h"
#include "loader/order_defaults.h"
#include "penstock/mixture.h"

namespace penstock {
namespace {

// b and w of shuffle=disk-blocks where none were given. Neighbours merge only while they are asked for together: in a window of many blocks
// they lie in different batches.
constexpr int64_t kDiskBlock = 64;
constexpr int64_t kDiskWindow = kDiskBlock;

absl::Status CheckDiskBlocks(const Manifest* manifest, const LoaderOptions& options) {
  if (!options.ids.empty() || !*options.shuffle) {
    return absl::InvalidArgumentError("shuffle=disk-blocks goes neither with a list of ids nor without a shuffle; leave one of them out");
  }
  if (manifest == nullptr || !manifest->has_place_order()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "shuffle=disk-blocks: ", manifest == nullptr ? "a number of samples" : absl::StrCat("the manifest ", EscapeName(manifest->path())),
        " has no order of place. Save it once (penstock index --place inode), and give every rank the same manifest"));
  }
  return absl::OkStatus();
}

// Fills in what was not given: from the state, else the defaults.
void FillIn(const State* state, LoaderOptions& options) {
  const State initial;
  const State& from = state == nullptr ? initial : *state;
  if (!options.disk_blocks && !options.shuffle.has_value()) options.disk_blocks = from.disk_blocks;
  if (!options.shuffle.has_value()) options.shuffle = options.disk_blocks || from.shuffle;
  options.seed = options.seed.value_or(from.seed);
  options.virtual_streams = options.virtual_streams.value_or(from.virtual_streams);
  options.tail = options.tail.value_or(from.tail);
  if (options.disk_blocks && options.mixture.empty()) {
    const bool no_block = options.block_samples.value_or(kDefaultBlock) == kDefaultBlock;
    if (!options.block_samples.has_value() && state != nullptr) {
      options.block_samples = from.block_samples;
    } else if (no_block) {
      options.block_samples = kDiskBlock;
    }
    if (no_block && (state == nullptr || options.window_samples.has_value())) {
      options.window_samples = std::max(options.window_samples.value_or(kDefaultWindow) / kDiskBlock * kDiskBlock, kDiskWindow);
    }
  }
  options.block_samples = options.block_samples.value_or(from.block_samples);
  options.window_samples = options.window_samples.value_or(from.window_samples);
}

// The options that were given and are not the state's, each as "name = given (the state: ...)"; `filled` are those after FillIn().
std::vector<std::string> Differing(const LoaderOptions& given, const LoaderOptions& filled, const State& state) {
  LoaderOptions kept;
  kept.seed = state.seed;
  kept.shuffle = state.shuffle;
  kept.disk_blocks = state.disk_blocks;
  kept.block_samples = state.block_samples;
  kept.window_samples = state.window_samples;
  kept.virtual_streams = state.virtual_streams;
  kept.tail = state.tail;
  std::vector<std::string> differing;
  const auto compare = [&](const char* name, bool was_given) {
    if (!was_given || GetOption(filled, name) == GetOption(kept, name)) return;
    differing.push_back(absl::StrCat(name, " = ", GetOption(given, name), " (the state: ", GetOption(kept, name), ")"));
  };
  compare("seed", given.seed.has_value());
  compare("shuffle", given.shuffle.has_value() || given.disk_blocks);
  compare("block_samples", given.block_samples.has_value());
  compare("window_samples", given.window_samples.has_value());
  compare("virtual_streams", given.virtual_streams.has_value());
  compare("tail", given.tail.has_value());
  return differing;
}

absl::Status Differs(const std::vector<std::string>& differing) {
  return absl::InvalidArgumentError(absl::StrCat("the state was made with another order than the options that were given with it: ",
                                                 absl::StrJoin(differing, ", "),
                                                 ". Leave those options out (they are taken from the state), or start without the state"));
}

absl::StatusOr<Mixture> MixtureOf(const LoaderOptions& options, const OrderOptions& order, const Manifest& manifest, const State* state,
                                  std::vector<std::string>& differing) {
  std::vector<int64_t> counts;
  std::vector<double> weights;
  for (int64_t d = 0; d < manifest.member_count(); ++d) {
    counts.push_back(manifest.member(d).sample_count());
    weights.push_back(options.mixture[static_cast<size_t>(d)].weight);
  }
  const int64_t epoch_samples = options.epoch_samples.value_or(kDefaultEpochSamples);
  const int64_t period = options.mixture_period.value_or(kDefaultPeriod);
  const int64_t positions = epoch_samples > 0 ? epoch_samples : manifest.sample_count();
  if (state == nullptr || state->mixture.empty()) return Mixture::Create(counts, weights, {order, period, positions});
  // The weights are the state's: SetWeights() may have changed them.
  absl::StatusOr<Mixture> mixture = Mixture::FromText(state->mixture, counts, order);
  if (!mixture.ok()) return mixture;
  if (options.mixture_period.has_value() && period != mixture->period()) {
    differing.push_back(absl::StrCat("mixture_period = ", period, " (the state: ", mixture->period(), ")"));
  }
  if (options.epoch_samples.has_value() && positions != mixture->epoch_samples()) {
    differing.push_back(absl::StrCat("epoch_samples = ", epoch_samples, " (the state: ", mixture->epoch_samples(), ")"));
  }
  return mixture;
}

}  // namespace

absl::StatusOr<LoaderOrder> OrderOfLoader(LoaderOptions& options, const Manifest* manifest, int64_t sample_count) {
  if (absl::Status status = CheckMixtureIsTheOrder(options); !status.ok()) return status;
  std::optional<State> state;
  if (!options.state.empty()) {
    absl::StatusOr<State> parsed = State::FromJson(options.state);
    if (!parsed.ok()) return parsed.status();
    state = *std::move(parsed);
  }
  std::vector<int64_t> ids = std::move(options.ids);  // may be large: no copy of them
  const LoaderOptions given = options;
  options.ids = std::move(ids);
  FillIn(state.has_value() ? &*state : nullptr, options);
  // Told last, for a state of another data set has other options too.
  std::vector<std::string> differing;
  if (state.has_value()) {
    differing = Differing(given, options, *state);
    options.shuffle = state->shuffle;
    options.disk_blocks = state->disk_blocks;
    options.seed = state->seed;
    options.block_samples = state->block_samples;
    options.window_samples = state->window_samples;
    options.virtual_streams = state->virtual_streams;
    options.tail = state->tail;
  }
  if (options.disk_blocks && options.mixture.empty()) {
    if (absl::Status status = CheckDiskBlocks(manifest, options); !status.ok()) return status;
  }
  OrderOptions order_options;
  order_options.block_samples = *options.block_samples;
  order_options.window_samples = *options.window_samples;
  order_options.virtual_streams = *options.virtual_streams;
  order_options.seed = *options.seed;
  order_options.shuffle = *options.shuffle;
  if (manifest != nullptr) sample_count = manifest->sample_count();
  absl::StatusOr<Order> order = absl::UnknownError("");
  if (!options.mixture.empty()) {
    if (manifest == nullptr || manifest->member_count() != static_cast<int64_t>(options.mixture.size())) {
      return absl::InvalidArgumentError("the order of a mixture needs the manifest of all its members together (Manifest::Join)");
    }
    absl::StatusOr<Mixture> mixture = MixtureOf(options, order_options, *manifest, state.has_value() ? &*state : nullptr, differing);
    if (!mixture.ok()) return mixture.status();
    order = Order::FromMixture(*mixture);
  } else if (!options.ids.empty()) {
    order = Order::FromIds(options.ids, sample_count);
  } else {
    order = Order::Create(sample_count, order_options);
  }
  if (!order.ok()) return order.status();
  if (order->mixture() != nullptr) {
    options.mixture_period = order->mixture()->period();
    options.epoch_samples = order->mixture()->epoch_samples();
  }
  LoaderOrder result{*std::move(order), 0, 0};
  if (!state.has_value()) return result;
  if (absl::Status status = state->Matches(manifest == nullptr ? state->fingerprint : manifest->fingerprint(), result.order);
      !status.ok()) {
    return status;
  }
  if (!differing.empty()) return Differs(differing);
  result.epoch = state->epoch;
  result.position = state->position;
  if (result.order.mixture() != nullptr && !result.order.mixture()->Covers(result.epoch, result.position)) {
    return absl::InvalidArgumentError(absl::StrCat("the state stands at position ", result.position, " of epoch ", result.epoch,
                                                   ", which is not behind the change of weights that it tells of"));
  }
  return result;
}

}  // namespace penstock
