// How much CPU time a thread wanted: what it got, and what it waited for while others ran on its core.
#ifndef PENSTOCK_BASE_THREAD_DEMAND_H_
#define PENSTOCK_BASE_THREAD_DEMAND_H_

#include <sys/types.h>

#include <cstdint>

namespace penstock {

// Of a thread of this process, since it began; -1 where the kernel does not say (no /proc, or CONFIG_SCHED_INFO is off). Opens a file.
// Source: Documentation/scheduler/sched-stats.rst: /proc/<pid>/task/<tid>/schedstat has the time on the CPU and the time on a run queue,
// in ns.
int64_t ThreadDemandNs(pid_t tid);

// What this process has used, all its threads together.
double ProcessCpuSeconds();

}  // namespace penstock

#endif  // PENSTOCK_BASE_THREAD_DEMAND_H_
