// fault_fs BACKING_FOLDER MOUNT_POINT CONTROL_FILE [FUSE options]: shows the files of a folder, with faults. Runs in the foreground,
// with many threads, until it is unmounted.
//
// The control file is read again whenever it changes. One fault a line; several may apply to a file. PATTERN is a shell pattern for
// the path below the mount point (* matches / too); OFF and LEN choose the reads that touch these bytes, by default all.
//   PATTERN eio [OFF LEN]          reads fail with EIO
//   PATTERN errno N [OFF LEN]      reads fail with errno N
//   PATTERN short [OFF LEN]        reads bring half of what is there, at least one byte (seen with O_DIRECT or `direct` only: the page
//                                  cache takes a short answer for the end of the file and fills up with zeros)
//   PATTERN flip [OFF LEN]         the lowest bit of each of these bytes is wrong
//   PATTERN delay MICROSECONDS     each read takes so much longer
//   PATTERN bandwidth BYTES_PER_S  all reads of this line together get so much, in the order in which they came
//   PATTERN opendelay MICROSECONDS each open takes so much longer
//   PATTERN hang [OFF LEN]         reads do not return until the line is gone, or their caller is interrupted
//   PATTERN hanghard [OFF LEN]     reads do not return until the line is gone, whatever their caller does
//   PATTERN openhang               opens do not return until the line is gone
//   PATTERN attrhang               nor does a look at the attributes, and with it any open by that name; folders too
//   PATTERN trunc BYTES            the file ends there
//   PATTERN openerr N              opens fail with errno N
//   PATTERN direct                 the page cache is bypassed, as many network file systems do
// For each read, open or look at attributes that begins to hang, one byte is added to the file CONTROL_FILE.hangs.
// Lines that begin with # are ignored. The control file should be replaced by rename, so that half of it is never read.
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <fuse3/fuse.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr useconds_t kHangLookUs = 5000;

struct Fault {
  std::string pattern;
  std::string kind;
  int64_t number = 0;  // errno, microseconds, bytes or bytes per second
  int64_t offset_bytes = 0;
  int64_t length_bytes = INT64_MAX;

  bool Touches(int64_t offset, int64_t length) const {
    return offset < (length_bytes > INT64_MAX - offset_bytes ? INT64_MAX : offset_bytes + length_bytes) && offset + length > offset_bytes;
  }
};

std::string backing_folder;
std::string control_file;

bool HasNumber(const std::string& kind) {
  return kind == "errno" || kind == "delay" || kind == "bandwidth" || kind == "opendelay" || kind == "trunc" || kind == "openerr";
}

std::shared_ptr<const std::vector<Fault>> ReadFaults() {
  auto faults = std::make_shared<std::vector<Fault>>();
  std::ifstream file(control_file);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    Fault fault;
    if (!(words >> fault.pattern >> fault.kind) || fault.pattern[0] == '#') continue;
    if (HasNumber(fault.kind)) words >> fault.number;
    int64_t offset, length;
    if (words >> offset >> length) {
      fault.offset_bytes = offset;
      fault.length_bytes = length;
    }
    faults->push_back(fault);
  }
  return faults;
}

// The faults as the control file has them now.
std::shared_ptr<const std::vector<Fault>> Faults() {
  static std::mutex mutex;
  static struct stat seen {};
  static std::shared_ptr<const std::vector<Fault>> faults = std::make_shared<std::vector<Fault>>();
  struct stat now {};
  if (::stat(control_file.c_str(), &now) != 0) now = {};
  std::lock_guard<std::mutex> lock(mutex);
  if (now.st_ino != seen.st_ino || now.st_size != seen.st_size || now.st_mtim.tv_sec != seen.st_mtim.tv_sec ||
      now.st_mtim.tv_nsec != seen.st_mtim.tv_nsec) {
    seen = now;
    faults = ReadFaults();
  }
  return faults;
}

// Calls `use` with each fault of this kind that applies to the path (from FUSE, with a leading slash) and the bytes.
template <typename Use>
void ForEach(const char* path, const char* kind, int64_t offset, int64_t length, Use use) {
  const auto faults = Faults();
  for (const Fault& fault : *faults) {
    if (fault.kind == kind && ::fnmatch(fault.pattern.c_str(), path + 1, 0) == 0 && fault.Touches(offset, length)) use(fault);
  }
}

bool Has(const char* path, const char* kind, int64_t offset, int64_t length) {
  bool has = false;
  ForEach(path, kind, offset, length, [&has](const Fault&) { has = true; });
  return has;
}

int64_t NumberOf(const char* path, const char* kind, int64_t otherwise) {
  ForEach(path, kind, 0, INT64_MAX, [&otherwise](const Fault& fault) { otherwise = fault.number; });
  return otherwise;
}

int64_t NumberAt(const char* path, const char* kind, int64_t offset, int64_t length) {
  int64_t number = 0;
  ForEach(path, kind, offset, length, [&number](const Fault& fault) { number = fault.number; });
  return number;
}

// Waits until the fault is gone (0), or its caller is interrupted (EINTR) where that counts.
int Hang(const char* path, const char* kind, int64_t offset, int64_t length, bool interruptible) {
  bool told = false;
  while (Has(path, kind, offset, length)) {
    if (!told) {
      const int fd = ::open((control_file + ".hangs").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
      if (fd >= 0 && ::write(fd, "x", 1) == 1) told = true;
      ::close(fd);
    }
    if (interruptible && ::fuse_interrupted()) return EINTR;
    ::usleep(kHangLookUs);
  }
  return 0;
}

// One pipe per pattern: whoever comes next is served when the bytes before it are through. No burst is saved up while it is empty.
void WaitForPipe(const Fault& fault, int64_t bytes) {
  static std::mutex mutex;
  static std::map<std::string, int64_t> free_at_ns;  // by pattern
  timespec until {};
  {
    std::lock_guard<std::mutex> lock(mutex);
    timespec now {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t& free_ns = free_at_ns[fault.pattern];
    free_ns = std::max(free_ns, int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec);
    free_ns += static_cast<int64_t>(1e9 * static_cast<double>(bytes) / static_cast<double>(fault.number));
    until = {free_ns / 1'000'000'000, free_ns % 1'000'000'000};
  }
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

std::string BackingPath(const char* path) { return backing_folder + path; }

void* Init(fuse_conn_info* connection, fuse_config* config) {
  // FUSE's own 12 would bound what io_uring reads at once: its reads count as background requests, pread's do not.
  connection->max_background = connection->congestion_threshold = 1100;
  // Each look asks again, so that a changed control file is seen at once.
  config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
  config->kernel_cache = 0;
  config->nullpath_ok = 0;
  return nullptr;
}

int GetAttr(const char* path, struct stat* attributes, fuse_file_info*) {
  Hang(path, "attrhang", 0, INT64_MAX, /*interruptible=*/false);
  if (::lstat(BackingPath(path).c_str(), attributes) != 0) return -errno;
  if (S_ISREG(attributes->st_mode)) attributes->st_size = std::min<int64_t>(attributes->st_size, NumberOf(path, "trunc", INT64_MAX));
  return 0;
}

int ReadDir(const char* path, void* buffer, fuse_fill_dir_t fill, off_t, fuse_file_info*, fuse_readdir_flags) {
  DIR* const folder = ::opendir(BackingPath(path).c_str());
  if (folder == nullptr) return -errno;
  for (const dirent* entry = ::readdir(folder); entry != nullptr; entry = ::readdir(folder)) {
    if (fill(buffer, entry->d_name, nullptr, 0, static_cast<fuse_fill_dir_flags>(0)) != 0) break;
  }
  ::closedir(folder);
  return 0;
}

int ReadLink(const char* path, char* buffer, size_t size) {
  const ssize_t length = ::readlink(BackingPath(path).c_str(), buffer, size - 1);
  if (length < 0) return -errno;
  buffer[length] = '\0';
  return 0;
}

int Open(const char* path, fuse_file_info* info) {
  if (const int64_t delay_us = NumberOf(path, "opendelay", 0); delay_us > 0) ::usleep(static_cast<useconds_t>(delay_us));
  Hang(path, "openhang", 0, INT64_MAX, /*interruptible=*/false);
  if (const int64_t error_number = NumberOf(path, "openerr", 0); error_number != 0) return static_cast<int>(-error_number);
  const int fd = ::open(BackingPath(path).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  info->fh = static_cast<uint64_t>(fd);
  info->direct_io = Has(path, "direct", 0, INT64_MAX) ? 1 : 0;
  return 0;
}

int Read(const char* path, char* buffer, size_t size, off_t offset, fuse_file_info* info) {
  const int64_t length = static_cast<int64_t>(size);
  if (const int64_t delay_us = NumberAt(path, "delay", offset, length); delay_us > 0) ::usleep(static_cast<useconds_t>(delay_us));
  Hang(path, "hanghard", offset, length, /*interruptible=*/false);
  if (Hang(path, "hang", offset, length, /*interruptible=*/true) != 0) return -EINTR;
  if (Has(path, "eio", offset, length)) return -EIO;
  if (const int64_t error_number = NumberAt(path, "errno", offset, length); error_number != 0) return static_cast<int>(-error_number);
  const int64_t end = NumberOf(path, "trunc", INT64_MAX);
  const int64_t there = std::clamp<int64_t>(end - offset, 0, length);
  ssize_t result = ::pread(static_cast<int>(info->fh), buffer, static_cast<size_t>(there), offset);
  if (result < 0) return -errno;
  ForEach(path, "bandwidth", offset, length, [result](const Fault& fault) { WaitForPipe(fault, result); });
  if (result > 1 && Has(path, "short", offset, length)) result /= 2;
  ForEach(path, "flip", offset, length, [&](const Fault& fault) {
    for (int64_t i = std::max<int64_t>(0, fault.offset_bytes - offset);
         i < result && (offset + i) - fault.offset_bytes < fault.length_bytes; ++i)
      buffer[i] = static_cast<char>(buffer[i] ^ 1);
  });
  return static_cast<int>(result);
}

int Release(const char*, fuse_file_info* info) {
  ::close(static_cast<int>(info->fh));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: fault_fs BACKING_FOLDER MOUNT_POINT CONTROL_FILE [FUSE options]\n");
    return 2;
  }
  backing_folder = argv[1];
  control_file = argv[3];
  static fuse_operations operations{};
  operations.init = Init;
  operations.getattr = GetAttr;
  operations.readdir = ReadDir;
  operations.readlink = ReadLink;
  operations.open = Open;
  operations.read = Read;
  operations.release = Release;
  std::vector<char*> arguments = {argv[0], argv[2]};
  std::string foreground = "-f";
  arguments.push_back(foreground.data());
  std::string threads = "-omax_threads=1100";  // a read that hangs or waits keeps one, and others must go on
  arguments.push_back(threads.data());
  arguments.insert(arguments.end(), argv + 4, argv + argc);
  return fuse_main(static_cast<int>(arguments.size()), arguments.data(), &operations, nullptr);
}
