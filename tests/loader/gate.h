// A codec function that waits for the test.
#ifndef PENSTOCK_TESTS_LOADER_GATE_H_
#define PENSTOCK_TESTS_LOADER_GATE_H_

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace penstock::testing {

struct Gate {
  int64_t id = -1;  // the sample that waits; -1: all

  void Open() {
    std::lock_guard<std::mutex> lock(mutex);
    open = true;
    changed.notify_all();
  }
  void Pass() {
    std::unique_lock<std::mutex> lock(mutex);
    ++waiting;
    changed.notify_all();
    changed.wait(lock, [this] { return open; });
  }
  void WaitForOne() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return waiting > 0; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool open = false;
  int waiting = 0;
};

extern "C" inline int PassTheGate(void* user, int64_t id, const void* stored, size_t stored_bytes, void* delivered, size_t,
                                  size_t* delivered_bytes, char*, size_t) {
  auto& gate = *static_cast<Gate*>(user);
  if (gate.id < 0 || gate.id == id) gate.Pass();
  if (stored_bytes > 0) std::memcpy(delivered, stored, stored_bytes);
  *delivered_bytes = stored_bytes;
  return 0;
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_LOADER_GATE_H_
