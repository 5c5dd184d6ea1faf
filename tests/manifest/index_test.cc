// What a manifest promises to those who use it.
#include <sys/resource.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"
#include "store/object_store.h"

using namespace penstock;
using namespace penstock::testing;

TEST_CASE("the objects of a manifest open and outlive it", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a/1", "one");
  tree.Write("b/2", "two");
  auto built = Manifest::Build(tree.path());
  REQUIRE_OK(built);
  const auto store = built->manifest->OpenObjects();
  built = absl::UnknownError("");  // the last use of the manifest
  std::string scratch;
  for (uint32_t object = 0; object < 2; ++object) {
    const auto target = store->Target(object, scratch);
    REQUIRE_OK(target);
    const int fd = ::openat(target->dir_fd, target->path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    char buffer[3];
    CHECK(::read(fd, buffer, 3) == 3);
    CHECK(std::string(buffer, 3) == (object == 0 ? "one" : "two"));
    ::close(fd);
  }
  CHECK(store->Name(1) == tree.At("b/2"));
}

TEST_CASE("many threads may ask one manifest", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 200; ++i) {
    tree.Write("c" + std::to_string(i % 10) + "/" + std::to_string(i), std::string(static_cast<size_t>(i), 'x'));
  }
  const auto manifest = Manifest::Open(tree.path());
  REQUIRE_OK(manifest);
  std::vector<std::thread> threads;
  std::atomic<uint64_t> bytes{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int64_t id = 0; id < 200; ++id) bytes += (*manifest)->StoredBytes(id) + (*manifest)->Name(id).size() * 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(bytes == 8 * (*manifest)->total_bytes());
}

TEST_CASE("a relative root is taken from the working directory", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("data/x");
  const std::string before = std::filesystem::current_path();
  std::filesystem::current_path(tree.path());
  const auto manifest = Manifest::Open("data//");
  std::filesystem::current_path(before);
  REQUIRE_OK(manifest);
  CHECK((*manifest)->root() == std::filesystem::path(tree.path()) / "data");
  std::string scratch;
  CHECK((*manifest)->OpenObjects()->Target(0, scratch).ok());
}

TEST_CASE("an index leaves no descriptor open but what it maps", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 100; ++i) tree.Write("c" + std::to_string(i) + "/x");
  const auto count = [] {
    int open = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++open;
    return open;
  };
  const int before = count();
  const auto manifest = Manifest::Open(tree.path());
  REQUIRE_OK(manifest);
  CHECK(count() == before);
}

TEST_CASE("few descriptors are enough to index many folders", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 300; ++i) tree.Write("c" + std::to_string(i) + "/x", "1");
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit few{32, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  IndexOptions options;
  options.threads = 4;
  options.crc = true;
  const auto manifest = Manifest::Open(tree.path(), options);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  REQUIRE_OK(manifest);
  CHECK((*manifest)->sample_count() == 300);
}

TEST_CASE("a file that grows between listing and checksum is reported", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x", "1");
  IndexOptions options;
  options.crc = true;
  bool grown = false;
  options.progress = [&](const IndexProgress& progress) {
    if (progress.phase != IndexProgress::Phase::kScanning || progress.files == 0 || grown) return;
    grown = true;
    tree.Write("x", "123");
  };
  const auto result = Manifest::Build(tree.path(), options);
  REQUIRE(grown);
  CHECK(result.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Contains(MessageOf(result), tree.At("x")));
  CHECK(Contains(MessageOf(result), "had 1 bytes"));
}
