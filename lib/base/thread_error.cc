#include "base/thread_error.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/io_error.h"

namespace penstock {

std::string ThreadCure() {
  size_t stack_bytes = size_t{8} << 20;
  pthread_attr_t attributes;
  if (::pthread_attr_init(&attributes) == 0) {
    ::pthread_attr_getstacksize(&attributes, &stack_bytes);
    ::pthread_attr_destroy(&attributes);
  }
  // By doing what the start of a thread does first.
  void* const stack = ::mmap(nullptr, stack_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (stack != MAP_FAILED) {
    ::munmap(stack, stack_bytes);
    return "raise RLIMIT_NPROC (ulimit -u) or the pids cgroup's limit";
  }
  const int error_number = errno;
  rlimit space{};
  ::getrlimit(RLIMIT_AS, &space);
  if (space.rlim_cur == RLIM_INFINITY) {
    return absl::StrCat("its stack of ", stack_bytes, " bytes could not be mapped: ", ErrnoText(error_number),
                        "; free memory, or raise vm.max_map_count");
  }
  return absl::StrCat("its stack of ", stack_bytes, " bytes does not fit in the address space: RLIMIT_AS is ", space.rlim_cur,
                      " bytes: raise it (ulimit -v), or lower RLIMIT_STACK (ulimit -s)");
}

}  // namespace penstock
