// Preloaded by the guard's second test: copies the memory of each read once more, in the call that hands it to the kernel, as a loader
// would that read into a buffer of its own first. The guard has to notice it.
#include <dlfcn.h>
#include <liburing.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

namespace {

char scratch[1 << 20];

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

void Copy(const void* from, size_t bytes) {
  std::memcpy(scratch, from, std::min(bytes, sizeof scratch));
  asm volatile("" : : "r"(scratch) : "memory");  // the copy has a reader, for all that the compiler knows
}

void CopyAll(const io_uring* ring) {
  for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; ++i) {
    const io_uring_sqe& sqe = ring->sq.sqes[i & *ring->sq.kring_mask];
    if (sqe.opcode == IORING_OP_READ) Copy(reinterpret_cast<const void*>(sqe.addr), sqe.len);
    if (sqe.opcode != IORING_OP_READV) continue;
    const auto* const parts = reinterpret_cast<const iovec*>(sqe.addr);
    for (unsigned part = 0; part < sqe.len; ++part) Copy(parts[part].iov_base, parts[part].iov_len);
  }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int io_uring_submit_and_get_events(io_uring* ring) {
  static auto* const next = Next<int(io_uring*)>("io_uring_submit_and_get_events");
  CopyAll(ring);
  return next(ring);
}

int io_uring_submit_and_wait_timeout(io_uring* ring, io_uring_cqe** cqe, unsigned wait, __kernel_timespec* timeout, sigset_t* mask) {
  using Call = int(io_uring*, io_uring_cqe**, unsigned, __kernel_timespec*, sigset_t*);
  static auto* const next = Next<Call>("io_uring_submit_and_wait_timeout");
  CopyAll(ring);
  return next(ring, cqe, wait, timeout, mask);
}

ssize_t preadv2(int fd, const iovec* parts, int count, off_t offset, int flags) {
  static auto* const next = Next<ssize_t(int, const iovec*, int, off_t, int)>("preadv2");
  for (int i = 0; i < count; ++i) Copy(parts[i].iov_base, parts[i].iov_len);
  return next(fd, parts, count, offset, flags);
}
}
#pragma GCC visibility pop
