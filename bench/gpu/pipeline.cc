#include <cuda_runtime_api.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "gpu/kernels.h"
#include "gpu/memory.h"
#include "gpu/parts.h"
#include "penstock/loader.h"

namespace penstock::bench {
namespace {

double CpuSeconds() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double SecondsSince(int64_t begin_ns) { return static_cast<double>(MonotonicNs() - begin_ns) / 1e9; }

std::unique_ptr<Loader> Open(const Profile& profile, bool gpu, int32_t streams) {
  LoaderOptions options;
  options.root = profile.root;
  options.batch_size = profile.batch_size;
  options.rank = 0;
  options.world_size = 1;
  options.device = gpu ? 0 : -1;
  options.streams = streams;
  absl::StatusOr<std::unique_ptr<Loader>> loader = Loader::Open(options);
  if (!loader.ok()) throw std::runtime_error(loader.status().ToString());
  return *std::move(loader);
}

// The next batch, over the ends of epochs.
Batch Take(Loader& loader) {
  absl::StatusOr<Batch> batch = loader.Next();
  if (batch.ok() && batch->end_of_epoch()) {
    if (absl::Status status = loader.StartEpoch(); !status.ok()) throw std::runtime_error(status.ToString());
    batch = loader.Next();
  }
  if (!batch.ok()) throw std::runtime_error(batch.status().ToString());
  return *std::move(batch);
}

// As fast as it goes: the consumer takes and gives back. The first epoch warms up page cache, pages and pins.
void MeasureRate(Report& report, bool gpu, const Profile& profile, int32_t streams, double seconds) {
  const std::string question = absl::StrCat(profile.name, ", warm, into ", gpu ? "the GPU" : "host memory");
  const std::string arm = absl::StrCat(streams, streams == 1 ? " stream" : " streams");
  report.Try(question, arm, [&] {
    const std::unique_ptr<Loader> loader = Open(profile, gpu, streams);
    for (int64_t step = loader->steps(); step > 0; --step) Take(*loader);
    int64_t bytes = 0, samples = 0;
    const double cpu_begin_s = CpuSeconds();
    const int64_t begin_ns = MonotonicNs();
    while (SecondsSince(begin_ns) < seconds) {
      const Batch batch = Take(*loader);
      samples += batch.size();
      for (const int64_t length : batch.lengths()) bytes += length;
    }
    const double wall_s = SecondsSince(begin_ns), gb = static_cast<double>(bytes) / 1e9;
    std::string note = absl::StrFormat("%.0f samples/s, %.3f CPU s per GB, %s", static_cast<double>(samples) / wall_s,
                                       (CpuSeconds() - cpu_begin_s) / gb, loader->report().verdict);
    const double engine = report.Best(kCopyEngine);
    if (engine > 0) note += absl::StrFormat("; %.1f %% of the copy engine's rate", 100 * gb / wall_s / engine);
    report.Add(question, arm, gb / wall_s, "GB/s", note);
  });
}

// A training step of profile.step_s: a kernel that keeps the GPU busy, two steps in flight, as a trainer runs ahead of its GPU; without a
// GPU a sleep. AU = time of the steps / time of all, without the first step (MLPerf Storage, section 2.1). MLPerf's data ends in host
// memory; here it is in the GPU's when Next() returns.
void MeasureUtilisation(Report& report, bool gpu, const Profile& profile, double seconds) {
  const std::string question =
      absl::StrFormat("%s beside a step of %.2f ms, batches of %d", profile.name, 1e3 * profile.step_s, profile.batch_size);
  const std::string arm = gpu ? "into the GPU, whose kernel is the step" : "into host memory, the step is a sleep";
  report.Try(question, arm, [&] {
    const std::unique_ptr<Loader> loader = Open(profile, gpu, 0);
    const auto step_ns = static_cast<int64_t>(1e9 * profile.step_s);
    cudaStream_t stream = nullptr;
    cudaEvent_t done[2] = {};
    if (gpu) {
      PENSTOCK_CUDA_OK(testing::LoadKernels());
      PENSTOCK_CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      for (cudaEvent_t& event : done) PENSTOCK_CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventBlockingSync | cudaEventDisableTiming));
    }
    int64_t steps = 0, begin_ns = 0;
    double wait_s = 0;
    const int64_t wanted = std::max<int64_t>(10, static_cast<int64_t>(seconds / profile.step_s));
    for (int64_t step = 0; step <= wanted; ++step) {
      if (step == 1) {
        if (gpu) PENSTOCK_CUDA_OK(cudaStreamSynchronize(stream));
        begin_ns = MonotonicNs();
        wait_s = 0;
      }
      const int64_t next_ns = MonotonicNs();
      Batch batch = Take(*loader);
      wait_s += SecondsSince(next_ns);
      if (gpu) {
        if (absl::Status status = batch.WaitOn(stream); !status.ok()) throw std::runtime_error(status.ToString());
        PENSTOCK_CUDA_OK(testing::LaunchSpin(step_ns, 1, stream));
        if (absl::Status status = batch.Release(stream); !status.ok()) throw std::runtime_error(status.ToString());
        PENSTOCK_CUDA_OK(cudaEventRecord(done[step % 2], stream));
        if (step > 1) PENSTOCK_CUDA_OK(cudaEventSynchronize(done[(step + 1) % 2]));
      } else {
        batch.Release();
        SleepNs(step_ns);
      }
      steps += step > 0 ? 1 : 0;
    }
    if (gpu) PENSTOCK_CUDA_OK(cudaStreamSynchronize(stream));
    const double wall_s = SecondsSince(begin_ns);
    report.Add(question, arm, 100 * static_cast<double>(steps) * profile.step_s / wall_s, "% AU",
               absl::StrFormat("%.0f samples/s; Next() took %.3f %% of the time, %.1f us a step",
                               static_cast<double>(steps * profile.batch_size) / wall_s, 100 * wait_s / wall_s,
                               1e6 * wait_s / static_cast<double>(steps)));
    for (const cudaEvent_t event : done) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (stream != nullptr) cudaStreamDestroy(stream);
  });
}

}  // namespace

void MeasurePipeline(Report& report, bool gpu, const Profile& profile, double seconds) {
  const auto cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  for (int32_t streams = 1; streams <= std::max(1, std::min(cores, 16)); streams *= 2) {
    MeasureRate(report, gpu, profile, streams, seconds);
    if (gpu && (streams == 1 || 2 * streams > std::min(cores, 16))) MeasureRate(report, false, profile, streams, seconds);
  }
  MeasureUtilisation(report, gpu, profile, 2 * seconds);
  if (gpu) MeasureUtilisation(report, false, profile, 2 * seconds);
}

}  // namespace penstock::bench
