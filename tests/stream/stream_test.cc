// One stream over a scripted ring: what it asks for, what it makes of what comes, and what it gives back. No loader, no kernel.
#include "stream/stream.h"

#include <cerrno>
#include <random>
#include <set>

#include "codec/compute_pool.h"
#include "stream/work.h"

using namespace penstock;
using namespace penstock::testing;
using Hang = ObjectScript::Hang;

namespace {

// Samples that are whole files, one object each.
std::vector<Part> Files(uint32_t count, uint64_t bytes, uint32_t first_object = 0) {
  std::vector<Part> parts;
  for (uint32_t i = 0; i < count; ++i) parts.push_back({first_object + i, 0, bytes, true});
  return parts;
}

// Files of exactly the indexed size.
std::function<void(ScriptedRing&)> Sized(uint32_t count, uint64_t bytes) {
  return [=](ScriptedRing& ring) {
    for (uint32_t i = 0; i < count; ++i) ring.SetObject(i, {.object_bytes = bytes});
  };
}

std::set<uint32_t> Indices(const std::vector<SampleFailure>& failures) {
  std::set<uint32_t> indices;
  for (const SampleFailure& failure : failures) indices.insert(failure.index);
  return indices;
}

std::string Text(const SampleFailure& failure) { return failure.status.ToString(); }

}  // namespace

TEST_CASE("every byte of every sample comes to its place, whatever the depth and the order of completions", "[stream]") {
  std::mt19937_64 random(7);
  for (const auto order : {ScriptedRing::Order::kFirstFirst, ScriptedRing::Order::kLastFirst, ScriptedRing::Order::kRandom}) {
    for (const size_t capacity : {size_t{1}, size_t{3}, size_t{64}}) {
      Work work;
      std::vector<Part> parts;
      for (uint32_t i = 0; i < 300; ++i) parts.push_back({static_cast<uint32_t>(random() % 40), random() % 5000, random() % 20000});
      const auto first = work.Add(parts, {.piece_bytes = 256 << 10});
      const auto second = work.Add(parts, {.piece_bytes = 64 << 10, .coalesce_gap_bytes = 4096, .hole_bytes_max = 1 << 20});
      Running running(work, {.capacity = capacity, .read_bytes_max = 4096, .order = order, .completions_per_reap = 5, .seed = 3}, {});
      work.AwaitFinished(first);
      work.AwaitFinished(second);
      CHECK(work.failures().empty());
      CHECK(work.Wrong(*first).empty());
      CHECK(work.Wrong(*second).empty());
      CHECK(work.stats().retries == 0);
      CHECK(work.stats().requests == static_cast<int64_t>(first->plan().extents.size() + second->plan().extents.size()));
    }
  }
}

TEST_CASE("a sample larger than a piece is read by the pieces that it spans", "[stream]") {
  Work work;
  const auto batch = work.Add({{0, 0, 700'001, true}, {1, 0, 100, true}}, {.piece_bytes = 128 << 10});
  REQUIRE(batch->plan().pieces.size() > 4);
  Running running(work, {.capacity = 2}, {}, [](ScriptedRing& ring) {
    ring.SetObject(0, {.object_bytes = 700'001});
    ring.SetObject(1, {.object_bytes = 100});
  });
  work.AwaitFinished(batch);
  CHECK(work.failures().empty());
  CHECK(work.Wrong(*batch).empty());
}

TEST_CASE("a short read goes on from where it stopped, into the same place", "[stream]") {
  Work work;
  const auto batch = work.Add({{0, 0, 8192, true}});
  Running running(work, {}, {}, [](ScriptedRing& ring) { ring.SetObject(0, {.completions = {100, 1, 4000}, .object_bytes = 8192}); });
  work.AwaitFinished(batch);
  CHECK(work.Wrong(*batch).empty());
  CHECK(work.failures().empty());
  const auto submissions = running.ring().submissions();
  REQUIRE(submissions.size() >= 4);
  CHECK(submissions[1].offset_bytes == 100);
  CHECK(submissions[2].offset_bytes == 101);
  CHECK(submissions[3].offset_bytes == 4101);
  CHECK(submissions[3].address == submissions[0].address + 4101);
  CHECK(work.stats().retries == 0);
}

TEST_CASE("a failed read is tried again as often as was asked for, and then fails its sample alone", "[stream]") {
  for (const int32_t retries : {0, 1, 3}) {
    Work work;
    const auto batch = work.Add(Files(20, 3000));
    StreamOptions options;
    options.retries = retries;
    Running running(work, {}, options, [&](ScriptedRing& ring) {
      for (uint32_t i = 0; i < 20; ++i) ring.SetObject(i, {.object_bytes = 3000});
      ring.SetObject(7, {.completions = std::vector<int64_t>(20, -EIO), .object_bytes = 3000});
      // As many errors as there are tries, but the last one comes.
      ring.SetObject(11, {.completions = std::vector<int64_t>(static_cast<size_t>(retries), -EIO), .object_bytes = 3000});
    });
    work.AwaitFinished(batch);
    const auto failures = work.failures();
    REQUIRE(failures.size() == 1);
    CHECK(failures[0].index == 7);
    CHECK(!failures[0].hung);
    CHECK(failures[0].status.code() == absl::StatusCode::kDataLoss);
    CHECK(Text(failures[0]).find("read of object-7, bytes [0, 3000), sample 7, stream 0") != std::string::npos);
    CHECK(work.Wrong(*batch) == std::vector<uint32_t>{7});
    CHECK(work.stats().retries == 2 * retries);
    int64_t tries = 0;
    for (const auto& submission : running.ring().submissions()) tries += submission.object == 7 ? 1 : 0;
    CHECK(tries == retries + 1);
  }
}

TEST_CASE("an open that fails names the open", "[stream]") {
  Work work;
  const auto batch = work.Add(Files(3, 1000));
  StreamOptions options;
  options.retries = 0;
  Running running(work, {}, options, [](ScriptedRing& ring) {
    Sized(3, 1000)(ring);
    ring.SetObject(1, {.open_error = EACCES});
  });
  work.AwaitFinished(batch);
  REQUIRE(work.failures().size() == 1);
  CHECK(work.failures()[0].status.code() == absl::StatusCode::kPermissionDenied);
  CHECK(Text(work.failures()[0]).find("open of object-1") != std::string::npos);
}

TEST_CASE("a want of descriptors is waited out beyond the retries", "[stream]") {
  Work work;
  const auto batch = work.Add(Files(2, 1000));
  StreamOptions options;
  options.retries = 0;
  Running running(work, {}, options, [](ScriptedRing& ring) {
    Sized(2, 1000)(ring);
    ring.SetObject(1, {.completions = {-EMFILE, -ENFILE, -EMFILE}, .object_bytes = 1000});
  });
  work.AwaitFinished(batch);
  CHECK(work.failures().empty());
  CHECK(work.Wrong(*batch).empty());
  CHECK(work.stats().retries == 3);
}

TEST_CASE("an object that ends early fails its samples with the byte at which it ends", "[stream]") {
  Work work;
  const auto batch = work.Add(Files(4, 5000));
  StreamOptions options;
  options.retries = 1;
  Running running(work, {}, options, [](ScriptedRing& ring) {
    Sized(4, 5000)(ring);
    ring.SetObject(2, {.object_bytes = 1234});
  });
  work.AwaitFinished(batch);
  REQUIRE(work.failures().size() == 1);
  CHECK(work.failures()[0].index == 2);
  CHECK(work.failures()[0].status.code() == absl::StatusCode::kDataLoss);
  CHECK(Text(work.failures()[0]).find("ends at byte 1234") != std::string::npos);
}

TEST_CASE("where a read that several samples share fails, each is read by itself and only the bad one fails", "[stream]") {
  Work work;
  std::vector<Part> parts;
  for (uint64_t i = 0; i < 8; ++i) parts.push_back({0, 1000 * i, 1000});
  const auto batch = work.Add(parts, {.coalesce_gap_bytes = 4096, .hole_bytes_max = 1 << 20, .sort_by_object = true});
  REQUIRE(batch->plan().extents.size() == 1);
  StreamOptions options;
  options.retries = 0;
  // The shared read fails, then one of the eight.
  Running running(work, {.capacity = 1}, options, [](ScriptedRing& ring) {
    ring.SetObject(0, {.completions = {-EIO, 1000, 1000, -EIO}, .object_bytes = 8000});
  });
  work.AwaitFinished(batch);
  const auto failures = work.failures();
  REQUIRE(failures.size() == 1);
  CHECK(work.Wrong(*batch) == std::vector<uint32_t>{failures[0].index});
  CHECK(Text(failures[0]).find(absl::StrCat("bytes [", 1000 * failures[0].index, ", ", 1000 * failures[0].index + 1000, ")")) !=
        std::string::npos);
  CHECK(running.ring().submissions().size() == 9);
}

TEST_CASE("a read past its deadline fails its sample as hung; the memory is the kernel's until it lets go", "[stream]") {
  Work work;
  auto batch = work.Add(Files(6, 4096));
  std::weak_ptr<Attempt> alive = batch;
  StreamOptions options;
  options.retries = 5;
  options.deadline_ns = 200 * kNsPerMs;
  Running running(work, {}, options, [](ScriptedRing& ring) {
    Sized(6, 4096)(ring);
    ring.SetObject(3, {.object_bytes = 4096, .hang = Hang::kUntilReleased, .hang_at_bytes = 0});
  });
  work.AwaitFailures(1);
  const auto failures = work.failures();
  CHECK(Indices(failures) == std::set<uint32_t>{3});
  CHECK(failures[0].hung);
  CHECK(failures[0].status.code() == absl::StatusCode::kDeadlineExceeded);
  CHECK(Text(failures[0]).find("object-3") != std::string::npos);
  CHECK(batch->quarantined());
  CHECK(work.arena().quarantined_granules() == batch->run().granules);
  // The one that waits for it gives up; the stream does not let go before the kernel does.
  batch->Cancel();
  batch.reset();
  CHECK(!alive.expired());
  CHECK(work.arena().quarantined_granules() == 1);
  running.ring().ReleaseAll();
  running.stream().Wake();
  work.Await("the memory of the read that hung", [&] { return alive.expired(); });
  CHECK(work.arena().quarantined_granules() == 0);
}

TEST_CASE("Stop cancels what can be cancelled and ends the stream", "[stream]") {
  Work work;
  const auto batch = work.Add(Files(8, 4096));
  Running running(work, {.capacity = 4}, {}, [](ScriptedRing& ring) {
    for (uint32_t i = 0; i < 8; ++i) ring.SetObject(i, {.object_bytes = 4096, .hang = Hang::kUntilCancelled});
  });
  work.Await("requests in flight", [&] { return running.stream().in_flight() == 4; });
  work.Stop();
  running.stream().Wake();
  running.Join();
  CHECK(running.ring().cancel_count() == 1);
  CHECK(running.ring().in_flight() == 0);
  CHECK(running.stream().in_flight() == 0);
  CHECK(work.failures().empty());  // nobody asked any more
}

TEST_CASE("a stream whose read hangs past Stop ends when the kernel lets go and not before", "[stream]") {
  Work work;
  const auto batch = work.Add(Files(2, 4096));
  Running running(work, {}, {}, [](ScriptedRing& ring) {
    Sized(2, 4096)(ring);
    ring.SetObject(0, {.object_bytes = 4096, .hang = Hang::kUntilReleased});
  });
  work.Await("a read in flight", [&] { return running.stream().in_flight() == 1; });
  work.Stop();
  running.stream().Wake();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(!running.ended());
  CHECK(running.ring().in_flight() == 1);
  running.ring().ReleaseAll();
  running.stream().Wake();
  running.Join();
  CHECK(running.ended());
}

TEST_CASE("a batch that is given up is dropped: what was not handed over is not read", "[stream]") {
  Work work;
  const auto dropped = work.Add(Files(100, 4096));
  const auto kept = work.Add(Files(10, 4096, /*first_object=*/200));
  Running running(work, {.capacity = 2}, {}, [](ScriptedRing& ring) {
    for (uint32_t i = 0; i < 100; ++i) ring.SetObject(i, {.object_bytes = 4096, .hang = Hang::kUntilReleased});
    for (uint32_t i = 200; i < 210; ++i) ring.SetObject(i, {.object_bytes = 4096});
  });
  work.Await("two reads in flight", [&] { return running.stream().in_flight() == 2; });
  dropped->Cancel();
  running.ring().ReleaseAll();
  running.stream().Wake();
  work.AwaitFinished(kept);
  work.AwaitFinished(dropped);
  CHECK(work.failures().empty());
  CHECK(work.Wrong(*kept).empty());
  std::set<uint32_t> read;
  for (const auto& submission : running.ring().submissions()) read.insert(submission.object);
  CHECK(read.size() <= 2 + 10);
}

TEST_CASE("no more requests are in flight than the depth allows, and a greater depth is used at once", "[stream]") {
  Work work;
  const auto batch = work.Add(Files(64, 4096));
  StreamOptions options;
  options.depth = 3;
  Running running(work, {.capacity = 32}, options, [](ScriptedRing& ring) {
    for (uint32_t i = 0; i < 64; ++i) ring.SetObject(i, {.object_bytes = 4096, .hang = Hang::kUntilReleased});
  });
  work.Await("the first depth", [&] { return running.stream().in_flight() == 3; });
  work.AwaitTicks(2);
  CHECK(running.ring().in_flight() == 3);
  running.stream().SetDepth(17);
  running.stream().Wake();
  work.Await("the second depth", [&] { return running.stream().in_flight() == 17; });
  running.stream().SetDepth(1000);  // as far as the ring goes
  running.stream().Wake();
  work.Await("the ring's capacity", [&] { return running.stream().in_flight() == 32; });
  running.ring().ReleaseAll();
  running.stream().Wake();
  work.AwaitFinished(batch);
  CHECK(work.Wrong(*batch).empty());
}

TEST_CASE("a stream all of whose requests hang gives its other pieces up", "[stream]") {
  Work work;
  std::vector<Part> parts = Files(40, 40'000);
  const auto batch = work.Add(parts, {.piece_bytes = 512 << 10});
  REQUIRE(batch->plan().pieces.size() > 1);
  StreamOptions options;
  options.deadline_ns = 200 * kNsPerMs;
  options.retries = 0;
  Running running(work, {.capacity = 2}, options, [](ScriptedRing& ring) {
    for (uint32_t i = 0; i < 40; ++i) ring.SetObject(i, {.object_bytes = 40'000, .hang = Hang::kUntilReleased});
  });
  work.AwaitFailures(3);
  bool all_hang = false;
  for (const SampleFailure& failure : work.failures()) {
    CHECK(failure.hung);
    all_hang = all_hang || Text(failure).find("all its 2 reads in flight hang") != std::string::npos;
  }
  CHECK(all_hang);
}

TEST_CASE("the request that has waited longest is told by name", "[stream]") {
  Work work;
  const auto batch = work.Add(Files(3, 4096));
  Running running(work, {}, {}, [](ScriptedRing& ring) {
    Sized(3, 4096)(ring);
    ring.SetObject(2, {.object_bytes = 4096, .hang = Hang::kUntilReleased});
  });
  OldestRequest oldest;
  work.Await("a request that is late", [&] {
    oldest = running.stream().Oldest(MonotonicNs());
    return oldest.since_ns != 0;
  });
  CHECK(oldest.text.find("object-2, bytes [0, 4096), sample 2, stream 0") != std::string::npos);
  CHECK(oldest.step == 0);
  running.ring().ReleaseAll();
  running.stream().Wake();
  work.AwaitFinished(batch);
  work.Await("nothing that is late", [&] { return running.stream().Oldest(MonotonicNs()).since_ns == 0; });
}

TEST_CASE("the codec has each piece after its last byte and before it is given back", "[stream]") {
  ComputePoolOptions pool_options;
  pool_options.threads = 2;
  auto pool = ComputePool::Create(pool_options);
  REQUIRE_OK(pool);
  Work work;
  const auto batch = work.Add(Files(60, 9000), {.scratch = true, .piece_bytes = 128 << 10});
  StreamOptions options;
  options.compute = pool->get();
  {
    Running running(work, {.capacity = 5, .order = ScriptedRing::Order::kRandom}, options, Sized(60, 9000));
    work.AwaitFinished(batch);
    CHECK(work.decoded() == static_cast<int64_t>(batch->plan().pieces.size()));
    CHECK(work.Wrong(*batch).empty());
    CHECK(work.failures().empty());
  }
}

TEST_CASE("an object of another time of modification than its index says is refused", "[stream]") {
  Work work;
  work.mtimes[1] = 77;  // what a scripted object has is not known: another one
  const auto batch = work.Add(Files(3, 100));
  StreamOptions options;
  options.verify_stat = true;
  options.retries = 0;
  Running running(work, {}, options, Sized(3, 100));
  work.AwaitFinished(batch);
  REQUIRE(work.failures().size() == 1);
  CHECK(work.failures()[0].index == 1);
  CHECK(Text(work.failures()[0]).find("verify=stat") != std::string::npos);
}
