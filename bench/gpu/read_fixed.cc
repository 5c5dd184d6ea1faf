#include <fcntl.h>
#include <liburing.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "gpu/memory.h"
#include "gpu/parts.h"

namespace penstock::bench {
namespace {

constexpr size_t kFileBytes = size_t{64} << 20;
constexpr size_t kReadBytes = size_t{128} << 10;
constexpr unsigned kDepth = 64;
constexpr int kPasses = 8;

[[noreturn]] void Fail(const std::string& what, int error_number) { throw std::runtime_error(what + ": " + std::strerror(error_number)); }

std::byte Expected(size_t offset) { return static_cast<std::byte>((offset * 2654435761u) >> 21); }

// A file whose every byte follows from its place. It stays in the page cache.
std::string MakeFile(const std::string& folder) {
  const std::string path = folder + "/read_fixed.bin";
  std::vector<std::byte> content(kFileBytes);
  for (size_t i = 0; i < kFileBytes; ++i) content[i] = Expected(i);
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file.valid()) Fail("open " + path, errno);
  for (size_t done = 0; done < kFileBytes;) {
    const ssize_t written = ::write(file.get(), content.data() + done, kFileBytes - done);
    if (written <= 0) Fail("write " + path, errno);
    done += static_cast<size_t>(written);
  }
  return path;
}

struct Ring {
  Ring() {
    const int error = ::io_uring_queue_init(kDepth, &ring, 0);
    if (error < 0) Fail("io_uring_setup", -error);
  }
  ~Ring() { ::io_uring_queue_exit(&ring); }
  io_uring ring;
};

// Reads the file whole, several times, and checks every byte of the last pass.
double GbPerS(const std::string& path, const HostMemory& memory, bool fixed) {
  Ring ring;
  if (fixed) {
    const iovec whole = {memory.data(), memory.bytes()};
    const int error = ::io_uring_register_buffers(&ring.ring, &whole, 1);
    if (error < 0) Fail("io_uring_register_buffers of 64 MiB", -error);
  }
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) Fail("open " + path, errno);
  int64_t begin_ns = 0;
  for (int pass = 0; pass <= kPasses; ++pass) {
    if (pass == 1) begin_ns = MonotonicNs();  // the first one warms up
    if (pass == kPasses) std::memset(memory.data(), 0, memory.bytes());
    size_t asked = 0, done = 0;
    while (done < kFileBytes) {
      while (asked < kFileBytes && asked - done < kDepth * kReadBytes) {
        io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring.ring);
        if (sqe == nullptr) break;
        if (fixed) {
          ::io_uring_prep_read_fixed(sqe, file.get(), memory.data() + asked, kReadBytes, asked, 0);
        } else {
          ::io_uring_prep_read(sqe, file.get(), memory.data() + asked, kReadBytes, asked);
        }
        asked += kReadBytes;
      }
      int error = ::io_uring_submit_and_wait(&ring.ring, 1);
      if (error < 0 && error != -EINTR) Fail("io_uring_enter", -error);
      for (io_uring_cqe* cqe = nullptr; ::io_uring_peek_cqe(&ring.ring, &cqe) == 0; ::io_uring_cqe_seen(&ring.ring, cqe)) {
        if (cqe->res != static_cast<int>(kReadBytes)) Fail(absl::StrCat("a read gave ", cqe->res), cqe->res < 0 ? -cqe->res : EIO);
        done += kReadBytes;
      }
    }
  }
  const double seconds = static_cast<double>(MonotonicNs() - begin_ns) / 1e9;
  for (size_t i = 0; i < kFileBytes; ++i) {
    if (memory.data()[i] != Expected(i)) throw std::runtime_error(absl::StrCat("byte ", i, " is wrong"));
  }
  return static_cast<double>(kPasses * kFileBytes) / 1e9 / seconds;
}

}  // namespace

void MeasureReadFixed(Report& report, bool gpu, const std::string& folder) {
  const std::string question = "io_uring, 128 KiB reads from the page cache";
  std::string path;
  report.Try(question, "all", [&] {
    path = MakeFile(folder);
    for (const MemoryKind kind : {MemoryKind::kHugePages, MemoryKind::kPages4k, MemoryKind::kCudaHostAlloc}) {
      for (const bool pin : {false, true}) {
        if (kind == MemoryKind::kCudaHostAlloc && !pin) continue;
        std::string where = kind == MemoryKind::kHugePages ? "huge pages" : kind == MemoryKind::kPages4k ? "4 KiB pages" : KindName(kind);
        if (pin && kind != MemoryKind::kCudaHostAlloc) where += ", registered with CUDA";
        if (pin && !gpu) {
          report.Skip(question, where, "no GPU");
          continue;
        }
        report.Try(question, where, [&] {
          const HostMemory memory(kind, kFileBytes, pin);
          for (const bool fixed : {false, true}) {
            const std::string arm = absl::StrCat(where, fixed ? ", READ_FIXED" : ", READ");
            report.Try(question, arm, [&] { report.Add(question, arm, GbPerS(path, memory, fixed), "GB/s", "every byte checked"); });
          }
        });
      }
    }
  });
  if (!path.empty()) ::unlink(path.c_str());
}

}  // namespace penstock::bench
