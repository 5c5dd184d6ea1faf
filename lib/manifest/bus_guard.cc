#include "manifest/bus_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/io_error.h"

namespace penstock {
namespace {

// Mappings of large manifests, of all data sets of a process. The handler reads the table without a lock.
constexpr int kSlots = 1024;

struct Slot {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0};  // 0: nothing is mapped
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> lost{false};
};

Slot slots[kSlots];
struct sigaction before;
uintptr_t page_bytes = 4096;

void OnBusError(int signal_number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Slot& slot : slots) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    const uintptr_t end = slot.end.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= end) continue;
    const uintptr_t page = address & ~(page_bytes - 1);
    slot.lost.store(true, std::memory_order_release);
    // A system call and nothing else; what reads the rest finds zeros and does not come back here.
    void* const zeros = ::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (zeros == MAP_FAILED) break;
    errno = saved_errno;
    return;
  }
  if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction != nullptr) {
    before.sa_sigaction(signal_number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal_number);
  } else {
    // Without us the instruction, when it is tried again, ends the process as it would have.
    ::sigaction(SIGBUS, &before, nullptr);
  }
  errno = saved_errno;
}

absl::Status Install() {
  static std::mutex mutex;
  static bool installed = false;
  std::lock_guard<std::mutex> lock(mutex);
  if (installed) return absl::OkStatus();
  struct sigaction action {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  if (::sigaction(SIGBUS, nullptr, &before) != 0 || ::sigaction(SIGBUS, &action, nullptr) != 0) {
    return IoError(errno, "sigaction of SIGBUS for mapped manifests");
  }
  installed = true;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const BusGuard>> BusGuard::Map(int fd, uint64_t bytes, const std::string& shown) {
  if (const absl::Status status = Install(); !status.ok()) return status;
  int number = 0;
  while (number < kSlots && slots[number].taken.exchange(true)) ++number;
  if (number == kSlots) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mmap of the manifest ", shown, ": ", kSlots, " manifests are mapped already. Close loaders that are not used"));
  }
  void* const data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    const int error_number = errno;
    slots[number].taken.store(false);
    return IoError(error_number, absl::StrCat("mmap of the manifest ", shown, ", ", bytes, " bytes"));
  }
  Slot& slot = slots[number];
  slot.lost.store(false);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  slot.end.store((begin + bytes + page_bytes - 1) & ~(page_bytes - 1), std::memory_order_release);
  slot.begin.store(begin, std::memory_order_release);
  return std::unique_ptr<const BusGuard>(new BusGuard(static_cast<const unsigned char*>(data), bytes, number));
}

BusGuard::~BusGuard() {
  Slot& slot = slots[slot_];
  slot.begin.store(0, std::memory_order_release);
  ::munmap(const_cast<unsigned char*>(data_), bytes_);
  slot.taken.store(false, std::memory_order_release);
}

bool BusGuard::lost() const { return slots[slot_].lost.load(std::memory_order_acquire); }

}  // namespace penstock
