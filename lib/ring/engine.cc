#include "ring/engine.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "ring/pool_ring.h"

namespace penstock {
namespace {

constexpr size_t kProbeBytes = 64;
constexpr int64_t kProbeDeadlineNs = 5 * kNsPerSecond;
constexpr int64_t kFirstPauseNs = 10 * kNsPerMs;
constexpr int64_t kLongestPauseNs = 200 * kNsPerMs;
constexpr rlim_t kMemlockWorthWaitingFor = 1 << 20;  // the kernel's default is 8 MiB (since 5.16), before that 64 KiB

class OneFile final : public ObjectStore {
 public:
  explicit OneFile(std::string path) : path_(std::move(path)) {}
  absl::StatusOr<OpenTarget> Target(uint32_t, std::string&) const override { return OpenTarget{AT_FDCWD, path_.c_str()}; }
  std::string Name(uint32_t) const override { return path_; }

 private:
  const std::string path_;
};

// What the kernel knows of while it is tried.
struct Probe {
  UniqueFd file;
  std::unique_ptr<OneFile> store;
  std::unique_ptr<Ring> ring;
  std::array<std::byte, kProbeBytes> bytes{};
};

// Reads a file of known content through a ring made for this.
absl::Status TryUring(UringFeatures& features) {
  std::array<char, kProbeBytes> content;
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i + 1);
  auto probe = std::make_unique<Probe>();
  probe->file.Reset(::memfd_create("penstock-probe", MFD_CLOEXEC));
  if (!probe->file.valid()) return IoError(errno, "memfd_create for trying io_uring");
  if (::pwrite(probe->file.get(), content.data(), content.size(), 0) != static_cast<ssize_t>(content.size())) {
    return IoError(errno, "writing 64 bytes to a memfd");
  }
  // A memfd has no other name. Without /proc (a bare chroot) the root folder serves: its read has to be answered with EISDIR.
  std::string path = absl::StrCat("/proc/", ::getpid(), "/fd/", probe->file.get());
  const bool has_name = ::access(path.c_str(), R_OK) == 0;
  if (!has_name) path = "/";
  probe->store = std::make_unique<OneFile>(std::move(path));

  absl::StatusOr<std::unique_ptr<Ring>> made = MakeUringRing(*probe->store, {.capacity = 4, .io_worker_max = 1}, &features);
  if (!made.ok()) return made.status();
  probe->ring = *std::move(made);
  Ring& ring = *probe->ring;
  ring.Enqueue({.length_bytes = kProbeBytes, .need_bytes = kProbeBytes, .destination = probe->bytes.data()});
  Completion completion;
  const int64_t deadline_ns = MonotonicNs() + kProbeDeadlineNs;
  absl::Status status;
  while (true) {
    status = ring.Wait(deadline_ns);
    if (ring.Reap({&completion, 1}) == 1) break;
    if (!status.ok() || MonotonicNs() >= deadline_ns) {
      // The kernel may still write into `bytes`, so that this stays. It happens once per process at most.
      static_cast<void>(probe.release());
      return status.ok() ? absl::UnavailableError("io_uring: reading 64 bytes took longer than 5 s; use engine=threads")
                         : absl::UnavailableError(absl::StrCat(status.message(), "; use engine=threads"));
    }
  }
  if (!has_name && completion.error_number == EISDIR && completion.stage == RequestStage::kTransfer) return absl::OkStatus();
  if (completion.error_number != 0) {
    return absl::UnavailableError(
        absl::StrCat("io_uring ", completion.stage == RequestStage::kOpen ? "openat with a direct descriptor" : "read", ": ",
                     ErrnoText(completion.error_number), "; it needs Linux 5.19 and no policy against it; use engine=threads"));
  }
  if (completion.bytes != static_cast<int64_t>(kProbeBytes) || std::memcmp(probe->bytes.data(), content.data(), kProbeBytes) != 0) {
    return absl::UnavailableError("io_uring: a test read brought wrong bytes; use engine=threads, and tell us the kernel's version");
  }
  return absl::OkStatus();
}

// Whether a refusal may be one that passes: others hold the locked memory, or did until a moment ago. Where the limit holds hardly a ring,
// it is the limit.
bool MayPass(const absl::Status& status) {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  return absl::IsResourceExhausted(status) && limit.rlim_cur >= kMemlockWorthWaitingFor;
}

}  // namespace

EngineChoice ProbeEngine(Engine wanted) {
  EngineChoice choice;
  utsname system{};
  if (::uname(&system) == 0) choice.kernel = system.release;
  choice.uring = TryUring(choice.features);
  if (!choice.uring.ok()) {
    choice.engine = Engine::kThreads;
    choice.why = std::string(choice.uring.message());
    return choice;
  }
  const std::string mode = choice.features.single_issuer  ? "completions run when asked for (DEFER_TASKRUN)"
                           : choice.features.coop_taskrun ? "completions without interrupts (COOP_TASKRUN); Linux 6.1 has DEFER_TASKRUN"
                                                          : "plain completions; Linux 6.1 has DEFER_TASKRUN";
  if (wanted == Engine::kThreads) {
    choice.engine = Engine::kThreads;
    choice.why = absl::StrCat("engine=threads was asked for; io_uring would work on this Linux ", choice.kernel);
  } else {
    choice.engine = Engine::kUring;
    choice.why = absl::StrCat("io_uring opened and read a file on this Linux ", choice.kernel, ", ", mode);
  }
  return choice;
}

absl::StatusOr<std::unique_ptr<Ring>> MakeRing(Engine engine, const ObjectStore& store, const RingOptions& options,
                                               std::shared_ptr<PreadPool> pool) {
  const bool automatic = engine == Engine::kAuto;
  if (automatic) {
    static const Engine chosen = ProbeEngine(Engine::kAuto).engine;
    engine = chosen;
  }
  if (engine == Engine::kUring) {
    absl::StatusOr<std::unique_ptr<Ring>> ring = MakeUringRing(store, options);
    if (ring.ok() || !automatic) return ring;
    Log(LogLevel::kWarning, absl::StrCat("this ring reads with threads instead of io_uring: ", ring.status().message()));
  }
  if (pool == nullptr) pool = std::make_shared<PreadPool>(options.io_worker_max);
  return MakePoolRing(store, options, std::move(pool));
}

absl::StatusOr<std::unique_ptr<Ring>> MakeRingPatiently(Engine engine, const ObjectStore& store, const RingOptions& options,
                                                        std::shared_ptr<PreadPool> pool, int64_t deadline_ns) {
  for (int64_t pause_ns = kFirstPauseNs;; pause_ns = std::min(2 * pause_ns, kLongestPauseNs)) {
    absl::StatusOr<std::unique_ptr<Ring>> ring = MakeRing(engine, store, options, pool);
    if (ring.ok() || !MayPass(ring.status()) || MonotonicNs() + pause_ns > deadline_ns) return ring;
    SleepNs(pause_ns);
  }
}

EngineChoice ProbeEnginePatiently(Engine wanted, int64_t deadline_ns) {
  for (int64_t pause_ns = kFirstPauseNs;; pause_ns = std::min(2 * pause_ns, kLongestPauseNs)) {
    EngineChoice choice = ProbeEngine(wanted);
    if (choice.uring.ok() || !MayPass(choice.uring) || MonotonicNs() + pause_ns > deadline_ns) return choice;
    SleepNs(pause_ns);
  }
}

}  // namespace penstock
