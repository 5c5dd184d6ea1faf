#include <cuda_runtime_api.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "gpu/kernels.h"
#include "gpu/memory.h"
#include "gpu/parts.h"
#include "penstock/loader.h"

namespace penstock::bench {
namespace {

std::vector<uint32_t> ChecksumsOf(const Manifest& manifest, const std::string& root) {
  std::vector<uint32_t> crcs;
  for (int64_t id = 0; id < manifest.sample_count(); ++id) {
    const std::string path = root + "/" + manifest.Name(id);
    std::ifstream file(path, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (content.size() != manifest.StoredBytes(id)) throw std::runtime_error("cannot read " + path);
    crcs.push_back(Crc32c(content.data(), content.size()));
  }
  return crcs;
}

}  // namespace

void MeasureChecked(Report& report, bool gpu, const Profile& profile, double gb_wanted, double seconds_max) {
  const std::string question = "samples whose CRC-32C, taken on the GPU, is not their file's";
  if (!gpu) return report.Skip(question, profile.name, "no GPU");
  report.Try(question, profile.name, [&] {
    LoaderOptions options;
    options.root = profile.root;
    options.batch_size = profile.batch_size;
    options.rank = 0;
    options.world_size = 1;
    options.device = 0;
    options.memory_bytes = 256 << 20;  // small enough that all of it is used again and again
    options.device_bytes = 256 << 20;
    absl::StatusOr<std::unique_ptr<Loader>> loader = Loader::Open(options);
    if (!loader.ok()) throw std::runtime_error(loader.status().ToString());
    const std::vector<uint32_t> crcs = ChecksumsOf(*(*loader)->manifest(), profile.root);
    uint32_t* expected = nullptr;
    unsigned long long* wrong = nullptr;
    cudaStream_t streams[3] = {};
    PENSTOCK_CUDA_OK(cudaMalloc(reinterpret_cast<void**>(&expected), crcs.size() * sizeof(uint32_t)));
    PENSTOCK_CUDA_OK(cudaMemcpy(expected, crcs.data(), crcs.size() * sizeof(uint32_t), cudaMemcpyHostToDevice));
    PENSTOCK_CUDA_OK(cudaMalloc(reinterpret_cast<void**>(&wrong), sizeof *wrong));
    PENSTOCK_CUDA_OK(cudaMemset(wrong, 0, sizeof *wrong));
    for (cudaStream_t& stream : streams) PENSTOCK_CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    double gb = 0;
    const int64_t begin_ns = MonotonicNs();
    for (size_t step = 0; gb < gb_wanted && MonotonicNs() - begin_ns < static_cast<int64_t>(1e9 * seconds_max); ++step) {
      absl::StatusOr<Batch> batch = (*loader)->Next();
      if (batch.ok() && batch->end_of_epoch()) {
        if (absl::Status status = (*loader)->StartEpoch(); !status.ok()) throw std::runtime_error(status.ToString());
        continue;
      }
      if (!batch.ok()) throw std::runtime_error(batch.status().ToString());
      for (const int64_t length : batch->lengths()) gb += static_cast<double>(length) / 1e9;
      const cudaStream_t stream = streams[step % 3];
      if (absl::Status status = batch->WaitOn(stream); !status.ok()) throw std::runtime_error(status.ToString());
      PENSTOCK_CUDA_OK(testing::LaunchCheckCrc32c(batch->data(), batch->device_offsets(), batch->device_lengths(), batch->device_ids(),
                                                  batch->size(), expected, wrong, stream));
      if (absl::Status status = batch->Release(stream); !status.ok()) throw std::runtime_error(status.ToString());
    }
    PENSTOCK_CUDA_OK(cudaDeviceSynchronize());
    unsigned long long count = 0;
    PENSTOCK_CUDA_OK(cudaMemcpy(&count, wrong, sizeof count, cudaMemcpyDeviceToHost));
    const double wall_s = static_cast<double>(MonotonicNs() - begin_ns) / 1e9;
    report.Add(question, profile.name, static_cast<double>(count), "samples", absl::StrFormat("of %.1f GB moved in %.1f s", gb, wall_s));
    for (const cudaStream_t stream : streams) cudaStreamDestroy(stream);
    cudaFree(expected);
    cudaFree(wrong);
  });
}

}  // namespace penstock::bench
