#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/scale.h"
#include "penstock/loader.h"
#include "penstock/manifest.h"
#include "penstock/mixture.h"
#include "penstock/order.h"

namespace penstock::cli {
namespace {

struct PlanArguments {
  std::string root;
  std::string manifest;
  std::string mixture;
  int64_t mixture_period = LoaderOptions().mixture_period;
  int64_t epoch_samples = 0;
  int64_t samples = 0;
  std::string state;
  int64_t epoch = 0;
  int64_t position = 0;
  int64_t step = -1;
  int64_t rank = 0;
  int64_t world = 1;
  int64_t batch = 256;
  std::string tail = "drop";
  bool no_shuffle = false;
  bool disk_blocks = false;
  OrderOptions order;
  bool scale = false;
  ScaleArguments scale_arguments;
};

int RunPlan(PlanArguments arguments) {
  int64_t samples = arguments.samples;
  std::string fingerprint;
  if (samples < 0) return Fail(absl::InvalidArgumentError("plan: --samples is below 0"));
  std::shared_ptr<const Manifest> places;
  LoaderOptions mixture;
  if (absl::Status status = SetOption(mixture, "mixture", arguments.mixture); !status.ok()) return Fail(status);
  if (!mixture.mixture.empty() &&
      (!arguments.root.empty() || !arguments.manifest.empty() || samples > 0 || arguments.disk_blocks || arguments.scale)) {
    return Fail(absl::InvalidArgumentError("plan: --mixture goes with none of a data set, --manifest, --samples, --disk-blocks, --scale"));
  }
  if (samples == 0) {
    if (mixture.mixture.empty()) mixture.mixture = {{arguments.root, 1, arguments.manifest}};
    std::vector<std::shared_ptr<const Manifest>> members;
    for (const MixtureMember& member : mixture.mixture) {
      if (member.root.empty()) return Fail(absl::InvalidArgumentError("plan: give a data set, --mixture, or --samples N"));
      IndexOptions index;
      index.manifest_path = member.manifest_path;
      index.keep_stale = true;  // as a loader does: what it delivers is what is printed
      absl::StatusOr<std::shared_ptr<const Manifest>> manifest = Manifest::Open(member.root, index);
      if (!manifest.ok()) return Fail(manifest.status());
      members.push_back(*std::move(manifest));
    }
    places = members[0];
    if (!arguments.mixture.empty()) {
      absl::StatusOr<std::shared_ptr<const Manifest>> joined = Manifest::Join(members);
      if (!joined.ok()) return Fail(joined.status());
      places = *std::move(joined);
    }
    samples = places->sample_count();
    fingerprint = places->fingerprint();
  }
  StepPlan steps;
  steps.sample_count = samples;
  steps.origin = arguments.position;
  steps.batch_size = arguments.batch;
  steps.world_size = arguments.world;
  steps.tail = arguments.tail == "pad" ? Tail::kPad : arguments.tail == "partial" ? Tail::kPartial : Tail::kDrop;
  std::optional<State> saved;
  if (!arguments.state.empty()) {
    absl::StatusOr<State> state = State::FromJson(arguments.state);
    if (!state.ok()) return Fail(state.status());
    arguments.epoch = state->epoch;
    steps.origin = state->position;
    steps.tail = state->tail;
    arguments.order = OrderOptions{state->block_samples, state->window_samples, state->virtual_streams, state->seed, state->shuffle};
    arguments.no_shuffle = !state->shuffle;
    arguments.disk_blocks = state->disk_blocks;
    saved = *std::move(state);
  }
  if (arguments.disk_blocks && (places == nullptr || !places->has_place_order())) {
    return Fail(
        absl::FailedPreconditionError("plan: shuffle=disk-blocks needs a data set with an order of place (penstock index --place inode)"));
  }
  arguments.order.shuffle = !arguments.no_shuffle;
  absl::StatusOr<Order> order = absl::UnknownError("");
  if (arguments.mixture.empty()) {
    order = Order::Create(samples, arguments.order);
  } else {
    std::vector<int64_t> counts;
    std::vector<double> weights;
    for (int64_t d = 0; d < places->member_count(); ++d) {
      counts.push_back(places->member(d).sample_count());
      weights.push_back(mixture.mixture[static_cast<size_t>(d)].weight);
    }
    const MixtureOptions options{arguments.order, arguments.mixture_period,
                                 arguments.epoch_samples > 0 ? arguments.epoch_samples : samples};
    absl::StatusOr<Mixture> mixed = saved.has_value() && !saved->mixture.empty()
                                        ? Mixture::FromText(saved->mixture, counts, arguments.order)
                                        : Mixture::Create(counts, weights, options);
    if (!mixed.ok()) return Fail(mixed.status());
    order = Order::FromMixture(*mixed);
  }
  if (!order.ok()) return Fail(order.status());
  steps.sample_count = order->size();
  if (saved.has_value()) {
    // With --samples there is no data set to compare with, and the fingerprint is taken on trust.
    const absl::Status fits = saved->Matches(fingerprint.empty() ? saved->fingerprint : fingerprint, *order);
    if (!fits.ok()) return Fail(fits);
  }
  if (absl::Status status = steps.Validate(); !status.ok()) return Fail(status);
  if (arguments.epoch < 0) return Fail(absl::InvalidArgumentError("plan: epochs are counted from 0"));
  if (order->mixture() != nullptr && !order->mixture()->Covers(arguments.epoch, steps.origin)) {
    return Fail(
        absl::InvalidArgumentError("plan: the state's mixture says nothing of an epoch and position before its last change of weights"));
  }
  if (arguments.rank < 0 || arguments.rank >= arguments.world) return Fail(absl::InvalidArgumentError("plan: --rank is not below --world"));
  if (arguments.scale) return RunScale(arguments.scale_arguments, places.get(), *order, arguments.order, steps);
  const int64_t count = steps.steps();
  if (arguments.step >= count) return Fail(absl::InvalidArgumentError("plan: the epoch has only " + std::to_string(count) + " steps"));
  if (arguments.step < 0) {
    std::printf("samples %lld, steps %lld, expected %lld, dropped %lld, padded %lld\n", static_cast<long long>(order->size()),
                static_cast<long long>(count), static_cast<long long>(steps.expected_samples()), static_cast<long long>(steps.dropped()),
                static_cast<long long>(steps.padded()));
    return 0;
  }
  std::vector<int64_t> positions;
  steps.Positions(arguments.step, arguments.rank, positions);
  for (const int64_t position : positions) {
    const int64_t place = order->IdOfPlan(arguments.epoch, position);
    std::printf("%lld\n", static_cast<long long>(arguments.disk_blocks ? places->IdAtPlace(place) : place));
  }
  return 0;
}

}  // namespace

Command AddPlan(CLI::App& app) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* command =
      app.add_subcommand("plan", "Print which samples a rank reads in a step, without touching data; without --step, the epoch's counts");
  command->add_option("root", arguments->root, "the data set (or --samples)");
  command->add_option("--manifest", arguments->manifest, "where the data set's manifest was saved; default: its usual place");
  command->add_option("--mixture", arguments->mixture, "several data sets by weight, as the option mixture of a loader");
  command->add_option("--mixture-period", arguments->mixture_period)->capture_default_str();
  command->add_option("--epoch-samples", arguments->epoch_samples, "of a mixture; 0: as many as its data sets have")->capture_default_str();
  command->add_option("--samples", arguments->samples, "number of samples, instead of a data set");
  command->add_option("--state", arguments->state, "JSON of a saved state: its order, epoch and position");
  command->add_option("--epoch", arguments->epoch)->capture_default_str();
  command->add_option("--position", arguments->position, "origin of the run in the epoch")->capture_default_str();
  command->add_option("--step", arguments->step, "counted from the origin");
  command->add_option("--rank", arguments->rank)->capture_default_str();
  command->add_option("--world", arguments->world, "ranks in all")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--batch", arguments->batch, "samples per rank and step")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--tail", arguments->tail)->check(CLI::IsMember({"drop", "pad", "partial"}))->capture_default_str();
  command->add_option("--seed", arguments->order.seed)->capture_default_str();
  command->add_option("--block", arguments->order.block_samples, "b: neighbours that stay together")->capture_default_str();
  command->add_option("--window", arguments->order.window_samples, "w: shuffle window, a multiple of b")->capture_default_str();
  command->add_option("--virtual-streams", arguments->order.virtual_streams, "V: chunks of the epoch")->capture_default_str();
  command->add_flag("--disk-blocks", arguments->disk_blocks, "shuffle=disk-blocks: blocks are of neighbours on the drive");
  command->add_flag("--no-shuffle", arguments->no_shuffle, "the order of the ids");
  command->add_flag("--scale", arguments->scale, "what a run of this size costs: memory, time to plan a step, balance of bytes, restoring");
  command->add_option("--sizes", arguments->scale_arguments.sizes, "with --scale and --samples: fixed:BYTES or lognormal:MEAN:SIGMA")
      ->capture_default_str();
  command->add_flag("--open", arguments->scale_arguments.open,
                    "with --scale: also go on from a state with a loader over as many records of one byte");
  command->add_option("--plan-steps", arguments->scale_arguments.plan_steps, "with --scale: steps to plan, spread over the epoch")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  return [arguments] { return RunPlan(*arguments); };
}

}  // namespace penstock::cli
