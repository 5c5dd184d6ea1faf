// Folders become samples: rules, order, odd names, links, and what is left out.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

using Names = std::vector<std::string>;
using Labels = std::vector<int32_t>;

IndexResult MustBuild(const std::string& root, IndexOptions options = {}) {
  auto result = Manifest::Build(root, options);
  REQUIRE_OK(result);
  return *std::move(result);
}

}  // namespace

TEST_CASE("class folders give labels in byte order of their names", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("b/1", "x");
  tree.Write("a-b/1", "xx");
  tree.Write("a/2", "xxx");
  tree.Write("a/10", "");
  tree.Write("B/1", "xxxx");
  const IndexResult result = MustBuild(tree.path());
  const Manifest& manifest = *result.manifest;
  // By the class's name first: as whole paths, "a-b/1" would come before "a/10".
  CHECK(NamesOf(manifest) == Names{"B/1", "a/10", "a/2", "a-b/1", "b/1"});
  CHECK(LabelsOf(manifest) == Labels{0, 1, 1, 2, 3});
  REQUIRE(manifest.class_count() == 4);
  CHECK(manifest.class_name(0) == "B");
  CHECK(manifest.class_name(2) == "a-b");
  CHECK(manifest.class_name(4) == "");
  CHECK(manifest.class_name(-1) == "");
  CHECK(manifest.rule() == TreeRule::kClasses);
  CHECK(manifest.StoredBytes(1) == 0);
  CHECK(manifest.StoredBytes(2) == 3);
  CHECK(manifest.max_delivered_bytes() == 4);
  CHECK(manifest.total_bytes() == 10);
  CHECK(result.counts.added == 5);
}

TEST_CASE("a class may have folders of its own", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("cat/z");
  tree.Write("cat/sub/deep/y");
  tree.Write("cat/sub-a");
  tree.Write("dog/x");
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == Names{"cat/sub-a", "cat/sub/deep/y", "cat/z", "dog/x"});
  CHECK(LabelsOf(*result.manifest) == Labels{0, 0, 0, 1});
}

TEST_CASE("a folder without sub-folders is flat", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (const char* name : {"c", "a", "b"}) tree.Write(name, name);
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == Names{"a", "b", "c"});
  CHECK(LabelsOf(*result.manifest) == Labels{-1, -1, -1});
  CHECK_FALSE(result.manifest->has_labels());
  CHECK(result.manifest->class_count() == 0);
  CHECK(result.manifest->rule() == TreeRule::kFlat);
}

TEST_CASE("the flat rule takes all files below a folder", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a/x");
  tree.Write("b");
  tree.Write("a-b");
  IndexOptions options;
  options.rule = TreeRule::kFlat;
  const IndexResult result = MustBuild(tree.path(), options);
  CHECK(NamesOf(*result.manifest) == Names{"a-b", "a/x", "b"});
  CHECK_FALSE(result.manifest->has_labels());
}

TEST_CASE("the ids of a tree are its paths in byte order", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  std::mt19937 random(7);
  Names expected;
  const std::string letters = "ab-/0z_\xC3\xFF ";
  for (int i = 0; i < 400; ++i) {
    std::string name = "common_prefix_";
    const int length = 1 + static_cast<int>(random() % 14);
    for (int k = 0; k < length; ++k) name += letters[random() % letters.size()];
    if (name.back() == '/' || Contains(name, "//")) continue;
    std::error_code error;
    if (std::filesystem::exists(tree.At(name), error) || error) continue;
    std::filesystem::create_directories(std::filesystem::path(tree.At(name)).parent_path(), error);
    if (error) continue;
    tree.Write(name);
    expected.push_back(name);
  }
  REQUIRE(expected.size() > 200);
  std::sort(expected.begin(), expected.end());
  IndexOptions options;
  options.rule = TreeRule::kFlat;
  CHECK(NamesOf(*MustBuild(tree.path(), options).manifest) == expected);
}

TEST_CASE("the same tree gives the same manifest with any number of threads", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 3000; ++i) {
    tree.Write("c" + std::to_string(i % 7) + "/s" + std::to_string(i % 3) + "/" + std::to_string(i),
               std::string(static_cast<size_t>(i % 50), 'x'));
  }
  IndexOptions options;
  options.threads = 1;
  const IndexResult one = MustBuild(tree.path(), options);
  const Names names = NamesOf(*one.manifest);
  REQUIRE(names.size() == 3000);
  for (const int threads : {2, 8, 40}) {
    options.threads = threads;
    const IndexResult other = MustBuild(tree.path(), options);
    CHECK(other.manifest->fingerprint() == one.manifest->fingerprint());
    CHECK(NamesOf(*other.manifest) == names);
  }
}

TEST_CASE("a folder of more files than one listing holds is complete", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  constexpr int kFiles = 6'000;
  const std::string long_part(100, 'n');
  for (int i = 0; i < kFiles; ++i) {
    const int fd = ::open(tree.At(long_part + std::to_string(i)).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    REQUIRE(fd >= 0);
    ::close(fd);
  }
  const IndexResult result = MustBuild(tree.path());
  Names names = NamesOf(*result.manifest);
  REQUIRE(names.size() == kFiles);
  CHECK(std::is_sorted(names.begin(), names.end()));
  CHECK(std::unique(names.begin(), names.end()) == names.end());
}

TEST_CASE("odd names are kept byte for byte", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  const Names odd = {"\x01\x02", " leading",  "a\nb",         "a\tb",     "back\\slash",        "new\r",
                     "quote\"'", "trailing ", "\xE4\xB8\xAD", "\xFF\xFE", std::string(255, 'l')};
  for (const std::string& name : odd) tree.Write(name, name);
  Names expected = odd;
  std::sort(expected.begin(), expected.end());
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == expected);
}

TEST_CASE("hidden names are left out and counted", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a", "1");
  tree.Write(".hidden", "2");
  tree.Write(".git/config", "3");
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == Names{"a"});
  CHECK(result.counts.hidden == 2);  // the manifest's own folder is not worth a word
  CHECK(result.manifest->rule() == TreeRule::kFlat);
}

TEST_CASE("links to files and folders are followed", "[manifest]") {
  LogCapture log;
  TempFolder elsewhere;
  elsewhere.Write("big", std::string(1000, 'x'));
  elsewhere.Write("folder/in", "yy");
  TempFolder tree;
  tree.Link(elsewhere.At("big"), "to_file");
  tree.Link(elsewhere.At("folder"), "to_folder");
  IndexOptions options;
  options.rule = TreeRule::kFlat;
  const IndexResult result = MustBuild(tree.path(), options);
  REQUIRE(NamesOf(*result.manifest) == Names{"to_file", "to_folder/in"});
  CHECK(result.manifest->StoredBytes(0) == 1000);
  CHECK(result.manifest->StoredBytes(1) == 2);
}

TEST_CASE("a class folder may be a link", "[manifest]") {
  LogCapture log;
  TempFolder elsewhere;
  elsewhere.Write("in", "yy");
  TempFolder tree;
  tree.Write("b/x");
  tree.Link(elsewhere.path(), "a");
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == Names{"a/in", "b/x"});
  CHECK(result.manifest->class_name(0) == "a");
}

TEST_CASE("folders that lead back to one above them are cut", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a/b/x");
  tree.Link("..", "a/b/up");
  tree.Link(tree.path(), "a/root");
  tree.Link(".", "self");
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == Names{"a/b/x"});
  CHECK(result.counts.cycles == 3);
  CHECK(result.manifest->class_count() == 1);
  CHECK(log.CountOf("lead back") == 1);
}

TEST_CASE("links to nowhere and links to themselves are left out", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x");
  tree.Link("nothing", "dangling");
  tree.Link("loop", "loop");
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == Names{"x"});
  CHECK(result.counts.broken_links == 2);
  CHECK(Contains(result.counts.examples, "dangling (a link to nowhere)"));
}

// Opening a FIFO for reading would wait for a writer: this test would hang.
TEST_CASE("FIFOs and sockets and links to them are left out without being opened", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x", "1");
  REQUIRE(::mkfifo(tree.At("fifo").c_str(), 0644) == 0);
  tree.Link("fifo", "link_to_fifo");
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  tree.At("socket").copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  IndexOptions options;
  options.crc = true;
  const IndexResult result = MustBuild(tree.path(), options);
  ::close(fd);
  CHECK(NamesOf(*result.manifest) == Names{"x"});
  CHECK(result.counts.non_regular == 3);
  CHECK(log.CountOf("3 names that are no regular files") == 1);
}

TEST_CASE("files beside the class folders are counted and named", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("cat/1");
  tree.Write("README.txt");
  const IndexResult result = MustBuild(tree.path());
  CHECK(NamesOf(*result.manifest) == Names{"cat/1"});
  CHECK(result.counts.unlabeled == 1);
  CHECK(log.CountOf("README.txt (in no class)") == 1);
}

TEST_CASE("a class without files keeps its label", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.MakeFolder("a");
  tree.Write("b/1");
  const IndexResult result = MustBuild(tree.path());
  CHECK(LabelsOf(*result.manifest) == Labels{1});
  CHECK(result.manifest->class_count() == 2);
  CHECK(result.counts.empty_classes == 1);
}

TEST_CASE("a missing folder is named with the cure", "[manifest]") {
  const auto result = Manifest::Open("/nonexistent/data");
  CHECK(result.status().code() == absl::StatusCode::kNotFound);
  CHECK(Contains(MessageOf(result), "/nonexistent/data"));
  CHECK(Contains(MessageOf(result), "mounted"));
}

TEST_CASE("a folder without files is an error", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  const auto empty = Manifest::Open(tree.path());
  CHECK(empty.status().code() == absl::StatusCode::kNotFound);
  CHECK(Contains(MessageOf(empty), "no files"));
  tree.MakeFolder("a");
  CHECK(Manifest::Open(tree.path()).status().code() == absl::StatusCode::kNotFound);
  CHECK_FALSE(std::filesystem::exists(PlaceOf(tree.path())));
  CHECK_FALSE(std::filesystem::exists(PlaceOf(tree.path()) + ".lease"));
}

TEST_CASE("the class rule needs a class", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x");
  IndexOptions options;
  options.rule = TreeRule::kClasses;
  const auto result = Manifest::Build(tree.path(), options);
  CHECK(result.status().code() == absl::StatusCode::kNotFound);
  CHECK(Contains(MessageOf(result), "rule flat"));
}

TEST_CASE("a rule that does not fit the path is refused", "[manifest]") {
  TempFolder tree;
  const std::string file = tree.Write("x");
  IndexOptions options;
  options.rule = TreeRule::kList;
  CHECK(Manifest::Build(tree.path(), options).status().code() == absl::StatusCode::kInvalidArgument);
  options.rule = TreeRule::kClasses;
  CHECK(Manifest::Build(file, options).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Manifest::Build("/dev/null").status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Manifest::Build("").status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Manifest::Build(std::string("/tmp\0/x", 7)).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("a folder that may not be listed fails by name", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a/1");
  const std::string closed = tree.MakeFolder("closed");
  // As root no permission is missing; so another user scans.
  REQUIRE(::chmod(closed.c_str(), 0) == 0);
  REQUIRE(::chmod(tree.path().c_str(), 0777) == 0);
  REQUIRE(::chmod(tree.above().c_str(), 0777) == 0);
  const uid_t user = ::geteuid();
  const bool was_root = user == 0;
  if (was_root) REQUIRE(::seteuid(65534) == 0);
  const auto result = Manifest::Build(tree.path());
  if (was_root) REQUIRE(::seteuid(0) == 0);
  CHECK(result.status().code() == absl::StatusCode::kPermissionDenied);
  CHECK(Contains(MessageOf(result), closed));
  CHECK(Contains(MessageOf(result), "permission"));
  ::chmod(closed.c_str(), 0755);
}

TEST_CASE("progress is reported and ends with saving", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 300; ++i) tree.Write(std::to_string(i), "12345");
  IndexOptions options;
  options.crc = true;
  std::vector<IndexProgress> seen;
  options.progress = [&](const IndexProgress& progress) { seen.push_back(progress); };
  MustBuild(tree.path(), options);
  REQUIRE(seen.size() >= 3);
  CHECK(seen.back().phase == IndexProgress::Phase::kSaving);
  const auto last_of = [&](IndexProgress::Phase phase) {
    return *std::find_if(seen.rbegin(), seen.rend(), [&](const IndexProgress& progress) { return progress.phase == phase; });
  };
  CHECK(last_of(IndexProgress::Phase::kScanning).files == 300);
  CHECK(last_of(IndexProgress::Phase::kScanning).bytes == 1500);
  CHECK(last_of(IndexProgress::Phase::kChecksums).files == 300);
  CHECK(last_of(IndexProgress::Phase::kChecksums).files_total == 300);
}

TEST_CASE("the place hint is the inode number", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  const std::string path = tree.Write("x", "1");
  struct stat info;
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK(MustBuild(tree.path()).manifest->place_hint(0) == info.st_ino);
}

TEST_CASE("times of modification are kept where they are asked for and do not change the fingerprint", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  const std::string path = tree.Write("x", "1");
  tree.Write("y", "22");
  const timespec times[2] = {{1, 0}, {1'234'567'890, 987'654'321}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
  const auto plain = MustBuild(tree.path()).manifest;
  CHECK_FALSE(plain->has_mtimes());
  CHECK(plain->mtime_ns(0) == kMtimeUnknown);
  IndexOptions options;
  options.stat = true;
  const auto kept = Manifest::Open(tree.path(), options);  // the saved one does not serve
  REQUIRE_OK(kept);
  REQUIRE((*kept)->has_mtimes());
  CHECK((*kept)->mtime_ns(0) == 1'234'567'890'987'654'321);
  CHECK((*kept)->mtime_ns(1) > (*kept)->mtime_ns(0));
  CHECK((*kept)->fingerprint() == plain->fingerprint());
}

TEST_CASE("a folder that links give several names comes once, by its own name", "[manifest]") {
  TempFolder folder;
  folder.Write("b/real/1");
  folder.Write("b/real/2");
  std::filesystem::create_directories(folder.At("a"));
  std::filesystem::create_directory_symlink("../b/real", folder.At("a/first"));
  std::filesystem::create_directory_symlink("real", folder.At("b/again"));
  TempFolder outside;
  outside.Write("pool/x");
  std::filesystem::create_directory_symlink(outside.At("pool"), folder.At("b/z-link"));
  std::filesystem::create_directory_symlink(outside.At("pool"), folder.At("b/y-link"));
  for (int threads = 1; threads <= 8; ++threads) {
    IndexOptions options;
    options.rule = TreeRule::kFlat;
    options.threads = threads;
    auto built = Manifest::Build(folder.path(), options);
    REQUIRE_OK(built);
    CHECK(NamesOf(*built->manifest) == std::vector<std::string>{"b/real/1", "b/real/2", "b/y-link/x"});
    CHECK(built->counts.repeated_folders == 3);
    CHECK(built->counts.cycles == 0);
    CHECK(Contains(built->counts.examples, "a/first (a folder that has another name too)"));
  }
}

// Two names in each of 18 folders would be 2^18 names of one file.
TEST_CASE("links within links do not multiply files", "[manifest]") {
  TempFolder folder;
  std::string path = "d";
  for (int level = 0; level < 18; ++level) {
    std::filesystem::create_directories(folder.At(path + "/x"));
    std::filesystem::create_directory_symlink("x", folder.At(path + "/y"));
    path += "/x";
  }
  folder.Write(path + "/file");
  auto built = Manifest::Build(folder.path());
  REQUIRE_OK(built);
  CHECK(NamesOf(*built->manifest) == std::vector<std::string>{path + "/file"});
  CHECK(built->counts.repeated_folders == 18);
}
