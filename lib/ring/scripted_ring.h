// A backend without a kernel, for tests of what uses a ring: each result, error, order and hang is written down beforehand, and
// each submission can be looked at.
#ifndef PENSTOCK_RING_SCRIPTED_RING_H_
#define PENSTOCK_RING_SCRIPTED_RING_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "ring/progress.h"
#include "ring/ring.h"

namespace penstock {

// What happens to the requests of one object.
struct ObjectScript {
  enum class Hang : uint8_t { kNever, kUntilCancelled, kUntilReleased };  // the latter as a hung mount: a Cancel does not help

  int open_error = 0;                      // positive errno
  std::vector<int64_t> completions;  // of its chunks in turn: bytes (at most), 0 (the end), or a negative errno; then all come in full
  uint64_t object_bytes = UINT64_MAX;      // its length
  std::string content;                     // of its first bytes; beyond: ScriptedRing::ByteAt
  Hang hang = Hang::kNever;
  uint64_t hang_at_bytes = 0;              // so many bytes come before it hangs
};

// As every ring it belongs to one thread; the calls of its own below are for any thread.
class ScriptedRing final : public Ring {
 public:
  enum class Order : uint8_t { kFirstFirst, kLastFirst, kRandom };

  struct Script {
    std::vector<int64_t> completions;      // for all objects together, in the order of submission, until used up
    size_t capacity = 64;
    uint64_t read_bytes_max = 512 << 10;
    Order order = Order::kFirstFirst;      // of completions
    size_t completions_per_reap = SIZE_MAX;
    uint64_t seed = 1;
  };

  // One chunk that was asked for.
  struct Submission {
    RequestKind kind = RequestKind::kRead;
    bool direct = false;
    uint32_t object = 0;
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
    std::byte* address = nullptr;
    uint64_t cookie = 0;
  };

  // Two of them, since a default argument of a nested struct with default members is ill-formed.
  ScriptedRing();
  explicit ScriptedRing(Script script);
  ~ScriptedRing() override;

  // The content of objects where a script does not say otherwise.
  static std::byte ByteAt(uint32_t object, uint64_t offset_bytes);

  void SetObject(uint32_t object, ObjectScript script);  // for requests from now on
  void Release(uint32_t object);                         // ends the hang of its requests, now and later
  void ReleaseAll();
  std::vector<Submission> submissions() const;
  size_t cancel_count() const;

  bool Enqueue(const Request& request) override;
  absl::Status Submit() override;
  size_t Reap(absl::Span<Completion> out) override;
  absl::Status Wait(int64_t deadline_ns) override;
  void Wake() override;
  void Cancel() override;
  size_t in_flight() const override;
  size_t capacity() const override { return script_.capacity; }
  const char* name() const override { return "scripted"; }
  RingCounters counters() const override;

 private:
  struct Flight {
    Progress progress;
    ObjectScript* object = nullptr;
    bool opened = false;
    bool cancelled = false;
    bool done = false;
  };

  ObjectScript& ObjectOf(uint32_t object);
  void Advance(Flight& flight);
  int64_t Transfer(Flight& flight, const Chunk& chunk);
  void AdvanceAll();

  const Script script_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint32_t, std::unique_ptr<ObjectScript>> objects_;
  std::vector<std::unique_ptr<ObjectScript>> replaced_;  // requests in flight still look at them
  std::vector<std::unique_ptr<Flight>> enqueued_;
  std::vector<std::unique_ptr<Flight>> flights_;         // submitted, in order
  std::vector<Submission> submissions_;
  size_t next_completion_ = 0;
  size_t cancels_ = 0;
  bool woken_ = false;
  std::mt19937_64 random_;
  RingCounters counters_;
};

}  // namespace penstock

#endif  // PENSTOCK_RING_SCRIPTED_RING_H_
