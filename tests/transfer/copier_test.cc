#include "transfer/copier.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "base/check.h"
#include "penstock/log.h"
#include "support/status.h"
#include "transfer/scripted_device.h"

namespace penstock {
namespace {

// A copier over a scripted device, with pieces of 256 bytes: piece i is full of i.
struct Rig {
  explicit Rig(CopierOptions options = {}, bool automatic = false, size_t pieces = 16)
      : device(std::make_shared<ScriptedDevice>(ScriptedDeviceOptions{.automatic = automatic})), host(pieces * 256) {
    for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<std::byte>(i / 256);
    REQUIRE_OK(device->HostRegister(host.data(), host.size()));
    memory = *device->Malloc(host.size());
    absl::StatusOr<std::unique_ptr<Copier>> made = Copier::Create(device, options);
    REQUIRE_OK(made);
    copier = std::move(*made);
  }
  absl::StatusOr<CopyTicket> CopyPiece(size_t piece, int64_t now_ns = 0) {
    return copier->Copy(memory + piece * 256, host.data() + piece * 256, 256, /*cookie=*/100 + piece, now_ns);
  }
  std::vector<uint64_t> Poll(int64_t now_ns = 0) {
    std::vector<uint64_t> finished;
    absl::StatusOr<size_t> count = copier->Poll(finished, now_ns);
    REQUIRE_OK(count);
    REQUIRE(*count == finished.size());
    return finished;
  }
  std::shared_ptr<ScriptedDevice> device;
  std::vector<std::byte> host;
  std::byte* memory;
  std::unique_ptr<Copier> copier;
};

using Cookies = std::vector<uint64_t>;

TEST_CASE("a piece is free only when the event after its copy is done", "[transfer]") {
  Rig rig;
  REQUIRE(rig.CopyPiece(1)->sequence == 1);
  CHECK(rig.Poll().empty());
  REQUIRE(rig.device->CompleteNext());  // the copy
  CHECK(rig.Poll().empty());
  REQUIRE(rig.device->CompleteNext());  // the event
  CHECK(rig.Poll() == Cookies{101});
  CHECK(rig.Poll().empty());
  CHECK(rig.memory[256] == std::byte{1});
  CHECK(rig.copier->stats().pending == 0);
  CHECK(rig.copier->stats().completed_sequence == 1);
}

TEST_CASE("pieces come back in the order of their copies", "[transfer]") {
  Rig rig;
  for (size_t piece : {3, 1, 2}) REQUIRE_OK(rig.CopyPiece(piece));
  for (int i = 0; i < 4; ++i) rig.device->CompleteNext();
  CHECK(rig.Poll() == Cookies{103, 101});
  rig.device->CompleteAll();
  CHECK(rig.Poll() == Cookies{102});
  CHECK(rig.device->violations().empty());
}

TEST_CASE("more copies than events in flight all come back", "[transfer]") {
  Rig rig(CopierOptions{.events = 2});
  for (size_t piece = 0; piece < 9; ++piece) REQUIRE_OK(rig.CopyPiece(piece));
  CHECK(rig.device->live_events() == 2);
  CHECK(rig.Poll().empty());
  rig.device->CompleteAll();
  // The first two had events of their own. The rest gets one event now, recorded behind the last copy.
  CHECK(rig.Poll() == Cookies{100, 101});
  rig.device->CompleteAll();
  CHECK(rig.Poll() == Cookies{102, 103, 104, 105, 106, 107, 108});
  CHECK(rig.device->live_events() == 2);
}

TEST_CASE("a copy whose event could not be recorded is still not free before it is done", "[transfer]") {
  Rig rig;
  rig.device->FailCall("Record", 1, absl::InternalError("record"));
  REQUIRE_OK(rig.CopyPiece(4));
  CHECK(rig.Poll().empty());
  rig.device->CompleteAll();
  CHECK(rig.Poll() == Cookies{104});
  CHECK(rig.memory[4 * 256] == std::byte{4});
}

TEST_CASE("a copy that the device refuses leaves the piece with the caller", "[transfer]") {
  Rig rig;
  rig.device->FailCall("CopyToDevice", 2, absl::InvalidArgumentError("copy"));
  REQUIRE_OK(rig.CopyPiece(0));
  CHECK(rig.CopyPiece(1).status().message() == "copy");
  REQUIRE_OK(rig.CopyPiece(2));
  rig.device->CompleteAll();
  CHECK(rig.Poll() == Cookies{100, 102});
}

TEST_CASE("an event that never completes is reported once and then fails Poll with its piece kept", "[transfer]") {
  Rig rig(CopierOptions{.report_after_ns = 30 * kNsPerSecond, .deadline_ns = 600 * kNsPerSecond});
  std::vector<std::string> messages;
  SetLogSink([&messages](LogLevel, absl::string_view message) { messages.emplace_back(message); });
  REQUIRE_OK(rig.CopyPiece(0, /*now_ns=*/1));
  rig.device->Hold(rig.copier->cuda_stream());
  REQUIRE_OK(rig.CopyPiece(1, /*now_ns=*/1));
  rig.device->CompleteAll();
  CHECK(rig.Poll(29 * kNsPerSecond).empty());
  CHECK(messages.empty());
  CHECK(rig.Poll(31 * kNsPerSecond).empty());
  CHECK(rig.Poll(32 * kNsPerSecond).empty());
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].find("256 bytes") != std::string::npos);
  CHECK(messages[0].find("30.9 s") != std::string::npos);
  CHECK(rig.copier->OldestPendingNs(32 * kNsPerSecond) == 32 * kNsPerSecond - 1);

  Cookies finished;
  const absl::Status status = rig.copier->Poll(finished, 601 * kNsPerSecond).status();
  CHECK(status.code() == absl::StatusCode::kDeadlineExceeded);
  CHECK(std::string(status.message()).find("deadline_s is 600") != std::string::npos);
  CHECK(finished.empty());
  CHECK(rig.copier->stats().pending == 2);

  // It did complete after all: only now are the pieces free.
  rig.device->Unhold(rig.copier->cuda_stream());
  rig.device->CompleteAll();
  CHECK(rig.Poll(700 * kNsPerSecond) == Cookies{100, 101});
  SetLogSink({});
}

TEST_CASE("a lost context gives its first error to every caller and keeps pending pieces", "[transfer]") {
  Rig rig;
  SetLogSink([](LogLevel, absl::string_view) {});
  REQUIRE_OK(rig.CopyPiece(0));
  rig.device->LoseContext(absl::InternalError("cudaErrorIllegalAddress"));
  Cookies finished;
  CHECK(rig.copier->Poll(finished).status().message() == "cudaErrorIllegalAddress");
  CHECK(rig.CopyPiece(1).status().message() == "cudaErrorIllegalAddress");
  CHECK(rig.copier->Drain(finished, kNsPerSecond).message() == "cudaErrorIllegalAddress");
  CHECK(finished.empty());
  CHECK(rig.copier->stats().pending == 1);
  const int64_t destroyed = rig.device->CallCount("DestroyStream");
  rig.copier.reset();
  CHECK(rig.device->CallCount("DestroyStream") == destroyed);
  SetLogSink({});
}

TEST_CASE("Drain returns when all copies are done", "[transfer]") {
  Rig rig;
  for (size_t piece = 0; piece < 4; ++piece) REQUIRE_OK(rig.CopyPiece(piece, MonotonicNs()));
  std::thread gpu([&] { rig.device->set_automatic(true); });
  Cookies finished;
  REQUIRE_OK(rig.copier->Drain(finished, 60 * kNsPerSecond));
  gpu.join();
  CHECK(finished == Cookies{100, 101, 102, 103});
}

TEST_CASE("Drain gives up at its deadline and says what is pending", "[transfer]") {
  Rig rig;
  SetLogSink([](LogLevel, absl::string_view) {});
  REQUIRE_OK(rig.CopyPiece(0, MonotonicNs()));
  Cookies finished;
  const absl::Status status = rig.copier->Drain(finished, 2 * kNsPerMs);
  CHECK(status.code() == absl::StatusCode::kDeadlineExceeded);
  CHECK(std::string(status.message()).find("1 copies (256 bytes)") != std::string::npos);
  // The stream is left alone, since the copy may still run.
  rig.copier.reset();
  CHECK(rig.device->live_streams() == 1);
  CHECK(rig.device->violations().empty());
  SetLogSink({});
}

TEST_CASE("a copier whose copies are done leaves no stream and no event behind", "[transfer]") {
  Rig rig({}, /*automatic=*/true);
  REQUIRE_OK(rig.CopyPiece(0));
  {
    BatchEvents events(*rig.copier);
    REQUIRE_OK(events.RecordReady());
    REQUIRE_OK(events.RecordUse(nullptr));
  }
  CHECK(rig.Poll() == Cookies{100});
  rig.copier.reset();
  CHECK(rig.device->live_streams() == 0);
  CHECK(rig.device->live_events() == 0);
  CHECK(rig.device->violations().empty());
}

TEST_CASE("a copier that cannot have its events gives back its stream", "[transfer]") {
  auto device = std::make_shared<ScriptedDevice>();
  device->FailCall("CreateEvent", 3, absl::ResourceExhaustedError("events"));
  CHECK(Copier::Create(device).status().message() == "events");
  CHECK(device->live_streams() == 0);
  CHECK(device->live_events() == 0);
}

TEST_CASE("several threads copy and poll and each piece comes back once with its bytes", "[transfer]") {
  constexpr size_t kThreads = 4, kPiecesEach = 200;
  Rig rig(CopierOptions{.events = 8}, /*automatic=*/false, kThreads * kPiecesEach);
  std::mutex mutex;
  std::multiset<uint64_t> seen;
  std::atomic<size_t> copying{kThreads};
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      Cookies finished;
      for (size_t i = 0; i < kPiecesEach; ++i) {
        const size_t piece = thread * kPiecesEach + i;
        PENSTOCK_CHECK(rig.copier->Copy(rig.memory + piece * 256, rig.host.data() + piece * 256, 256, piece).ok(), "copy");
        PENSTOCK_CHECK(rig.copier->Poll(finished).ok(), "poll");
      }
      std::lock_guard<std::mutex> lock(mutex);
      seen.insert(finished.begin(), finished.end());
      --copying;
    });
  }
  while (copying > 0) {
    if (!rig.device->CompleteNext()) std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();
  rig.device->set_automatic(true);
  Cookies rest;
  REQUIRE_OK(rig.copier->Drain(rest, 60 * kNsPerSecond));
  seen.insert(rest.begin(), rest.end());
  REQUIRE(seen.size() == kThreads * kPiecesEach);
  CHECK(std::set<uint64_t>(seen.begin(), seen.end()).size() == kThreads * kPiecesEach);
  CHECK(std::memcmp(rig.memory, rig.host.data(), rig.host.size()) == 0);
  CHECK(rig.device->violations().empty());
}

TEST_CASE("a batch is ready when the copies given before RecordReady are done", "[transfer]") {
  Rig rig;
  BatchEvents events(*rig.copier);
  CHECK(events.Ready().status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(events.WaitOn(nullptr).code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE_OK(rig.CopyPiece(0));
  REQUIRE_OK(rig.CopyPiece(1));
  REQUIRE_OK(events.RecordReady());
  REQUIRE_OK(rig.CopyPiece(2));
  for (int i = 0; i < 4; ++i) rig.device->CompleteNext();
  CHECK_FALSE(*events.Ready());
  REQUIRE(rig.device->CompleteNext());
  CHECK(*events.Ready());
  rig.device->CompleteAll();
  rig.Poll();
}

TEST_CASE("a batch whose event could not be recorded is not ready", "[transfer]") {
  Rig rig;
  BatchEvents events(*rig.copier);
  rig.device->FailCall("Record", 1, absl::InternalError("record"));
  CHECK_FALSE(events.RecordReady().ok());
  CHECK_FALSE(events.Ready().ok());
  REQUIRE_OK(events.RecordReady());
  rig.device->CompleteAll();
  CHECK(*events.Ready());
}

TEST_CASE("the consumer's stream goes on only after the batch has arrived", "[transfer]") {
  Rig rig;
  const CudaStream consumer = *rig.device->CreateStream();
  const CudaEvent consumed = *rig.device->CreateEvent();
  BatchEvents events(*rig.copier);
  rig.device->Hold(rig.copier->cuda_stream());
  REQUIRE_OK(rig.CopyPiece(0));
  REQUIRE_OK(events.RecordReady());
  REQUIRE_OK(events.WaitOn(consumer));
  REQUIRE_OK(rig.device->Record(consumed, consumer));
  rig.device->CompleteAll();
  CHECK_FALSE(*rig.device->Done(consumed));
  rig.device->Unhold(rig.copier->cuda_stream());
  rig.device->CompleteAll();
  CHECK(*rig.device->Done(consumed));
  rig.Poll();
}

TEST_CASE("a batch's memory is free again only when every consumer stream is done with it", "[transfer]") {
  Rig rig;
  const CudaStream first = *rig.device->CreateStream();
  const CudaStream second = *rig.device->CreateStream();
  BatchEvents events(*rig.copier);
  CHECK(*events.UsesDone());
  rig.device->Hold(second);
  REQUIRE_OK(events.RecordUse(first));
  REQUIRE_OK(events.RecordUse(second));
  REQUIRE_OK(events.RecordUse(first));
  rig.device->CompleteAll();
  CHECK_FALSE(*events.UsesDone());
  rig.device->Unhold(second);
  rig.device->CompleteAll();
  CHECK(*events.UsesDone());
}

TEST_CASE("a use that could not be recorded never counts as done", "[transfer]") {
  Rig rig({}, /*automatic=*/true);
  BatchEvents events(*rig.copier);
  rig.device->FailCall("Record", 1, absl::InternalError("record"));
  CHECK_FALSE(events.RecordUse(nullptr).ok());
  REQUIRE_OK(events.RecordUse(nullptr));
  CHECK(events.UsesDone().status().message() == "record");
  events.Reset();
  CHECK(*events.UsesDone());
}

}  // namespace
}  // namespace penstock
