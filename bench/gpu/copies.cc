#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gpu/kernels.h"
#include "gpu/memory.h"
#include "gpu/parts.h"

namespace penstock::bench {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kPool = 256 * kMiB;     // of host memory, larger than any last-level cache's share of a core
constexpr size_t kMoved = 1024 * kMiB;   // per measurement
constexpr int kRepeats = 5;              // the median counts

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct DeviceMemory {
  explicit DeviceMemory(size_t bytes) { PENSTOCK_CUDA_OK(cudaMalloc(&start, bytes)); }
  ~DeviceMemory() { cudaFree(start); }
  void* start = nullptr;
};

struct CudaStreams {
  explicit CudaStreams(size_t count) : all(count) {
    for (cudaStream_t& stream : all) PENSTOCK_CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }
  ~CudaStreams() {
    for (const cudaStream_t stream : all) cudaStreamDestroy(stream);
  }
  void Wait() const {
    for (const cudaStream_t stream : all) PENSTOCK_CUDA_OK(cudaStreamSynchronize(stream));
  }
  std::vector<cudaStream_t> all;
};

// Copies of 64 MiB between two events, enqueued while a kernel holds the stream, so that submitting costs nothing.
double EngineGbPerS(const HostMemory& host, void* device) {
  constexpr int kCopies = 16;
  constexpr size_t kBytes = 64 * kMiB;
  CudaStreams streams(1);
  int* flag = nullptr;
  PENSTOCK_CUDA_OK(cudaHostAlloc(reinterpret_cast<void**>(&flag), sizeof *flag, cudaHostAllocMapped));
  cudaEvent_t begin, end;
  PENSTOCK_CUDA_OK(cudaEventCreate(&begin));
  PENSTOCK_CUDA_OK(cudaEventCreate(&end));
  std::vector<double> rates;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {
    *flag = 0;
    PENSTOCK_CUDA_OK(testing::LaunchWaitForFlag(flag, streams.all[0]));
    PENSTOCK_CUDA_OK(cudaEventRecord(begin, streams.all[0]));
    for (int copy = 0; copy < kCopies; ++copy) {
      const size_t offset = static_cast<size_t>(copy) * kBytes % host.bytes();
      PENSTOCK_CUDA_OK(cudaMemcpyAsync(static_cast<std::byte*>(device) + offset, host.data() + offset, kBytes, cudaMemcpyHostToDevice,
                                       streams.all[0]));
    }
    PENSTOCK_CUDA_OK(cudaEventRecord(end, streams.all[0]));
    *const_cast<volatile int*>(flag) = 1;
    PENSTOCK_CUDA_OK(cudaStreamSynchronize(streams.all[0]));
    float ms = 0;
    PENSTOCK_CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (repeat > 0) rates.push_back(static_cast<double>(kCopies * kBytes) / 1e6 / static_cast<double>(ms));  // the first warms up
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaFreeHost(flag);
  return Median(rates);
}

struct PieceRate {
  double gb_per_s = 0;
  double submit_us = 0;  // of the CPU, per piece
};

// Gives `pieces` pieces to the streams by `submit`, again and again: wall time from the first call to the last byte.
template <typename Submit>
PieceRate TimePieces(CudaStreams& streams, size_t piece, size_t pieces, Submit&& submit) {
  std::vector<double> rates, submits;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {
    const int64_t begin_ns = MonotonicNs();
    submit();
    const int64_t submitted_ns = MonotonicNs();
    streams.Wait();
    if (repeat == 0) continue;
    rates.push_back(static_cast<double>(pieces * piece) / static_cast<double>(MonotonicNs() - begin_ns));
    submits.push_back(static_cast<double>(submitted_ns - begin_ns) / 1e3 / static_cast<double>(pieces));
  }
  return {Median(rates), Median(submits)};
}

// Pieces one behind the other, as a loader gives them.
PieceRate PiecesGbPerS(const HostMemory& host, void* device, size_t piece, size_t stream_count) {
  CudaStreams streams(stream_count);
  const size_t pieces = std::max<size_t>(1, std::min(kMoved, piece * 65536) / piece);
  return TimePieces(streams, piece, pieces, [&] {
    for (size_t i = 0; i < pieces; ++i) {
      const size_t offset = i * piece % host.bytes();
      PENSTOCK_CUDA_OK(cudaMemcpyAsync(static_cast<std::byte*>(device) + offset, host.data() + offset, piece, cudaMemcpyHostToDevice,
                                       streams.all[i % stream_count]));
    }
  });
}

#if CUDART_VERSION >= 12080
PieceRate BatchedGbPerS(const HostMemory& host, void* device, size_t piece, size_t per_call) {
  CudaStreams streams(1);
  const size_t pieces = std::min(kMoved, piece * 65536) / piece / per_call * per_call;
  std::vector<void*> targets(per_call);
#if CUDART_VERSION >= 13000
  std::vector<const void*> sources(per_call);
#else
  std::vector<void*> sources(per_call);
#endif
  std::vector<size_t> sizes(per_call, piece);
  cudaMemcpyAttributes attributes = {};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  size_t first = 0;
  return TimePieces(streams, piece, pieces, [&] {
    for (size_t done = 0; done < pieces; done += per_call) {
      for (size_t i = 0; i < per_call; ++i) {
        const size_t offset = (done + i) * piece % host.bytes();
        targets[i] = static_cast<std::byte*>(device) + offset;
        sources[i] = host.data() + offset;
      }
#if CUDART_VERSION >= 13000
      PENSTOCK_CUDA_OK(cudaMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), per_call, &attributes, &first, 1,
                                            streams.all[0]));
#else
      size_t failed = 0;
      PENSTOCK_CUDA_OK(cudaMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), per_call, &attributes, &first, 1, &failed,
                                            streams.all[0]));
#endif
    }
  });
}
#endif

std::string Submit(const PieceRate& rate) { return absl::StrFormat("%.2f us of the CPU per piece", rate.submit_us); }

}  // namespace

void MeasureCopies(Report& report, bool gpu) {
  const std::string pieces = "pieces one by one, huge pages, one CUDA stream";
  const std::string kinds = "kind of host memory, pieces of 4 MiB";
  const std::string small = "kind of host memory, pieces of 64 KiB";
  const std::string registering = "registering 1 GiB";
  const std::string streams = "CUDA streams, pieces of 4 MiB";
  const std::string batched = "cudaMemcpyBatchAsync, 64 pieces a call";
  if (!gpu) {
    for (const std::string& question : {std::string(kCopyEngine), pieces, kinds, small, registering, streams, batched}) {
      report.Skip(question, "all", "no GPU");
    }
    return;
  }
  report.Try(kCopyEngine, "all", [&] {
    DeviceMemory device(kPool);
    for (const MemoryKind kind : {MemoryKind::kCudaHostAlloc, MemoryKind::kHugePages, MemoryKind::kPages4k}) {
      const HostMemory host(kind, kPool);
      report.Add(kCopyEngine, KindName(kind), EngineGbPerS(host, device.start), "GB/s");
    }
  });
  report.Try(pieces, "all", [&] {
    DeviceMemory device(kPool);
    const HostMemory host(MemoryKind::kHugePages, kPool);
    for (size_t piece = 16 << 10; piece <= 64 * kMiB; piece *= 4) {
      const PieceRate rate = PiecesGbPerS(host, device.start, piece, 1);
      report.Add(pieces, absl::StrCat(piece >> 10, " KiB"), rate.gb_per_s, "GB/s", Submit(rate));
    }
    for (const size_t count : {size_t{1}, size_t{2}, size_t{4}, size_t{8}}) {
      const PieceRate rate = PiecesGbPerS(host, device.start, 4 * kMiB, count);
      report.Add(streams, absl::StrCat(count), rate.gb_per_s, "GB/s", Submit(rate));
    }
#if CUDART_VERSION >= 12080
    for (const size_t piece : {size_t{16} << 10, size_t{64} << 10, size_t{256} << 10, kMiB}) {
      report.Try(batched, absl::StrCat(piece >> 10, " KiB"), [&] {
        const PieceRate rate = BatchedGbPerS(host, device.start, piece, 64);
        report.Add(batched, absl::StrCat(piece >> 10, " KiB"), rate.gb_per_s, "GB/s", Submit(rate));
      });
    }
#else
    report.Skip(batched, "all", "built with a CUDA older than 12.8");
#endif
  });
  for (const MemoryKind kind : {MemoryKind::kPages4k, MemoryKind::kHugePages, MemoryKind::kCudaHostAlloc}) {
    report.Try(kinds, KindName(kind), [&] {
      DeviceMemory device(kPool);
      const HostMemory host(kind, kPool);
      report.Add(kinds, KindName(kind), PiecesGbPerS(host, device.start, 4 * kMiB, 1).gb_per_s, "GB/s");
      report.Add(small, KindName(kind), PiecesGbPerS(host, device.start, 64 << 10, 1).gb_per_s, "GB/s");
    });
    report.Try(registering, KindName(kind), [&] {
      const HostMemory host(kind, 1024 * kMiB);
      report.Add(registering, KindName(kind), host.pin_s(), "s",
                 kind == MemoryKind::kCudaHostAlloc ? "with the making of its pages" : "of memory that was touched");
    });
  }
}

}  // namespace penstock::bench
