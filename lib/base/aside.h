// A function on a thread of its own, for what may hang: who asked waits as long as it likes, and leaves the thread behind.
#ifndef PENSTOCK_BASE_ASIDE_H_
#define PENSTOCK_BASE_ASIDE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/blocked_signals.h"

namespace penstock {

/// The function must not throw.
///
/// Lifetime: what the function uses must be its own (shared pointers, copies): it may go on when this is gone, and end after main() has.
/// Threads:  one at a time.
template <typename T>
class Aside {
 public:
  explicit Aside(std::function<T()> function) : shared_(std::make_shared<Shared>()) {
    const BlockedSignals blocked;
    try {
      thread_ = std::thread([shared = shared_, function = std::move(function)] {
        T result = function();
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->result.emplace(std::move(result));
        shared->came.notify_all();
      });
    } catch (const std::system_error& error) {
      no_thread_ = error.what();
    }
  }
  ~Aside() {
    if (!thread_.joinable()) return;
    if (done()) {
      thread_.join();
    } else {
      thread_.detach();
    }
  }
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

  /// Why there is no thread and never a result; empty: there is one.
  const std::string& no_thread() const { return no_thread_; }

  /// Whether there is nothing to wait for: the result has come, or there is no thread.
  bool done() const {
    if (!no_thread_.empty()) return true;
    std::lock_guard<std::mutex> lock(shared_->mutex);
    return shared_->result.has_value();
  }

  /// The result, waited for at most so long; null where it has not come. Lives as long as this.
  const T* Within(int64_t patience_ns) {
    if (!no_thread_.empty()) return nullptr;
    std::unique_lock<std::mutex> lock(shared_->mutex);
    const bool came = shared_->came.wait_for(lock, std::chrono::nanoseconds(patience_ns), [this] { return shared_->result.has_value(); });
    return came ? &*shared_->result : nullptr;
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable came;
    std::optional<T> result;
  };
  const std::shared_ptr<Shared> shared_;
  std::thread thread_;
  std::string no_thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_BASE_ASIDE_H_
