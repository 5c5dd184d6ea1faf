#include "store/file_store.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "store/temp_folder.h"
#include "support/status.h"

using penstock::FileStore;
using penstock::NameTable;
using penstock::OpenTarget;
using penstock::testing::TempFolder;

namespace {

// Owns the columns that a manifest would map.
struct Names {
  std::string names;
  std::string folder_names;
  std::vector<uint64_t> base{0};
  std::vector<uint32_t> offset;
  std::vector<uint32_t> folder;
  std::vector<uint64_t> folder_offset;

  void AddFolder(const std::string& name) {
    folder_offset.push_back(folder_names.size());
    folder_names += name + '\0';
  }
  void AddObject(uint32_t in_folder, const std::string& name) {
    offset.push_back(static_cast<uint32_t>(names.size()));
    names += name + '\0';
    folder.push_back(in_folder);
  }
  NameTable table() const {
    NameTable made;
    made.object_count = offset.size();
    made.name_base = base.data();
    made.name_offset = offset.data();
    made.names = names.data();
    made.names_bytes = names.size();
    made.folder = folder.data();
    made.folder_count = folder_offset.size();
    made.folder_offset = folder_offset.data();
    made.folder_names = folder_names.data();
    made.folder_names_bytes = folder_names.size();
    return made;
  }
};

std::string ReadTarget(const OpenTarget& target) {
  const int fd = ::openat(target.dir_fd, target.path, O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  char buffer[256];
  const ssize_t got = ::read(fd, buffer, sizeof buffer);
  ::close(fd);
  REQUIRE(got >= 0);
  return std::string(buffer, static_cast<size_t>(got));
}

Names ManyFolders(const TempFolder& tree, int count) {
  Names names;
  for (int i = 0; i < count; ++i) {
    const std::string folder = "f" + std::to_string(i);
    tree.Write(folder + "/x", folder);
    names.AddFolder(folder);
    names.AddObject(static_cast<uint32_t>(i), "x");
  }
  return names;
}

}  // namespace

TEST_CASE("an object is opened by its last name in its own folder", "[store]") {
  TempFolder tree;
  tree.Write("top", "1");
  tree.Write("a/b/deep", "2");
  Names names;
  names.AddFolder("");
  names.AddFolder("a/b");
  names.AddObject(0, "top");
  names.AddObject(1, "deep");
  const FileStore store(tree.path(), names.table(), nullptr);
  std::string scratch;
  for (int round = 0; round < 2; ++round) {
    const auto top = store.Target(0, scratch);
    REQUIRE_OK(top);
    CHECK(ReadTarget(*top) == "1");
    const auto deep = store.Target(1, scratch);
    REQUIRE_OK(deep);
    CHECK(std::string(deep->path) == "deep");
    CHECK(ReadTarget(*deep) == "2");
  }
  CHECK(store.open_folder_count() == 2);
  CHECK(scratch.empty());
  CHECK(store.Name(1) == tree.At("a/b/deep"));
}

TEST_CASE("a name in a list may be absolute", "[store]") {
  TempFolder tree;
  TempFolder elsewhere;
  elsewhere.Write("x", "there");
  Names names;
  names.AddFolder(elsewhere.path());
  names.AddObject(0, "x");
  const FileStore store(tree.path(), names.table(), nullptr, /*open_folders_max=*/GENERATE(0, 10));
  std::string scratch;
  const auto target = store.Target(0, scratch);
  REQUIRE_OK(target);
  CHECK(ReadTarget(*target) == "there");
  CHECK(store.Name(0) == elsewhere.At("x"));
}

TEST_CASE("beyond its bound of open folders the store gives paths from the root", "[store]") {
  TempFolder tree;
  const Names names = ManyFolders(tree, 20);
  const FileStore store(tree.path(), names.table(), nullptr, /*open_folders_max=*/5);
  std::string scratch;
  for (uint32_t i = 0; i < 20; ++i) {
    const auto target = store.Target(i, scratch);
    REQUIRE_OK(target);
    CHECK(ReadTarget(*target) == "f" + std::to_string(i));
  }
  CHECK(store.open_folder_count() == 6);  // and the root
}

TEST_CASE("without a descriptor left the store gives paths from the root", "[store]") {
  TempFolder tree;
  const Names names = ManyFolders(tree, 3);
  const FileStore store(tree.path(), names.table(), nullptr, /*open_folders_max=*/100);
  std::string scratch;
  REQUIRE_OK(store.Target(0, scratch));
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none{3, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  const auto target = store.Target(1, scratch);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  REQUIRE_OK(target);
  CHECK(std::string(target->path) == "f1/x");
  CHECK(ReadTarget(*target) == "f1");
  CHECK(store.open_folder_count() == 2);
}

TEST_CASE("threads that ask at once share one descriptor per folder", "[store]") {
  TempFolder tree;
  const Names names = ManyFolders(tree, 50);
  const FileStore store(tree.path(), names.table(), nullptr, /*open_folders_max=*/30);
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::string scratch;
      for (uint32_t i = 0; i < 500; ++i) {
        const uint32_t object = (i * 7 + static_cast<uint32_t>(t)) % 50;
        const auto target = store.Target(object, scratch);
        if (!target.ok() || ::faccessat(target->dir_fd, target->path, R_OK, 0) != 0) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == 0);
  CHECK(store.open_folder_count() <= 31);
}

TEST_CASE("closing a store closes its folders", "[store]") {
  TempFolder tree;
  const Names names = ManyFolders(tree, 3);
  const int before = ::open("/", O_RDONLY | O_CLOEXEC);
  ::close(before);
  {
    const FileStore store(tree.path(), names.table(), nullptr);
    std::string scratch;
    for (uint32_t i = 0; i < 3; ++i) REQUIRE_OK(store.Target(i, scratch));
    CHECK(::fcntl(before, F_GETFD) >= 0);
  }
  CHECK(::fcntl(before, F_GETFD) < 0);
}

TEST_CASE("a folder that is gone is named", "[store]") {
  TempFolder tree;
  Names names;
  names.AddFolder("gone");
  names.AddObject(0, "x");
  const FileStore store(tree.path(), names.table(), nullptr);
  std::string scratch;
  const auto target = store.Target(0, scratch);
  CHECK(target.status().code() == absl::StatusCode::kNotFound);
  CHECK(target.status().message().find(tree.At("gone")) != absl::string_view::npos);
}

TEST_CASE("objects that do not exist and damaged names are refused", "[store]") {
  TempFolder tree;
  Names names;
  names.AddFolder("");
  for (int i = 0; i < 4; ++i) names.AddObject(0, "x");
  names.offset[1] = 0xFFFFFFFF;
  names.folder[2] = 99;
  std::string scratch;
  const FileStore store(tree.path(), names.table(), nullptr);
  CHECK(store.Target(4, scratch).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(store.Target(1, scratch).status().code() == absl::StatusCode::kDataLoss);
  CHECK(store.Target(2, scratch).status().code() == absl::StatusCode::kDataLoss);
  CHECK(store.Target(3, scratch).ok());
}

TEST_CASE("a store keeps alive what its names lie in", "[store]") {
  TempFolder tree;
  tree.Write("x", "1");
  auto names = std::make_shared<Names>();
  names->AddFolder("");
  names->AddObject(0, "x");
  const FileStore store(tree.path(), names->table(), names);
  std::weak_ptr<Names> watch = names;
  names.reset();
  CHECK_FALSE(watch.expired());
  std::string scratch;
  const auto target = store.Target(0, scratch);
  REQUIRE_OK(target);
  CHECK(ReadTarget(*target) == "1");
}
