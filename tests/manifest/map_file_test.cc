#include "manifest/map_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <string>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"
#include "manifest/open.h"
#include "support/child.h"

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

// Which way a file is read is chosen by its size; both must outlive what others do to it.
TEST_CASE("a file in use that is cut off or written over does not end the process", "[manifest]") {
  const MappedFile::Mode mode = GENERATE(MappedFile::Mode::kAuto, MappedFile::Mode::kCopy, MappedFile::Mode::kMap);
  const bool cut = GENERATE(true, false);
  TempFolder folder;
  const std::string content(3 << 20, 'c');
  const std::string path = folder.Write("m", content);
  const std::string result = InChild([&]() -> std::string {
    const auto opened = MappedFile::Open(path, mode);
    if (!opened.ok()) return std::string(opened.status().message());
    const MappedFile& file = **opened;
    if (file.copied() != (mode != MappedFile::Mode::kMap)) return "the other way";
    if (!file.CheckIntact().ok()) return "not intact at first";
    // As `: > m` and `cp other m` do.
    const int fd = ::open(path.c_str(), O_WRONLY | (cut ? O_TRUNC : 0));
    if (!cut && ::pwrite(fd, "xx", 2, 1 << 20) != 2) return "no write";
    int64_t sum = 0;
    for (uint64_t i = 0; i < file.bytes(); ++i) sum += file.data()[i] == 'c';
    const absl::Status status = file.CheckIntact();
    if (file.copied()) return sum == 3 << 20 && status.ok() ? "as it was" : "changed";
    return status.code() == absl::StatusCode::kDataLoss && Contains(std::string(status.message()), path) ? "named" : "not noticed";
  });
  CHECK(result == (mode == MappedFile::Mode::kMap ? "named" : "as it was"));
}

// SIGBUS that is not ours goes on to the handler that was there, or ends the process.
TEST_CASE("a bus error elsewhere is not swallowed", "[manifest]") {
  const bool with_handler = GENERATE(true, false);
  TempFolder folder;
  folder.Write("m", std::string(10000, 'c'));
  folder.Write("other", std::string(10000, 'c'));
  const std::string result = InChild([&]() -> std::string {
    if (with_handler) ::signal(SIGBUS, [](int) { ::_exit(7); });
    const auto opened = MappedFile::Open(folder.At("m"), MappedFile::Mode::kMap);
    if (!opened.ok()) return "not opened";
    const int fd = ::open(folder.At("other").c_str(), O_RDWR);
    const volatile char* other = static_cast<const char*>(::mmap(nullptr, 10000, PROT_READ, MAP_SHARED, fd, 0));
    if (::ftruncate(fd, 0) != 0) return "not cut";
    return other[5000] == 'c' ? "read" : "zero";
  });
  CHECK(result == (with_handler ? " [exit status 7]" : " [killed by signal 7]"));
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
  const auto file = MappedFile::Open(folder.Write("m"), GENERATE(MappedFile::Mode::kAuto, MappedFile::Mode::kCopy, MappedFile::Mode::kMap));
  REQUIRE_OK(file);
  CHECK((*file)->bytes() == 0);
}
