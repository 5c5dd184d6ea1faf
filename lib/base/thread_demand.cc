#include "base/thread_demand.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

namespace penstock {

int64_t ThreadDemandNs(pid_t tid) {
  std::ifstream file("/proc/self/task/" + std::to_string(tid) + "/schedstat");
  int64_t on_cpu_ns = 0;
  int64_t on_queue_ns = 0;
  return file >> on_cpu_ns >> on_queue_ns ? on_cpu_ns + on_queue_ns : -1;
}

double ProcessCpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace penstock
