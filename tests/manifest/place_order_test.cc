// The order of place: a permutation, made of what the file system says, saved and part of the fingerprint.
#include <sys/stat.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Made in an order that has nothing to do with the names.
void Fill(const TempFolder& folder, int count, uint64_t seed) {
  std::vector<int> numbers;
  for (int i = 0; i < count; ++i) numbers.push_back(i);
  std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(seed));
  for (const int i : numbers) {
    folder.Write("class" + std::to_string(i % 3) + "/" + std::to_string(1000 + i), std::string(static_cast<size_t>(i), 'x'));
  }
}

IndexOptions By(PlaceOrder place) {
  IndexOptions options;
  options.place = place;
  return options;
}

bool IsPermutation(const Manifest& manifest) {
  std::vector<bool> seen(static_cast<size_t>(manifest.sample_count()));
  for (int64_t place = 0; place < manifest.sample_count(); ++place) {
    const int64_t id = manifest.IdAtPlace(place);
    if (id < 0 || id >= manifest.sample_count() || seen[static_cast<size_t>(id)]) return false;
    seen[static_cast<size_t>(id)] = true;
  }
  return true;
}

}  // namespace

TEST_CASE("by inode the order of place is that of the inode numbers", "[manifest]") {
  TempFolder folder;
  Fill(folder, 200, 1);
  auto built = Manifest::Build(folder.path(), By(PlaceOrder::kInode));
  REQUIRE_OK(built);
  const Manifest& manifest = *built->manifest;
  REQUIRE(manifest.has_place_order());
  CHECK(manifest.place_order() == PlaceOrder::kInode);
  CHECK(IsPermutation(manifest));
  uint64_t last = 0;
  for (int64_t place = 0; place < manifest.sample_count(); ++place) {
    struct stat info;
    REQUIRE(::stat(folder.At(manifest.Name(manifest.IdAtPlace(place))).c_str(), &info) == 0);
    CHECK(info.st_ino >= last);
    last = info.st_ino;
  }
}

TEST_CASE("by extent the order of place is a permutation too, or refused with its cure", "[manifest]") {
  TempFolder folder;
  Fill(folder, 100, 2);
  const auto built = Manifest::Build(folder.path(), By(PlaceOrder::kExtent));
  if (built.status().code() == absl::StatusCode::kFailedPrecondition) {
    CHECK(Contains(MessageOf(built), "--place inode"));
    SkipTest("this file system has no FIEMAP");
  }
  REQUIRE_OK(built);
  CHECK(built->manifest->place_order() == PlaceOrder::kExtent);
  CHECK(IsPermutation(*built->manifest));
}

TEST_CASE("the order of place is part of the fingerprint, is found again and is kept up by an update", "[manifest]") {
  TempFolder folder;
  LogCapture log;
  Fill(folder, 50, 3);
  auto without = Manifest::Build(folder.path());
  REQUIRE_OK(without);
  CHECK_FALSE(without->manifest->has_place_order());
  const std::string plain = without->manifest->fingerprint();
  // One that lacks it does not serve who wants it.
  auto opened = Manifest::Open(folder.path(), By(PlaceOrder::kInode));
  REQUIRE_OK(opened);
  CHECK((*opened)->has_place_order());
  CHECK((*opened)->fingerprint() != plain);
  // Who does not ask takes what is there.
  auto again = Manifest::Open(folder.path());
  REQUIRE_OK(again);
  CHECK((*again)->fingerprint() == (*opened)->fingerprint());
  folder.Write("class0/new", "x");
  auto updated = Manifest::Update(folder.path());
  REQUIRE_OK(updated);
  CHECK(updated->manifest->sample_count() == 51);
  CHECK(updated->manifest->place_order() == PlaceOrder::kInode);
  CHECK(IsPermutation(*updated->manifest));
}

TEST_CASE("a tree with its order of place and its checksums takes at most 40 bytes a sample beside the names", "[manifest]") {
  TempFolder folder;
  Fill(folder, 2000, 4);
  IndexOptions options = By(PlaceOrder::kInode);
  options.crc = true;
  auto built = Manifest::Build(folder.path(), options);
  REQUIRE_OK(built);
  CHECK(built->manifest->file_bytes() < 2000 * (40 + 5) + 8192);
}

TEST_CASE("records lie in the order of their ids", "[manifest]") {
  TempFolder folder;
  folder.Write("a.bin", std::string(100, 'x'));
  IndexOptions options = By(PlaceOrder::kInode);
  options.format = ShardFormat::kRaw;
  options.record_bytes = 10;
  auto built = Manifest::Build(folder.path(), options);
  REQUIRE_OK(built);
  CHECK(built->manifest->has_place_order());
  for (int64_t i = 0; i < 10; ++i) CHECK(built->manifest->IdAtPlace(i) == i);
}
