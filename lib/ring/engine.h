// Which backend moves the bytes: chosen by trying it.
#ifndef PENSTOCK_RING_ENGINE_H_
#define PENSTOCK_RING_ENGINE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ring/pread_pool.h"
#include "ring/ring.h"
#include "ring/uring_ring.h"

namespace penstock {

struct EngineChoice {
  Engine engine = Engine::kThreads;  // never kAuto
  std::string why;                   // one sentence for the user: what was tried and, where it failed, cause and cure
  absl::Status uring;                // OK: io_uring opened and read a file
  UringFeatures features;            // if so: what the kernel gave for a ring of 8 entries
  std::string kernel;                // "6.1.0-18-amd64"
};

// Decides by doing: sets up a small ring, opens a file of known content through it and reads it back. Where io_uring fails the
// choice is kThreads, whatever was wanted; so `choice.engine != wanted` tells a caller who insists on kUring.
EngineChoice ProbeEngine(Engine wanted);

// Makes a ring. kAuto is decided once per process. `pool` serves kThreads; null: a pool of this ring's own, of
// options.io_worker_max threads. `store` must outlive every request.
//
// Errors: those of MakeUringRing, for kUring. With kAuto a ring that RLIMIT_MEMLOCK refuses becomes one of kThreads.
absl::StatusOr<std::unique_ptr<Ring>> MakeRing(Engine engine, const ObjectStore& store, const RingOptions& options,
                                               std::shared_ptr<PreadPool> pool = nullptr);

// As MakeRing. Where the kernel refuses locked memory that RLIMIT_MEMLOCK would allow, tries again until `deadline_ns` (MonotonicNs): the
// charge of a process that was killed lingers (Linux 6.18: 30 to 50 ms; as long as one of its reads hangs).
absl::StatusOr<std::unique_ptr<Ring>> MakeRingPatiently(Engine engine, const ObjectStore& store, const RingOptions& options,
                                                        std::shared_ptr<PreadPool> pool, int64_t deadline_ns);

// Likewise.
EngineChoice ProbeEnginePatiently(Engine wanted, int64_t deadline_ns);

}  // namespace penstock

#endif  // PENSTOCK_RING_ENGINE_H_
