// Work for one stream over a scripted ring: batches that are planned beforehand, and what became of them.
#ifndef PENSTOCK_TESTS_STREAM_WORK_H_
#define PENSTOCK_TESTS_STREAM_WORK_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "memory/arena.h"
#include "plan/batch_plan.h"
#include "ring/scripted_ring.h"
#include "stream/stream.h"
#include "support/status.h"

namespace penstock::testing {

constexpr auto kPatience = std::chrono::seconds(60);  // no test depends on how long anything takes; this ends one that waits in vain

// One sample of a batch: a part of one object.
struct Part {
  uint32_t object = 0;
  uint64_t offset_bytes = 0;
  uint64_t bytes = 0;
  bool whole_object = false;
};

// The source of pieces. Batches are claimed piece by piece in the order in which they were added.
class Work final : public PieceSource {
 public:
  explicit Work(int64_t arena_bytes = 64 << 20) {
    absl::StatusOr<std::shared_ptr<Arena>> arena = Arena::Create({.bytes = arena_bytes});
    REQUIRE_OK(arena);
    arena_ = *std::move(arena);
  }

  // Plans a batch of these samples, whose ids are 0, 1, 2..., and puts it up to be claimed.
  std::shared_ptr<Attempt> Add(const std::vector<Part>& parts, PlanOptions options = {}) {
    auto attempt = std::make_shared<Attempt>(arena_, spare_plans_, /*epoch=*/0, /*step=*/next_step_++);
    std::vector<PlanSample> samples;
    std::vector<Range> ranges;
    for (const Part& part : parts) {
      PlanSample sample;
      sample.id = static_cast<int64_t>(samples.size());
      sample.whole_object = part.whole_object;
      sample.first_range = static_cast<uint32_t>(ranges.size());
      sample.range_count = 1;
      sample.delivered_bytes = part.bytes;
      samples.push_back(sample);
      ranges.push_back({part.object, part.offset_bytes, part.bytes, part.bytes, 0});
    }
    REQUIRE_OK(PlanBatch(samples, ranges, options, attempt->plan()));
    attempt->set_run(arena_->Allocate(GranulesFor(attempt->plan().bytes + attempt->plan().scratch_bytes)));
    REQUIRE(attempt->run().valid());
    const std::lock_guard<std::mutex> lock(mutex_);
    attempt->pieces_left = static_cast<uint32_t>(attempt->plan().pieces.size());
    for (uint32_t piece = 0; piece < attempt->pieces_left; ++piece) unclaimed_.push_back({attempt, piece});
    parts_[attempt.get()] = parts;
    ++version_;
    changed_.notify_all();
    return attempt;
  }

  void Stop() {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    ++version_;
    changed_.notify_all();
  }

  // Waits until `holds`, asked under the lock, or fails the test.
  template <typename Condition>
  void Await(const char* what, Condition&& holds) {
    std::unique_lock<std::mutex> lock(mutex_);
    INFO(what);
    REQUIRE(changed_.wait_for(lock, kPatience, holds));
  }
  // Waits until all pieces of the batch were given back.
  void AwaitFinished(const std::shared_ptr<Attempt>& attempt) {
    Await("all pieces of a batch", [&] { return attempt->pieces_left == 0; });
  }
  void AwaitFailures(size_t count) {
    Await("failures", [&] { return failures_.size() >= count; });
  }

  std::vector<SampleFailure> failures() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return failures_;
  }
  ReadStats stats() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }
  int64_t decoded() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return decoded_;
  }
  const Arena& arena() const { return *arena_; }
  // Waits until the stream has come round so many times more.
  void AwaitTicks(int64_t count) {
    int64_t from = -1;
    Await("looks at the clock", [&] {
      if (from < 0) from = ticks_;
      return ticks_ >= from + count;
    });
  }
  // Of objects, as their index has them (StreamOptions::verify_stat). Set before the stream runs.
  std::map<uint32_t, int64_t> mtimes;

  // The samples of a batch whose bytes are not the ones that their object has.
  std::vector<uint32_t> Wrong(const Attempt& attempt) const {
    std::vector<uint32_t> wrong;
    const std::vector<Part>& parts = parts_.at(&attempt);
    for (uint32_t i = 0; i < parts.size(); ++i) {
      const std::byte* const place = attempt.places() + attempt.plan().offsets[i];
      bool same = attempt.plan().lengths[i] == static_cast<int64_t>(parts[i].bytes);
      for (uint64_t k = 0; same && k < parts[i].bytes; ++k) {
        same = place[k] == ScriptedRing::ByteAt(parts[i].object, parts[i].offset_bytes + k);
      }
      if (!same) wrong.push_back(i);
    }
    return wrong;
  }

  // PieceSource
  bool Claim(int32_t /*stream*/, ClaimedPiece& piece, int64_t& seen) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    seen = version_;
    while (!unclaimed_.empty() && unclaimed_.front().first->cancelled()) unclaimed_.pop_front();
    if (stopping_ || unclaimed_.empty()) return false;
    piece.attempt = unclaimed_.front().first;
    piece.piece = unclaimed_.front().second;
    const PiecePlan& plan = piece.attempt->plan().pieces[piece.piece];
    piece.places = piece.attempt->places() + plan.offset;
    piece.scratch = piece.attempt->scratch() + plan.scratch_offset;
    unclaimed_.pop_front();
    return true;
  }
  int64_t StarvedWaitNs() const override { return 20 * kNsPerMs; }
  void WaitForWork(int64_t seen, int64_t deadline_ns) override {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, std::chrono::nanoseconds(std::max<int64_t>(0, deadline_ns - MonotonicNs())),
                      [&] { return version_ != seen; });
  }
  void PieceFinished(ClaimedPiece piece, const ReadStats& delta) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    --piece.attempt->pieces_left;
    stats_.Merge(delta);
    changed_.notify_all();
  }
  void SampleFailed(Attempt& /*attempt*/, SampleFailure failure) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    failures_.push_back(std::move(failure));
    changed_.notify_all();
  }
  void Tick(int64_t /*now_ns*/) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++ticks_;
    changed_.notify_all();
  }
  void AddStats(const ReadStats& delta) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.Merge(delta);
  }
  bool stopping() const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stopping_;
  }
  void DecodePiece(const ClaimedPiece& piece) override {
    const PiecePlan& plan = piece.attempt->plan().pieces[piece.piece];
    for (uint32_t i = plan.first_sample; i < plan.first_sample + plan.sample_count; ++i) {
      const uint32_t sample = piece.attempt->plan().laid_out[i];
      const StoredPlace& stored = piece.attempt->plan().stored[sample];
      std::memcpy(piece.attempt->places() + piece.attempt->plan().offsets[sample], piece.scratch + stored.offset, stored.bytes);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    ++decoded_;
  }
  std::string ObjectName(uint32_t object) const override { return absl::StrCat("object-", object); }
  int64_t ObjectMtime(uint32_t object) const override {
    const auto found = mtimes.find(object);
    return found == mtimes.end() ? kNoMtime : found->second;
  }

 private:
  std::shared_ptr<Arena> arena_;
  const std::shared_ptr<SparePlans> spare_plans_ = std::make_shared<SparePlans>();
  std::map<const Attempt*, std::vector<Part>> parts_;
  int64_t next_step_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<std::shared_ptr<Attempt>, uint32_t>> unclaimed_;
  std::vector<SampleFailure> failures_;
  ReadStats stats_;
  int64_t version_ = 0;
  int64_t ticks_ = 0;
  int64_t decoded_ = 0;
  bool stopping_ = false;
};

// A stream at work on a thread of its own. The destructor stops it, lets go of what hangs, and waits.
class Running {
 public:
  Running(Work& work, ScriptedRing::Script script, StreamOptions options,
          const std::function<void(ScriptedRing&)>& prepare = nullptr)
      : work_(work) {
    if (options.deadline_ns == 0) options.deadline_ns = 600 * kNsPerSecond;
    if (options.report_ns == 0) options.report_ns = 30 * kNsPerSecond;
    auto ring = std::make_unique<ScriptedRing>(std::move(script));
    ring_ = ring.get();
    if (prepare) prepare(*ring_);
    stream_ = std::make_unique<Stream>(work, std::move(ring), options);
    thread_ = std::thread([this] {
      stream_->Run();
      ended_.store(true);
    });
  }
  ~Running() {
    if (thread_.joinable()) {
      work_.Stop();
      ring_->ReleaseAll();
      stream_->Wake();
      thread_.join();
    }
  }
  // After Stop(): waits for the thread, without a release of what hangs.
  void Join() { thread_.join(); }
  bool ended() const { return ended_.load(); }
  Stream& stream() { return *stream_; }
  ScriptedRing& ring() { return *ring_; }

 private:
  Work& work_;
  ScriptedRing* ring_ = nullptr;
  std::unique_ptr<Stream> stream_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_STREAM_WORK_H_
