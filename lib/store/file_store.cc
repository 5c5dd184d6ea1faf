#include "store/file_store.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/io_error.h"

namespace penstock {
namespace {

int64_t DefaultOpenFoldersMax() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 64;
  // The rest belongs to the files being read and to the program itself.
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, 1 << 20) / 4);
}

}  // namespace

FileStore::FileStore(std::string root, const NameTable& names, std::shared_ptr<const void> keep_alive, int64_t open_folders_max)
    : root_(std::move(root)),
      names_(names),
      keep_alive_(std::move(keep_alive)),
      open_folders_max_(open_folders_max < 0 ? DefaultOpenFoldersMax() : open_folders_max),
      folder_fds_(new std::atomic<int>[names.folder_count]) {
  for (uint64_t i = 0; i < names_.folder_count; ++i) folder_fds_[i].store(-1, std::memory_order_relaxed);
}

FileStore::~FileStore() {
  const auto close_slot = [](std::atomic<int>& slot) {
    const int fd = slot.load(std::memory_order_acquire);
    if (fd >= 0) ::close(fd);
  };
  for (uint64_t i = 0; i < names_.folder_count; ++i) close_slot(folder_fds_[i]);
  close_slot(root_fd_);
}

int64_t FileStore::open_folder_count() const {
  return open_folders_.load(std::memory_order_relaxed) + (root_fd_.load(std::memory_order_relaxed) >= 0 ? 1 : 0);
}

absl::StatusOr<int> FileStore::OpenFolder(std::atomic<int>& slot, int at_fd, const char* path, const std::string& shown, bool& kept) const {
  kept = false;
  int fd;
  do {
    // O_PATH: search permission is enough, and a network file system is not asked to open anything.
    fd = ::openat(at_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return IoError(errno, absl::StrCat("open of the folder ", EscapeName(shown)));
  int expected = -1;
  if (!slot.compare_exchange_strong(expected, fd, std::memory_order_acq_rel, std::memory_order_acquire)) {
    ::close(fd);
    return expected;
  }
  kept = true;
  return fd;
}

absl::StatusOr<OpenTarget> FileStore::Target(uint32_t object, std::string& scratch) const {
  if (object >= names_.object_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("object ", object, " of ", EscapeName(root_), ": it has only ", names_.object_count, " objects"));
  }
  const char* name = names_.LastName(object);
  if (*name == '\0') {
    return absl::DataLossError(absl::StrCat("object ", object, " of ", EscapeName(root_),
                                            ": its name in the manifest is damaged. Rebuild the manifest (penstock index)"));
  }
  const uint32_t folder = names_.folder[object];
  const char* folder_name = names_.FolderName(folder);
  bool kept = false;
  int root_fd = root_fd_.load(std::memory_order_acquire);
  if (root_fd < 0) {
    absl::StatusOr<int> opened = OpenFolder(root_fd_, AT_FDCWD, root_.c_str(), root_, kept);
    if (!opened.ok()) return opened.status();
    root_fd = *opened;
  }
  if (*folder_name == '\0') return OpenTarget{root_fd, name};

  const int folder_fd = folder_fds_[folder].load(std::memory_order_acquire);
  if (folder_fd >= 0) return OpenTarget{folder_fd, name};
  // A share of the bound is taken before the open and given back where nothing was kept, so the bound holds at all times.
  if (open_folders_.load(std::memory_order_relaxed) < open_folders_max_) {
    const bool share = open_folders_.fetch_add(1, std::memory_order_relaxed) < open_folders_max_;
    absl::StatusOr<int> opened = absl::ResourceExhaustedError("the bound is reached");
    if (share) opened = OpenFolder(folder_fds_[folder], root_fd, folder_name, absl::StrCat(root_, "/", folder_name), kept);
    if (!kept) open_folders_.fetch_sub(1, std::memory_order_relaxed);
    if (opened.ok()) return OpenTarget{*opened, name};
    // Without a descriptor to keep, the path from the root still serves.
    if (opened.status().code() != absl::StatusCode::kResourceExhausted) return opened.status();
  }
  names_.RelativeName(object, scratch);
  return OpenTarget{root_fd, scratch.c_str()};
}

// In shuffled order each of an object's three places is a miss to memory, and one would wait for the other.
void FileStore::Prefetch(absl::Span<const uint32_t> objects) const {
  for (const uint32_t object : objects) {
    if (object >= names_.object_count) continue;
    __builtin_prefetch(&names_.name_offset[object]);
    __builtin_prefetch(&names_.folder[object]);
  }
  for (const uint32_t object : objects) __builtin_prefetch(names_.LastName(object));
}

std::string FileStore::Name(uint32_t object) const {
  std::string relative;
  names_.RelativeName(object, relative);
  // A ring tells of a failed open by a number alone, so that the name says why.
  if (relative.empty()) {
    return absl::StrCat(root_, "/ (object ", object, ", whose name in the manifest is damaged: rebuild the manifest, penstock index)");
  }
  return !relative.empty() && relative[0] == '/' ? relative : absl::StrCat(root_, "/", relative);
}

}  // namespace penstock
