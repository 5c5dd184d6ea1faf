// Every byte of every batch, checked by a kernel on the GPU against the CRC-32C of its file, while memory is used again under pressure.
// Where there is no GPU each case is skipped with the reason; the first one needs none.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <cuda_runtime_api.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "gpu/crc32c_parts.h"
#include "gpu/kernels.h"
#include "loader/data_set.h"
#include "support/log_capture.h"
#include "support/skip.h"
#include "transfer/cuda_device.h"

using namespace penstock;
using namespace penstock::testing;

#define REQUIRE_CUDA(call) REQUIRE(static_cast<cudaError_t>(call) == cudaSuccess)

namespace {

void NeedGpu() {
  const absl::StatusOr<std::shared_ptr<Device>> device = OpenCudaDevice(0);
  if (!device.ok()) SkipTest(std::string(device.status().message()));
}

// What the GPU compares with, by sample id, and what it counts. One more in `wrong` is one wrong sample.
class Checker {
 public:
  explicit Checker(const Loader& loader) {
    REQUIRE_CUDA(LoadKernels());
    const auto manifest = loader.manifest();
    std::vector<uint32_t> crcs;
    for (int64_t id = 0; id < manifest->sample_count(); ++id) {
      const std::string content = DataSet::Content(manifest->Name(id), static_cast<size_t>(manifest->StoredBytes(id)));
      crcs.push_back(Crc32c(content.data(), content.size()));
    }
    REQUIRE_CUDA(cudaMalloc(reinterpret_cast<void**>(&expected_), crcs.size() * sizeof(uint32_t)));
    REQUIRE_CUDA(cudaMemcpy(expected_, crcs.data(), crcs.size() * sizeof(uint32_t), cudaMemcpyHostToDevice));
    REQUIRE_CUDA(cudaMalloc(reinterpret_cast<void**>(&wrong_), sizeof *wrong_));
    REQUIRE_CUDA(cudaMemset(wrong_, 0, sizeof *wrong_));
  }
  ~Checker() {
    cudaFree(expected_);
    cudaFree(wrong_);
  }
  Checker(const Checker&) = delete;
  Checker& operator=(const Checker&) = delete;

  void Enqueue(const Batch& batch, cudaStream_t stream) {
    REQUIRE_CUDA(LaunchCheckCrc32c(batch.data(), batch.device_offsets(), batch.device_lengths(), batch.device_ids(), batch.size(),
                                   expected_, wrong_, stream));
  }
  // Waits for the whole device.
  unsigned long long Wrong() const {
    unsigned long long wrong = 0;
    REQUIRE_CUDA(cudaDeviceSynchronize());
    REQUIRE_CUDA(cudaMemcpy(&wrong, wrong_, sizeof wrong, cudaMemcpyDeviceToHost));
    return wrong;
  }

 private:
  uint32_t* expected_ = nullptr;
  unsigned long long* wrong_ = nullptr;
};

struct Streams {
  explicit Streams(size_t count) : all(count) {
    for (cudaStream_t& stream : all) REQUIRE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }
  ~Streams() {
    for (const cudaStream_t stream : all) cudaStreamDestroy(stream);
  }
  std::vector<cudaStream_t> all;
};

LoaderOptions Options(const DataSet& data, int64_t batch_size) {
  LoaderOptions options = data.Options(batch_size);
  options.device = 0;
  options.memory_bytes = 16 << 20;
  options.device_bytes = 8 << 20;
  options.piece_bytes = 256 << 10;
  options.tail = Tail::kPartial;
  return options;
}

}  // namespace

TEST_CASE("a CRC-32C in parts, as the kernel takes it, is the whole's", "[gpu]") {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{255}, size_t{256}, size_t{257}, size_t{70001}}) {
    const std::string text = DataSet::Content("any", bytes);
    const size_t part = (bytes + 255) / 256;
    uint32_t joined = 0;
    for (size_t thread = 0; thread < 256; ++thread) {
      const size_t begin = std::min(part * thread, bytes), end = std::min(begin + part, bytes);
      uint32_t state = thread == 0 ? 0xFFFFFFFFu : 0;
      for (size_t i = begin; i < end; ++i) state = Crc32cByte(state, static_cast<uint8_t>(text[i]));
      joined ^= Crc32cOverZeros(state, bytes - end);
    }
    CHECK(~joined == Crc32c(text.data(), text.size()));
  }
}

TEST_CASE("a checksum kernel finds every byte right, over many epochs, several CUDA streams and both engines", "[gpu][sanitize]") {
  NeedGpu();
  const EngineOption engine = GENERATE(EngineOption::kUring, EngineOption::kThreads);
  const int64_t batch_size = GENERATE(1, 7, 64);
  CAPTURE(static_cast<int>(engine), batch_size);
  const DataSet data(700, 60000);  // ragged, some of them empty
  LoaderOptions options = Options(data, batch_size);
  options.engine = engine;
  int current = -1;
  REQUIRE_CUDA(cudaGetDevice(&current));
  auto loader = MustOpen(options);
  Checker checker(*loader);
  Streams streams(4);
  for (int epoch = 0; epoch < 6; ++epoch) {
    if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
    int64_t samples = 0;
    for (size_t step = 0;; ++step) {
      absl::StatusOr<Batch> batch = loader->Next();
      REQUIRE_OK(batch);
      if (batch->end_of_epoch()) break;
      samples += batch->size();
      // Two streams read it, and it is given back at once: only the recorded uses keep its memory.
      const cudaStream_t first = streams.all[step % 4], second = streams.all[(step + 1) % 4];
      REQUIRE_OK(batch->WaitOn(first));
      checker.Enqueue(*batch, first);
      REQUIRE_OK(batch->RecordUse(first));
      REQUIRE_OK(batch->WaitOn(second));
      checker.Enqueue(*batch, second);
      REQUIRE_OK(batch->Release(second));
      int now = -1;
      REQUIRE_CUDA(cudaGetDevice(&now));
      REQUIRE(now == current);
    }
    CHECK(samples == 700);
  }
  CHECK(checker.Wrong() == 0);
}

TEST_CASE("the checksum kernel sees a single wrong bit", "[gpu]") {
  NeedGpu();
  const DataSet data(32, -5000);
  auto loader = MustOpen(Options(data, 32));
  Checker checker(*loader);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  Streams streams(1);
  checker.Enqueue(*batch, streams.all[0]);
  CHECK(checker.Wrong() == 0);
  unsigned char byte = 0;
  std::byte* const place = batch->data() + batch->offsets()[5] + 4999;
  REQUIRE_CUDA(cudaMemcpy(&byte, place, 1, cudaMemcpyDeviceToHost));
  byte ^= 0x10;
  REQUIRE_CUDA(cudaMemcpy(place, &byte, 1, cudaMemcpyHostToDevice));
  checker.Enqueue(*batch, streams.all[0]);
  CHECK(checker.Wrong() == 1);
}

TEST_CASE("a batch released while kernels that read it have not even started is not overwritten", "[gpu][sanitize]") {
  NeedGpu();
  const DataSet data(600, -60000);
  LoaderOptions options = Options(data, 32);
  options.device_bytes = 5 << 20;  // two batches
  options.deadline_s = 20;         // should anything wait for the kernel that waits for us
  auto loader = MustOpen(options);
  Checker checker(*loader);
  Streams streams(1);
  for (int step = 0; step < 8; ++step) REQUIRE_OK(loader->Next());  // all of the arena is registered by now: that may wait for kernels
  int* flag = nullptr;
  REQUIRE_CUDA(cudaHostAlloc(reinterpret_cast<void**>(&flag), sizeof *flag, cudaHostAllocMapped));
  for (int round = 0; round < 4; ++round) {
    *flag = 0;
    REQUIRE_CUDA(LaunchWaitForFlag(flag, streams.all[0]));
    absl::StatusOr<Batch> held = loader->Next();
    REQUIRE_OK(held);
    checker.Enqueue(*held, streams.all[0]);
    REQUIRE_OK(held->Release(streams.all[0]));
    absl::StatusOr<Batch> other = loader->Next();  // the other half of the ring
    REQUIRE_OK(other);
    SleepNs(50 * kNsPerMs);  // the streams would fill the first half now
    *flag = 1;
    checker.Enqueue(*other, streams.all[0]);
    REQUIRE_OK(other->Release(streams.all[0]));
    CHECK(checker.Wrong() == 0);
  }
  cudaFreeHost(flag);
}

TEST_CASE("a destroyed loader waits for what the consumer's CUDA streams still read", "[gpu]") {
  NeedGpu();
  const DataSet data(64, -60000);
  auto loader = MustOpen(Options(data, 32));
  Checker checker(*loader);
  Streams streams(1);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  REQUIRE_CUDA(LaunchSpin(200 * kNsPerMs, 1, streams.all[0]));
  checker.Enqueue(*batch, streams.all[0]);
  REQUIRE_OK(batch->Release(streams.all[0]));
  loader.reset();
  CHECK(checker.Wrong() == 0);
}

TEST_CASE("a context lost under a loader fails Next() once and for all, and is logged once", "[gpu]") {
  NeedGpu();
  const LogCapture log;
  const DataSet data(600, 20000);
  auto loader = MustOpen(Options(data, 8));
  REQUIRE_OK(loader->Next());
  REQUIRE_CUDA(cudaDeviceSynchronize());
  // A wild read: offsets that nobody has.
  Streams* const streams = new Streams(1);  // not destroyed: there is no context to destroy them in
  const auto* const nowhere = reinterpret_cast<const int64_t*>(uintptr_t{4096});
  LaunchCheckCrc32c(nullptr, nowhere, nowhere, nowhere, 1, nullptr, nullptr, streams->all[0]);
  cudaStreamSynchronize(streams->all[0]);
  absl::Status status;
  for (int step = 0; step < 200 && status.ok(); ++step) status = loader->Next().status();
  REQUIRE(absl::IsInternal(status));
  CHECK(status.message().find("restart the process") != std::string::npos);
  const int64_t before_ns = MonotonicNs();
  CHECK(loader->Next().status() == status);
  CHECK(MonotonicNs() - before_ns < kNsPerSecond);
  loader.reset();
  CHECK(log.CountOf("context is lost") == 1);
}
