// Where a manifest is kept when its folder cannot be written, and what must not be its place.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"
#include "manifest/place.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

TEST_CASE("a read-only data set keeps its manifest in the cache folder", "[manifest]") {
  LogCapture log;
  TempFolder cache;
  REQUIRE(::chmod(cache.path().c_str(), 0777) == 0);
  CacheHome home(cache.path());
  TempFolder tree;
  tree.Write("x", "1");
  REQUIRE(::chmod(tree.path().c_str(), 0555) == 0);
  REQUIRE(::chmod(tree.above().c_str(), 0555) == 0);
  {
    OtherUser other;
    const auto first = Manifest::Open(tree.path());
    REQUIRE_OK(first);
    CHECK(Contains((*first)->path(), cache.path() + "/penstock/"));
    const auto second = Manifest::Open(tree.path());
    REQUIRE_OK(second);
    CHECK((*second)->path() == (*first)->path());
  }
  CHECK(log.CountOf("indexed") == 1);
  struct stat info;
  REQUIRE(::stat(cache.At("penstock").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0700);
  CHECK_FALSE(std::filesystem::exists(tree.above() + "/.t.penstock"));
}

TEST_CASE("where nothing can be written the manifest lives in memory and says so", "[manifest]") {
  LogCapture log;
  TempFolder cache;
  REQUIRE(::chmod(cache.path().c_str(), 0555) == 0);
  CacheHome home(cache.path());
  TempFolder tree;
  tree.Write("x", "1");
  REQUIRE(::chmod(tree.path().c_str(), 0555) == 0);
  REQUIRE(::chmod(tree.above().c_str(), 0555) == 0);
  OtherUser other;
  const auto manifest = Manifest::Open(tree.path());
  REQUIRE_OK(manifest);
  CHECK((*manifest)->sample_count() == 1);
  CHECK((*manifest)->path().empty());
  CHECK(log.CountOf("can be saved nowhere") == 1);
  const auto built = Manifest::Build(tree.path());
  CHECK(built.status().code() == absl::StatusCode::kPermissionDenied);
  CHECK(Contains(MessageOf(built), "XDG_CACHE_HOME"));
}

TEST_CASE("a cache folder of somebody else is not used", "[manifest]") {
  if (::geteuid() != 0) SkipTest("only root can make a folder that belongs to somebody else");
  LogCapture log;
  TempFolder cache;
  REQUIRE(::chmod(cache.path().c_str(), 0777) == 0);
  const std::string foreign = cache.MakeFolder("penstock");
  REQUIRE(::chmod(foreign.c_str(), 0777) == 0);
  CacheHome home(cache.path());
  TempFolder tree;
  tree.Write("x", "1");
  REQUIRE(::chmod(tree.path().c_str(), 0555) == 0);
  REQUIRE(::chmod(tree.above().c_str(), 0555) == 0);
  OtherUser other;
  const auto manifest = Manifest::Open(tree.path());
  REQUIRE_OK(manifest);
  CHECK((*manifest)->path().empty());
  CHECK(log.CountOf("belongs to user 0") == 1);
}

TEST_CASE("a manifest path among the samples is refused", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a/x");
  IndexOptions options;
  options.manifest_path = tree.At("a/manifest");
  const auto inside = Manifest::Open(tree.path(), options);
  CHECK(inside.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(MessageOf(inside), "hidden name"));
  tree.MakeFolder("a/.own");
  options.manifest_path = tree.At("a/.own/manifest");
  CHECK(Manifest::Open(tree.path(), options).ok());
}

TEST_CASE("a manifest path whose folders are missing gets them", "[manifest]") {
  LogCapture log;
  TempFolder keep;
  TempFolder tree;
  tree.Write("x");
  IndexOptions options;
  options.manifest_path = keep.At("new/folder/m");
  REQUIRE_OK(Manifest::Open(tree.path(), options));
  CHECK(std::filesystem::exists(options.manifest_path));
}

TEST_CASE("paths become absolute without following links", "[manifest]") {
  CHECK(AbsolutePath("/a/b///") == "/a/b");
  CHECK(AbsolutePath("/") == "/");
  CHECK(AbsolutePath("x") == std::filesystem::current_path().string() + "/x");
  CHECK(SplitAtLastSlash("a/b/c").folder == "a/b");
  CHECK(SplitAtLastSlash("a/b/c").name == "c");
  CHECK(SplitAtLastSlash("c").folder == "");
  CHECK(SplitAtLastSlash("/c").folder == "/");
}
