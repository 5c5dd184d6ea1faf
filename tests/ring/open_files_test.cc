#include "ring/open_files.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <random>
#include <thread>

#include "ring/backends.h"
#include "support/child.h"

#include <catch2/catch.hpp>

namespace penstock::testing {
namespace {

RingOptions Keeping(int64_t files_max, bool direct = false) {
  RingOptions options;
  options.capacity = 8;
  options.open_files = std::make_shared<OpenFiles>(files_max, direct);
  return options;
}

Completion ReadWhole(Ring& ring, uint32_t object, uint64_t bytes, std::string& content) {
  std::vector<std::byte> memory(bytes + 1);
  const Completion done = RunOne(ring, {.object = object, .length_bytes = bytes + 1, .need_bytes = bytes, .destination = memory.data()});
  content = TextOf(memory, static_cast<size_t>(done.bytes));
  return done;
}

class LimitOfDescriptors {
 public:
  explicit LimitOfDescriptors(rlim_t soft) {
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    rlimit now = before_;
    now.rlim_cur = soft;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &now) == 0);
  }
  ~LimitOfDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_;
};

#define FILE_BACKENDS Uring, Threads

TEMPLATE_TEST_CASE("a file that was read is found open by the next request", "[ring]", FILE_BACKENDS) {
  TestType backend(Keeping(10));
  const uint32_t object = backend.AddObject(5000);
  std::string content;
  CHECK_FALSE(ReadWhole(backend.ring(), object, 5000, content).kept_open);
  for (int i = 0; i < 3; ++i) {
    const Completion again = ReadWhole(backend.ring(), object, 5000, content);
    CHECK(again.kept_open);
    CHECK(again.open_ns == 0);
    CHECK(again.bytes == 5000);
    CHECK((content == ContentOf(object, 5000)));
  }
  CHECK(backend.ring().counters().kept_open == 3);
}

TEMPLATE_TEST_CASE("no more files are kept open than the table may hold, and the others are read as well", "[ring]", FILE_BACKENDS) {
  RingOptions options = Keeping(3);
  TestType backend(options);
  std::vector<uint32_t> objects;
  for (int i = 0; i < 12; ++i) objects.push_back(backend.AddObject(100 + static_cast<uint64_t>(i)));
  std::string content;
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < objects.size(); ++i) {
      CHECK(ReadWhole(backend.ring(), objects[i], 100 + i, content).error_number == 0);
      CHECK((content == ContentOf(objects[i], 100 + i)));
    }
  }
  CHECK(options.open_files->count() == 3);
  CHECK(backend.ring().counters().kept_open == 2 * 3);
}

// README: what is seen of a change under the run. The file that was opened is still there, under no name.
TEMPLATE_TEST_CASE("a file replaced while it is kept open is read as it was", "[ring]", FILE_BACKENDS) {
  TestType backend(Keeping(10));
  const uint32_t object = backend.AddObject(3000);
  std::string content;
  ReadWhole(backend.ring(), object, 3000, content);
  const uint32_t other = backend.AddNamed("other");
  backend.Write(other, std::string(10, 'x'));
  std::filesystem::rename(backend.PathOf(other), backend.PathOf(object));
  CHECK(ReadWhole(backend.ring(), object, 3000, content).bytes == 3000);
  CHECK((content == ContentOf(object, 3000)));
}

TEMPLATE_TEST_CASE("a file truncated while it is kept open comes short, and the next try opens it anew", "[ring]", FILE_BACKENDS) {
  RingOptions options = Keeping(10);
  TestType backend(options);
  const uint32_t object = backend.AddObject(3000);
  std::string content;
  ReadWhole(backend.ring(), object, 3000, content);
  REQUIRE(::truncate(backend.PathOf(object).c_str(), 1000) == 0);
  CHECK(ReadWhole(backend.ring(), object, 3000, content).bytes == 1000);
  CHECK(options.open_files->count() == 0);
  const uint32_t other = backend.AddNamed("other");
  backend.Write(other, ContentOf(object, 3000));
  std::filesystem::rename(backend.PathOf(other), backend.PathOf(object));
  const Completion again = ReadWhole(backend.ring(), object, 3000, content);
  CHECK_FALSE(again.kept_open);
  CHECK(again.bytes == 3000);
}

TEMPLATE_TEST_CASE("a request that reads otherwise than the table's files were opened opens its own", "[ring]", FILE_BACKENDS) {
  TestType backend(Keeping(10, /*direct=*/true));
  const uint32_t object = backend.AddObject(3000);
  std::string content;
  for (int i = 0; i < 2; ++i) {
    const Completion done = ReadWhole(backend.ring(), object, 3000, content);
    CHECK_FALSE(done.kept_open);
    CHECK(done.bytes == 3000);
  }
}

TEMPLATE_TEST_CASE("files kept open make room where the process runs out of descriptors", "[ring]", FILE_BACKENDS) {
  RingOptions options = Keeping(1000);
  TestType backend(options);
  std::vector<uint32_t> objects;
  for (int i = 0; i < 100; ++i) objects.push_back(backend.AddObject(100));
  std::string content;
  ReadWhole(backend.ring(), objects[0], 100, content);  // the ring is made, and what it needs is open
  const LimitOfDescriptors limit(64);
  for (int round = 0; round < 2; ++round) {
    for (const uint32_t object : objects) {
      const Completion done = ReadWhole(backend.ring(), object, 100, content);
      CHECK(done.error_number == 0);
      CHECK((content == ContentOf(object, 100)));
    }
  }
  CHECK(options.open_files->count() > 0);
  CHECK(options.open_files->count() < 64);
  CHECK(options.open_files->files_max() < 64);
}

TEMPLATE_TEST_CASE("cancelled requests leave no file in use", "[ring]", FILE_BACKENDS) {
  RingOptions options = Keeping(100);
  TestType backend(options);
  std::vector<uint32_t> objects;
  for (int i = 0; i < 8; ++i) objects.push_back(backend.AddObject(100));
  std::vector<std::byte> memory(8 * 128);
  for (int round = 0; round < 50; ++round) {
    for (size_t i = 0; i < objects.size(); ++i) {
      REQUIRE(
          backend.ring().Enqueue({.object = objects[i], .length_bytes = 100, .need_bytes = 100, .destination = memory.data() + 128 * i}));
    }
    if (round % 3 == 1) REQUIRE_OK(backend.ring().Submit());
    backend.ring().Cancel();
    ReapCount(backend.ring(), objects.size());
  }
  backend.EndRing();
  while (options.open_files->Shed()) {
  }
  CHECK(options.open_files->count() == 0);  // what is in use is not shed
}

// The descriptor of one file must never serve another: the number of a closed one is used again at once.
TEST_CASE("an entry in use keeps its own file whatever other threads drop and shed", "[ring]") {
  TempFolder folder;
  constexpr int kObjects = 40;
  std::vector<std::string> paths;
  std::vector<ino_t> inodes;
  for (int i = 0; i < kObjects; ++i) {
    paths.push_back(absl::StrCat(folder.path(), "/", i));
    std::ofstream(paths.back()) << i;
    struct stat info;
    REQUIRE(::stat(paths.back().c_str(), &info) == 0);
    inodes.push_back(info.st_ino);
  }
  OpenFiles files(kObjects, false);
  std::atomic<int> wrong{0};
  std::atomic<int64_t> found{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 3000; ++i) {
        const uint32_t object = random() % kObjects;
        int fd = -1;
        int32_t entry = files.Find(object, fd);
        found.fetch_add(entry >= 0 ? 1 : 0);
        if (entry < 0 && files.Reserve()) {
          fd = ::open(paths[object].c_str(), O_RDONLY | O_CLOEXEC);
          entry = files.Keep(object, fd);
          if (entry < 0) ::close(fd);
        }
        if (entry < 0) continue;
        struct stat info;
        if (::fstat(fd, &info) != 0 || info.st_ino != inodes[object]) wrong.fetch_add(1);
        if (random() % 8 == 0) files.Drop(entry);
        files.Release(entry);
        if (t == 0 && i % 1000 == 999) files.Shed();  // each time it keeps fewer from then on
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  CHECK(found.load() > 0);
  while (files.Shed()) {
  }
  CHECK(files.count() == 0);
}

TEST_CASE("the soft limit of descriptors is raised as far as the files need it, and no further", "[ring]") {
  rlimit before;
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  if (before.rlim_max < 4096) SkipTest(absl::StrCat("the hard RLIMIT_NOFILE is ", before.rlim_max, ", below 4096"));
  const LimitOfDescriptors limit(600);
  const OpenFilesLimit found = FindOpenFilesLimit(-1, 1000);
  INFO(found.why);
  CHECK(found.files_max == 1000);
  CHECK(found.why.find("raised from 600") != std::string::npos);
  rlimit now;
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &now) == 0);
  CHECK(now.rlim_cur > 1500);
  CHECK(now.rlim_cur < 2500);
  CHECK(FindOpenFilesLimit(10, 1000).files_max == 10);
  CHECK(FindOpenFilesLimit(0, 1000).files_max == 0);
  CHECK(FindOpenFilesLimit(-1, 1 << 30).files_max < (1 << 20));
}

TEST_CASE("half of the descriptors are left to the program where no number was asked for", "[ring]") {
  for (const rlim_t limit : {rlim_t{1024}, rlim_t{4096}, rlim_t{20000}}) {
    const std::string result = InChild([&]() -> std::string {
      const rlimit both{limit, limit};
      if (::setrlimit(RLIMIT_NOFILE, &both) != 0) return "skip setrlimit";
      const auto most = static_cast<int64_t>(limit);
      for (const int64_t folders : {int64_t{0}, most / 8, most}) {
        for (const int64_t beside : {int64_t{0}, int64_t{100}}) {
          const OpenFilesLimit found = FindOpenFilesLimit(-1, 1 << 19, beside, folders);
          const int64_t ours = found.files_max + beside + std::min(folders, most / 4);
          if (found.files_max < 0 || (found.files_max > 0 && ours > most / 2)) return found.why;
          if (folders == 0 && limit == 20000 && ours < most / 2 - 1) return found.why;
          if (found.why.find("half of it is left to the program") == std::string::npos) return found.why;
          // Who asks for more gets more.
          if (limit == 20000 && FindOpenFilesLimit(1 << 19, 1 << 19, beside, folders).files_max <= found.files_max) return "not more";
        }
      }
      return "";
    });
    if (result.rfind("skip ", 0) == 0) SkipTest(result);
    CHECK(result == "");
  }
}

TEST_CASE("large tables leave the low descriptors to the program", "[ring]") {
  rlimit before;
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  if (before.rlim_max < 4096) SkipTest(absl::StrCat("the hard RLIMIT_NOFILE is ", before.rlim_max, ", below 4096"));
  const LimitOfDescriptors limit(4096);
  OpenFiles files(2000, false);
  int fd = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  REQUIRE(files.Reserve());
  const int32_t entry = files.Keep(7, fd);
  REQUIRE(entry >= 0);
  CHECK(fd >= 1024);
  char byte;
  CHECK(::pread(fd, &byte, 1, 0) == 1);
  files.Release(entry);
}

}  // namespace
}  // namespace penstock::testing
