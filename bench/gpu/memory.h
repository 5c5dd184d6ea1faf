// Host memory as the arena kinds have it, for the time of a measurement. Errors are thrown.
#ifndef PENSTOCK_BENCH_GPU_MEMORY_H_
#define PENSTOCK_BENCH_GPU_MEMORY_H_

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "base/clock.h"

namespace penstock::bench {

inline void CudaOk(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}
#define PENSTOCK_CUDA_OK(call) ::penstock::bench::CudaOk(static_cast<cudaError_t>(call), #call)

enum class MemoryKind { kPages4k, kHugePages, kCudaHostAlloc };
inline const char* KindName(MemoryKind kind) {
  if (kind == MemoryKind::kCudaHostAlloc) return "cudaHostAlloc";
  return kind == MemoryKind::kPages4k ? "4 KiB pages, registered" : "huge pages, registered";
}

class HostMemory {
 public:
  // `pin` false: mapped and touched, but not given to CUDA.
  HostMemory(MemoryKind kind, size_t bytes, bool pin = true) : kind_(kind), bytes_(bytes), pinned_(pin) {
    if (kind == MemoryKind::kCudaHostAlloc) {
      const int64_t begin_ns = MonotonicNs();
      PENSTOCK_CUDA_OK(cudaHostAlloc(&start_, bytes, cudaHostAllocPortable));
      pin_s_ = static_cast<double>(MonotonicNs() - begin_ns) / 1e9;
      std::memset(start_, 1, bytes);
      return;
    }
    constexpr size_t kHuge = size_t{2} << 20;
    mapped_ = ::mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped_ == MAP_FAILED) throw std::runtime_error("mmap failed");
    start_ = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(mapped_) + kHuge - 1) / kHuge * kHuge);
    ::madvise(start_, bytes, kind == MemoryKind::kHugePages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::memset(start_, 1, bytes);  // so that registering does not count the making of pages
    if (!pin) return;
    const int64_t begin_ns = MonotonicNs();
    const cudaError_t error = cudaHostRegister(start_, bytes, cudaHostRegisterPortable);
    pin_s_ = static_cast<double>(MonotonicNs() - begin_ns) / 1e9;
    if (error != cudaSuccess) ::munmap(mapped_, bytes + kHuge);
    CudaOk(error, "cudaHostRegister");
  }
  ~HostMemory() {
    if (kind_ == MemoryKind::kCudaHostAlloc) {
      cudaFreeHost(start_);
      return;
    }
    if (pinned_) cudaHostUnregister(start_);
    ::munmap(mapped_, bytes_ + (size_t{2} << 20));
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(start_); }
  size_t bytes() const { return bytes_; }
  double pin_s() const { return pin_s_; }

 private:
  const MemoryKind kind_;
  const size_t bytes_;
  const bool pinned_;
  void* mapped_ = nullptr;
  void* start_ = nullptr;
  double pin_s_ = 0;
};

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_GPU_MEMORY_H_
