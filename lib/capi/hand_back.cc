#include "capi/hand_back.h"

#include <pthread.h>

#include <system_error>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/thread_error.h"
#include "base/blocked_signals.h"
#include "base/log.h"

namespace penstock::capi {

HandBack::HandBack() { ::sem_init(&wake_, /*pshared=*/0, 0); }

HandBack& HandBack::Current() {
  static std::atomic<HandBack*> current{new HandBack};
  HandBack* now = current.load(std::memory_order_acquire);
  while (now->fork_guard_.InForkedChild()) {
    auto* mine = new HandBack;
    if (current.compare_exchange_strong(now, mine, std::memory_order_acq_rel)) return *mine;
    delete mine;
  }
  return *now;
}

absl::Status HandBack::Start() {
  std::lock_guard<std::mutex> lock(start_mutex_);
  if (started_) return absl::OkStatus();
  const BlockedSignals blocked;
  absl::Status status;
  try {
    std::thread([this] {
      ::pthread_setname_np(::pthread_self(), "penstock-return");
      while (true) {
        while (::sem_wait(&wake_) != 0) {
        }
        LetGoAll();
      }
    }).detach();
    started_ = true;
  } catch (const std::system_error& error) {
    status = absl::ResourceExhaustedError(
        absl::StrCat("the thread that takes tensors back: ", error.what(), "; ", ThreadCure()));
  }
  return status;
}

void HandBack::Leave(Hold* hold) {
  HandBack& to = *hold->to;
  if (to.fork_guard_.InForkedChild()) return;
  Hold* first = to.left_.load(std::memory_order_relaxed);
  do {
    hold->next = first;
  } while (!to.left_.compare_exchange_weak(first, hold, std::memory_order_seq_cst, std::memory_order_relaxed));
  // Whoever left the first one has woken the thread, which takes all.
  if (first == nullptr) ::sem_post(&to.wake_);
}

void HandBack::LetGo(Hold* hold) {
  std::unique_ptr<Hold> owned(hold);
  std::shared_ptr<BatchObject> batch = std::move(hold->batch);
  std::lock_guard<std::mutex> lock(batch->mutex);
  // Does nothing on the host path.
  if (absl::Status status = batch->batch.RecordUse(hold->cuda_stream); !status.ok()) {
    Log(LogLevel::kWarning, absl::StrCat("a tensor was handed back: ", status.message(), ". The batch's memory is not used again"));
  }
}

void HandBack::LetGoAll() {
  std::lock_guard<std::mutex> lock(settle_mutex_);
  busy_.store(true, std::memory_order_seq_cst);
  Hold* hold = left_.exchange(nullptr, std::memory_order_seq_cst);
  while (hold != nullptr) {
    Hold* const next = hold->next;
    LetGo(hold);
    hold = next;
  }
  busy_.store(false, std::memory_order_seq_cst);
}

void HandBack::Settle() {
  // In this order: whoever took the list has said before that it is busy.
  if (left_.load(std::memory_order_seq_cst) == nullptr && !busy_.load(std::memory_order_seq_cst)) return;
  LetGoAll();
}

}  // namespace penstock::capi
