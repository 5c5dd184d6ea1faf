// What every backend must do, whatever moves the bytes.
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "ring/backends.h"

#include <catch2/catch.hpp>

namespace penstock::testing {
namespace {

#define ALL_BACKENDS Uring, Threads, Scripted

TEMPLATE_TEST_CASE("files of many sizes come in full and nothing beyond them is written", "[ring]", ALL_BACKENDS) {
  TestType backend({.capacity = 7, .read_bytes_max = 10000});
  const std::vector<uint64_t> sizes = {0,    1,     2,     511,   512,   513,   4095,  4096,   4097,
                                       9999, 10000, 10001, 14096, 14097, 20000, 30001, 100000, 1000003};
  std::vector<uint32_t> objects;
  std::vector<std::vector<std::byte>> memory;
  for (const uint64_t size : sizes) {
    objects.push_back(backend.AddObject(size));
    memory.emplace_back(size + 64, std::byte{0xEE});
  }
  Ring& ring = backend.ring();
  size_t next = 0;
  std::set<uint64_t> seen;
  while (seen.size() < sizes.size()) {
    while (next < sizes.size() && ring.Enqueue({.object = objects[next],
                                                .length_bytes = sizes[next] + 1,
                                                .need_bytes = sizes[next],
                                                .destination = memory[next].data(),
                                                .cookie = next})) {
      ++next;
    }
    for (const Completion& done : ReapCount(ring, 1)) {
      CHECK(seen.insert(done.cookie).second);
      const uint64_t size = sizes[done.cookie];
      INFO("size " << size);
      CHECK(done.error_number == 0);
      CHECK(done.bytes == static_cast<int64_t>(size));
      CHECK((TextOf(memory[done.cookie], size) == ContentOf(objects[done.cookie], size)));
      CHECK(TextOf(memory[done.cookie], size + 64).substr(size) == std::string(64, '\xEE'));
    }
  }
  CHECK(ring.in_flight() == 0);
  CHECK(ring.counters().requests == static_cast<int64_t>(sizes.size()));
  CHECK(ring.counters().chunks >= 100 + 10 + 4);  // those beyond 10000 bytes were cut
}

TEMPLATE_TEST_CASE("a range inside an object comes from its offset", "[ring]", ALL_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(50000);
  std::vector<std::byte> memory(1000);
  const Completion done = RunOne(
      backend.ring(),
      {.object = object, .offset_bytes = 12345, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data(), .cookie = 77});
  CHECK(done.cookie == 77);
  CHECK(done.error_number == 0);
  CHECK(done.bytes == 1000);
  CHECK((TextOf(memory, 1000) == ContentOf(object, 13345).substr(12345)));
}

// Whoever knows a file's length leaves room for one byte more; that byte tells that the file has grown.
TEMPLATE_TEST_CASE("an object with more than is needed shows in the byte count", "[ring]", ALL_BACKENDS) {
  TestType backend({.read_bytes_max = 4096});
  std::vector<std::byte> memory(20000);
  for (const uint64_t expected : {0u, 1u, 4095u, 4096u, 4097u, 8192u, 12288u}) {
    INFO("expected " << expected);
    const uint32_t grown = backend.AddObject(expected + 10);
    const Completion more =
        RunOne(backend.ring(), {.object = grown, .length_bytes = expected + 1, .need_bytes = expected, .destination = memory.data()});
    CHECK(more.error_number == 0);
    CHECK(more.bytes == static_cast<int64_t>(expected) + 1);
    const uint32_t exact = backend.AddObject(expected);
    CHECK(RunOne(backend.ring(), {.object = exact, .length_bytes = expected + 1, .need_bytes = expected, .destination = memory.data()})
              .bytes == static_cast<int64_t>(expected));
  }
}

TEMPLATE_TEST_CASE("an object that ends before what is needed is complete with fewer bytes and no error", "[ring]", ALL_BACKENDS) {
  TestType backend({.read_bytes_max = 4096});
  for (const uint64_t size : {0u, 100u, 4096u, 5000u}) {
    const uint32_t object = backend.AddObject(size);
    std::vector<std::byte> memory(6001);
    const Completion done =
        RunOne(backend.ring(), {.object = object, .length_bytes = 6001, .need_bytes = 6000, .destination = memory.data()});
    CHECK(done.error_number == 0);
    CHECK(done.bytes == static_cast<int64_t>(size));
    CHECK((TextOf(memory, size) == ContentOf(object, size)));
  }
}

TEMPLATE_TEST_CASE("a request for nothing opens the object and no more", "[ring]", ALL_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(10);
  const uint32_t missing = backend.AddMissing();
  const Completion done = RunOne(backend.ring(), {.object = object, .length_bytes = 0, .need_bytes = 0});
  CHECK(done.error_number == 0);
  CHECK(done.bytes == 0);
  CHECK(RunOne(backend.ring(), {.object = missing}).error_number == ENOENT);
  CHECK(backend.ring().counters().chunks == 0);
}

TEMPLATE_TEST_CASE("a missing object fails at its open and its neighbours do not", "[ring]", ALL_BACKENDS) {
  TestType backend({.capacity = 32});
  std::vector<uint32_t> objects;
  for (int i = 0; i < 32; ++i) objects.push_back(i % 5 == 2 ? backend.AddMissing() : backend.AddObject(3000));
  std::vector<std::vector<std::byte>> memory(32, std::vector<std::byte>(3001));
  for (size_t i = 0; i < 32; ++i) {
    REQUIRE(backend.ring().Enqueue(
        {.object = objects[i], .length_bytes = 3001, .need_bytes = 3000, .destination = memory[i].data(), .cookie = i}));
  }
  for (const Completion& done : ReapCount(backend.ring(), 32)) {
    if (done.cookie % 5 == 2) {
      CHECK(done.error_number == ENOENT);
      CHECK(done.stage == RequestStage::kOpen);
      CHECK(done.bytes == 0);
    } else {
      CHECK(done.error_number == 0);
      CHECK((TextOf(memory[done.cookie], 3000) == ContentOf(objects[done.cookie], 3000)));
    }
  }
}

TEMPLATE_TEST_CASE("a full ring takes no more until something is reaped", "[ring]", ALL_BACKENDS) {
  TestType backend({.capacity = 4});
  const uint32_t object = backend.AddObject(100);
  std::vector<std::byte> memory(5 * 100);
  Ring& ring = backend.ring();
  CHECK(ring.capacity() == 4);
  const auto request = [&](size_t i) {
    return Request{.object = object, .length_bytes = 100, .need_bytes = 100, .destination = memory.data() + 100 * i, .cookie = i};
  };
  for (size_t i = 0; i < 4; ++i) REQUIRE(ring.Enqueue(request(i)));
  CHECK(ring.in_flight() == 4);
  CHECK_FALSE(ring.Enqueue(request(4)));
  REQUIRE_OK(ring.Wait(MonotonicNs() + kTestDeadlineNs));
  CHECK_FALSE(ring.Enqueue(request(4)));  // completed is not reaped
  ReapCount(ring, 1);
  CHECK(ring.Enqueue(request(4)));
  CHECK_FALSE(ring.Enqueue(request(0)));
  ReapCount(ring, 4);
  CHECK(ring.in_flight() == 0);
}

TEMPLATE_TEST_CASE("Wait with nothing in flight ends at its deadline", "[ring]", ALL_BACKENDS) {
  TestType backend;
  const int64_t deadline_ns = MonotonicNs() + 20 * kNsPerMs;
  REQUIRE_OK(backend.ring().Wait(deadline_ns));
  CHECK(MonotonicNs() >= deadline_ns);
  REQUIRE_OK(backend.ring().Wait(MonotonicNs() - 1));
  REQUIRE_OK(backend.ring().Wait(0));
}

TEMPLATE_TEST_CASE("Wake ends a Wait in another thread", "[ring]", ALL_BACKENDS) {
  TestType backend;
  std::unique_ptr<std::thread> waker;
  Ring& ring = backend.ring();
  for (int round = 0; round < 20; ++round) {
    std::thread other([&ring, round] {
      if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ring.Wake();
    });
    REQUIRE_OK(ring.Wait(MonotonicNs() + kTestDeadlineNs));
    other.join();
    // One more may be left over where Wake came between two looks.
    REQUIRE_OK(ring.Wait(MonotonicNs() + kNsPerMs));
  }
  // Whoever sleeps until the deadline in spite of a Wake would take minutes here, and fail by the test's own time limit.
  CHECK(ring.in_flight() == 0);
}

TEMPLATE_TEST_CASE("a Wake before the Wait is not lost", "[ring]", ALL_BACKENDS) {
  TestType backend;
  const int64_t start_ns = MonotonicNs();
  for (int i = 0; i < 10; ++i) {
    backend.ring().Wake();
    REQUIRE_OK(backend.ring().Wait(start_ns + 1000 * kNsPerSecond));
  }
  CHECK(MonotonicNs() < start_ns + 1000 * kNsPerSecond);
}

TEMPLATE_TEST_CASE("after Cancel each request completes once and the ring is as new", "[ring]", ALL_BACKENDS) {
  TestType backend({.capacity = 32, .read_bytes_max = 1000});
  std::vector<uint32_t> objects;
  for (int i = 0; i < 32; ++i) objects.push_back(backend.AddObject(50000));
  std::vector<std::vector<std::byte>> memory(32, std::vector<std::byte>(50000));
  Ring& ring = backend.ring();
  for (int round = 0; round < 10; ++round) {
    for (size_t i = 0; i < 32; ++i) {
      REQUIRE(
          ring.Enqueue({.object = objects[i], .length_bytes = 50000, .need_bytes = 50000, .destination = memory[i].data(), .cookie = i}));
      if (i == static_cast<size_t>(2 * round)) REQUIRE_OK(ring.Submit());
    }
    ring.Cancel();
    std::set<uint64_t> seen;
    for (const Completion& done : ReapCount(ring, 32)) {
      CHECK(seen.insert(done.cookie).second);
      CHECK((done.error_number == ECANCELED || (done.error_number == 0 && done.bytes == 50000)));
    }
    CHECK(ring.in_flight() == 0);
  }
  const Completion done = RunOne(ring, {.object = objects[3], .length_bytes = 50000, .need_bytes = 50000, .destination = memory[0].data()});
  CHECK(done.error_number == 0);
  CHECK((TextOf(memory[0], 50000) == ContentOf(objects[3], 50000)));
}

TEMPLATE_TEST_CASE("requests that were never submitted end with ECANCELED", "[ring]", ALL_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(100);
  std::vector<std::byte> memory(100);
  for (uint64_t i = 0; i < 3; ++i) {
    REQUIRE(backend.ring().Enqueue({.object = object, .length_bytes = 100, .need_bytes = 100, .destination = memory.data(), .cookie = i}));
  }
  backend.ring().Cancel();
  for (const Completion& done : ReapCount(backend.ring(), 3)) CHECK(done.error_number == ECANCELED);
}

TEMPLATE_TEST_CASE("a write is read back", "[ring]", ALL_BACKENDS) {
  TestType backend({.read_bytes_max = 4096});
  const uint32_t object = backend.AddObject(20000);
  std::vector<std::byte> memory(10000);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 7);
  CHECK(RunOne(backend.ring(), {.kind = RequestKind::kWrite,
                                .object = object,
                                .offset_bytes = 5000,
                                .length_bytes = 10000,
                                .need_bytes = 10000,
                                .destination = memory.data()})
            .bytes == 10000);
  CHECK(RunOne(backend.ring(), {.kind = RequestKind::kSync, .object = object}).error_number == 0);
  std::vector<std::byte> back(20000);
  CHECK(RunOne(backend.ring(), {.object = object, .length_bytes = 20000, .need_bytes = 20000, .destination = back.data()}).bytes == 20000);
  std::string expected = ContentOf(object, 20000);
  expected.replace(5000, 10000, TextOf(memory, 10000));
  CHECK((TextOf(back, 20000) == expected));
}

// Slots are used again and again, in every order; each completion must carry its own request's bytes.
TEMPLATE_TEST_CASE("100000 requests of random place and depth each bring their own bytes", "[ring]", ALL_BACKENDS) {
  std::mt19937_64 random(Catch::rngSeed());
  const size_t total = 100000;
  size_t begun = 0;
  size_t ended = 0;
  while (ended < total) {
    const size_t capacity = 1 + random() % 200;
    TestType backend({.capacity = capacity, .read_bytes_max = 1 + random() % 3000, .io_worker_max = 1 + static_cast<int>(random() % 6)});
    std::vector<uint32_t> objects;
    std::vector<std::string> contents;
    for (int i = 0; i < 20; ++i) {
      const uint64_t size = random() % 6000;
      objects.push_back(backend.AddObject(size));
      contents.push_back(ContentOf(objects.back(), size));
    }
    struct Job {
      size_t object;
      uint64_t offset, need;
      std::vector<std::byte> memory;
      bool in_flight = false;
    };
    std::vector<Job> jobs(capacity);
    std::vector<size_t> free;
    for (size_t i = 0; i < capacity; ++i) free.push_back(i);
    Ring& ring = backend.ring();
    const size_t until = std::min(total, begun + total / 10);
    while (ended < until) {
      for (size_t burst = 1 + random() % 40; burst > 0 && !free.empty() && begun < until; --burst) {
        const size_t j = free[random() % free.size()];
        Job& job = jobs[j];
        job.object = random() % objects.size();
        job.offset = random() % (contents[job.object].size() + 1);
        job.need = random() % (contents[job.object].size() + 2 - job.offset);
        job.memory.assign(job.need + 1, std::byte{0xEE});
        REQUIRE(ring.Enqueue({.object = objects[job.object],
                              .offset_bytes = job.offset,
                              .length_bytes = job.need + 1,
                              .need_bytes = job.need,
                              .destination = job.memory.data(),
                              .cookie = j}));
        job.in_flight = true;
        free.erase(std::find(free.begin(), free.end(), j));
        ++begun;
      }
      if (random() % 2 == 0) REQUIRE_OK(ring.Submit());
      if (random() % 2 == 0) REQUIRE_OK(ring.Wait(MonotonicNs() + kTestDeadlineNs));
      Completion done[32];
      const size_t count = ring.Reap(absl::MakeSpan(done, 1 + random() % 32));
      for (size_t i = 0; i < count; ++i) {
        Job& job = jobs[done[i].cookie];
        const std::string& content = contents[job.object];
        const int64_t there = static_cast<int64_t>(content.size() - job.offset);
        const int64_t bytes = done[i].bytes;
        const bool right = job.in_flight && done[i].error_number == 0 && bytes <= there && bytes <= static_cast<int64_t>(job.need) + 1 &&
                           (bytes >= static_cast<int64_t>(job.need) || bytes == there) &&
                           TextOf(job.memory, static_cast<size_t>(bytes)) == content.substr(job.offset, static_cast<size_t>(bytes));
        if (!right) {
          FAIL("request " << ended << " object " << job.object << " offset " << job.offset << " need " << job.need << ": " << bytes
                          << " bytes, error " << done[i].error_number);
        }
        job.in_flight = false;
        free.push_back(done[i].cookie);
        ++ended;
      }
      if (ring.in_flight() == 0 && begun == until) break;
    }
    REQUIRE(ring.in_flight() == 0);
  }
  CHECK(ended == total);
}

}  // namespace
}  // namespace penstock::testing
