#include "manifest/checksums.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/cancel.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "manifest/workers.h"
#include "store/file_store.h"

namespace penstock {
namespace {

constexpr size_t kReadBytes = size_t{1} << 20;
constexpr uint64_t kClaimedAtOnce = 64;

// The checksum of a whole object; or, with `record_bytes`, of each record behind the first `header_bytes`, into crcs[0], crcs[1]...
absl::Status ChecksumOf(const FileStore& store, uint32_t object, uint64_t expected_bytes, uint64_t header_bytes, uint64_t record_bytes,
                        char* buffer, std::string& scratch, uint32_t* crcs) {
  const absl::StatusOr<OpenTarget> target = store.Target(object, scratch);
  if (!target.ok()) return target.status();
  // O_NONBLOCK: a FIFO that took the file's place since the scan must not block us.
  const UniqueFd fd(::openat(target->dir_fd, target->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return IoError(errno, absl::StrCat("checksum: open of ", EscapeName(store.Name(object))));
  *crcs = 0;
  uint64_t bytes = 0;
  uint64_t record_left = record_bytes;
  for (;;) {
    const ssize_t got = ::read(fd.get(), buffer, kReadBytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, absl::StrCat("checksum: read of ", EscapeName(store.Name(object)), " at ", bytes));
    if (got == 0) break;
    bytes += static_cast<uint64_t>(got);
    if (record_bytes == 0) {
      *crcs = Crc32c(buffer, static_cast<size_t>(got), *crcs);
      continue;
    }
    // Of a file that grew, what is beyond is not looked at: it is refused below.
    const uint64_t begin = bytes - static_cast<uint64_t>(got);
    for (uint64_t at = std::max(begin, header_bytes); at < std::min(bytes, expected_bytes);) {
      const uint64_t part = std::min(record_left, std::min(bytes, expected_bytes) - at);
      *crcs = Crc32c(buffer + (at - begin), part, record_left == record_bytes ? 0 : *crcs);
      at += part;
      record_left -= part;
      if (record_left > 0) continue;
      record_left = record_bytes;
      ++crcs;
    }
  }
  if (bytes != expected_bytes) {
    return absl::FailedPreconditionError(absl::StrCat("checksum: ", EscapeName(store.Name(object)), " had ", expected_bytes,
                                                      " bytes when it was listed and has ", bytes,
                                                      " now. Index again when nothing writes to the data set"));
  }
  return absl::OkStatus();
}

// The ranges of each object, by their numbers.
class RangesByObject {
 public:
  explicit RangesByObject(const ManifestData& data) : first_(data.object_count() + 1), numbers_(data.ranges().size()) {
    for (const layout::PackedRange& range : data.ranges()) ++first_[range.object + 1];
    for (size_t object = 1; object < first_.size(); ++object) first_[object] += first_[object - 1];
    std::vector<uint64_t> next(first_.begin(), first_.end() - 1);
    for (size_t number = 0; number < numbers_.size(); ++number) numbers_[next[data.ranges()[number].object]++] = number;
  }
  absl::Span<const uint64_t> Of(uint32_t object) const {
    return absl::MakeSpan(numbers_).subspan(first_[object], first_[object + 1] - first_[object]);
  }

 private:
  std::vector<uint64_t> first_;
  std::vector<uint64_t> numbers_;
};

// The checksum of each of an object's ranges, which may overlap.
absl::Status ChecksumsOfRanges(const FileStore& store, const ManifestData& data, uint32_t object, absl::Span<const uint64_t> numbers,
                               char* buffer, std::string& scratch, std::vector<uint32_t>& crcs) {
  if (numbers.empty()) return absl::OkStatus();
  const absl::StatusOr<OpenTarget> target = store.Target(object, scratch);
  if (!target.ok()) return target.status();
  const UniqueFd fd(::openat(target->dir_fd, target->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info;
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) {
    return IoError(errno, absl::StrCat("checksum: open of ", EscapeName(store.Name(object))));
  }
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) != data.object_bytes(object)) {
    return absl::FailedPreconditionError(absl::StrCat("checksum: ", EscapeName(store.Name(object)), " had ", data.object_bytes(object),
                                                      " bytes when it was added and ",
                                                      S_ISREG(info.st_mode) ? absl::StrCat("has ", info.st_size) : "is no regular file",
                                                      " now. Make the manifest again when nothing writes to the data set"));
  }
  for (const uint64_t number : numbers) {
    const layout::PackedRange& range = data.ranges()[number];
    uint64_t at = PackedOffset(range);
    const uint64_t end = at + PackedStored(range);
    uint32_t crc = 0;
    while (at < end) {
      const ssize_t got = ::pread(fd.get(), buffer, std::min<uint64_t>(kReadBytes, end - at), static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return IoError(errno, absl::StrCat("checksum: read of ", EscapeName(store.Name(object)), " at ", at));
      if (got == 0) {
        return absl::FailedPreconditionError(absl::StrCat("checksum: ", EscapeName(store.Name(object)), " ends at byte ", at,
                                                          ", inside the range [", PackedOffset(range), ", ", end,
                                                          "). Make the manifest again when nothing writes to the data set"));
      }
      crc = Crc32c(buffer, static_cast<size_t>(got), crc);
      at += static_cast<uint64_t>(got);
    }
    crcs[number] = crc;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> ComputeChecksums(const ManifestData& data, int threads,
                                                       const std::function<bool(uint32_t, uint32_t&)>& known,
                                                       const std::function<void(const IndexProgress&)>& progress) {
  const uint64_t count = data.object_count();
  const FileStore store(data.root(), data.Names(), nullptr);
  const bool records = data.record_bytes() > 0;
  const bool explicit_ranges = !records && !data.whole_objects();
  const std::unique_ptr<const RangesByObject> by_object(explicit_ranges ? new RangesByObject(data) : nullptr);
  std::vector<uint32_t> crcs(data.range_count());
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> done{0};
  std::atomic<uint64_t> done_bytes{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  absl::Status first_error;

  const auto work = [&] {
    const std::unique_ptr<char[]> buffer(new char[kReadBytes]);
    std::string scratch;
    while (!failed.load(std::memory_order_relaxed)) {
      const uint64_t begin = next.fetch_add(kClaimedAtOnce);
      if (begin >= count) return;
      const uint64_t end = std::min(begin + kClaimedAtOnce, count);
      for (uint64_t object = begin; object < end && !failed.load(std::memory_order_relaxed); ++object) {
        const auto index = static_cast<uint32_t>(object);
        const absl::Span<const uint64_t> numbers = by_object == nullptr ? absl::Span<const uint64_t>() : by_object->Of(index);
        uint32_t* first = nullptr;
        if (by_object == nullptr) first = &crcs[records ? data.runs()[object].first_sample : object];
        if (numbers.size() == 1) first = &crcs[numbers[0]];
        if (first == nullptr || !known || !known(index, *first)) {
          const absl::Status status =
              Cancelled() ? CancelledStatus()
              : by_object != nullptr
                  ? ChecksumsOfRanges(store, data, index, numbers, buffer.get(), scratch, crcs)
                  : ChecksumOf(store, index, data.object_bytes(index), records ? data.runs()[object].offset_bytes : 0, data.record_bytes(),
                               buffer.get(), scratch, first);
          if (!status.ok()) {
            std::lock_guard<std::mutex> lock(mutex);
            if (first_error.ok()) first_error = status;
            failed.store(true);
            return;
          }
          done_bytes.fetch_add(data.object_bytes(index), std::memory_order_relaxed);
        }
        done.fetch_add(1, std::memory_order_relaxed);
      }
    }
  };
  const int64_t start_ns = MonotonicNs();
  std::function<void()> tick;
  if (progress) {
    tick = [&] {
      IndexProgress now;
      now.phase = IndexProgress::Phase::kChecksums;
      now.files = static_cast<int64_t>(done.load(std::memory_order_relaxed));
      now.bytes = static_cast<int64_t>(done_bytes.load(std::memory_order_relaxed));
      now.files_total = static_cast<int64_t>(count);
      now.seconds = static_cast<double>(MonotonicNs() - start_ns) / kNsPerSecond;
      progress(now);
    };
  }
  RunWorkers(threads, work, tick);
  if (!first_error.ok()) return first_error;
  return crcs;
}

}  // namespace penstock
