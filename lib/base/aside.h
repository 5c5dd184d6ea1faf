// A function on a thread of its own, for what may hang: who asked waits as long as it likes, and leaves the thread behind.
#ifndef PENSTOCK_BASE_ASIDE_H_
#define PENSTOCK_BASE_ASIDE_H_

#include <signal.h>

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

namespace penstock {

/// Lifetime: what the function uses must be its own (shared pointers, copies): it may go on when this is gone, and end after main() has.
/// Threads:  one at a time.
template <typename T>
class Aside {
 public:
  explicit Aside(std::function<T()> function) : shared_(std::make_shared<Shared>()) {
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // the program's signals are not for this thread
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
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
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

  bool done() const {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    return shared_->result.has_value();
  }

  /// The result, waited for at most so long; null where it has not come. Lives as long as this.
  const T* Within(int64_t patience_ns) {
    if (!no_thread_.empty()) return nullptr;
    std::unique_lock<std::mutex> lock(shared_->mutex);
    const bool came =
        shared_->came.wait_for(lock, std::chrono::nanoseconds(patience_ns), [this] { return shared_->result.has_value(); });
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
