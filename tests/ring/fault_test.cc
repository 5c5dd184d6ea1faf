// What both file backends do when reads fail, come short, wait or hang: provoked by a FUSE file system.
#include <sys/mman.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "ring/backends.h"
#include "support/fault_fs.h"

#include <catch2/catch.hpp>

namespace penstock::testing {
namespace {

#define FILE_BACKENDS UringMount, ThreadsMount

// Files in the faulty file system. The ring ends before the mount does.
struct Mount {
  Mount(Engine engine, RingOptions options) : engine(engine), options(options) {
    if (engine == Engine::kUring) SkipWithoutUring();
    faults = std::make_unique<FaultFs>();
    objects = std::make_unique<NamedObjects>(faults->mounted());
  }
  ~Mount() { faults->Clear(); }

  uint32_t Add(const std::string& name, uint64_t bytes) {
    const uint32_t object = objects->Add(name);
    std::ofstream file(faults->backing() + "/" + name, std::ios::binary);
    file << ContentOf(object, bytes);
    return object;
  }
  Ring& ring() {
    if (made == nullptr) {
      auto ring = MakeRing(engine, *objects, options, pool);
      REQUIRE_OK(ring);
      made = *std::move(ring);
    }
    return *made;
  }

  const Engine engine;
  const RingOptions options;
  std::unique_ptr<FaultFs> faults;
  std::unique_ptr<NamedObjects> objects;
  std::shared_ptr<PreadPool> pool = std::make_shared<PreadPool>(16);
  std::unique_ptr<Ring> made;
};

// Lets the ring work until so many reads or opens hang. A buffered read's readahead hangs before the reader itself waits for it, hence the
// further wait: until then the read can still be cancelled.
void AwaitHangs(Mount& mount, Ring& ring, int64_t count) {
  const int64_t deadline_ns = MonotonicNs() + kTestDeadlineNs;
  while (mount.faults->hangs() < count && MonotonicNs() < deadline_ns) REQUIRE_OK(ring.Wait(MonotonicNs() + 5 * kNsPerMs));
  REQUIRE(mount.faults->hangs() >= count);
  REQUIRE_OK(ring.Wait(MonotonicNs() + 50 * kNsPerMs));
}

struct UringMount : Mount {
  explicit UringMount(RingOptions options = {}) : Mount(Engine::kUring, options) {}
};
struct ThreadsMount : Mount {
  explicit ThreadsMount(RingOptions options = {}) : Mount(Engine::kThreads, options) {}
};

struct Pages {
  explicit Pages(size_t bytes)
      : bytes(bytes), data(static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~Pages() { ::munmap(data, bytes); }
  std::string Text(size_t offset, size_t count) const { return std::string(reinterpret_cast<const char*>(data) + offset, count); }
  const size_t bytes;
  std::byte* const data;
};

TEMPLATE_TEST_CASE("EIO of one file leaves its neighbours alone", "[ring][fault]", FILE_BACKENDS) {
  TestType mount({.capacity = 16});
  std::vector<uint32_t> objects;
  for (int i = 0; i < 16; ++i) objects.push_back(mount.Add(absl::StrCat(i == 5 ? "bad" : "good", i), 10000));
  mount.faults->Set("bad* eio\n");
  std::vector<std::vector<std::byte>> memory(16, std::vector<std::byte>(10001));
  for (size_t i = 0; i < 16; ++i) {
    REQUIRE(mount.ring().Enqueue(
        {.object = objects[i], .length_bytes = 10001, .need_bytes = 10000, .destination = memory[i].data(), .cookie = i}));
  }
  for (const Completion& done : ReapCount(mount.ring(), 16)) {
    if (done.cookie == 5) {
      CHECK(done.error_number == EIO);
      CHECK(done.stage == RequestStage::kTransfer);
    } else {
      CHECK(done.error_number == 0);
      CHECK((TextOf(memory[done.cookie], 10000) == ContentOf(objects[done.cookie], 10000)));
    }
  }
}

TEMPLATE_TEST_CASE("an error in the middle of a file reports the bytes before it", "[ring][fault]", FILE_BACKENDS) {
  TestType mount({.read_bytes_max = 65536});
  const uint32_t object = mount.Add("file", 400000);
  mount.faults->Set("file eio 200000 1\nfile direct\n");
  std::vector<std::byte> memory(400000);
  const Completion done =
      RunOne(mount.ring(), {.object = object, .length_bytes = 400000, .need_bytes = 400000, .destination = memory.data()});
  CHECK(done.error_number == EIO);
  CHECK(done.bytes >= 65536);
  CHECK(done.bytes <= 200000);
  CHECK((TextOf(memory, static_cast<size_t>(done.bytes)) == ContentOf(object, static_cast<uint64_t>(done.bytes))));
}

TEMPLATE_TEST_CASE("errors of open and read come with their number and stage", "[ring][fault]", FILE_BACKENDS) {
  TestType mount;
  std::vector<std::byte> memory(100);
  const auto run = [&](uint32_t object) {
    return RunOne(mount.ring(), {.object = object, .length_bytes = 100, .need_bytes = 100, .destination = memory.data()});
  };
  const uint32_t stale = mount.Add("stale", 100);
  const uint32_t locked = mount.Add("locked", 100);
  mount.faults->Set(absl::StrCat("stale errno ", ESTALE, "\nlocked openerr ", ETXTBSY, "\n"));
  const Completion read = run(stale);
  CHECK(read.error_number == ESTALE);
  CHECK(read.stage == RequestStage::kTransfer);
  const Completion open = run(locked);
  CHECK(open.error_number == ETXTBSY);
  CHECK(open.stage == RequestStage::kOpen);
}

TEMPLATE_TEST_CASE("short reads in the middle lose nothing", "[ring][fault]", FILE_BACKENDS) {
  TestType mount({.read_bytes_max = 131072});
  const uint32_t object = mount.Add("file", 500000);
  const uint32_t unbuffered = mount.Add("unbuffered", 500000);
  mount.faults->Set("* short\nunbuffered direct\n");
  Pages memory(512 << 10);
  const Completion direct = RunOne(
      mount.ring(), {.direct = true, .object = object, .length_bytes = 500 * 1024, .need_bytes = 500000, .destination = memory.data});
  CHECK(direct.error_number == 0);
  CHECK(direct.bytes == 500000);
  CHECK((memory.Text(0, 500000) == ContentOf(object, 500000)));
  const Completion plain =
      RunOne(mount.ring(), {.object = unbuffered, .length_bytes = 500001, .need_bytes = 500000, .destination = memory.data});
  CHECK(plain.error_number == 0);
  CHECK(plain.bytes == 500000);
  CHECK((memory.Text(0, 500000) == ContentOf(unbuffered, 500000)));
  CHECK(mount.ring().counters().chunks > 10);  // they did come short
}

TEMPLATE_TEST_CASE("a file that is cut after it was indexed comes short", "[ring][fault]", FILE_BACKENDS) {
  TestType mount;
  const uint32_t object = mount.Add("file", 10000);
  mount.faults->Set("file trunc 6000\n");
  std::vector<std::byte> memory(10001);
  const Completion done =
      RunOne(mount.ring(), {.object = object, .length_bytes = 10001, .need_bytes = 10000, .destination = memory.data()});
  CHECK(done.error_number == 0);
  CHECK(done.bytes == 6000);
}

TEMPLATE_TEST_CASE("slow files do not hold up fast ones in the same ring", "[ring][fault]", FILE_BACKENDS) {
  TestType mount({.capacity = 16});
  std::vector<uint32_t> objects;
  for (int i = 0; i < 16; ++i) objects.push_back(mount.Add(absl::StrCat(i % 4 == 0 ? "slow" : "fast", i), 1000));
  mount.faults->Set("slow* hang\n");
  std::vector<std::vector<std::byte>> memory(16, std::vector<std::byte>(1000));
  for (size_t i = 0; i < 16; ++i) {
    REQUIRE(mount.ring().Enqueue(
        {.object = objects[i], .length_bytes = 1000, .need_bytes = 1000, .destination = memory[i].data(), .cookie = i}));
  }
  for (const Completion& done : ReapCount(mount.ring(), 12)) CHECK(done.cookie % 4 != 0);
  CHECK(mount.ring().in_flight() == 4);
  mount.faults->Clear();
  for (const Completion& done : ReapCount(mount.ring(), 4)) CHECK(done.bytes == 1000);
}

TEMPLATE_TEST_CASE("Wait keeps its deadline while every read hangs", "[ring][fault]", FILE_BACKENDS) {
  for (const char* more : {"", "file direct\n"}) {
    for (const bool direct : {false, true}) {
      TestType mount({.capacity = 4});
      const uint32_t object = mount.Add("file", 8192);
      mount.faults->Set(absl::StrCat("file hanghard\n", more));
      Pages memory(16384);
      REQUIRE(
          mount.ring().Enqueue({.direct = direct, .object = object, .length_bytes = 8192, .need_bytes = 8192, .destination = memory.data}));
      std::atomic<bool> returned{false};
      std::thread guard([&] {
        // If the hang got into the ring's own calls, nothing but its end would bring them back.
        for (int i = 0; i < 1000 && !returned; ++i) ::usleep(10000);
        mount.faults->Clear();
      });
      bool in_flight = false;
      REQUIRE_OK(mount.ring().Submit());
      REQUIRE_OK(mount.ring().Wait(MonotonicNs() + 50 * kNsPerMs));
      Completion done;
      in_flight = mount.ring().Reap({&done, 1}) == 0 && mount.ring().in_flight() == 1;
      returned = true;
      guard.join();
      INFO("direct " << direct << " " << more);
      CHECK(in_flight);
      if (in_flight) CHECK(ReapCount(mount.ring(), 1)[0].bytes == 8192);
    }
  }
}

TEMPLATE_TEST_CASE("a hang that can be interrupted ends with Cancel", "[ring][fault]", FILE_BACKENDS) {
  TestType mount;
  const uint32_t object = mount.Add("file", 8192);
  mount.faults->Set("file hang\n");
  std::vector<std::byte> memory(8192);
  REQUIRE(mount.ring().Enqueue({.object = object, .length_bytes = 8192, .need_bytes = 8192, .destination = memory.data()}));
  AwaitHangs(mount, mount.ring(), 1);
  mount.ring().Cancel();
  REQUIRE_OK(mount.ring().Wait(MonotonicNs() + 200 * kNsPerMs));
  // The pool's threads take no signals, so their reads go on until the mount answers; a ring may end at once.
  mount.faults->Clear();
  const Completion done = ReapCount(mount.ring(), 1)[0];
  CHECK((done.error_number == ECANCELED || done.bytes == 8192));
}

TEMPLATE_TEST_CASE("a read that hangs hard stays in flight after Cancel and writes nothing after its completion", "[ring][fault]",
                   FILE_BACKENDS) {
  for (const bool direct : {false, true}) {
    INFO("direct " << direct);
    TestType mount({.capacity = 4});
    const uint32_t hung = mount.Add("hung", 65536);
    const uint32_t fine = mount.Add("fine", 65536);
    mount.faults->Set("hung hanghard\n");
    Pages memory(2 * 65536);
    REQUIRE(mount.ring().Enqueue(
        {.direct = direct, .object = hung, .length_bytes = 65536, .need_bytes = 65536, .destination = memory.data, .cookie = 1}));
    AwaitHangs(mount, mount.ring(), 1);
    mount.ring().Cancel();
    REQUIRE_OK(mount.ring().Wait(MonotonicNs() + 100 * kNsPerMs));
    Completion done;
    REQUIRE(mount.ring().Reap({&done, 1}) == 0);
    CHECK(mount.ring().in_flight() == 1);
    // The ring goes on beside it.
    const Completion other =
        RunOne(mount.ring(), {.object = fine, .length_bytes = 65536, .need_bytes = 65536, .destination = memory.data + 65536, .cookie = 2});
    CHECK(other.cookie == 2);
    CHECK(other.bytes == 65536);
    mount.ring().Cancel();  // a second one must not hit anything else
    mount.faults->Clear();
    const Completion last = ReapCount(mount.ring(), 1)[0];
    CHECK(last.cookie == 1);
    CHECK((last.error_number == ECANCELED || last.bytes == 65536));
    std::fill_n(memory.data, 65536, std::byte{0xEE});
    ::usleep(300000);  // in faults like this one, late writes came 0.05-0.11 s after the release
    CHECK(memory.Text(0, 65536) == std::string(65536, '\xEE'));
    CHECK(mount.ring().in_flight() == 0);
  }
}

TEMPLATE_TEST_CASE("an open that hangs stays in flight and the others go on", "[ring][fault]", FILE_BACKENDS) {
  TestType mount({.capacity = 4});
  const uint32_t hung = mount.Add("hung", 1000);
  const uint32_t fine = mount.Add("fine", 1000);
  mount.faults->Set("hung openhang\n");
  std::vector<std::byte> memory(2000);
  REQUIRE(mount.ring().Enqueue({.object = hung, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data(), .cookie = 1}));
  AwaitHangs(mount, mount.ring(), 1);
  CHECK(RunOne(mount.ring(), {.object = fine, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data() + 1000, .cookie = 2})
            .cookie == 2);
  CHECK(mount.ring().in_flight() == 1);
  mount.faults->Clear();
  CHECK(ReapCount(mount.ring(), 1)[0].bytes == 1000);
}

TEST_CASE("a pool is destroyed while one of its threads hangs and the hung read still completes", "[ring][fault]") {
  auto mount = std::make_unique<ThreadsMount>(RingOptions{.capacity = 4});
  const uint32_t hung = mount->Add("hung", 1000);
  mount->faults->Set("hung hanghard\n");
  std::vector<std::byte> memory(1000);
  REQUIRE(mount->ring().Enqueue({.object = hung, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data()}));
  AwaitHangs(*mount, mount->ring(), 1);
  // A second pool whose ring is left behind with its read in flight, as a loader does at its end.
  auto pool = std::make_unique<PreadPool>(2);
  std::shared_ptr<PreadPool> lent(pool.get(), [](PreadPool*) {});
  auto left = MakeRing(Engine::kThreads, *mount->objects, {.capacity = 4}, lent);
  REQUIRE_OK(left);
  std::vector<std::byte> quarantined(1000);
  REQUIRE((*left)->Enqueue({.object = hung, .length_bytes = 1000, .need_bytes = 1000, .destination = quarantined.data()}));
  AwaitHangs(*mount, **left, 1);  // it waits for the page that the first read asked for
  pool.reset();
  CHECK((*left)->in_flight() == 1);
  mount->faults->Clear();
  Completion done;
  const int64_t deadline_ns = MonotonicNs() + kTestDeadlineNs;
  while ((*left)->Reap({&done, 1}) == 0 && MonotonicNs() < deadline_ns) ::usleep(1000);
  CHECK(done.bytes == 1000);
  CHECK(ReapCount(mount->ring(), 1)[0].bytes == 1000);
}

// Fast reads make a thread take several requests at once; those behind one that hangs must not wait for it.
TEST_CASE("a pool is given more threads, and fewer again", "[ring][fault]") {
  ThreadsMount mount({.capacity = 64});
  mount.pool = std::make_shared<PreadPool>(2);
  std::vector<uint32_t> objects;
  for (int i = 0; i < 64; ++i) objects.push_back(mount.Add(absl::StrCat("slow", i), 100));
  mount.faults->Set("* direct\n* delay 20000\n");
  std::vector<std::byte> memory(64 * 100);
  // How many reads were at it at once, as the last of them saw it.
  const auto at_once = [&] {
    Ring& ring = mount.ring();
    for (size_t i = 0; i < objects.size(); ++i) {
      Request request{.object = objects[i], .length_bytes = 100, .need_bytes = 100, .destination = memory.data() + 100 * i, .cookie = i};
      REQUIRE(ring.Enqueue(request));
    }
    int32_t most = 0;
    std::vector<Completion> completions(64);
    for (size_t done = 0; done < objects.size();) {
      REQUIRE_OK(ring.Wait(MonotonicNs() + kTestDeadlineNs));
      const size_t count = ring.Reap(absl::MakeSpan(completions));
      REQUIRE(count > 0);
      for (size_t i = 0; i < count; ++i) {
        REQUIRE(completions[i].error_number == 0);
        most = std::max(most, completions[i].served_beside + 1);
      }
      done += count;
    }
    return most;
  };
  CHECK(at_once() == 2);
  mount.pool->AddWorkers(6);
  CHECK(mount.pool->worker_max() == 8);
  CHECK(at_once() == 8);
  CHECK(mount.pool->worker_count() == 8);
  mount.pool->AddWorkers(-5);
  CHECK(at_once() == 3);
  mount.pool->AddWorkers(5);
  CHECK(at_once() == 8);
  CHECK(mount.pool->worker_count() == 8);  // those that rested went on
  CHECK(mount.pool->worker_first() == 2);
}

TEST_CASE("requests in the hand of a hung thread are taken over by others", "[ring][fault]") {
  ThreadsMount mount({.capacity = 256});
  TempFolder quick;
  std::vector<uint32_t> objects;
  for (int i = 0; i < 256; ++i) {
    const std::string name = absl::StrCat(quick.path(), "/f", i);
    std::ofstream(name) << "x";
    objects.push_back(mount.objects->Add(name));  // an absolute path, which openat(2) takes as it is
  }
  const uint32_t hung = mount.Add("hung", 1000);
  mount.faults->Set("hung hanghard\n");
  std::vector<std::byte> memory(2000);
  for (int round = 0; round < 20; ++round) {
    for (size_t i = 0; i < 255; ++i) {
      REQUIRE(mount.ring().Enqueue({.object = objects[i], .length_bytes = 1, .need_bytes = 1, .destination = memory.data() + i}));
      if (round == 3 && i == 100) {
        REQUIRE(mount.ring().Enqueue(
            {.object = hung, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data() + 1000, .cookie = 9}));
      }
    }
    for (const Completion& done : ReapCount(mount.ring(), 255)) CHECK(done.cookie == 0);
  }
  CHECK(mount.ring().in_flight() == 1);
  mount.faults->Clear();
  CHECK(ReapCount(mount.ring(), 1)[0].cookie == 9);
}

TEST_CASE("the ring closes its last files so that the file system can be unmounted", "[ring][fault]") {
  UringMount mount;
  const uint32_t object = mount.Add("file", 1000);
  std::vector<std::byte> memory(1000);
  CHECK(RunOne(mount.ring(), {.object = object, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data()}).bytes == 1000);
  mount.objects = std::make_unique<NamedObjects>("/");  // its folder's descriptor keeps the mount busy, too
  bool unmounted = false;
  for (int tries = 0; tries < 1000 && !unmounted; ++tries) {
    unmounted = mount.faults->Unmount();
    if (!unmounted) ::usleep(2000);
  }
  CHECK(unmounted);
}

}  // namespace
}  // namespace penstock::testing
