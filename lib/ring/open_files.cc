#include "ring/open_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/io_error.h"

namespace penstock {
namespace {

// Descriptors below this are left to the program: select(2) knows no others (FD_SETSIZE).
constexpr int kLowDescriptors = 1024;
constexpr int64_t kFilesMost = (1 << 20) - 2;  // what a word has bits for
constexpr int64_t kReserveShare = 32;
constexpr int64_t kFolderShare = 4;  // as FileStore has it
constexpr int64_t kShedLeast = 16;
constexpr int64_t kShedShare = 16;

// Of all tables of the process.
std::atomic<int64_t> kept_in_process{0};

int64_t OpenDescriptors() {
  DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return 64;
  int64_t count = -3;  // ".", ".." and the folder's own
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return std::max<int64_t>(count, 0);
}

}  // namespace

OpenFiles::OpenFiles(int64_t files_max, bool direct, std::shared_ptr<const void> keep_alive)
    : direct_(direct), keep_alive_(std::move(keep_alive)), files_max_(std::clamp<int64_t>(files_max, 0, kFilesMost)) {
  // Three words per file and eight to a bucket: of 20,000 files fewer than one finds its bucket full.
  const size_t buckets = std::bit_ceil(std::max<size_t>(2, static_cast<size_t>(files_max_) * 3 / kBucketWords));
  bucket_shift_ = 64 - std::countr_zero(buckets);
  word_count_ = buckets * kBucketWords;
  words_ = new (std::align_val_t(64)) std::atomic<uint64_t>[word_count_]();
  // The kernel doubles the table of descriptors again and again, and where there are threads it waits for a grace period (some
  // milliseconds) each time (expand_fdtable, Linux 6.18). So it grows to its size at once.
  if (files_max_ > kLowDescriptors) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const int top = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, static_cast<rlim_t>(files_max_) + kLowDescriptors)) - 1;
    const int any = ::open("/proc/self", O_PATH | O_CLOEXEC);
    if (any >= 0) {
      const int high = ::fcntl(any, F_DUPFD_CLOEXEC, top);
      if (high >= 0) ::close(high);
      ::close(any);
    }
  }
}

OpenFiles::~OpenFiles() {
  for (size_t i = 0; i < word_count_; ++i) {
    const uint64_t word = words_[i].load(std::memory_order_acquire);
    if (word == 0) continue;
    PENSTOCK_CHECK((word & kUseMask) == 0, "files are read while their table ends");
    Close(word);
  }
  ::operator delete[](words_, std::align_val_t(64));
}

int32_t OpenFiles::Find(uint32_t object, int& fd) {
  const uint64_t key = uint64_t{object} + 1;
  const size_t bucket = BucketOf(object);
  for (size_t i = bucket; i < bucket + kBucketWords; ++i) {
    uint64_t word = words_[i].load(std::memory_order_relaxed);
    while (word >> kObjectShift == key && (word & kUseMask) != kUseMask) {
      // Acquire: the descriptor is another thread's.
      if (!words_[i].compare_exchange_weak(word, word + kOneUse, std::memory_order_acquire, std::memory_order_relaxed)) continue;
      fd = static_cast<int>(word & kFileMask) - 1;
      return static_cast<int32_t>(i);
    }
  }
  return -1;
}

bool OpenFiles::Reserve() {
  const int64_t most = files_max_.load(std::memory_order_relaxed);
  if (kept_in_process.load(std::memory_order_relaxed) >= most) return false;
  if (kept_in_process.fetch_add(1, std::memory_order_relaxed) >= most) {
    kept_in_process.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  count_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void OpenFiles::Unreserve() {
  count_.fetch_sub(1, std::memory_order_relaxed);
  kept_in_process.fetch_sub(1, std::memory_order_relaxed);
}

int32_t OpenFiles::Keep(uint32_t object, int& fd) {
  if (fd < kLowDescriptors && files_max() > kLowDescriptors) {
    const int high = ::fcntl(fd, F_DUPFD_CLOEXEC, kLowDescriptors);
    if (high >= 0) {
      ::close(fd);
      fd = high;
    }
  }
  if (fd <= kFilesMost && object < UINT32_MAX - 1) {
    const uint64_t word = (uint64_t{object} + 1) << kObjectShift | kOneUse | static_cast<uint64_t>(fd + 1);
    const size_t bucket = BucketOf(object);
    // Another stream may have opened the same object meanwhile, and both are kept: that costs a descriptor and no more.
    for (size_t i = bucket; i < bucket + kBucketWords; ++i) {
      uint64_t free = 0;
      if (words_[i].load(std::memory_order_relaxed) == 0 &&
          words_[i].compare_exchange_strong(free, word, std::memory_order_release, std::memory_order_relaxed)) {
        return static_cast<int32_t>(i);
      }
    }
  }
  Unreserve();
  return -1;
}

void OpenFiles::Release(int32_t entry) {
  std::atomic<uint64_t>& place = words_[entry];
  uint64_t word = place.load(std::memory_order_relaxed);
  while (true) {
    PENSTOCK_CHECK((word & kUseMask) != 0, "an open file is released once for each use");
    const bool last = (word & kUseMask) == kOneUse && word >= kDropped;
    if (place.compare_exchange_weak(word, last ? 0 : word - kOneUse, std::memory_order_acq_rel, std::memory_order_relaxed)) {
      if (last) Close(word);
      return;
    }
  }
}

void OpenFiles::Drop(int32_t entry) { words_[entry].fetch_or(kDropped, std::memory_order_relaxed); }

bool OpenFiles::Shed() {
  int64_t left = std::max(kShedLeast, count() / kShedShare);
  bool any = false;
  for (size_t n = 0; n < word_count_ && left > 0; ++n) {
    std::atomic<uint64_t>& place = words_[shed_cursor_.fetch_add(1, std::memory_order_relaxed) % word_count_];
    uint64_t word = place.load(std::memory_order_relaxed);
    if (word == 0 || (word & kUseMask) != 0) continue;
    if (!place.compare_exchange_strong(word, 0, std::memory_order_acq_rel, std::memory_order_relaxed)) continue;
    Close(word);
    any = true;
    --left;
  }
  files_max_.store(std::min(files_max(), kept_in_process.load(std::memory_order_relaxed)), std::memory_order_relaxed);
  return any;
}

void OpenFiles::Close(uint64_t word) {
  ::close(static_cast<int>(word & kFileMask) - 1);
  Unreserve();
}

OpenFilesLimit FindOpenFilesLimit(int64_t asked, int64_t wanted, int64_t beside, int64_t folders) {
  OpenFilesLimit found;
  if (asked == 0) {
    found.why = "none is kept open: open_files is 0";
    return found;
  }
  const int64_t most = std::min({asked < 0 ? wanted : asked, wanted, kFilesMost});
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    found.why = absl::StrCat("none is kept open: getrlimit: ", ErrnoText(errno));
    return found;
  }
  const int64_t used = OpenDescriptors();
  // Infinity and what else the kernel would not give (fs.nr_open) end at what a table can hold.
  const auto soft = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, 2 * kFilesMost));
  const auto hard = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_max, 2 * kFilesMost));
  const auto room = [&](int64_t descriptors) {
    const int64_t ours = beside + std::min(folders, descriptors / kFolderShare);
    const int64_t left = descriptors - used - ours - std::max(kDescriptorReserve, descriptors / kReserveShare);
    return std::max<int64_t>(0, asked < 0 ? std::min(left, descriptors / 2 - ours) : left);
  };
  int64_t have = soft;
  std::string raised;
  if (room(soft) < most && hard > soft) {
    const int64_t need = most + used + beside + kDescriptorReserve;
    const int64_t half = asked < 0 ? 2 * (most + beside + folders) + 1 : 0;
    const int64_t raise_to = std::min(hard, std::max(half, need + folders + (need + folders) / (kReserveShare - 1) + 1));
    rlimit more = limit;
    more.rlim_cur = static_cast<rlim_t>(raise_to);
    if (::setrlimit(RLIMIT_NOFILE, &more) == 0) {
      have = raise_to;
      raised = absl::StrCat(", raised from ", soft);
    } else {
      raised = absl::StrCat(" and could not be raised (", ErrnoText(errno), ")");
    }
  }
  found.files_max = std::min(most, room(have));
  found.why = absl::StrCat("up to ", found.files_max, " of ", wanted, " files stay open; RLIMIT_NOFILE is ", have, raised, ", ", used,
                           " descriptors were in use");
  if (found.files_max == most) return found;
  absl::StrAppend(&found.why, asked < 0 ? ", and half of it is left to the program; raise it (ulimit -n), or set open_files, to keep more"
                                        : "; raise it (ulimit -n) to keep more");
  return found;
}

}  // namespace penstock
