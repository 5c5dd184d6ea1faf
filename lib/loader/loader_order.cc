#include "penstock/loader_order.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "loader/mixture_option.h"
#include "penstock/mixture.h"

namespace penstock {
namespace {

// b and w of shuffle=disk-blocks where none were given. Neighbours merge only while they are asked for together: in a window of many blocks
// they lie in different batches.
constexpr int64_t kDiskBlock = 64;
constexpr int64_t kDiskWindow = kDiskBlock;

absl::Status ResolveDiskBlocks(const Manifest* manifest, LoaderOptions& options) {
  if (!options.ids.empty() || !options.shuffle) {
    return absl::InvalidArgumentError("shuffle=disk-blocks goes neither with a list of ids nor without a shuffle; leave one of them out");
  }
  if (manifest == nullptr || !manifest->has_place_order()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "shuffle=disk-blocks: ", manifest == nullptr ? "a number of samples" : absl::StrCat("the manifest ", EscapeName(manifest->path())),
        " has no order of place. Save it once (penstock index --place inode), and give every rank the same manifest"));
  }
  if (options.block_samples == 1) {
    options.block_samples = kDiskBlock;
    options.window_samples = std::max(options.window_samples / kDiskBlock * kDiskBlock, kDiskWindow);
  }
  return absl::OkStatus();
}

absl::StatusOr<Mixture> MixtureOf(const LoaderOptions& options, const OrderOptions& order, const Manifest& manifest, const State* state) {
  std::vector<int64_t> counts;
  std::vector<double> weights;
  for (int64_t d = 0; d < manifest.member_count(); ++d) {
    counts.push_back(manifest.member(d).sample_count());
    weights.push_back(options.mixture[static_cast<size_t>(d)].weight);
  }
  // Weights, period and epoch are the state's as well: SetWeights() may have changed them.
  if (state != nullptr && !state->mixture.empty()) return Mixture::FromText(state->mixture, counts, order);
  return Mixture::Create(counts, weights,
                         {order, options.mixture_period, options.epoch_samples > 0 ? options.epoch_samples : manifest.sample_count()});
}

}  // namespace

absl::StatusOr<LoaderOrder> OrderOfLoader(LoaderOptions& options, const Manifest* manifest, int64_t sample_count) {
  if (absl::Status status = CheckMixtureIsTheOrder(options); !status.ok()) return status;
  std::optional<State> state;
  if (!options.state.empty()) {
    absl::StatusOr<State> parsed = State::FromJson(options.state);
    if (!parsed.ok()) return parsed.status();
    state = *std::move(parsed);
    // The order is the state's: going on means the same order, whatever this program's defaults are.
    options.seed = state->seed;
    options.shuffle = state->shuffle;
    options.disk_blocks = state->disk_blocks;
    options.block_samples = state->block_samples;
    options.window_samples = state->window_samples;
    options.virtual_streams = state->virtual_streams;
    options.tail = state->tail;
  }
  if (options.disk_blocks && options.mixture.empty()) {
    if (absl::Status status = ResolveDiskBlocks(manifest, options); !status.ok()) return status;
  }
  OrderOptions order_options;
  order_options.block_samples = options.block_samples;
  order_options.window_samples = options.window_samples;
  order_options.virtual_streams = options.virtual_streams;
  order_options.seed = options.seed;
  order_options.shuffle = options.shuffle;
  if (manifest != nullptr) sample_count = manifest->sample_count();
  absl::StatusOr<Order> order = absl::UnknownError("");
  if (!options.mixture.empty()) {
    if (manifest == nullptr || manifest->member_count() != static_cast<int64_t>(options.mixture.size())) {
      return absl::InvalidArgumentError("the order of a mixture needs the manifest of all its members together (Manifest::Join)");
    }
    absl::StatusOr<Mixture> mixture = MixtureOf(options, order_options, *manifest, state.has_value() ? &*state : nullptr);
    if (!mixture.ok()) return mixture.status();
    order = Order::FromMixture(*mixture);
  } else if (!options.ids.empty()) {
    order = Order::FromIds(options.ids, sample_count);
  } else {
    order = Order::Create(sample_count, order_options);
  }
  if (!order.ok()) return order.status();
  LoaderOrder result{*std::move(order), 0, 0};
  if (!state.has_value()) return result;
  if (absl::Status status = state->Matches(manifest == nullptr ? state->fingerprint : manifest->fingerprint(), result.order);
      !status.ok()) {
    return status;
  }
  result.epoch = state->epoch;
  result.position = state->position;
  if (result.order.mixture() != nullptr && !result.order.mixture()->Covers(result.epoch, result.position)) {
    return absl::InvalidArgumentError(absl::StrCat("the state stands at position ", result.position, " of epoch ", result.epoch,
                                                   ", which is not behind the change of weights that it tells of"));
  }
  return result;
}

}  // namespace penstock
