// A manifest serves the data set that it was made from, as it was then: every file that it was made from is known again.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"
#include "support/child.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

IndexOptions AsLoadersDo() {
  IndexOptions options;
  options.keep_stale = true;
  return options;
}

// A .npy file of uint8 with this shape.
std::string Npy(const std::string& shape, size_t bytes, char fill, const std::string& descr = "|u1") {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.resize(128 - 10 - 1, ' ');
  header += '\n';
  std::string text = "\x93NUMPY";
  text += '\x01';
  text += '\0';
  text += static_cast<char>(header.size());
  text += '\0';
  return text + header + std::string(bytes, fill);
}

std::string Labels(const std::string& labels) { return Npy(std::to_string(labels.size()) + ",", 0, 0, "|i1") + labels; }

// Another file under the same name with the time of the first, as cp -p and rsync -t make it.
void ReplaceKeepingTime(const std::string& path, const std::string& content) {
  struct stat info;
  REQUIRE(::stat(path.c_str(), &info) == 0);
  std::ofstream(path + ".new", std::ios::binary) << content;
  const timespec times[2] = {info.st_atim, info.st_mtim};
  REQUIRE(::utimensat(AT_FDCWD, (path + ".new").c_str(), times, 0) == 0);
  REQUIRE(::rename((path + ".new").c_str(), path.c_str()) == 0);
}

}  // namespace

TEST_CASE("labels that were rewritten after indexing are read again", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("set/a.npy", Npy("3, 4", 12, 'x'));
  folder.Write("set/labels.npy", Labels({1, 2, 3}));
  REQUIRE_OK(Manifest::Open(folder.At("set")));
  const int how = GENERATE(0, 1);
  if (how == 0) folder.Write("set/labels.npy", Labels({3, 2, 1}));
  if (how == 1) ReplaceKeepingTime(folder.At("set/labels.npy"), Labels({3, 2, 1}));
  const auto saved = Manifest::OpenSaved(PlaceOf(folder.At("set")));
  CHECK(saved.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Contains(MessageOf(saved), folder.At("set/labels.npy")));
  const auto again = Manifest::Open(folder.At("set"));
  REQUIRE_OK(again);
  CHECK(LabelsOf(**again) == std::vector<int32_t>{3, 2, 1});
}

TEST_CASE("labels elsewhere that were rewritten are named to a loader, which keeps its samples", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("set/a.bin", std::string(12, 'x'));
  IndexOptions options;
  options.format = ShardFormat::kRaw;
  options.record_bytes = 4;
  options.labels = folder.Write("labels.txt", "1\n2\n3\n");
  REQUIRE_OK(Manifest::Build(folder.At("set"), options));
  folder.Write("labels.txt", "3\n2\n1\n");
  const auto kept = Manifest::Open(folder.At("set"), AsLoadersDo());
  REQUIRE_OK(kept);
  CHECK(LabelsOf(**kept) == std::vector<int32_t>{1, 2, 3});
  CHECK(log.Warnings().size() == 1);
  CHECK(log.CountOf(folder.At("labels.txt")) == 1);
  CHECK(log.CountOf("penstock index --update") == 1);
  const auto again = Manifest::Open(folder.At("set"));
  REQUIRE_OK(again);
  CHECK(LabelsOf(**again) == std::vector<int32_t>{3, 2, 1});
}

TEST_CASE("shards that grew or have another shape are counted anew", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("set/a.npy", Npy("3, 4", 12, 'x'));
  folder.Write("set/b.npy", Npy("6, 4", 24, 'x'));
  IndexOptions options;
  options.format = ShardFormat::kNpy;
  REQUIRE_OK(Manifest::Build(folder.At("set"), options));
  const int how = GENERATE(0, 1, 2);
  std::string shape = "7, 4";
  if (how > 0) shape = "12, 2";
  if (how == 0) folder.Write("set/b.npy", Npy(shape, 28, 'y'));
  if (how == 1) folder.Write("set/b.npy", Npy(shape, 24, 'y'));
  if (how == 2) ReplaceKeepingTime(folder.At("set/b.npy"), Npy(shape, 24, 'y'));
  if (how > 0) folder.Write("set/a.npy", Npy("6, 2", 12, 'x'));
  const auto saved = Manifest::OpenSaved(PlaceOf(folder.At("set")));
  CHECK(saved.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Contains(MessageOf(saved), folder.At("set/")));
  const auto again = Manifest::Open(folder.At("set"));
  REQUIRE_OK(again);
  CHECK((*again)->sample_count() == (how == 0 ? 10 : 18));
}

TEST_CASE("a list that was replaced by one of its size and time is read again", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  for (const char* name : {"1", "2"}) folder.Write(name, name);
  folder.Write("list", "1\t5\n2\t6\n");
  REQUIRE_OK(Manifest::Open(folder.At("list")));
  ReplaceKeepingTime(folder.At("list"), "1\t6\n2\t5\n");
  const auto again = Manifest::Open(folder.At("list"));
  REQUIRE_OK(again);
  CHECK(LabelsOf(**again) == std::vector<int32_t>{6, 5});
}

// All inodes of a copy are others. With the times kept (cp -a, tar, rsync -a) it is the same set.
TEST_CASE("the manifest of a data set serves a copy of it", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("one/set/a.npy", Npy("3, 4", 12, 'x'));
  folder.Write("one/set/labels.npy", Labels({1, 2, 3}));
  REQUIRE_OK(Manifest::Open(folder.At("one/set")));
  REQUIRE(std::system(("cp -a '" + folder.At("one") + "' '" + folder.At("two") + "'").c_str()) == 0);
  const auto copy = Manifest::Open(folder.At("two/set"));
  REQUIRE_OK(copy);
  CHECK((*copy)->path() == folder.At("two/.set.penstock"));
  CHECK(log.CountOf("indexed") == 1);
  // The copy is asked, not what it was made from.
  folder.Write("one/set/labels.npy", Labels({7, 7, 7}));
  REQUIRE_OK(Manifest::Open(folder.At("two/set")));
  CHECK(log.CountOf("indexed") == 1);
}

TEST_CASE("one manifest_path for two data sets is refused, never served", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("one/a/1", "x");
  folder.Write("two/a/1", "x");
  folder.Write("two/a/2", "x");
  IndexOptions options = AsLoadersDo();
  options.manifest_path = folder.At("kept/manifest");
  REQUIRE_OK(Manifest::Open(folder.At("one"), options));
  const auto two = Manifest::Open(folder.At("two"), options);
  CHECK(two.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Contains(MessageOf(two), folder.At("one")));
  CHECK(Contains(MessageOf(two), folder.At("kept/manifest")));
  CHECK(Contains(MessageOf(two), "manifest_path of its own"));
  OpenSavedOptions saved;
  saved.root = folder.At("two");
  CHECK(Manifest::OpenSaved(options.manifest_path, saved).status().code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE_OK(Manifest::Open(folder.At("one"), options));
  // An index is asked for by name: it replaces, and says what.
  const auto built = Manifest::Update(folder.At("two"), options);
  REQUIRE_OK(built);
  CHECK(built->counts.added == 2);
  CHECK(built->counts.removed == 0);
  CHECK(log.CountOf("It is replaced") == 1);
}

TEST_CASE("a folder that took the place of another is not served by that one's manifest", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("set/a/1", "x");
  folder.Write("new/a/1", "x");
  folder.Write("new/b/2", "x");
  REQUIRE_OK(Manifest::Open(folder.At("set")));
  std::filesystem::rename(folder.At("set"), folder.At("old"));
  std::filesystem::rename(folder.At("new"), folder.At("set"));
  const auto manifest = Manifest::Open(folder.At("set"), AsLoadersDo());
  REQUIRE_OK(manifest);
  CHECK((*manifest)->sample_count() == 2);
  CHECK(log.CountOf("It is rebuilt now") == 1);
}

// What `penstock index --update` cannot save beside the data set it saves in the cache folder; the next open must find it.
TEST_CASE("of two saved manifests the fresh one serves, and of two fresh ones the newer", "[manifest]") {
  if (::geteuid() != 0) SkipTest("only root can index as two users");
  TempFolder folder;
  TempFolder cache;
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  REQUIRE(::chmod(cache.path().c_str(), 0777) == 0);
  CacheHome home(cache.path());
  folder.Write("set/1", "x");
  REQUIRE(::chmod(folder.At("set").c_str(), 0755) == 0);
  {
    LogCapture log;
    REQUIRE_OK(Manifest::Build(folder.At("set")));
  }
  const bool changed = GENERATE(true, false);
  // Written in place a file changes no folder: both manifests look fresh then.
  folder.Write(changed ? "set/2" : "set/1", "xyz");
  const std::string result = InChild([&]() -> std::string {
    SetLogSink([](LogLevel, absl::string_view) {});
    if (::seteuid(65534) != 0) return "seteuid failed";
    const auto before = Manifest::Open(folder.At("set"), AsLoadersDo());
    if (!before.ok() || (*before)->total_bytes() != 1) return "not the old one";
    const auto updated = Manifest::Update(folder.At("set"));
    if (!updated.ok()) return std::string(updated.status().message());
    const auto after = Manifest::Open(folder.At("set"), AsLoadersDo());
    if (!after.ok()) return std::string(after.status().message());
    return (*after)->total_bytes() == (changed ? 4u : 3u) ? "the new one" : "the old one still";
  });
  CHECK(result == "the new one");
}

TEST_CASE("an index below or beside a data set does not make its manifest stale", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("all/train/1", "x");
  folder.Write("all/val/1", "x");
  REQUIRE_OK(Manifest::Open(folder.At("all")));
  REQUIRE_OK(Manifest::Open(folder.At("all/train")));
  REQUIRE_OK(Manifest::Open(folder.At("all/val")));
  IndexOptions flat;
  flat.rule = TreeRule::kFlat;
  REQUIRE_OK(Manifest::Open(folder.At("all/train"), flat));
  CHECK(log.CountOf("indexed") == 4);
  for (const char* set : {"all", "all/train", "all/val"}) {
    REQUIRE_OK(Manifest::OpenSaved(PlaceOf(folder.At(set))));
    REQUIRE_OK(Manifest::Open(folder.At(set)));
  }
  CHECK(log.CountOf("indexed") == 4);
  CHECK(log.CountOf("hidden") == 0);
  // Nothing was put into the sets: a folder in one would be a class to other tools.
  for (const char* set : {"all/train", "all/val"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder.At(set))) CHECK(entry.path().filename() == "1");
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder.At("all"))) {
    CHECK(entry.is_directory() == (entry.path().filename() == "train" || entry.path().filename() == "val"));
  }
  // What counts still shows, a file that was renamed over another too.
  folder.Write("all/new", "yy");
  std::filesystem::rename(folder.At("all/new"), folder.At("all/train/1"));
  CHECK_FALSE(Manifest::OpenSaved(PlaceOf(folder.At("all"))).ok());
}

TEST_CASE("a root is one data set by whatever path it is named", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  folder.Write("set/1", "x");
  folder.Link("set", "link");
  REQUIRE_OK(Manifest::Open(folder.At("set")));
  const std::string before = std::filesystem::current_path();
  std::filesystem::current_path(folder.At("set"));
  for (const std::string& name : {folder.At("link"), std::string("."), folder.At("set/../set/"), std::string("../link/.")}) {
    const auto manifest = Manifest::Open(name);
    REQUIRE_OK(manifest);
    CHECK((*manifest)->path() == std::filesystem::canonical(folder.path()).string() + "/.set.penstock");
  }
  std::filesystem::current_path(before);
  CHECK(log.CountOf("indexed") == 1);
  // The paths of a list are relative to the folder in which the list was named.
  folder.Write("other/1", "xyz");
  folder.Write("set/list", "1\n");
  REQUIRE(::symlink("../set/list", folder.At("other/list").c_str()) == 0);
  const auto here = Manifest::Open(folder.At("set/list"));
  const auto there = Manifest::Open(folder.At("other/list"));
  REQUIRE_OK(here);
  REQUIRE_OK(there);
  CHECK((*here)->total_bytes() == 1);
  CHECK((*there)->total_bytes() == 3);
}

TEST_CASE("the root of all and a mount point have places of their own", "[manifest]") {
  DataSet all{"/", "", TreeRule::kAuto};
  TempFolder cache;
  CacheHome home(cache.path());
  REQUIRE(ManifestPlaces(all, "").size() == 1);
  CHECK(Contains(ManifestPlaces(all, "")[0], cache.path()));
  CHECK(ManifestPlaces(DataSet{"/proc", "", TreeRule::kAuto}, "")[0] == "/proc/.penstock");
}

TEST_CASE("a manifest that somebody else made or may write is not believed", "[manifest]") {
  if (::geteuid() != 0) SkipTest("only root can make a file of another user");
  const std::string how = GENERATE("owner", "group", "world", "link");
  CAPTURE(how);
  LogCapture log;
  TempFolder folder;
  TempFolder cache;
  CacheHome home(cache.path());
  folder.Write("list", "1\n");
  folder.Write("1", "x");
  folder.Write("secret", "the secret");
  // Whoever may write where the list lies puts a manifest there that names another file.
  ManifestBuilder forged(folder.path());
  REQUIRE_OK(forged.AddObject("secret", 10));
  REQUIRE_OK(forged.AddSample(-1, {Range{0, 0, 10, 10, 0}}));
  const std::string place = PlaceOf(folder.At("list"));
  REQUIRE_OK(Manifest::Build(folder.At("list")));
  const std::string own = ReadFile(place);
  REQUIRE_OK(forged.Write(place));
  if (how == "owner") REQUIRE(::chown(place.c_str(), 65533, 0) == 0);
  if (how == "group") REQUIRE(::chmod(place.c_str(), 0664) == 0);
  if (how == "world") REQUIRE(::chmod(place.c_str(), 0646) == 0);
  if (how == "link") {
    std::filesystem::rename(place, folder.At("elsewhere"));
    REQUIRE(::symlink("elsewhere", place.c_str()) == 0);
  }
  const auto manifest = Manifest::Open(folder.At("list"), AsLoadersDo());
  REQUIRE_OK(manifest);
  CHECK(NamesOf(**manifest) == std::vector<std::string>{"1"});
  CHECK((*manifest)->path() == PlacesOf(folder.At("list"))[1]);
  CHECK(log.Warnings().size() + static_cast<size_t>(log.CountOf("is saved at")) >= 1);
  CHECK(log.CountOf(place) == 1);
  const auto saved = Manifest::OpenSaved(place);
  CHECK(saved.status().code() == absl::StatusCode::kPermissionDenied);
  CHECK(Contains(MessageOf(saved), how == "link" ? "symbolic link" : "not used"));
  IndexOptions named = AsLoadersDo();
  named.manifest_path = place;
  CHECK(Manifest::Open(folder.At("list"), named).status().code() == absl::StatusCode::kPermissionDenied);
}

// A curated data set that many users read: its links and lists name any file as well as its manifest could.
TEST_CASE("the manifest of a data set's owner serves other users", "[manifest]") {
  if (::geteuid() != 0) SkipTest("only root can be two users");
  LogCapture log;
  TempFolder folder;
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  folder.Write("set/1", "x");
  REQUIRE_OK(Manifest::Build(folder.At("set")));
  for (const std::string& path : {folder.At("set"), folder.At(".set.penstock")}) REQUIRE(::chown(path.c_str(), 65533, 65533) == 0);
  REQUIRE(::chmod(folder.At("set").c_str(), 0755) == 0);
  OtherUser other;
  const auto manifest = Manifest::Open(folder.At("set"));
  REQUIRE_OK(manifest);
  CHECK((*manifest)->path() == folder.At(".set.penstock"));
  CHECK(log.CountOf("indexed") == 1);
}
