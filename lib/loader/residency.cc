#include "loader/residency.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/unique_fd.h"

namespace penstock {
namespace {

int64_t MemAvailable() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (meminfo >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(meminfo, unit);
  }
  return 0;
}

// The memory limit of this process's cgroup, less what it uses; 0 where there is none.
int64_t CgroupAvailable() {
  for (const char* folder : {"/sys/fs/cgroup", "/sys/fs/cgroup/memory"}) {
    const bool v1 = std::string(folder).find("memory") != std::string::npos;
    std::ifstream limit(absl::StrCat(folder, v1 ? "/memory.limit_in_bytes" : "/memory.max"));
    std::ifstream usage(absl::StrCat(folder, v1 ? "/memory.usage_in_bytes" : "/memory.current"));
    int64_t most = 0;
    int64_t used = 0;
    if (limit >> most && usage >> used && most > 0 && most < (int64_t{1} << 60)) return std::max<int64_t>(1, most - used);
  }
  return 0;
}

struct DirectRule {
  int64_t alignment = 0;
  std::string why;
};

// By doing: statx(2) with STATX_DIOALIGN where the kernel has it (6.1), and an open and a read that must succeed.
DirectRule ProbeDirect(const ObjectStore& objects, uint32_t object) {
  std::string scratch;
  const absl::StatusOr<OpenTarget> target = objects.Target(object, scratch);
  if (!target.ok()) return {0, std::string(target.status().message())};
  const UniqueFd fd(::openat(target->dir_fd, target->path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return {0, absl::StrCat("the file system refuses O_DIRECT: ", ErrnoText(errno))};
  int64_t alignment = 4096;
#if defined(STATX_DIOALIGN)
  struct statx info = {};
  if (::syscall(SYS_statx, fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0) return {0, "the file system says that this file has no direct reads (STATX_DIOALIGN)"};
    alignment = std::max<int64_t>(info.stx_dio_offset_align, info.stx_dio_mem_align);
  }
#endif
  alignas(4096) static thread_local char buffer[4096];
  if (::pread(fd.get(), buffer, sizeof buffer, 0) < 0) return {0, absl::StrCat("a direct read failed: ", ErrnoText(errno))};
  return {alignment, "allowed"};
}

// On a thread of its own, which stays behind where the store hangs: Open() must not.
DirectRule ProbeDirectWithin(std::shared_ptr<const ObjectStore> objects, uint32_t object, int64_t patience_ns) {
  struct Answer {
    std::mutex mutex;
    std::condition_variable came;
    bool here = false;
    DirectRule rule;
  };
  auto answer = std::make_shared<Answer>();
  std::thread thread;
  try {
    thread = std::thread([answer, objects, object] {
      DirectRule rule = ProbeDirect(*objects, object);
      std::lock_guard<std::mutex> lock(answer->mutex);
      answer->rule = std::move(rule);
      answer->here = true;
      answer->came.notify_all();
    });
  } catch (const std::system_error& error) {
    return {0, absl::StrCat("it was not tried: no thread: ", error.what())};
  }
  std::unique_lock<std::mutex> lock(answer->mutex);
  if (answer->came.wait_for(lock, std::chrono::nanoseconds(patience_ns), [&] { return answer->here; })) {
    lock.unlock();
    thread.join();
    return answer->rule;
  }
  thread.detach();
  return {0, absl::StrCat("a direct read of ", EscapeName(objects->Name(object)), " had no answer for ", patience_ns / kNsPerMs, " ms")};
}

}  // namespace

Residency LookAtResidency(const Manifest& manifest, std::shared_ptr<const ObjectStore> objects, bool ask_direct, int64_t patience_ns) {
  Residency residency;
  residency.data_bytes = static_cast<int64_t>(manifest.total_bytes());
  residency.available_bytes = MemAvailable();
  if (const int64_t cgroup = CgroupAvailable(); cgroup > 0) residency.available_bytes = std::min(residency.available_bytes, cgroup);
  const std::string sizes = absl::StrCat("the data set has ", FormatBytes(residency.data_bytes), ", memory available is ", FormatBytes(residency.available_bytes));
  // Below four fifths the page cache can hold the set beside the trainer's own growth.
  const bool fits = residency.available_bytes == 0 || residency.data_bytes < residency.available_bytes / 5 * 4;
  DirectRule direct;
  if (!fits || ask_direct) direct = ProbeDirectWithin(std::move(objects), 0, patience_ns);
  residency.direct_alignment = direct.alignment;
  if (fits) {
    residency.why = absl::StrCat(sizes, ": the page cache holds it");
  } else if (direct.alignment == 0) {
    residency.why = absl::StrCat(sizes, ", but ", direct.why);
  } else {
    residency.prefer_direct = true;
    residency.why = absl::StrCat(sizes, ": the page cache cannot hold it");
  }
  if (direct.alignment == 0 && ask_direct && fits) residency.why = absl::StrCat(residency.why, "; ", direct.why);
  return residency;
}

}  // namespace penstock
