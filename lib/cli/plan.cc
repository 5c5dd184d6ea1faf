#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/scale.h"
#include "penstock/loader_order.h"
#include "penstock/manifest.h"
#include "penstock/mixture.h"
#include "penstock/order.h"

namespace penstock::cli {
namespace {

struct PlanArguments {
  LoaderOptions loader;  // of the order: seed, shuffle, state and the like
  std::string mixture;
  int64_t samples = 0;
  int64_t epoch = 0;
  int64_t position = 0;
  int64_t step = -1;
  int64_t rank = 0;
  int64_t world = 1;
  std::string tail;
  bool no_shuffle = false;
  bool scale = false;
  ScaleArguments scale_arguments;
};

// The manifest of the data set, or of all members of the mixture together.
absl::StatusOr<std::shared_ptr<const Manifest>> OpenManifest(const LoaderOptions& options) {
  std::vector<MixtureMember> data_sets = options.mixture;
  if (data_sets.empty()) data_sets = {{options.root, 1, options.manifest_path}};
  std::vector<std::shared_ptr<const Manifest>> members;
  for (const MixtureMember& data_set : data_sets) {
    if (data_set.root.empty()) return absl::InvalidArgumentError("plan: give a data set, --mixture, or --samples N");
    IndexOptions index;
    index.manifest_path = data_set.manifest_path;
    index.keep_stale = true;  // as a loader does: what it delivers is what is printed
    absl::StatusOr<std::shared_ptr<const Manifest>> manifest = Manifest::Open(data_set.root, index);
    if (!manifest.ok()) return manifest.status();
    members.push_back(*std::move(manifest));
  }
  if (options.mixture.empty()) return members[0];
  return Manifest::Join(members);
}

int RunPlan(PlanArguments arguments) {
  LoaderOptions& options = arguments.loader;
  if (arguments.samples < 0) return Fail(absl::InvalidArgumentError("plan: --samples is below 0"));
  if (absl::Status status = SetOption(options, "mixture", arguments.mixture); !status.ok()) return Fail(status);
  if (!options.mixture.empty() &&
      (!options.root.empty() || !options.manifest_path.empty() || arguments.samples > 0 || options.disk_blocks || arguments.scale)) {
    return Fail(absl::InvalidArgumentError("plan: --mixture goes with none of a data set, --manifest, --samples, --disk-blocks, --scale"));
  }
  std::shared_ptr<const Manifest> manifest;
  if (arguments.samples == 0) {
    absl::StatusOr<std::shared_ptr<const Manifest>> opened = OpenManifest(options);
    if (!opened.ok()) return Fail(opened.status());
    manifest = *std::move(opened);
  }
  // What was not given is the state's.
  if (!arguments.tail.empty()) {
    if (absl::Status status = SetOption(options, "tail", arguments.tail); !status.ok()) return Fail(status);
  }
  if (arguments.no_shuffle) options.shuffle = false;
  absl::StatusOr<LoaderOrder> resolved = OrderOfLoader(options, manifest.get(), arguments.samples);
  if (!resolved.ok()) return Fail(resolved.status());
  const Order& order = resolved->order;
  StepPlan steps;
  steps.sample_count = order.size();
  steps.origin = arguments.position;
  steps.batch_size = options.batch_size;
  steps.world_size = arguments.world;
  steps.tail = *options.tail;
  if (!options.state.empty()) {
    arguments.epoch = resolved->epoch;
    steps.origin = resolved->position;
  }
  if (absl::Status status = steps.Validate(); !status.ok()) return Fail(status);
  if (!order.Reaches(arguments.epoch, steps.global_batch())) {
    return Fail(absl::InvalidArgumentError("plan: an epoch is a number from 0 to 2^40 - 1, and those of a mixture have 2^56 positions together"));
  }
  if (order.mixture() != nullptr && !order.mixture()->Covers(arguments.epoch, steps.origin)) {
    return Fail(absl::InvalidArgumentError("plan: the mixture does not reach the epoch and position that were given"));
  }
  if (arguments.rank < 0 || arguments.rank >= arguments.world) return Fail(absl::InvalidArgumentError("plan: --rank is not below --world"));
  if (arguments.scale) return RunScale(arguments.scale_arguments, manifest.get(), order, options, steps);
  const int64_t count = steps.steps();
  if (arguments.step >= count) return Fail(absl::InvalidArgumentError("plan: the epoch has only " + std::to_string(count) + " steps"));
  if (arguments.step < 0) {
    std::printf("samples %lld, steps %lld, expected %lld, dropped %lld, padded %lld\n", static_cast<long long>(order.size()),
                static_cast<long long>(count), static_cast<long long>(steps.expected_samples()), static_cast<long long>(steps.dropped()),
                static_cast<long long>(steps.padded()));
    return 0;
  }
  std::vector<int64_t> positions;
  steps.Positions(arguments.step, arguments.rank, positions);
  for (const int64_t position : positions) {
    const int64_t place = order.IdOfPlan(arguments.epoch, position);
    std::printf("%lld\n", static_cast<long long>(options.disk_blocks ? manifest->IdAtPlace(place) : place));
  }
  return 0;
}

}  // namespace

Command AddPlan(CLI::App& app) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* command =
      app.add_subcommand("plan", "Print which samples a rank reads in a step, without touching data; without --step, the epoch's counts");
  command->add_option("root", arguments->loader.root, "the data set (or --samples)");
  command->add_option("--manifest", arguments->loader.manifest_path, "where the data set's manifest was saved; default: its usual place");
  command->add_option("--mixture", arguments->mixture, "several data sets by weight, as the option mixture of a loader");
  command->add_option("--mixture-period", arguments->loader.mixture_period, "positions that hold each data set as often as its weight says [1000]");
  command->add_option("--epoch-samples", arguments->loader.epoch_samples, "of a mixture; 0: as many as its data sets have [0]");
  command->add_option("--samples", arguments->samples, "number of samples, instead of a data set");
  command->add_option("--state", arguments->loader.state, "JSON of a saved state: its order, epoch and position");
  command->add_option("--epoch", arguments->epoch)->capture_default_str();
  command->add_option("--position", arguments->position, "origin of the run in the epoch")->capture_default_str();
  command->add_option("--step", arguments->step, "counted from the origin");
  command->add_option("--rank", arguments->rank)->capture_default_str();
  command->add_option("--world", arguments->world, "ranks in all")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--batch", arguments->loader.batch_size, "samples per rank and step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--tail", arguments->tail, "what becomes of an incomplete last step [drop]")->check(CLI::IsMember({"drop", "pad", "partial"}));
  command->add_option("--seed", arguments->loader.seed, "of the shuffle [0]");
  command->add_option("--block", arguments->loader.block_samples, "b: neighbours that stay together [1]");
  command->add_option("--window", arguments->loader.window_samples, "w: shuffle window, a multiple of b [1]");
  command->add_option("--virtual-streams", arguments->loader.virtual_streams, "V: chunks of the epoch [1]");
  command->add_flag("--disk-blocks", arguments->loader.disk_blocks,
                    "shuffle=disk-blocks: blocks are of neighbours on the drive, of 64 where --block is 1");
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
