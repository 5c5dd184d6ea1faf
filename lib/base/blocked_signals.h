// Signals are the program's: no thread of ours is to handle one.
#ifndef PENSTOCK_BASE_BLOCKED_SIGNALS_H_
#define PENSTOCK_BASE_BLOCKED_SIGNALS_H_

#include <pthread.h>
#include <signal.h>

namespace penstock {

/// While it lives, this thread handles no signals, and the threads that it starts never will: they inherit that.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace penstock

#endif  // PENSTOCK_BASE_BLOCKED_SIGNALS_H_
