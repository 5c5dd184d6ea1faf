#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/commands.h"
#include "penstock/loader.h"

namespace penstock::cli {
namespace {

struct BenchArguments {
  std::string root;
  int64_t epochs = 1;
  int64_t batch = 256;
  double step_ms = 0;
  std::vector<std::string> set;
  bool json = false;
};

double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

int64_t PeakRssBytes() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// From the start of the process (field 22 of /proc/self/stat, in clock ticks after boot: proc(5)), libraries loaded and arguments read.
double SecondsSinceProcessStart() {
  std::ifstream stat("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(stat), std::istreambuf_iterator<char>()};
  const std::vector<std::string> fields = absl::StrSplit(text.substr(text.rfind(')') + 1), ' ', absl::SkipEmpty());
  int64_t ticks = 0;
  timespec now{};
  if (fields.size() < 20 || !absl::SimpleAtoi(fields[19], &ticks) || ::clock_gettime(CLOCK_BOOTTIME, &now) != 0) return 0;
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         static_cast<double>(ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

double Seconds(std::chrono::steady_clock::time_point from) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
}

nlohmann::json EpochJson(const EpochReport& report, double wall_s, double cpu_s) {
  const double gigabytes = 1e-9 * static_cast<double>(report.bytes);
  return {{"epoch", report.epoch},
          {"wall_s", wall_s},
          {"samples", report.taken},
          {"bytes", report.bytes},
          {"member_samples", report.member_samples},
          {"samples_per_s", static_cast<double>(report.taken) / wall_s},
          {"mb_per_s", 1e3 * gigabytes / wall_s},
          {"cpu_s", cpu_s},
          {"cpu_s_per_gb", gigabytes > 0 ? cpu_s / gigabytes : 0.0},
          {"next_p50_us", report.next_p50_us},
          {"next_p99_us", report.next_p99_us},
          {"first_batch_s", report.first_batch_s},
          {"wait_share", report.wall_s > 0 ? report.wait_s / report.wall_s : 0.0},
          {"kept_open_share", report.requests > 0 ? static_cast<double>(report.kept_open) / static_cast<double>(report.requests) : 0.0},
          {"skipped", report.skipped},
          {"substituted", report.substituted},
          {"reads_per_sample", report.reads_per_sample},
          {"read_bytes_per_byte", report.read_bytes_per_byte},
          {"label_distance", report.label_distance},
          {"label_distance_full_shuffle", report.label_distance_full_shuffle},
          {"warmed_samples", report.warmed_samples},
          {"io", report.io},
          {"io_why", report.io_why},
          {"queue_depth", report.queue_depth},
          {"io_workers", report.io_workers},
          {"queue_depth_why", report.queue_depth_why},
          {"stream_cpu_s", report.stream_cpu_s},
          {"open_latency_us", report.open_latency_us},
          {"read_latency_us", report.read_latency_us},
          {"latency_floor_us", report.latency_floor_us},
          {"bandwidth_mb_per_s", report.bandwidth_mb_per_s},
          {"bound", BoundName(report.bound)},
          {"verdict", report.verdict}};
}

int RunBench(const BenchArguments& arguments) {
  LoaderOptions options;
  options.root = arguments.root;
  options.batch_size = arguments.batch;
  for (const std::string& pair : arguments.set) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    if (absl::Status status = SetOption(options, parts.first, parts.second); !status.ok()) return Fail(status);
  }
  // All samples count; but a state has a tail of its own.
  if (!options.tail.has_value() && options.state.empty()) options.tail = Tail::kPartial;
  if (options.epochs == 0) options.epochs = arguments.epochs;
  double cpu_before = CpuSeconds();
  auto begin = std::chrono::steady_clock::now();
  absl::StatusOr<std::unique_ptr<Loader>> opened = Loader::Open(options);
  if (!opened.ok()) return Fail(opened.status());
  Loader& loader = **opened;
  const double open_s = Seconds(begin);
  const SetupReport setup = loader.setup();
  if (!arguments.json) {
    std::printf("%s: %lld samples, %.1f MB\n", options.mixture.empty() ? options.root.c_str() : "a mixture",
                static_cast<long long>(loader.manifest()->sample_count()), 1e-6 * static_cast<double>(loader.manifest()->total_bytes()));
    for (const MemberReport& member : setup.members) {
      std::printf("  %s: %lld samples, %lld of %lld positions\n", member.root.c_str(), static_cast<long long>(member.samples),
                  static_cast<long long>(member.period_samples), static_cast<long long>(setup.mixture_period));
    }
    std::printf("%s\n", setup.rank_why.c_str());
    std::printf("engine %s (%s)\nreads %s (%s)\n%d streams (%s), %s (%s)\n%d reads in flight (%s), %d batches ahead, arena %.0f MB (%s): %s; %s\n",
                setup.engine.c_str(), setup.engine_why.c_str(), setup.io.c_str(), setup.io_why.c_str(), setup.streams, setup.streams_why.c_str(),
                setup.cpus[0] >= 0 ? "each pinned to a core" : "not pinned", setup.cpus_why.c_str(), setup.queue_depth,
                setup.queue_depth_why.c_str(), setup.prefetch_batches, 1e-6 * static_cast<double>(setup.arena_bytes), setup.memory_why.c_str(), setup.pages.c_str(), setup.binding.c_str());
    std::printf("%s\n%s\ngap between neighbours read as one: %lld bytes (%s)\nopen %.1f ms\n", setup.open_files_why.c_str(),
                setup.warm.c_str(), static_cast<long long>(setup.coalesce_gap_bytes), setup.coalesce_gap_why.c_str(), 1e3 * open_s);
  }
  nlohmann::json epochs = nlohmann::json::array();
  uint64_t touched = 0;
  double first_batch_process_s = 0;
  for (int64_t epoch = 0; epoch < arguments.epochs; ++epoch) {
    if (epoch > 0) {
      cpu_before = CpuSeconds();
      begin = std::chrono::steady_clock::now();
      if (absl::Status status = loader.StartEpoch(); !status.ok()) return Fail(status);
    }
    int64_t steps = 0;
    auto first_step_end = begin;
    while (true) {
      absl::StatusOr<Batch> batch = loader.Next();
      if (!batch.ok()) return Fail(batch.status());
      if (batch->end_of_epoch()) break;
      for (int64_t i = 0; i < batch->size(); ++i) {
        if (const absl::Span<const std::byte> sample = batch->sample(i); !sample.empty()) {
          touched += static_cast<uint64_t>(sample.front()) + static_cast<uint64_t>(sample.back());
        }
      }
      if (first_batch_process_s == 0) first_batch_process_s = SecondsSinceProcessStart();
      if (arguments.step_ms > 0) std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(arguments.step_ms));
      if (++steps == 1) first_step_end = std::chrono::steady_clock::now();
    }
    const double wall_s = Seconds(begin);
    const EpochReport report = loader.report();
    nlohmann::json json = EpochJson(report, wall_s, CpuSeconds() - cpu_before);
    if (arguments.step_ms > 0) {
      // MLPerf Storage's accelerator utilisation: the share of the time that is training, the first step left out. A sleep lasts a little
      // longer than asked; what is over counts as waiting here.
      const double wall = wall_s - std::chrono::duration<double>(first_step_end - begin).count();
      json["step_ms"] = arguments.step_ms;
      json["accelerator_utilisation"] = steps > 1 ? 1e-3 * arguments.step_ms * static_cast<double>(steps - 1) / wall : 0.0;
      json["core_share"] = json["cpu_s"].get<double>() / wall_s;
    }
    epochs.push_back(json);
    if (!arguments.json) {
      std::printf(
          "epoch %lld: %.0f samples/s, %.0f MB/s, %.3f CPU s/GB, Next() p50 %.0f us, p99 %.0f us, first batch %.1f ms\n  %.4f reads per "
          "sample, %.3f bytes read per byte; bound by %s\n",
          static_cast<long long>(report.epoch), json["samples_per_s"].get<double>(), json["mb_per_s"].get<double>(),
          json["cpu_s_per_gb"].get<double>(), report.next_p50_us, report.next_p99_us, 1e3 * report.first_batch_s, report.reads_per_sample,
          report.read_bytes_per_byte, report.verdict.c_str());
      if (report.queue_depth != setup.queue_depth || report.io_workers != setup.io_workers) {
        std::printf("  reads in flight: %d, workers %d (%s)\n", report.queue_depth, report.io_workers, report.queue_depth_why.c_str());
      }
      if (arguments.step_ms > 0) {
        std::printf("  steps of %g ms: accelerator utilisation %.1f %%, %.1f %% of one core\n", arguments.step_ms,
                    100 * json["accelerator_utilisation"].get<double>(), 100 * json["core_share"].get<double>());
      }
      if (report.label_distance_full_shuffle > 0) {
        std::printf("  labels: a batch is %.3f from the data set on average, %.3f with a full shuffle\n", report.label_distance,
                    report.label_distance_full_shuffle);
      }
      if (report.warmed_samples > 0) {
        std::printf("  %lld samples read ahead in the order of place\n", static_cast<long long>(report.warmed_samples));
      }
      if (report.skipped + report.substituted > 0) {
        std::printf("  skipped %lld, substituted %lld; the first: %s\n", static_cast<long long>(report.skipped),
                    static_cast<long long>(report.substituted), report.ledger.empty() ? "" : report.ledger[0].reason.c_str());
      }
    }
  }
  if (arguments.json) {
    // For tools that compare: at the top the last epoch's figures, but rates and CPU time over all epochs after the first one.
    nlohmann::json out = epochs.back();
    if (epochs.size() > 2) {
      double sums[4] = {};  // wall, samples, bytes, CPU
      for (size_t i = 1; i < epochs.size(); ++i) {
        const char* const names[4] = {"wall_s", "samples", "bytes", "cpu_s"};
        for (size_t n = 0; n < 4; ++n) sums[n] += epochs[i][names[n]].get<double>();
      }
      out["wall_s"] = sums[0];
      out["samples"] = static_cast<int64_t>(sums[1]);
      out["bytes"] = static_cast<int64_t>(sums[2]);
      out["cpu_s"] = sums[3];
      out["samples_per_s"] = sums[1] / sums[0];
      out["mb_per_s"] = 1e-6 * sums[2] / sums[0];
      out["cpu_s_per_gb"] = sums[3] / (1e-9 * sums[2]);
    }
    out["rank"] = setup.rank;
    out["world_size"] = setup.world_size;
    out["rank_why"] = setup.rank_why;
    out["open_s"] = open_s;
    out["first_batch_s"] = epochs.front()["first_batch_s"];
    out["first_batch_process_s"] = first_batch_process_s;
    out["peak_rss_bytes"] = PeakRssBytes();
    out["engine"] = setup.engine;
    out["io"] = setup.io;
    out["streams"] = setup.streams;
    out["queue_depth"] = epochs.back()["queue_depth"];
    out["pages"] = setup.pages;
    out["arena_bytes"] = setup.arena_bytes;
    out["memory_why"] = setup.memory_why;
    out["open_files"] = loader.setup().open_files;
    out["open_files_why"] = setup.open_files_why;
    out["coalesce_gap_bytes"] = setup.coalesce_gap_bytes;
    out["warm"] = setup.warm;
    out["coalesce_gap_why"] = setup.coalesce_gap_why;
    out["epochs"] = epochs;
    out["touched"] = touched;  // keeps the reads of each sample's first and last byte
    std::printf("%s\n", out.dump(2).c_str());
  } else {
    std::printf("peak memory %.0f MB\n", 1e-6 * static_cast<double>(PeakRssBytes()));
  }
  return 0;
}

}  // namespace

Command AddBench(CLI::App& app) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command = app.add_subcommand("bench", "Read a data set as training would, and say what bounds it");
  command->add_option("root", arguments->root, "the data set (or --set mixture=...)");
  command->add_option("--epochs", arguments->epochs, "epochs to read")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--batch", arguments->batch, "samples per batch")->check(CLI::PositiveNumber)->capture_default_str();
  command
      ->add_option("--step-ms", arguments->step_ms,
                   "a training step: sleep this long after each batch; reports MLPerf's accelerator utilisation")
      ->capture_default_str();
  command->add_option("--set", arguments->set, "a loader option, NAME=VALUE; may be repeated");
  command->add_flag("--json", arguments->json,
                    "one JSON object: the last epoch's figures (rates: of all after the first), and all epochs in `epochs`");
  std::string footer = "Options for --set:\n";
  for (const OptionInfo& info : OptionTable()) absl::StrAppend(&footer, "  ", info.name, " (", info.type, "): ", info.help, "\n");
  command->footer(footer);
  return [arguments] { return RunBench(*arguments); };
}

}  // namespace penstock::cli
