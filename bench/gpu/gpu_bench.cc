// What bounds the way from files to a GPU on this machine: the copy engine, the memory it reads from, or the loader? Bound by PCIe, by the
// cores that copy out of the page cache, or by a step of training, which the last rows tell apart. Run by bench/gpu/run.sh.
#include <cuda_runtime_api.h>
#include <sys/utsname.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gpu/parts.h"

namespace penstock::bench {
namespace {

constexpr char kUsage[] =
    "gpu_bench --data FOLDER --out FOLDER [--seconds S] [--require-gpu]\n"
    "  --data FOLDER   holds retinanet and resnet, made by make_files\n"
    "  --out FOLDER    where gpu_bench.json and gpu_bench.md are written\n"
    "  --seconds S     for each row of the loader (3)\n"
    "  --require-gpu   ends with 1 where there is no GPU, instead of measuring what needs none\n";

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

// What a reader needs to know of the machine. The GPU's name, or why there is none, comes back.
bool DescribeMachine(Report& report) {
  utsname system = {};
  ::uname(&system);
  report.Fact("kernel", system.release);
  report.Fact("CPU", absl::StrCat(CpuModel(), ", ", std::thread::hardware_concurrency(), " CPUs"));
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    report.Fact("GPU", absl::StrCat("none: ", error != cudaSuccess ? cudaGetErrorString(error) : "no device"));
    return false;
  }
  cudaDeviceProp properties = {};
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return false;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  report.Fact("GPU", absl::StrCat(properties.name, ", compute capability ", properties.major, ".", properties.minor, ", ",
                                  properties.asyncEngineCount, " copy engines, ", properties.totalGlobalMem >> 30, " GiB; ", count,
                                  " in all"));
  report.Fact("CUDA", absl::StrCat("driver ", driver, ", runtime ", runtime));
  return true;
}

int Main(int argc, char** argv) {
  std::string data, out;
  double seconds = 3;
  bool require_gpu = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--require-gpu") {
      require_gpu = true;
    } else if (argument == "--data" && i + 1 < argc) {
      data = argv[++i];
    } else if (argument == "--out" && i + 1 < argc) {
      out = argv[++i];
    } else if (argument == "--seconds" && i + 1 < argc && absl::SimpleAtod(argv[i + 1], &seconds) && seconds > 0) {
      ++i;
    } else {
      return std::fputs(kUsage, stderr), 2;
    }
  }
  if (data.empty() || out.empty()) return std::fputs(kUsage, stderr), 2;
  Report report;
  const bool gpu = DescribeMachine(report);
  if (require_gpu && !gpu) return std::fputs("gpu_bench: there is no GPU here\n", stderr), 1;
  MeasureCopies(report, gpu);
  MeasureReadFixed(report, gpu, data);
  // RetinaNet on B200 of MLPerf Storage v3.0: 24 samples in 47.55 ms. ResNet-50 on an H100 reads 1,800 samples/s.
  const Profile retinanet = {"RetinaNet, files of 322,957 B", data + "/retinanet", 24, 0.04755};
  const Profile resnet = {"ResNet-50, files of 110 KB", data + "/resnet", 256, 256.0 / 1800};
  MeasurePipeline(report, gpu, retinanet, seconds);
  MeasurePipeline(report, gpu, resnet, seconds);
  MeasureChecked(report, gpu, retinanet, 60, 8 * seconds);
  MeasureChecked(report, gpu, resnet, 60, 8 * seconds);
  report.WriteJson(out + "/gpu_bench.json");
  report.WriteTable(out + "/gpu_bench.md");
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  try {
    return penstock::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return 1;
  }
}
