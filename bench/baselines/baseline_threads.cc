// How fast is the whole job with plain threads that open, pread and close? Bound by memory copies (warm, large files), by system
// calls and the directory cache (warm, small files), and by the drive's queue (cold), which only more threads fill.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "args.h"
#include "base/align.h"
#include "job.h"

namespace penstock::bench {
namespace {

// Opens, reads and closes one file; returns the bytes it gave.
int64_t ReadFile(const Job& job, const Batch& batch, const Batch::Sample& sample, int open_flags) {
  if (sample.bytes == 0) return 0;
  const char* name = job.list().Name(sample.id);
  const int fd = ::openat(job.list().FolderFd(sample.id), name, open_flags);
  if (fd < 0) Die("open %s: %s", name, std::strerror(errno));
  const int64_t alignment = job.options().direct ? job.options().alignment : 1;
  int64_t got = 0;
  while (got < sample.bytes) {
    // A direct read asks for whole blocks, and its place has room for them; the end of the file cuts it short.
    const uint64_t want = AlignUp(static_cast<uint64_t>(sample.bytes - got), static_cast<uint64_t>(alignment));
    const ssize_t bytes = ::pread(fd, batch.buffer + sample.offset + got, want, got);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) Die("read %s at %" PRId64 ": %s", name, got, std::strerror(errno));
    got += bytes;
    // A direct read that stops within a block has met the end of the file; the consumer names the shortfall.
    if (bytes == 0 || got % alignment != 0) break;
  }
  ::close(fd);
  return got;
}

constexpr char kUsage[] =
    "baseline_threads DIR [options]: shuffled epochs, open + pread + close into batch buffers\n"
    "  --threads N       readers (2)\n"
    "  --claim N         samples taken at a time (8)\n";

int Main(int argc, char** argv) {
  const std::string usage = absl::StrCat(kUsage, kJobUsage);
  Args args(argc, argv, usage.c_str());
  const int64_t threads = args.Int("--threads", 2, 1, 4096);
  const int64_t claim_samples = args.Int("--claim", 8, 1, 4096);
  Job job(ParseJobOptions(args));
  const int open_flags = O_RDONLY | O_CLOEXEC | (job.options().direct ? O_DIRECT : 0);
  return job.Run("baseline_threads", {{"threads", absl::StrCat(threads)}, {"claim", absl::StrCat(claim_samples)}}, threads, [&](int64_t) {
    for (;;) {
      const Claim claim = job.Next(claim_samples, /*wait=*/true);
      if (claim.count == 0) return;
      for (int64_t i = claim.first; i < claim.first + claim.count; ++i) {
        Batch::Sample& sample = claim.batch->samples[static_cast<size_t>(i)];
        sample.got_bytes = ReadFile(job, *claim.batch, sample, open_flags);
      }
      job.Done(*claim.batch, claim.count);
    }
  });
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Main(argc, argv); }
