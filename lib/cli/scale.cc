#include "cli/scale.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "cli/commands.h"
#include "penstock/loader.h"
#include "penstock/loader_order.h"

namespace penstock::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kManifestSamples = 100'000;  // of the manifests that are made to see what a sample takes
constexpr int kRestores = 101;
constexpr int kOpens = 11;

double MicrosSince(Clock::time_point begin) { return std::chrono::duration<double, std::micro>(Clock::now() - begin).count(); }

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

// A number in (0, 1) that follows from an id alone (the finaliser of SplitMix64), so that no table of sizes is needed.
double Uniform(int64_t id, uint64_t which) {
  uint64_t x = (2 * static_cast<uint64_t>(id) + which + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return (static_cast<double>(x >> 12) + 0.5) * 0x1p-52;
}

using Sizes = std::function<double(int64_t id)>;

absl::StatusOr<Sizes> ParseSizes(const std::string& text) {
  const std::vector<std::string> words = absl::StrSplit(text, ':');
  double mean = 0, sigma = 0;
  if (words.size() == 2 && words[0] == "fixed" && absl::SimpleAtod(words[1], &mean) && mean > 0 && std::isfinite(mean)) {
    return Sizes([mean](int64_t) { return mean; });
  }
  if (words.size() == 3 && words[0] == "lognormal" && absl::SimpleAtod(words[1], &mean) && absl::SimpleAtod(words[2], &sigma) && mean > 0 &&
      sigma >= 0 && std::isfinite(mean) && sigma <= 10) {
    const double mu = std::log(mean) - sigma * sigma / 2;
    return Sizes([mu, sigma](int64_t id) {
      // Box and Muller's transform of two uniform numbers.
      return std::exp(mu + sigma * std::sqrt(-2 * std::log(Uniform(id, 0))) * std::cos(2 * M_PI * Uniform(id, 1)));
    });
  }
  return absl::InvalidArgumentError(absl::StrCat("plan: --sizes \"", EscapeName(text), "\": neither fixed:BYTES nor lognormal:MEAN:SIGMA"));
}

// Bytes of a saved manifest per sample, found by making one: a file a sample, or `shard_samples` ranges in each file.
absl::StatusOr<double> ManifestBytes(int64_t shard_samples) {
  ManifestBuilder builder("/data");
  uint32_t object = 0;
  for (int64_t id = 0; id < kManifestSamples; ++id) {
    const auto number = static_cast<uint64_t>(id);
    if (id % shard_samples == 0) {
      absl::StatusOr<uint32_t> added =
          builder.AddObject(absl::StrCat("class", number % 1000, "/", 1'000'000'000 + number, ".jpg"), 110'000'000);
      if (!added.ok()) return added.status();
      object = *added;
    }
    const Range range{object, number % static_cast<uint64_t>(shard_samples) * 1000, shard_samples == 1 ? 110'000'000u : 1000u,
                      shard_samples == 1 ? 110'000'000u : 1000u, 0};
    if (absl::StatusOr<int64_t> added = builder.AddSample(static_cast<int32_t>(number % 1000), {range}); !added.ok()) return added.status();
  }
  const std::string path = (std::filesystem::temp_directory_path() / absl::StrCat("penstock-scale-", ::getpid(), ".manifest")).string();
  if (absl::Status status = builder.Write(path); !status.ok()) return status;
  const double bytes = static_cast<double>(std::filesystem::file_size(path));
  std::filesystem::remove(path);
  return bytes / static_cast<double>(kManifestSamples);
}

void Print(const char* what, const std::string& figure) { std::printf("%-44s %s\n", what, figure.c_str()); }

std::string Fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

absl::Status PrintManifest(const Manifest* manifest, int64_t samples) {
  if (manifest != nullptr) {
    Print("manifest, mapped, shared by a node's ranks",
          absl::StrCat(FormatBytes(static_cast<int64_t>(manifest->file_bytes())), ", ",
                       Fixed(static_cast<double>(manifest->file_bytes()) / static_cast<double>(samples), 1), " bytes a sample"));
    return absl::OkStatus();
  }
  const std::pair<int64_t, const char*> kinds[] = {{1, "manifest, a file a sample"}, {10'000, "manifest, ranges in shards of 10,000"}};
  for (const auto& [shard_samples, name] : kinds) {
    const absl::StatusOr<double> bytes = ManifestBytes(shard_samples);
    if (!bytes.ok()) return bytes.status();
    Print(name, absl::StrCat(FormatBytes(static_cast<int64_t>(*bytes * static_cast<double>(samples))), ", ", Fixed(*bytes, 1),
                             " bytes a sample (seen at ", kManifestSamples, "); mapped, shared by a node's ranks"));
  }
  Print("manifest, records of one size (raw, npy)", "below 1 MiB, whatever the number of samples");
  return absl::OkStatus();
}

// From the text of a state to the ids of the first batch.
double RestoreMicros(const StepPlan& steps, const std::string& text) {
  std::vector<double> micros;
  std::vector<int64_t> positions, ids;
  LoaderOptions given;
  given.state = text;
  for (int i = 0; i < kRestores; ++i) {
    const Clock::time_point begin = Clock::now();
    LoaderOptions options = given;
    const absl::StatusOr<LoaderOrder> from = OrderOfLoader(options, nullptr, steps.sample_count);
    if (!from.ok()) return -1;
    StepPlan rest = steps;
    rest.origin = from->position;
    if (rest.steps() > 0) {
      rest.Positions(0, 0, positions);
      ids.resize(positions.size());
      from->order.IdsOfPlan(from->epoch, positions, absl::MakeSpan(ids));
    }
    micros.push_back(MicrosSince(begin));
  }
  return Median(micros);
}

struct Opened {
  double open_ms = 0;
  double first_batch_ms = 0;
};

// A loader that goes on from the middle of an epoch of as many samples: records of one byte, in a file without blocks.
absl::StatusOr<Opened> OpenLoader(const StepPlan& steps, State state) {
  std::string folder = (std::filesystem::temp_directory_path() / "penstock-scale-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return absl::UnavailableError(absl::StrCat("cannot make a folder in ", folder));
  const std::string file = folder + "/records.bin";
  std::ofstream(file).flush();
  std::error_code error;
  std::filesystem::resize_file(file, static_cast<uintmax_t>(steps.sample_count), error);
  absl::StatusOr<Opened> opened = absl::UnavailableError(absl::StrCat("a file of ", steps.sample_count, " bytes: ", error.message()));
  if (!error) {
    LoaderOptions options;
    options.root = file;
    options.manifest_path = folder + "/manifest";
    options.rank = 0;
    options.world_size = static_cast<int32_t>(steps.world_size);
    options.batch_size = steps.batch_size;
    options.io = IoMode::kBuffered;
    options.coalesce_gap_bytes = 0;
    options.memory_bytes = 64 << 20;
    IndexOptions index;
    index.manifest_path = options.manifest_path;
    index.format = ShardFormat::kRaw;
    index.record_bytes = 1;
    const absl::StatusOr<IndexResult> built = Manifest::Build(file, index);
    if (!built.ok()) {
      opened = built.status();
    } else {
      state.fingerprint = built->manifest->fingerprint();
      options.state = state.ToJson();
      std::vector<double> open_ms, batch_ms;
      opened = Opened();
      for (int i = 0; i < kOpens && opened.ok(); ++i) {
        const Clock::time_point begin = Clock::now();
        absl::StatusOr<std::unique_ptr<Loader>> loader = Loader::Open(options);
        open_ms.push_back(MicrosSince(begin) / 1000);
        const absl::Status status = loader.ok() ? (*loader)->Next().status() : loader.status();
        batch_ms.push_back(MicrosSince(begin) / 1000);
        if (!status.ok()) opened = status;
      }
      if (opened.ok()) opened = Opened{Median(open_ms), Median(batch_ms)};
    }
  }
  std::filesystem::remove_all(folder, error);
  return opened;
}

}  // namespace

int RunScale(const ScaleArguments& arguments, const Manifest* manifest, const Order& order, const LoaderOptions& options,
             const StepPlan& steps) {
  absl::StatusOr<Sizes> sizes = ParseSizes(arguments.sizes);
  if (!sizes.ok()) return Fail(sizes.status());
  if (manifest != nullptr) *sizes = [manifest](int64_t id) { return static_cast<double>(manifest->StoredBytes(id)); };
  const int64_t count = steps.steps();
  if (count == 0) return Fail(absl::InvalidArgumentError("plan: the epoch has no steps"));
  const int64_t resident_before = ResidentBytes();

  const int64_t planned = std::min(count, arguments.plan_steps);
  const auto world = static_cast<size_t>(steps.world_size);
  std::vector<double> rank_bytes(world, 0), plan_micros, worst_of_step;
  std::vector<int64_t> positions, ids;
  double all_bytes = 0;
  for (int64_t k = 0; k < planned; ++k) {
    const int64_t step = planned == 1 ? 0 : k * (count - 1) / (planned - 1);
    double most = 0, sum = 0;
    for (size_t rank = 0; rank < world; ++rank) {
      const Clock::time_point begin = Clock::now();
      steps.Positions(step, static_cast<int64_t>(rank), positions);
      ids.resize(positions.size());
      order.IdsOfPlan(0, positions, absl::MakeSpan(ids));
      plan_micros.push_back(MicrosSince(begin));
      double bytes = 0;
      for (const int64_t id : ids) bytes += (*sizes)(options.disk_blocks ? manifest->IdAtPlace(id) : id);
      rank_bytes[rank] += bytes;
      most = std::max(most, bytes);
      sum += bytes;
    }
    if (sum > 0) worst_of_step.push_back(most / (sum / static_cast<double>(world)));
    all_bytes += sum;
  }
  const int64_t resident_after = ResidentBytes();

  std::printf("%lld samples, world %lld, batch %lld, b %lld, w %lld, V %lld: %lld steps of %lld samples\n",
              static_cast<long long>(steps.sample_count), static_cast<long long>(steps.world_size),
              static_cast<long long>(steps.batch_size), static_cast<long long>(*options.block_samples),
              static_cast<long long>(*options.window_samples), static_cast<long long>(*options.virtual_streams),
              static_cast<long long>(count), static_cast<long long>(steps.global_batch()));
  if (absl::Status status = PrintManifest(manifest, steps.sample_count); !status.ok()) return Fail(status);
  Print("order of a rank, resident (32 MiB at most)", FormatBytes(std::max<int64_t>(0, resident_after - resident_before)));
  const double batch_bytes = all_bytes / static_cast<double>(planned) / static_cast<double>(world);
  Print("a rank's batch, mean", absl::StrCat(FormatBytes(static_cast<int64_t>(batch_bytes)), "; memory_bytes of 1 GiB holds ",
                                             static_cast<int64_t>((1 << 30) / std::max(1.0, batch_bytes))));
  Print("ids of a rank's step, median",
        absl::StrCat(Fixed(Median(plan_micros), 0), " us, ", Fixed(1000 * Median(plan_micros) / static_cast<double>(steps.batch_size), 0),
                     " ns a sample"));
  const auto most = *std::max_element(rank_bytes.begin(), rank_bytes.end());
  if (all_bytes > 0) {
    Print(absl::StrCat("bytes of the ranks, largest / mean, ", planned, " steps").c_str(),
          absl::StrCat(Fixed(most / (all_bytes / static_cast<double>(world)), 4), "; within a step ", Fixed(Median(worst_of_step), 3),
                       " (median), ", Fixed(*std::max_element(worst_of_step.begin(), worst_of_step.end()), 3), " (worst)"));
  }
  State state;
  state.fingerprint = std::string(32, '0');
  state.seed = *options.seed;
  state.epoch = 7;
  state.position = steps.sample_count / 2;
  state.block_samples = *options.block_samples;
  state.window_samples = *options.window_samples;
  state.virtual_streams = *options.virtual_streams;
  state.shuffle = *options.shuffle;
  Print("from a state to the ids of its first batch",
        absl::StrCat(Fixed(RestoreMicros(steps, state.ToJson()), 0), " us; the state has ", state.ToJson().size(), " bytes"));
  if (!arguments.open || steps.sample_count - state.position < steps.global_batch()) return 0;
  const absl::StatusOr<Opened> opened = OpenLoader(steps, state);
  if (!opened.ok()) return Fail(opened.status());
  Print("a loader opened from it, records of one byte",
        absl::StrCat(Fixed(opened->open_ms, 1), " ms; its first batch in host memory after ", Fixed(opened->first_batch_ms, 1),
                     " ms (medians)"));
  return 0;
}

}  // namespace penstock::cli
