#include "base/fork_guard.h"

#include <pthread.h>

#include <atomic>

namespace penstock {
namespace {

std::atomic<uint64_t> g_fork_generation{0};

uint64_t Generation() {
  static const int registered =
      ::pthread_atfork(nullptr, nullptr, [] { g_fork_generation.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(registered);
  return g_fork_generation.load(std::memory_order_relaxed);
}

}  // namespace

ForkGuard::ForkGuard() : generation_(Generation()) {}

bool ForkGuard::InForkedChild() const { return g_fork_generation.load(std::memory_order_relaxed) != generation_; }

}  // namespace penstock
