#include "manifest/place_order.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/unique_fd.h"
#include "manifest/workers.h"
#include "store/file_store.h"

namespace penstock {
namespace {

constexpr uint32_t kClaimedAtOnce = 256;

// Where the file's first extent lies; 0: it has none (empty, or kept in its inode).
absl::Status FirstExtent(const FileStore& store, uint32_t object, std::string& scratch, uint64_t& address) {
  const absl::StatusOr<OpenTarget> target = store.Target(object, scratch);
  if (!target.ok()) return target.status();
  const UniqueFd fd(::openat(target->dir_fd, target->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return IoError(errno, absl::StrCat("place: open of ", EscapeName(store.Name(object))));
  alignas(fiemap) char memory[sizeof(fiemap) + sizeof(fiemap_extent)];
  std::memset(memory, 0, sizeof memory);
  auto* const map = reinterpret_cast<fiemap*>(memory);
  map->fm_length = FIEMAP_MAX_OFFSET;
  map->fm_extent_count = 1;
  if (::ioctl(fd.get(), FS_IOC_FIEMAP, map) != 0) {
    const int error_number = errno;
    if (error_number == EOPNOTSUPP || error_number == ENOTTY || error_number == EINVAL) {
      return absl::FailedPreconditionError(absl::StrCat("place: the file system of ", EscapeName(store.Name(object)),
                                                        " does not tell where files lie (FIEMAP: ", ErrnoText(error_number),
                                                        "). Order by inode instead (--place inode)"));
    }
    return IoError(error_number, absl::StrCat("place: FIEMAP of ", EscapeName(store.Name(object))));
  }
  const fiemap_extent& extent = map->fm_extents[0];
  // Not written out yet, or inside the inode: no address that means anything.
  const bool known =
      map->fm_mapped_extents > 0 && (extent.fe_flags & (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_DATA_INLINE)) == 0;
  address = known ? extent.fe_physical : 0;
  return absl::OkStatus();
}

// Samples in the order of their objects, and within an object by where their first range begins there.
std::vector<uint32_t> SamplesInOrder(const ManifestData& data, std::vector<uint32_t>& objects) {
  if (data.whole_objects()) return std::move(objects);
  std::vector<uint32_t> place_of(objects.size());
  for (size_t place = 0; place < objects.size(); ++place) place_of[objects[place]] = static_cast<uint32_t>(place);
  std::vector<uint32_t> samples(data.sample_count());
  std::iota(samples.begin(), samples.end(), 0);
  const auto key = [&](uint32_t sample) {
    const layout::PackedRange& range = data.ranges()[data.first_range(sample)];
    return std::pair(place_of[range.object], PackedOffset(range));
  };
  std::stable_sort(samples.begin(), samples.end(), [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
  return samples;
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> OrderByPlace(const ManifestData& data, PlaceOrder kind, int threads,
                                                   const std::function<void(const IndexProgress&)>& progress) {
  if (std::max(data.object_count(), data.sample_count()) >= std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("manifest of ", EscapeName(data.root()), ": an order of place is for fewer than 2^32-1 samples"));
  }
  const auto count = static_cast<uint32_t>(data.object_count());
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  // Ids follow equal keys, so that the order is the same wherever it is made of the same numbers.
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return data.object_place(a) < data.object_place(b); });
  if (count > 1 && data.object_place(order.back()) == 0) {
    return absl::FailedPreconditionError(absl::StrCat("manifest of ", EscapeName(data.root()),
                                                      ": its file system gives no inode numbers, so nothing is known of where files lie"));
  }
  if (kind != PlaceOrder::kExtent) return SamplesInOrder(data, order);

  const FileStore store(data.root(), data.Names(), nullptr);
  std::vector<uint64_t> addresses(count);
  std::atomic<uint32_t> next{0};
  std::mutex mutex;
  absl::Status error;
  const int64_t start_ns = MonotonicNs();
  RunWorkers(
      threads,
      [&] {
        std::string scratch;
        while (true) {
          // In the order of inodes, so that those come from the drive in runs.
          const uint32_t begin = next.fetch_add(kClaimedAtOnce);
          if (begin >= count || begin + kClaimedAtOnce < begin) return;
          for (uint32_t i = begin; i < std::min(begin + kClaimedAtOnce, count); ++i) {
            const absl::Status status = FirstExtent(store, order[i], scratch, addresses[order[i]]);
            if (status.ok()) continue;
            std::lock_guard<std::mutex> lock(mutex);
            if (error.ok()) error = status;
            next.store(count);
            return;
          }
        }
      },
      !progress ? std::function<void()>() : [&] {
        IndexProgress now;
        now.files = std::min(next.load(), count);
        now.files_total = count;
        now.seconds = static_cast<double>(MonotonicNs() - start_ns) / kNsPerSecond;
        progress(now);
      });
  if (!error.ok()) return error;
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return addresses[a] < addresses[b]; });
  return SamplesInOrder(data, order);
}

}  // namespace penstock
