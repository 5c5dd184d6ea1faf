// The state machine that all backends share: what to ask for next, and what an answer means.
#include "ring/progress.h"

#include <vector>

#include "ring/scripted_ring.h"
#include "support/status.h"

#include <catch2/catch.hpp>

namespace penstock::testing {
namespace {

using Next = Progress::Next;

Progress Started(uint64_t length, uint64_t need, bool direct = false) {
  static std::byte* const base = reinterpret_cast<std::byte*>(uint64_t{1} << 32);
  Progress progress;
  progress.Start({.direct = direct, .offset_bytes = 8192, .length_bytes = length, .need_bytes = need, .destination = base, .cookie = 5});
  return progress;
}

TEST_CASE("a short read goes on from where it stopped and to the same place", "[ring]") {
  Progress progress = Started(12288, 12288);
  const Chunk first = progress.NextChunk(1 << 20);
  CHECK(first.length_bytes == 12288);
  CHECK(progress.Advance(4096) == Next::kTransfer);
  const Chunk second = progress.NextChunk(1 << 20);
  CHECK(second.offset_bytes == 8192 + 4096);
  CHECK(second.address == first.address + 4096);
  CHECK(second.length_bytes == 8192);
  CHECK(progress.Advance(8192) == Next::kDone);
  CHECK(progress.done_bytes() == 12288);
}

TEST_CASE("chunks are cut at the limit and the last one takes the room beyond what is needed", "[ring]") {
  Progress progress = Started(20001, 20000);
  CHECK(progress.NextChunk(10000).length_bytes == 10000);
  CHECK(progress.Advance(10000) == Next::kTransfer);
  CHECK(progress.NextChunk(10000).length_bytes == 10001);
  CHECK(progress.Advance(10001) == Next::kDone);
  Progress one = Started(500000, 0);
  CHECK(one.NextChunk(10000).length_bytes <= 10000 + 4096);
}

TEST_CASE("direct chunks stay multiples of 4096 bytes", "[ring]") {
  Progress progress = Started(40960, 40000, /*direct=*/true);
  CHECK(progress.NextChunk(10000).length_bytes == 8192);
  CHECK(progress.Advance(8192) == Next::kTransfer);
  CHECK(progress.NextChunk(1).length_bytes == 4096);
}

TEST_CASE("EINTR and EAGAIN are tried again and counted", "[ring]") {
  Progress progress = Started(100, 100);
  for (int i = 0; i < 50; ++i) CHECK(progress.Advance(i % 2 == 0 ? -EINTR : -EAGAIN) == Next::kTransfer);
  CHECK(progress.Advance(100) == Next::kDone);
  CHECK(progress.error_number() == 0);
  RingCounters counters;
  progress.AddTo(counters);
  CHECK(counters.retries == 50);
  CHECK(counters.chunks == 51);
}

TEST_CASE("EAGAIN for ever becomes an error", "[ring]") {
  Progress progress = Started(100, 100);
  int tries = 0;
  while (progress.Advance(-EAGAIN) == Next::kTransfer) REQUIRE(++tries < 100000);
  CHECK(progress.error_number() == EAGAIN);
}

TEST_CASE("an error after some bytes reports both", "[ring]") {
  Progress progress = Started(10000, 10000);
  CHECK(progress.Advance(4096) == Next::kTransfer);
  CHECK(progress.Advance(-EIO) == Next::kDone);
  const Completion completion = progress.ToCompletion(1, 2);
  CHECK(completion.bytes == 4096);
  CHECK(completion.error_number == EIO);
  CHECK(completion.stage == RequestStage::kTransfer);
  CHECK(completion.cookie == 5);
}

TEST_CASE("EINVAL of a direct read goes on buffered once and is an error then", "[ring]") {
  Progress progress = Started(8192, 8192, /*direct=*/true);
  CHECK(progress.Advance(4096) == Next::kTransfer);
  CHECK(progress.Advance(-EINVAL) == Next::kReopenBuffered);
  CHECK_FALSE(progress.direct());
  CHECK_FALSE(progress.OpenFallsBack(EINVAL));
  CHECK(progress.NextChunk(1 << 20).offset_bytes == 8192 + 4096);
  CHECK(progress.Advance(-EINVAL) == Next::kDone);
  CHECK(progress.error_number() == EINVAL);
  RingCounters counters;
  progress.AddTo(counters);
  CHECK(counters.direct_fallbacks == 1);
}

TEST_CASE("a scripted ring shows each chunk of a short read", "[ring]") {
  ScriptedRing ring({.completions = {4096, 8192}});
  std::vector<std::byte> memory(12288);
  REQUIRE(ring.Enqueue({.object = 3, .length_bytes = 12288, .need_bytes = 12288, .destination = memory.data()}));
  REQUIRE_OK(ring.Wait(INT64_MAX));
  Completion done;
  REQUIRE(ring.Reap({&done, 1}) == 1);
  CHECK(done.bytes == 12288);
  REQUIRE(ring.submissions().size() == 2);
  CHECK(ring.submissions()[1].offset_bytes == 4096);
  CHECK(ring.submissions()[1].address == memory.data() + 4096);
  for (size_t i = 0; i < memory.size(); ++i) {
    if (memory[i] != ScriptedRing::ByteAt(3, i)) FAIL("byte " << i);
  }
}

TEST_CASE("a scripted hang outlives Cancel until it is released", "[ring]") {
  ScriptedRing ring;
  ring.SetObject(1, {.hang = ObjectScript::Hang::kUntilReleased, .hang_at_bytes = 0});
  ring.SetObject(2, {.hang = ObjectScript::Hang::kUntilCancelled});
  ring.SetObject(3, {.completions = {-EIO}});
  std::vector<std::byte> memory(300);
  for (uint32_t i = 0; i < 3; ++i) {
    REQUIRE(
        ring.Enqueue({.object = i + 1, .length_bytes = 100, .need_bytes = 100, .destination = memory.data() + 100 * i, .cookie = i + 1}));
  }
  REQUIRE_OK(ring.Submit());
  Completion done[3];
  REQUIRE(ring.Reap(absl::MakeSpan(done)) == 1);
  CHECK(done[0].cookie == 3);
  CHECK(done[0].error_number == EIO);
  ring.Cancel();
  REQUIRE(ring.Reap(absl::MakeSpan(done)) == 1);
  CHECK(done[0].cookie == 2);
  CHECK(done[0].error_number == ECANCELED);
  CHECK(ring.in_flight() == 1);
  ring.Release(1);
  REQUIRE_OK(ring.Wait(INT64_MAX));
  REQUIRE(ring.Reap(absl::MakeSpan(done)) == 1);
  CHECK(done[0].cookie == 1);
}

}  // namespace
}  // namespace penstock::testing
