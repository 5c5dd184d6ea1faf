// What both file backends do with what a file system can put in the place of a well-behaved file.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <thread>

#include "base/unique_fd.h"
#include "ring/backends.h"
#include "support/child.h"

#include <catch2/catch.hpp>

namespace penstock::testing {
namespace {

#define FILE_BACKENDS Uring, Threads

TEMPLATE_TEST_CASE("the time of modification comes with the bytes where it is asked for", "[ring]", FILE_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(9000);
  const timespec times[2] = {{1'111'111'111, 5}, {1'234'567'890, 123'456'789}};
  REQUIRE(::utimensat(AT_FDCWD, backend.PathOf(object).c_str(), times, 0) == 0);
  std::vector<std::byte> memory(9001);
  Request request{.want_mtime = true, .object = object, .length_bytes = 9001, .need_bytes = 9000, .destination = memory.data()};
  Completion done = RunOne(backend.ring(), request);
  CHECK(done.bytes == 9000);
  CHECK(done.mtime_ns == 1'234'567'890'123'456'789);
  CHECK(TextOf(memory, 9000) == ContentOf(object, 9000));
  request.want_mtime = false;
  CHECK(RunOne(backend.ring(), request).mtime_ns == kNoMtime);
  // One that ends early has its own, and one that fails has none.
  request.want_mtime = true;
  request.offset_bytes = 8990;
  done = RunOne(backend.ring(), request);
  CHECK(done.bytes == 10);
  CHECK(done.mtime_ns == 1'234'567'890'123'456'789);
  request.object = backend.AddMissing();
  done = RunOne(backend.ring(), request);
  CHECK(done.error_number == ENOENT);
  CHECK(done.mtime_ns == kNoMtime);
}

TEMPLATE_TEST_CASE("a folder in the place of a file is an error and not a hang", "[ring]", FILE_BACKENDS) {
  TestType backend;
  std::filesystem::create_directory(backend.folder() + "/sub");
  std::byte memory[10];
  const Completion done =
      RunOne(backend.ring(), {.object = backend.AddNamed("sub"), .length_bytes = 10, .need_bytes = 9, .destination = memory});
  CHECK(done.error_number == EISDIR);
  CHECK(done.bytes == 0);
}

// What a folder can hold beside regular files, under a name of its own.
struct NoFile {
  const char* name;
  uint32_t type;
  UniqueFd (*make)(const std::string& path);  // what keeps it as it is
};

const NoFile kNoFiles[] = {
    {"FIFO without a writer", S_IFIFO,
     [](const std::string& path) {
       REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
       return UniqueFd();
     }},
    {"FIFO with a silent writer", S_IFIFO,
     [](const std::string& path) {
       REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
       return UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
     }},
    {"FIFO with as many bytes as the file had", S_IFIFO,
     [](const std::string& path) {
       REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
       UniqueFd writer(::open(path.c_str(), O_RDWR | O_CLOEXEC));
       REQUIRE(::write(writer.get(), std::string(4096, 'f').data(), 4096) == 4096);
       return writer;
     }},
    {"FIFO with more bytes", S_IFIFO,
     [](const std::string& path) {
       REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
       UniqueFd writer(::open(path.c_str(), O_RDWR | O_CLOEXEC));
       REQUIRE(::write(writer.get(), std::string(60000, 'f').data(), 60000) == 60000);
       return writer;
     }},
    {"link to /dev/zero", S_IFCHR,
     [](const std::string& path) {
       REQUIRE(::symlink("/dev/zero", path.c_str()) == 0);
       return UniqueFd();
     }},
    {"link to /dev/urandom", S_IFCHR,
     [](const std::string& path) {
       REQUIRE(::symlink("/dev/urandom", path.c_str()) == 0);
       return UniqueFd();
     }},
    {"folder", S_IFDIR,
     [](const std::string& path) {
       REQUIRE(::mkdir(path.c_str(), 0700) == 0);
       return UniqueFd();
     }},
    {"silent terminal", S_IFCHR,
     [](const std::string& path) {
       UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
       char name[100];
       REQUIRE(master.valid());
       REQUIRE(::grantpt(master.get()) == 0);
       REQUIRE(::unlockpt(master.get()) == 0);
       REQUIRE(::ptsname_r(master.get(), name, sizeof name) == 0);
       REQUIRE(::symlink(name, path.c_str()) == 0);
       return master;
     }},
};

// Each of them by each way in which a loader asks: a whole file, with the byte beyond it in its place or the ring's; a part of one; kept
// open; direct. Neither a byte of it nor a wait without an end.
TEMPLATE_TEST_CASE("what is no regular file fails and brings no byte whichever way it is read", "[ring]", FILE_BACKENDS) {
  enum class Way { kWhole, kWholeBeyond, kPart, kKept, kDirect };
  for (const NoFile& no_file : kNoFiles) {
    for (const Way way : {Way::kWhole, Way::kWholeBeyond, Way::kPart, Way::kKept, Way::kDirect}) {
      for (const bool cold_before : {false, true}) {
        INFO(no_file.name << ", way " << static_cast<int>(way) << ", after reads that had to wait: " << cold_before);
        RingOptions options;
        if (way == Way::kKept) options.open_files = std::make_shared<OpenFiles>(10, false);
        TestType backend(options);
        alignas(4096) std::byte memory[8192];
        if (cold_before) {
          // Its bytes are on the drive only, so that the ring stops to try reads that do not wait.
          const uint32_t file = backend.AddObject(4096);
          const UniqueFd fd(::open(backend.PathOf(file).c_str(), O_RDONLY | O_CLOEXEC));
          REQUIRE(::fdatasync(fd.get()) == 0);
          REQUIRE(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
          CHECK(RunOne(backend.ring(), {.object = file, .length_bytes = 4096, .need_bytes = 4096, .destination = memory}).bytes == 4096);
        }
        const UniqueFd held = no_file.make(backend.folder() + "/odd");
        Request request{.object = backend.AddNamed("odd"), .length_bytes = 4096, .need_bytes = 4096, .destination = memory};
        request.length_bytes += way == Way::kWhole ? 1 : 0;
        request.ask_beyond = way == Way::kWholeBeyond || way == Way::kKept || way == Way::kDirect;
        request.check_type = way == Way::kPart;
        request.direct = way == Way::kDirect;
        const Completion done = RunOne(backend.ring(), request);
        // A FIFO that nobody writes to may just have ended.
        const bool ended = done.error_number == 0 && done.bytes == 0;
        CHECK((done.error_number != 0 || (ended && no_file.type == S_IFIFO)));
        if (done.file_type != 0) CHECK(done.file_type == no_file.type);
        if (way == Way::kPart || way == Way::kKept) CHECK(done.file_type == no_file.type);
        // A ring that is asked again is no worse for it.
        const uint32_t good = backend.AddObject(4096);
        const Completion after = RunOne(
            backend.ring(), {.ask_beyond = true, .object = good, .length_bytes = 4096, .need_bytes = 4096, .destination = memory});
        CHECK(after.bytes == 4096);
        CHECK(after.error_number == 0);
      }
    }
  }
}

// A read that does not wait ends where the page cache does, and that may be where the file ended when it was indexed.
TEMPLATE_TEST_CASE("a longer file is seen where only what was indexed of it is in the page cache", "[ring]", FILE_BACKENDS) {
  for (const bool kept : {false, true}) {
    for (const uint64_t room : {4096u, 4097u}) {
      RingOptions options;
      if (kept) options.open_files = std::make_shared<OpenFiles>(10, false);
      TestType backend(options);
      const uint32_t object = backend.AddObject(1 << 20);
      std::vector<std::byte> memory(8192);
      const Request request{
          .ask_beyond = room == 4096, .object = object, .length_bytes = room, .need_bytes = 4096, .destination = memory.data()};
      for (int round = 0; round < 3; ++round) {
        INFO("kept " << kept << ", room " << room << ", round " << round);
        const UniqueFd fd(::open(backend.PathOf(object).c_str(), O_RDONLY | O_CLOEXEC));
        REQUIRE(::fdatasync(fd.get()) == 0);
        REQUIRE(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
        REQUIRE(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM) == 0);
        char page[4096];
        REQUIRE(::pread(fd.get(), page, sizeof page, 0) == 4096);
        const Completion done = RunOne(backend.ring(), request);
        CHECK(done.error_number == 0);
        CHECK(done.bytes > 4096);
        CHECK((TextOf(memory, 4096) == ContentOf(object, 4096)));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a byte beyond what there is room for is seen and lands elsewhere", "[ring]", FILE_BACKENDS) {
  for (const uint64_t read_bytes_max : {uint64_t{4096}, uint64_t{512} << 10}) {
    for (const uint64_t size : {0u, 64u, 4096u, 8192u, 64u << 10}) {
      for (const bool direct : {false, true}) {
        if (direct && size % 4096 != 0) continue;
        for (const int64_t more : {-1, 0, 1, 4096, 100'000}) {
          if (static_cast<int64_t>(size) + more < 0) continue;
          INFO(size << " bytes, " << more << " more, direct " << direct << ", chunks of " << read_bytes_max);
          TestType backend({.read_bytes_max = read_bytes_max});
          const uint32_t object = backend.AddObject(size + static_cast<uint64_t>(more));
          std::byte* const memory = static_cast<std::byte*>(::aligned_alloc(4096, size + 8192));
          std::fill(memory, memory + size + 8192, std::byte{0xEE});
          const Completion done = RunOne(backend.ring(), {.ask_beyond = true,
                                                          .direct = direct,
                                                          .object = object,
                                                          .length_bytes = size,
                                                          .need_bytes = size,
                                                          .destination = memory});
          CHECK(done.error_number == 0);
          if (more <= 0) CHECK(done.bytes == static_cast<int64_t>(size) + more);
          if (more > 0) CHECK(done.bytes > static_cast<int64_t>(size));
          const uint64_t came = std::min<uint64_t>(size, static_cast<uint64_t>(done.bytes));
          CHECK((std::string(reinterpret_cast<const char*>(memory), came) == ContentOf(object, came)));
          CHECK(std::all_of(memory + size, memory + size + 8192, [](std::byte b) { return b == std::byte{0xEE}; }));
          ::free(memory);
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("a dangling symbolic link and a file as a folder fail at the open", "[ring]", FILE_BACKENDS) {
  TestType backend;
  std::filesystem::create_symlink("nowhere", backend.folder() + "/dangling");
  std::filesystem::create_symlink("loop", backend.folder() + "/loop");
  backend.AddObject(10);
  std::byte memory[10];
  const auto error_of = [&](const std::string& name) {
    const Completion done =
        RunOne(backend.ring(), {.object = backend.AddNamed(name), .length_bytes = 10, .need_bytes = 9, .destination = memory});
    CHECK(done.stage == RequestStage::kOpen);
    return done.error_number;
  };
  CHECK(error_of("dangling") == ENOENT);
  CHECK(error_of("loop") == ELOOP);
  CHECK(error_of("file0/below") == ENOTDIR);
  CHECK(error_of(std::string(300, 'n')) == ENAMETOOLONG);
}

TEMPLATE_TEST_CASE("a store that does not know the object fails that request only", "[ring]", FILE_BACKENDS) {
  TestType backend;
  std::byte memory[10];
  const Completion done = RunOne(backend.ring(), {.object = 12345, .length_bytes = 10, .need_bytes = 9, .destination = memory});
  CHECK(done.error_number == ENOENT);
  CHECK(done.stage == RequestStage::kOpen);
  CHECK(backend.ring().in_flight() == 0);
}

TEMPLATE_TEST_CASE("a file that another user may not read fails with EACCES", "[ring]", FILE_BACKENDS) {
  if (::geteuid() != 0) SkipTest("only root can become another user");
  TestType backend;
  const uint32_t secret = backend.AddObject(100);
  const uint32_t open = backend.AddObject(100);
  REQUIRE(::chmod(backend.PathOf(secret).c_str(), 0600) == 0);
  REQUIRE(::chmod(backend.folder().c_str(), 0755) == 0);
  const std::string result = InChild([&] {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) return std::string("setuid");
    std::byte memory[101];
    auto pool = std::make_shared<PreadPool>(2);
    auto ring = MakeRing(std::is_same_v<TestType, Uring> ? Engine::kUring : Engine::kThreads, backend.objects(), {.capacity = 8}, pool);
    if (!ring.ok()) return std::string(ring.status().message());
    const Completion refused = RunOne(**ring, {.object = secret, .length_bytes = 101, .need_bytes = 100, .destination = memory});
    if (refused.error_number != EACCES || refused.stage != RequestStage::kOpen) return absl::StrCat("error ", refused.error_number);
    const Completion granted = RunOne(**ring, {.object = open, .length_bytes = 101, .need_bytes = 100, .destination = memory});
    return granted.bytes == 100 ? std::string() : absl::StrCat("error ", granted.error_number);
  });
  CHECK(result == "");
}

TEMPLATE_TEST_CASE("a file that shrinks grows vanishes or is replaced between two reads is seen as it is then", "[ring]", FILE_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(5000);
  std::vector<std::byte> memory(5001);
  const auto read = [&] {
    return RunOne(backend.ring(), {.object = object, .length_bytes = 5001, .need_bytes = 5000, .destination = memory.data()});
  };
  CHECK(read().bytes == 5000);
  std::filesystem::resize_file(backend.PathOf(object), 100);
  CHECK(read().bytes == 100);
  std::filesystem::resize_file(backend.PathOf(object), 6000);
  CHECK(read().bytes == 5001);
  const std::string other(5000, 'q');
  {
    std::ofstream file(backend.PathOf(object) + ".new", std::ios::binary);
    file << other;
  }
  std::filesystem::rename(backend.PathOf(object) + ".new", backend.PathOf(object));
  CHECK(read().bytes == 5000);
  CHECK((TextOf(memory, 5000) == other));
  std::filesystem::remove(backend.PathOf(object));
  CHECK(read().error_number == ENOENT);
}

TEMPLATE_TEST_CASE("files that are rewritten while they are read never bring more than was asked for", "[ring]", FILE_BACKENDS) {
  TestType backend({.capacity = 16, .read_bytes_max = 4096});
  const uint32_t object = backend.AddObject(50000);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (uint64_t i = 0; !stop; ++i) std::filesystem::resize_file(backend.PathOf(object), i * 7919 % 60000);
  });
  std::vector<std::vector<std::byte>> memory(16, std::vector<std::byte>(40000 + 64, std::byte{0xEE}));
  bool right = true;
  for (int round = 0; round < 100; ++round) {
    for (size_t i = 0; i < 16; ++i) {
      REQUIRE(backend.ring().Enqueue(
          {.object = object, .length_bytes = 40000, .need_bytes = 39999, .destination = memory[i].data(), .cookie = i}));
    }
    for (const Completion& done : ReapCount(backend.ring(), 16)) {
      right = right && done.error_number == 0 && done.bytes >= 0 && done.bytes <= 40000 &&
              TextOf(memory[done.cookie], 40064).substr(40000) == std::string(64, '\xEE');
    }
  }
  stop = true;
  writer.join();
  CHECK(right);
}

struct AlignedMemory {
  explicit AlignedMemory(size_t bytes) : data(static_cast<std::byte*>(::aligned_alloc(4096, bytes))) {}
  ~AlignedMemory() { ::free(data); }
  std::byte* const data;
};

TEMPLATE_TEST_CASE("direct reads bring whole files of any size", "[ring]", FILE_BACKENDS) {
  TestType backend({.read_bytes_max = 65536});
  for (const uint64_t size : {0u, 1u, 511u, 4096u, 5000u, 65536u, 200000u, 262144u}) {
    INFO("size " << size);
    const uint32_t object = backend.AddObject(size);
    const uint64_t room = (size + 4096) / 4096 * 4096;
    AlignedMemory memory(room);
    const Completion done =
        RunOne(backend.ring(), {.direct = true, .object = object, .length_bytes = room, .need_bytes = size, .destination = memory.data});
    CHECK(done.error_number == 0);
    CHECK(done.bytes == static_cast<int64_t>(size));
    CHECK((std::string(reinterpret_cast<const char*>(memory.data), size) == ContentOf(object, size)));
  }
}

// Whether a file system refuses an unaligned direct read differs; where it does, the bytes must come all the same.
TEMPLATE_TEST_CASE("a direct read that the file system refuses comes buffered", "[ring]", FILE_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(10000);
  const UniqueFd fd(::open(backend.PathOf(object).c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  AlignedMemory memory(16384);
  const bool refuses = fd.valid() && ::pread(fd.get(), memory.data + 1, 1001, 3) < 0 && errno == EINVAL;
  const Completion done = RunOne(
      backend.ring(),
      {.direct = true, .object = object, .offset_bytes = 3, .length_bytes = 1001, .need_bytes = 1001, .destination = memory.data + 1});
  CHECK(done.error_number == 0);
  CHECK(done.bytes == 1001);
  CHECK((std::string(reinterpret_cast<const char*>(memory.data + 1), 1001) == ContentOf(object, 1004).substr(3)));
  CHECK(backend.ring().counters().direct_fallbacks == (refuses || !fd.valid() ? 1 : 0));
}

TEMPLATE_TEST_CASE("a ring that has run empty keeps no file open", "[ring]", FILE_BACKENDS) {
  TestType backend({.capacity = 16});
  const uint32_t object = backend.AddObject(100);
  std::byte memory[1000];
  for (size_t i = 0; i < 10; ++i) {
    REQUIRE(backend.ring().Enqueue({.object = object, .length_bytes = 100, .need_bytes = 100, .destination = memory + 100 * i}));
  }
  ReapCount(backend.ring(), 10);
  // A write lease needs that nobody has the file open (fcntl(2), F_SETLEASE). A closed file may take the kernel a moment.
  const UniqueFd fd(::open(backend.PathOf(object).c_str(), O_RDWR | O_CLOEXEC));
  int result = -1;
  for (int tries = 0; tries < 2000 && result != 0; ++tries) {
    result = ::fcntl(fd.get(), F_SETLEASE, F_WRLCK);
    if (result != 0 && errno != EAGAIN) SkipTest(absl::StrCat("this file system has no leases: errno ", errno));
    if (result != 0) ::usleep(1000);
  }
  CHECK(result == 0);
}

TEMPLATE_TEST_CASE("several rings of several threads do not mix up their requests", "[ring]", FILE_BACKENDS) {
  TestType backend;
  std::vector<uint32_t> objects;
  for (int i = 0; i < 50; ++i) objects.push_back(backend.AddObject(100 + 37 * i));
  const auto pool = std::make_shared<PreadPool>(3);
  std::atomic<int> wrong{0};
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      auto ring = MakeRing(std::is_same_v<TestType, Uring> ? Engine::kUring : Engine::kThreads, backend.objects(), {.capacity = 8}, pool);
      if (!ring.ok()) {
        ++wrong;
        return;
      }
      std::vector<std::vector<std::byte>> memory(8, std::vector<std::byte>(4000));
      std::vector<int64_t> of(8, -1);
      while (true) {
        for (size_t i = 0; i < 8; ++i) {
          if (of[i] >= 0 || next >= 8000) continue;
          of[i] = next++;
          const uint64_t bytes = 100 + 37 * static_cast<uint64_t>(of[i] % 50);
          (*ring)->Enqueue({.object = objects[static_cast<size_t>(of[i] % 50)],
                            .length_bytes = bytes,
                            .need_bytes = bytes,
                            .destination = memory[i].data(),
                            .cookie = i});
        }
        if ((*ring)->in_flight() == 0) return;
        if (!(*ring)->Wait(MonotonicNs() + kTestDeadlineNs).ok()) ++wrong;
        Completion done[8];
        const size_t count = (*ring)->Reap(absl::MakeSpan(done));
        if (count == 0) ++wrong;
        for (size_t k = 0; k < count; ++k) {
          const size_t i = done[k].cookie;
          const uint64_t bytes = 100 + 37 * static_cast<uint64_t>(of[i] % 50);
          if (done[k].bytes != static_cast<int64_t>(bytes) ||
              TextOf(memory[i], bytes) != ContentOf(objects[static_cast<size_t>(of[i] % 50)], bytes))
            ++wrong;
          of[i] = -1;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("a ring made by one thread is used by another", "[ring]", FILE_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(1000);
  backend.ring();
  std::unique_ptr<Ring> ring = backend.TakeRing();
  std::vector<std::byte> memory(1000);
  int64_t bytes = 0;
  std::thread([&] {
    if (!ring->Enqueue({.object = object, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data()})) return;
    Completion done;
    if (ring->Wait(MonotonicNs() + kTestDeadlineNs).ok() && ring->Reap({&done, 1}) == 1) bytes = done.bytes;
    ring.reset();
  }).join();
  CHECK(bytes == 1000);
}

TEMPLATE_TEST_CASE("a forked child gets an error and the parent's ring goes on", "[ring]", FILE_BACKENDS) {
  TestType backend;
  const uint32_t object = backend.AddObject(1000);
  std::vector<std::byte> memory(1000);
  Ring& ring = backend.ring();
  REQUIRE(ring.Enqueue({.object = object, .length_bytes = 1000, .need_bytes = 1000, .destination = memory.data()}));
  const std::string result = InChild([&] {
    if (ring.Submit().ok()) return std::string("the child could submit");
    if (ring.Wait(MonotonicNs() + kNsPerMs).ok()) return std::string("the child could wait");
    backend.EndRing();  // must neither abort nor harm the parent
    return std::string();
  });
  CHECK(result == "");
  CHECK(ReapCount(ring, 1)[0].bytes == 1000);
}

TEST_CASE("open and transfer are timed apart", "[ring]") {
  Threads backend;
  const uint32_t object = backend.AddObject(1 << 20);
  std::vector<std::byte> memory(1 << 20);
  const Completion done =
      RunOne(backend.ring(), {.object = object, .length_bytes = 1 << 20, .need_bytes = 1 << 20, .destination = memory.data()});
  CHECK(done.open_ns > 0);
  CHECK(done.transfer_ns > 0);
}

}  // namespace
}  // namespace penstock::testing
