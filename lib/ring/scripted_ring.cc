#include "ring/scripted_ring.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "ring/poison.h"

namespace penstock {

ScriptedRing::ScriptedRing() : ScriptedRing(Script{}) {}
ScriptedRing::ScriptedRing(Script script) : script_(std::move(script)), random_(script_.seed) {}

ScriptedRing::~ScriptedRing() { PENSTOCK_CHECK(in_flight() == 0, "a ring was destroyed with requests in flight"); }

std::byte ScriptedRing::ByteAt(uint32_t object, uint64_t offset_bytes) {
  return static_cast<std::byte>((object * 0x9E3779B9u + static_cast<uint32_t>(offset_bytes) * 0x85EBCA6Bu) >> 24);
}

ObjectScript& ScriptedRing::ObjectOf(uint32_t object) {
  std::unique_ptr<ObjectScript>& script = objects_[object];
  if (script == nullptr) script = std::make_unique<ObjectScript>();
  return *script;
}

void ScriptedRing::SetObject(uint32_t object, ObjectScript script) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<ObjectScript>& place = objects_[object];
  if (place != nullptr) replaced_.push_back(std::move(place));
  place = std::make_unique<ObjectScript>(std::move(script));
}

void ScriptedRing::Release(uint32_t object) {
  std::lock_guard<std::mutex> lock(mutex_);
  ObjectOf(object).hang = ObjectScript::Hang::kNever;
  for (const auto* flights : {&enqueued_, &flights_}) {
    for (const auto& flight : *flights) {
      if (flight->progress.request().object == object) flight->object->hang = ObjectScript::Hang::kNever;
    }
  }
  changed_.notify_all();
}

void ScriptedRing::ReleaseAll() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [id, script] : objects_) script->hang = ObjectScript::Hang::kNever;
  for (auto& script : replaced_) script->hang = ObjectScript::Hang::kNever;
  changed_.notify_all();
}

std::vector<ScriptedRing::Submission> ScriptedRing::submissions() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return submissions_;
}

size_t ScriptedRing::cancel_count() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return cancels_;
}

bool ScriptedRing::Enqueue(const Request& request) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (enqueued_.size() + flights_.size() >= script_.capacity) return false;
  CheckNotPoisoned(request);
  auto flight = std::make_unique<Flight>();
  flight->progress.Start(request);
  flight->object = &ObjectOf(request.object);
  enqueued_.push_back(std::move(flight));
  return true;
}

absl::Status ScriptedRing::Submit() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!enqueued_.empty()) ++counters_.submissions;
  for (auto& flight : enqueued_) flights_.push_back(std::move(flight));
  enqueued_.clear();
  return absl::OkStatus();
}

int64_t ScriptedRing::Transfer(Flight& flight, const Chunk& chunk) {
  const Request& request = flight.progress.request();
  submissions_.push_back(
      {request.kind, flight.progress.direct(), request.object, chunk.offset_bytes, chunk.length_bytes, chunk.address, request.cookie});
  if (request.kind == RequestKind::kSync) return 0;
  ObjectScript& object = *flight.object;
  const uint64_t there = chunk.offset_bytes < object.object_bytes ? object.object_bytes - chunk.offset_bytes : 0;
  int64_t result =
      static_cast<int64_t>(request.kind == RequestKind::kRead ? std::min<uint64_t>(there, chunk.length_bytes + chunk.beyond_bytes) : chunk.length_bytes);
  if (!object.completions.empty()) {
    result = std::min(result, object.completions.front());
    object.completions.erase(object.completions.begin());
  } else if (next_completion_ < script_.completions.size()) {
    result = std::min(result, script_.completions[next_completion_++]);
  }
  for (int64_t i = 0; i < result; ++i) {
    const uint64_t at = chunk.offset_bytes + static_cast<uint64_t>(i);
    if (request.kind == RequestKind::kRead) {
      if (i >= int64_t{chunk.length_bytes}) continue;
      chunk.address[i] = at < object.content.size() ? static_cast<std::byte>(object.content[at]) : ByteAt(request.object, at);
    } else {
      while (object.content.size() <= at) object.content.push_back(static_cast<char>(ByteAt(request.object, object.content.size())));
      object.content[at] = static_cast<char>(chunk.address[i]);
    }
  }
  return result;
}

// Goes as far as the script lets it.
void ScriptedRing::Advance(Flight& flight) {
  Progress& progress = flight.progress;
  while (!flight.done) {
    using Hang = ObjectScript::Hang;
    const bool at_hang = flight.object->hang != Hang::kNever && progress.done_bytes() >= flight.object->hang_at_bytes;
    if (at_hang && !(flight.cancelled && flight.object->hang == Hang::kUntilCancelled)) return;
    if (!flight.opened) {
      flight.opened = true;
      if (flight.cancelled || flight.object->open_error != 0) {
        progress.Fail(flight.cancelled ? ECANCELED : flight.object->open_error, RequestStage::kOpen);
        flight.done = true;
      } else {
        flight.done = !progress.HasTransfer();
      }
      continue;
    }
    if (flight.cancelled) {
      progress.Fail(ECANCELED, RequestStage::kTransfer);
      flight.done = true;
      continue;
    }
    const Chunk chunk = progress.request().kind == RequestKind::kSync ? Chunk{} : progress.NextChunk(script_.read_bytes_max);
    flight.done = progress.Advance(Transfer(flight, chunk)) == Progress::Next::kDone;
  }
}

void ScriptedRing::AdvanceAll() {
  for (auto& flight : flights_) Advance(*flight);
}

size_t ScriptedRing::Reap(absl::Span<Completion> out) {
  std::lock_guard<std::mutex> lock(mutex_);
  AdvanceAll();
  const size_t most = std::min(out.size(), script_.completions_per_reap);
  size_t count = 0;
  while (count < most) {
    std::vector<size_t> done;
    for (size_t i = 0; i < flights_.size(); ++i) {
      if (flights_[i]->done) done.push_back(i);
    }
    if (done.empty()) break;
    const size_t chosen = script_.order == Order::kFirstFirst  ? done.front()
                          : script_.order == Order::kLastFirst ? done.back()
                                                               : done[random_() % done.size()];
    const Progress& progress = flights_[chosen]->progress;
    progress.AddTo(counters_);
    out[count++] = progress.ToCompletion(/*open_ns=*/1, /*transfer_ns=*/progress.done_bytes() > 0 ? 1 : 0);
    flights_.erase(flights_.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
  return count;
}

absl::Status ScriptedRing::Wait(int64_t deadline_ns) {
  if (absl::Status status = Submit(); !status.ok()) return status;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    AdvanceAll();
    if (std::any_of(flights_.begin(), flights_.end(), [](const auto& flight) { return flight->done; })) return absl::OkStatus();
    if (std::exchange(woken_, false)) return absl::OkStatus();
    const int64_t left_ns = deadline_ns - MonotonicNs();
    if (left_ns <= 0) return absl::OkStatus();
    changed_.wait_for(lock, std::chrono::nanoseconds(std::min(left_ns, kNsPerSecond)));
  }
}

void ScriptedRing::Wake() {
  std::lock_guard<std::mutex> lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

void ScriptedRing::Cancel() {
  static_cast<void>(Submit());
  std::lock_guard<std::mutex> lock(mutex_);
  ++cancels_;
  for (auto& flight : flights_) flight->cancelled = true;
}

size_t ScriptedRing::in_flight() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return enqueued_.size() + flights_.size();
}

RingCounters ScriptedRing::counters() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return counters_;
}

}  // namespace penstock
