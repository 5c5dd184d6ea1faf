// Tells a forked child from the process that opened a loader. Rings, threads and CUDA contexts do not survive a fork.
#ifndef PENSTOCK_BASE_FORK_GUARD_H_
#define PENSTOCK_BASE_FORK_GUARD_H_

#include <cstdint>

namespace penstock {

// Remembers in which process it was made. Costs one atomic load to ask (a pthread_atfork handler counts forks).
class ForkGuard {
 public:
  ForkGuard();
  bool InForkedChild() const;

 private:
  uint64_t generation_;
};

}  // namespace penstock

#endif  // PENSTOCK_BASE_FORK_GUARD_H_
