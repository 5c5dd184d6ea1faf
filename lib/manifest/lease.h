// One process builds a manifest while the others wait for it.
#ifndef PENSTOCK_MANIFEST_LEASE_H_
#define PENSTOCK_MANIFEST_LEASE_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "manifest/trust.h"

namespace penstock {

// A file made with O_EXCL, which names its holder (host, boot, PID namespace, process, start time) and is touched every few
// seconds. It only saves work: should two processes ever build at once, each still saves a whole manifest by renaming it.
class Lease {
 public:
  // The lease, or nullptr where something has that name already: another living process's lease, or what only looks so (LeaseWatch).
  //
  // Errors: those of open(2) and write(2).
  static absl::StatusOr<std::unique_ptr<Lease>> TryAcquire(const std::string& path);

  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();  // gives it back

 private:
  Lease(std::string path, std::string content);
  void Touch();

  const std::string path_;
  const std::string content_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool end_ = false;
  std::thread toucher_;
};

// Watches somebody else's lease.
class LeaseWatch {
 public:
  // `dead_after_ns`: a holder that we cannot ask (another host or PID namespace) is dead when the file has not been touched for
  // this long on our clock; clocks of different hosts are never compared.
  explicit LeaseWatch(std::string path, const Trust& trust = Trust(), int64_t dead_after_ns = kDeadAfterNs)
      : path_(std::move(path)), trust_(trust), dead_after_ns_(dead_after_ns) {}

  // kUnusable: what lies there is no lease (a folder, a link, a FIFO), is of a user that is not trusted, or cannot be looked at. Waiting
  // for it has no end; why() says more.
  enum class State { kGone, kHeld, kDead, kUnusable };
  State Look();
  // Takes a dead holder's lease away, unless somebody else did already. False where it is still there; then why() says more.
  bool Remove();
  // Whether the lease is another one than at the Look() before.
  bool changed_hands() const { return changed_hands_; }
  // "process 4711 on host a", as far as it is known.
  std::string holder() const;
  const std::string& why() const { return why_; }

  static constexpr int64_t kDeadAfterNs = int64_t{60} * 1'000'000'000;

 private:
  State Unusable(std::string why);

  const std::string path_;
  const Trust trust_;
  const int64_t dead_after_ns_;
  std::string content_;
  std::string why_;
  bool changed_hands_ = false;
  int64_t mtime_ns_ = 0;
  uint64_t device_ = 0;
  uint64_t inode_ = 0;
  int64_t seen_ns_ = 0;  // when content or mtime last changed
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_LEASE_H_
