// The transfer room on a real GPU. Where there is none each case is skipped with the reason.
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "base/check.h"
#include "penstock/log.h"
#include "support/skip.h"
#include "support/status.h"
#include "transfer/copier.h"
#include "transfer/cuda_device.h"
#include "transfer/device_ring.h"

#ifdef PENSTOCK_HAVE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace penstock {
namespace {

[[maybe_unused]] std::shared_ptr<Device> Gpu() {
  absl::StatusOr<std::shared_ptr<Device>> device = OpenCudaDevice(0);
  if (!device.ok()) testing::SkipTest(std::string(device.status().message()));
  return *device;
}

TEST_CASE("a machine without a GPU has no CUDA device and says why", "[gpu]") {
  if (CudaDeviceCount() > 0) testing::SkipTest("this machine has a GPU");
  const absl::Status status = OpenCudaDevice(0).status();
  CHECK((absl::IsUnavailable(status) || absl::IsUnimplemented(status) || absl::IsInvalidArgument(status)));
  CHECK(status.message().size() > 40);
}

#ifdef PENSTOCK_HAVE_CUDA

// Host memory as the arena has it: anonymous and mapped in one piece.
struct HostMemory {
  explicit HostMemory(size_t size) : bytes(size) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    data = static_cast<std::byte*>(memory);
  }
  ~HostMemory() { ::munmap(data, bytes); }
  const size_t bytes;
  std::byte* data;
};

std::vector<std::byte> ReadBack(const std::byte* device_memory, size_t bytes) {
  std::vector<std::byte> host(bytes);
  REQUIRE(cudaMemcpy(host.data(), device_memory, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
  return host;
}

TEST_CASE("a GPU has a PCI bus id in the form of sysfs", "[gpu]") {
  const std::string id = Gpu()->pci_bus_id();
  REQUIRE(id.size() == 12);
  CHECK(id.find_first_not_of("0123456789abcdef:.") == std::string::npos);
  CHECK(id[4] == ':');
}

TEST_CASE("pieces from several threads arrive in the GPU's ring whole", "[gpu]") {
  constexpr size_t kThreads = 4, kPieces = 64, kPieceBytes = size_t{1} << 20;
  const std::shared_ptr<Device> device = Gpu();
  HostMemory host(kPieces * kPieceBytes);
  for (size_t i = 0; i < host.bytes; ++i) host.data[i] = static_cast<std::byte>(i * 2654435761u >> 24);
  for (size_t start = 0; start < host.bytes; start += 16 * kPieceBytes) {
    REQUIRE_OK(device->HostRegister(host.data + start, 16 * kPieceBytes));
  }
  absl::StatusOr<std::unique_ptr<DeviceRing>> ring = DeviceRing::Create(device, static_cast<int64_t>(host.bytes));
  REQUIRE_OK(ring);
  const DeviceBuffer buffer = *(*ring)->Allocate(static_cast<int64_t>(host.bytes));
  REQUIRE(buffer.valid());
  absl::StatusOr<std::unique_ptr<Copier>> copier = Copier::Create(device, CopierOptions{.events = 16});
  REQUIRE_OK(copier);
  std::atomic<size_t> next{0};
  std::vector<std::vector<uint64_t>> finished(kThreads + 1);
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t piece = next++; piece < kPieces; piece = next++) {
        const size_t offset = piece * kPieceBytes;
        PENSTOCK_CHECK((*copier)->Copy(buffer.data + offset, host.data + offset, kPieceBytes, piece).ok(), "copy");
        PENSTOCK_CHECK((*copier)->Poll(finished[thread]).ok(), "poll");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  {
    BatchEvents events(**copier);
    REQUIRE_OK(events.RecordReady());
    REQUIRE_OK((*copier)->Drain(finished.back(), 60 * kNsPerSecond));
    REQUIRE_OK(device->Synchronize((*copier)->cuda_stream()));
    CHECK(*events.Ready());
  }
  size_t count = 0;
  for (const auto& cookies : finished) count += cookies.size();
  CHECK(count == kPieces);
  CHECK(std::memcmp(ReadBack(buffer.data, host.bytes).data(), host.data, host.bytes) == 0);
  (*ring)->Free(buffer);
  for (size_t start = 0; start < host.bytes; start += 16 * kPieceBytes) device->HostUnregister(host.data + start);
}

TEST_CASE("the GPU's ring refuses more than the GPU has with the numbers", "[gpu]") {
  const absl::Status status = DeviceRing::Create(Gpu(), int64_t{1} << 50).status();
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK(std::string(status.message()).find("device_bytes") != std::string::npos);
}

TEST_CASE("the consumer's CUDA stream waits for the batch and the batch for its use", "[gpu]") {
  constexpr size_t kBytes = size_t{64} << 20;
  const std::shared_ptr<Device> device = Gpu();
  HostMemory host(kBytes);
  std::memset(host.data, 0x5C, kBytes);
  REQUIRE_OK(device->HostRegister(host.data, kBytes));
  std::byte* const memory = *device->Malloc(kBytes);
  std::byte* const used = *device->Malloc(kBytes);
  absl::StatusOr<std::unique_ptr<Copier>> copier = Copier::Create(device);
  REQUIRE_OK(copier);
  const CudaStream consumer = *device->CreateStream();
  {
    BatchEvents events(**copier);
    REQUIRE_OK((*copier)->Copy(memory, host.data, kBytes, 1));
    REQUIRE_OK(events.RecordReady());
    REQUIRE_OK(events.WaitOn(consumer));
    // The consumer's work, given while the copy may still run: without the wait it would see other bytes.
    REQUIRE(cudaMemcpyAsync(used, memory, kBytes, cudaMemcpyDeviceToDevice, consumer) == cudaSuccess);
    REQUIRE_OK(events.RecordUse(consumer));
    REQUIRE_OK(device->Synchronize(consumer));
    CHECK(*events.UsesDone());
  }
  const std::vector<std::byte> seen = ReadBack(used, kBytes);
  CHECK(std::memcmp(seen.data(), host.data, kBytes) == 0);
  std::vector<uint64_t> finished;
  REQUIRE_OK((*copier)->Drain(finished, 60 * kNsPerSecond));
  CHECK(finished == std::vector<uint64_t>{1});
  device->DestroyStream(consumer);
  device->Free(memory);
  device->Free(used);
  device->HostUnregister(host.data);
}

TEST_CASE("memory registered twice is refused and stays registered", "[gpu]") {
  const std::shared_ptr<Device> device = Gpu();
  HostMemory host(size_t{2} << 20);
  REQUIRE_OK(device->HostRegister(host.data, host.bytes));
  CHECK(device->HostRegister(host.data, host.bytes).code() == absl::StatusCode::kAlreadyExists);
  CHECK(cudaPeekAtLastError() == cudaSuccess);
  device->HostUnregister(host.data);
}

#if CUDART_VERSION >= 12080
// A kernel that writes to an address nobody has.
constexpr char kWildKernel[] = R"(
.version 7.0
.target sm_75
.address_size 64
.visible .entry wild() {
  .reg .b64 %rd<2>;
  .reg .b32 %r<2>;
  mov.u64 %rd1, 4096;
  mov.u32 %r1, 7;
  st.global.u32 [%rd1], %r1;
  ret;
}
)";

TEST_CASE("a wild kernel of somebody else is latched as a lost context", "[gpu]") {
  const std::shared_ptr<Device> device = Gpu();
  absl::StatusOr<std::unique_ptr<Copier>> copier = Copier::Create(device);
  REQUIRE_OK(copier);
  cudaLibrary_t library = nullptr;
  cudaKernel_t kernel = nullptr;
  REQUIRE(cudaLibraryLoadData(&library, kWildKernel, nullptr, nullptr, 0, nullptr, nullptr, 0) == cudaSuccess);
  REQUIRE(cudaLibraryGetKernel(&kernel, library, "wild") == cudaSuccess);
  cudaStream_t other = nullptr;
  REQUIRE(cudaStreamCreate(&other) == cudaSuccess);
  REQUIRE(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(1), dim3(1), nullptr, 0, other) == cudaSuccess);
  cudaStreamSynchronize(other);
  std::vector<uint64_t> finished;
  const absl::Status first = device->Synchronize((*copier)->cuda_stream());
  CHECK(first.code() == absl::StatusCode::kInternal);
  CHECK(std::string(first.message()).find("restart the process") != std::string::npos);
  CHECK(device->sticky() == first);
  CHECK(device->Malloc(4096).status() == first);
}
#endif

#endif  // PENSTOCK_HAVE_CUDA

}  // namespace
}  // namespace penstock
