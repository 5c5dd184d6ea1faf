// Where tensors hand a batch's memory back. A tensor's deleter runs on any thread at any moment: in a garbage collector that holds
// Python's lock, in a driver's callback, in the log function of a stream that holds a lock of ours. So it only leaves a note here (one
// compare-and-swap and one sem_post) and returns; a thread of its own records the CUDA event and lets go of the batch.
#ifndef PENSTOCK_CAPI_HAND_BACK_H_
#define PENSTOCK_CAPI_HAND_BACK_H_

#include <semaphore.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "base/fork_guard.h"
#include "capi/objects.h"

struct CUstream_st;

namespace penstock::capi {

class HandBack {
 public:
  // One tensor's hold on a batch. Whoever is handed one deletes it.
  struct Hold {
    virtual ~Hold() = default;
    std::shared_ptr<BatchObject> batch;
    CUstream_st* cuda_stream = nullptr;  // device path: reuse waits for what is enqueued there
    HandBack* to = nullptr;
    Hold* next = nullptr;  // in the list of those that were handed back
  };

  // This process's; a forked child has its own. Never destroyed: a tensor may go away while static objects do.
  static HandBack& Current();

  // Starts the thread, once. Before the first hold is given out, so that Leave() never has to.
  //
  // Errors: ResourceExhausted  there is no thread to be had.
  absl::Status Start();

  // Never waits, never allocates, takes no lock. In a forked child the hold is forgotten: its memory is the parent's.
  static void Leave(Hold* hold);

  // What was left before this call has been let go when it returns.
  void Settle();

 private:
  HandBack();
  void LetGoAll();
  static void LetGo(Hold* hold);

  const ForkGuard fork_guard_;
  std::atomic<Hold*> left_{nullptr};
  std::atomic<bool> busy_{false};
  std::mutex settle_mutex_;
  std::mutex start_mutex_;
  bool started_ = false;
  sem_t wake_;
};

}  // namespace penstock::capi

#endif  // PENSTOCK_CAPI_HAND_BACK_H_
