#include "loader/residency.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/aside.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "loader/io_choice.h"
#include "topology/memory.h"

namespace penstock {
namespace {

constexpr int64_t kRulesPatienceNs = kNsPerSecond / 2;

struct DirectRule {
  int64_t alignment = 0;
  std::string why;
};

// By doing: statx(2) with STATX_DIOALIGN where the kernel has it (6.1), and an open and a read that must succeed.
DirectRule ProbeDirect(const OpenTarget& target) {
  const UniqueFd fd(::openat(target.dir_fd, target.path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return {0, absl::StrCat("the file system refuses O_DIRECT: ", ErrnoText(errno))};
  int64_t alignment = 4096;
  std::string why = "a direct read of 4096 bytes worked; the file system does not say the alignment (STATX_DIOALIGN)";
#if defined(STATX_DIOALIGN)
  struct statx info = {};
  if (::syscall(SYS_statx, fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0) return {0, "the file system says that this file has no direct reads (STATX_DIOALIGN)"};
    alignment = std::max<int64_t>(info.stx_dio_offset_align, info.stx_dio_mem_align);
    why = absl::StrCat("STATX_DIOALIGN: offsets of ", info.stx_dio_offset_align, ", memory of ", info.stx_dio_mem_align, " bytes");
  }
#endif
  alignas(4096) static thread_local char buffer[4096];
  if (::pread(fd.get(), buffer, sizeof buffer, 0) < 0) return {0, absl::StrCat("a direct read failed: ", ErrnoText(errno))};
  return {alignment, why};
}

// By doing: preadv2(2) with RWF_NOWAIT gives EOPNOTSUPP where the file system cannot promise not to sleep (FUSE, NFS). io_uring asks the
// same question, and hands the read to its worker pool then (io_uring_register(2), IORING_REGISTER_IOWQ_MAX_WORKERS).
bool AnswersAtOnce(const OpenTarget& target) {
  const UniqueFd fd(::openat(target.dir_fd, target.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return true;
  char byte;
  const iovec part = {&byte, 1};
  return ::preadv2(fd.get(), &part, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

// cachestat(2), Linux 6.5; the C library of Debian 12 does not know it. The same number on all machines.
constexpr long kSysCachestat = 451;
struct CachestatRange {
  uint64_t offset = 0;
  uint64_t length = 0;
};
struct Cachestat {
  uint64_t cached = 0;  // in pages, as all of them
  uint64_t dirty = 0;
  uint64_t writeback = 0;
  uint64_t evicted = 0;
  uint64_t recently_evicted = 0;
};

// The share of a range that is in the page cache; -1: nobody can tell.
double CachedShareOf(int fd, const Range& range) {
  static const uint64_t page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  CachestatRange asked{range.offset_bytes, range.stored_bytes};
  Cachestat stat;
  if (::syscall(kSysCachestat, fd, &asked, &stat, 0) == 0) {
    const uint64_t begin = range.offset_bytes / page_bytes;
    const uint64_t end = CeilDiv(range.offset_bytes + range.stored_bytes, page_bytes);
    return std::min(1.0, static_cast<double>(stat.cached) / static_cast<double>(end - begin));
  }
  // It is also refused (EPERM) to who may not write the file.
  char byte;
  const iovec part{&byte, 1};
  const ssize_t got = ::preadv2(fd, &part, 1, static_cast<off_t>(range.offset_bytes), RWF_NOWAIT);
  if (got < 0 && errno != EAGAIN) return -1;
  return got == 1 ? 1 : 0;
}

}  // namespace

FileRules LookAtFile(const OpenTarget& target) {
  const DirectRule direct = ProbeDirect(target);
  return {direct.alignment, direct.why, AnswersAtOnce(target)};
}

double CachedShare(const ObjectStore& objects, absl::Span<const Range> ranges) {
  std::string scratch;
  double sum = 0;
  double bytes = 0;
  for (const Range& range : ranges) {
    if (range.stored_bytes == 0) continue;
    const absl::StatusOr<OpenTarget> target = objects.Target(range.object, scratch);
    if (!target.ok()) continue;
    const UniqueFd fd(::openat(target->dir_fd, target->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.valid()) continue;
    const double share = CachedShareOf(fd.get(), range);
    if (share < 0) return -1;
    sum += share * static_cast<double>(range.stored_bytes);
    bytes += static_cast<double>(range.stored_bytes);
  }
  return bytes == 0 ? -1 : sum / bytes;
}

double CachedShareWithin(std::shared_ptr<const ObjectStore> objects, std::vector<Range> ranges, int64_t patience_ns) {
  Aside<double> look([objects = std::move(objects), ranges = std::move(ranges)] { return CachedShare(*objects, ranges); });
  const double* const share = look.Within(patience_ns);
  return share == nullptr ? -1 : *share;
}

Residency LookAtResidency(const Manifest& manifest, std::shared_ptr<const ObjectStore> objects, std::vector<Range> sample, bool ask_direct,
                          int64_t patience_ns) {
  Residency residency;
  residency.data_bytes = static_cast<int64_t>(manifest.total_bytes());
  residency.available_bytes = ReadMemoryLeft().bytes;
  // Whether direct reads are allowed matters only sometimes; whether reads are answered at once is worth half a second.
  const bool patient = ask_direct || !FitsInMemory(residency.data_bytes, residency.available_bytes);
  if (!patient) patience_ns = std::min(patience_ns, kRulesPatienceNs);
  // A file of each data set: those of a mixture may lie on different file systems.
  std::vector<uint32_t> firsts;
  for (int64_t d = 0; d < manifest.member_count(); ++d) firsts.push_back(manifest.RangeAt(manifest.FirstIdOf(d), 0).object);
  Aside<FileRules> look([objects, firsts] {
    FileRules all;
    for (const uint32_t object : firsts) {
      std::string scratch;
      const absl::StatusOr<OpenTarget> target = objects->Target(object, scratch);
      FileRules rules = target.ok() ? LookAtFile(*target) : FileRules{0, std::string(target.status().message()), true};
      const bool first = all.direct_why.empty();
      const bool answers_at_once = all.answers_at_once && rules.answers_at_once;
      // What all of them allow: the largest alignment, none where one has none.
      if (first || rules.direct_alignment == 0 || (all.direct_alignment != 0 && rules.direct_alignment > all.direct_alignment)) all = rules;
      all.answers_at_once = answers_at_once;
    }
    return all;
  });
  FileRules rules;
  if (!look.no_thread().empty()) {
    rules.direct_why = absl::StrCat("it was not tried: no thread: ", look.no_thread());
  } else if (const FileRules* const found = look.Within(patience_ns); found != nullptr) {
    rules = *found;
    // Not asked of a store that does not even answer for one file.
    residency.cached_share = CachedShareWithin(std::move(objects), std::move(sample), std::min(patience_ns, kCachedSharePatienceNs));
  } else {
    rules.direct_why =
        absl::StrCat("a direct read of ", EscapeName(objects->Name(firsts[0])), " had no answer for ", patience_ns / kNsPerMs, " ms");
    rules.answers_at_once = false;
  }
  residency.direct_alignment = rules.direct_alignment;
  residency.direct_why = rules.direct_why;
  residency.answers_at_once = rules.answers_at_once;
  return residency;
}

}  // namespace penstock
