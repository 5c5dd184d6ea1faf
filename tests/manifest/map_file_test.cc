#include "manifest/map_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <string>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"
#include "manifest/open.h"

using namespace penstock;
using namespace penstock::testing;

TEST_CASE("network and unknown file systems do not count as local", "[manifest]") {
  CHECK(IsLocalFileSystem(0xEF53));       // ext4
  CHECK(IsLocalFileSystem(0x58465342));   // XFS
  CHECK(IsLocalFileSystem(0x9123683E));   // btrfs
  for (const int64_t type : std::initializer_list<int64_t>{0x6969, 0x517B, 0xFE534D42, 0xFF534D42, 0x65735546, 0x00C36400, 0x0BD00BD0,
                                                           0x47504653, 0x01021997, 0}) {
    CHECK_FALSE(IsLocalFileSystem(type));
  }
}

// A mapping of the original would end this test with SIGBUS.
TEST_CASE("a copied file does not notice that its original is cut off", "[manifest]") {
  TempFolder folder;
  const std::string content(9 << 20, 'c');
  const std::string path = folder.Write("m", content);
  const auto file = MappedFile::Open(path, MappedFile::Mode::kCopy);
  REQUIRE_OK(file);
  CHECK((*file)->copied());
  REQUIRE(::truncate(path.c_str(), 0) == 0);
  REQUIRE((*file)->bytes() == content.size());
  CHECK(std::memcmp((*file)->data(), content.data(), content.size()) == 0);
}

TEST_CASE("a copy leaves no name behind", "[manifest]") {
  TempFolder folder;
  TempFolder temporary;
  const std::string path = folder.Write("m", "content");
  ::setenv("TMPDIR", temporary.path().c_str(), 1);
  const auto file = MappedFile::Open(path, MappedFile::Mode::kCopy);
  ::unsetenv("TMPDIR");
  REQUIRE_OK(file);
  CHECK(std::filesystem::is_empty(temporary.path()));
}

TEST_CASE("a local file is mapped as it is", "[manifest]") {
  TempFolder folder;
  const auto file = MappedFile::Open(folder.Write("m", "content"));
  REQUIRE_OK(file);
  CHECK_FALSE((*file)->copied());
  CHECK(std::memcmp((*file)->data(), "content", 7) == 0);
}

TEST_CASE("a manifest on a network file system is served from its copy", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a/x", "12");
  const auto built = Manifest::Build(tree.path());
  REQUIRE_OK(built);
  auto file = MappedFile::Open(built->manifest->path(), MappedFile::Mode::kCopy);
  REQUIRE_OK(file);
  const auto manifest = ManifestOpener::FromMapping(*std::move(file), built->manifest->path(), "", ManifestCheck::kAuto);
  REQUIRE_OK(manifest);
  REQUIRE(::truncate(built->manifest->path().c_str(), 0) == 0);
  CHECK((*manifest)->Name(0) == "a/x");
  CHECK((*manifest)->StoredBytes(0) == 2);
}

// Opening the FIFO for reading would wait for a writer.
TEST_CASE("a FIFO in the manifest's place is refused", "[manifest]") {
  TempFolder folder;
  REQUIRE(::mkfifo(folder.At("m").c_str(), 0644) == 0);
  CHECK(MappedFile::Open(folder.At("m")).status().code() == absl::StatusCode::kDataLoss);
  CHECK(MappedFile::Open(folder.path()).status().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("an empty file is mapped as nothing", "[manifest]") {
  TempFolder folder;
  const auto file = MappedFile::Open(folder.Write("m"), GENERATE(MappedFile::Mode::kAuto, MappedFile::Mode::kCopy));
  REQUIRE_OK(file);
  CHECK((*file)->bytes() == 0);
}
