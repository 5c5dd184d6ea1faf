// Manifests joined: every answer is the member's own, and the objects are its files.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "manifest/fixture.h"
#include "store/object_store.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

using Members = std::vector<std::shared_ptr<const Manifest>>;

void Write(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::shared_ptr<const Manifest> BuildAt(const std::string& root, IndexOptions options = {}) {
  auto built = Manifest::Build(root, options);
  REQUIRE_OK(built);
  return built->manifest;
}

// Class folders with checksums and times.
std::shared_ptr<const Manifest> Classes(const std::string& root, int count) {
  for (int i = 0; i < count; ++i) {
    Write(absl::StrCat(root, i % 2 == 0 ? "/cat/" : "/dog/", i, ".bin"),
          absl::StrCat(root, " file ", i, std::string(static_cast<size_t>(i), 'x')));
  }
  IndexOptions options;
  options.crc = true;
  options.stat = true;
  return BuildAt(root, options);
}

// Records of 8 bytes.
std::shared_ptr<const Manifest> Records(const std::string& root) {
  Write(root + "/a.raw", "00000000111111112222222233333333");
  Write(root + "/b.raw", "4444444455555555");
  IndexOptions options;
  options.format = ShardFormat::kRaw;
  options.record_bytes = 8;
  return BuildAt(root, options);
}

// Samples of several ranges, one with a codec's sizes.
std::shared_ptr<const Manifest> Ranges(const std::string& root) {
  Write(root + "/shard", std::string(1000, 'r'));
  ManifestBuilder builder(root);
  REQUIRE_OK(builder.AddObject("shard", 1000));
  REQUIRE_OK(builder.AddSample(4, {{0, 10, 20, 40, 1}, {0, 500, 30, 30, 2}}));
  REQUIRE_OK(builder.AddSample(-1, {{0, 0, 7, 900, 0}}));
  REQUIRE_OK(builder.Write(root + ".manifest"));
  auto manifest = Manifest::OpenSaved(root + ".manifest");
  REQUIRE_OK(manifest);
  return *std::move(manifest);
}

std::shared_ptr<const Manifest> MustJoin(const Members& members) {
  auto joined = Manifest::Join(members);
  REQUIRE_OK(joined);
  return *std::move(joined);
}

}  // namespace

TEST_CASE("a joined manifest answers as its members do", "[manifest]") {
  TempFolder folder;
  const Members members = {Classes(folder.At("files"), 5), Records(folder.At("records")), Ranges(folder.At("ranges")),
                           Classes(folder.At("more"), 4)};
  const auto joined = MustJoin(members);
  const auto objects = joined->OpenObjects();
  REQUIRE(joined->member_count() == 4);
  int64_t id = 0;
  uint32_t first_object = 0;
  uint64_t bytes = 0;
  int64_t ranges = 0;
  for (size_t d = 0; d < members.size(); ++d) {
    const Manifest& own = *members[d];
    CHECK(&joined->member(static_cast<int64_t>(d)) == &own);
    CHECK(joined->FirstIdOf(static_cast<int64_t>(d)) == id);
    for (int64_t i = 0; i < own.sample_count(); ++i, ++id) {
      INFO("member " << d << " sample " << i);
      CHECK(joined->MemberOf(id) == static_cast<int64_t>(d));
      CHECK(joined->StoredBytes(id) == own.StoredBytes(i));
      CHECK(joined->DeliveredBytes(id) == own.DeliveredBytes(i));
      CHECK(joined->Label(id) == own.Label(i));
      CHECK(joined->Name(id) == own.root() + "/" + own.Name(i));
      REQUIRE(joined->RangeCount(id) == own.RangeCount(i));
      for (int r = 0; r < own.RangeCount(i); ++r) {
        const Range range = joined->RangeAt(id, r);
        const Range expected = own.RangeAt(i, r);
        CHECK(range.object == first_object + expected.object);
        CHECK(range.offset_bytes == expected.offset_bytes);
        CHECK(range.stored_bytes == expected.stored_bytes);
        CHECK(range.delivered_bytes == expected.delivered_bytes);
        CHECK(range.field == expected.field);
        // What lies there is what lies in the member's own file.
        std::string scratch;
        const auto target = objects->Target(range.object, scratch);
        REQUIRE_OK(target);
        const UniqueFd fd(::openat(target->dir_fd, target->path, O_RDONLY | O_CLOEXEC));
        REQUIRE(fd.valid());
        std::string there(range.stored_bytes, '\0');
        REQUIRE(::pread(fd.get(), there.data(), there.size(), static_cast<off_t>(range.offset_bytes)) ==
                static_cast<ssize_t>(there.size()));
        std::ifstream file(own.root() + "/" + own.ObjectName(expected.object), std::ios::binary);
        std::string text(std::istreambuf_iterator<char>(file), {});
        CHECK(there == text.substr(expected.offset_bytes, expected.stored_bytes));
      }
    }
    for (uint32_t object = 0; object < own.object_count(); ++object) {
      CHECK(joined->ObjectBytes(first_object + object) == own.ObjectBytes(object));
      CHECK(joined->place_hint(first_object + object) == own.place_hint(object));
      CHECK(joined->mtime_ns(first_object + object) == own.mtime_ns(object));
      CHECK(objects->Name(first_object + object) == own.root() + "/" + own.ObjectName(object));
    }
    first_object += static_cast<uint32_t>(own.object_count());
    bytes += own.total_bytes();
    ranges += own.range_count();
  }
  CHECK(joined->sample_count() == id);
  CHECK(joined->FirstIdOf(4) == id);
  CHECK(joined->object_count() == first_object);
  CHECK(joined->total_bytes() == bytes);
  CHECK(joined->range_count() == ranges);
  CHECK(joined->max_delivered_bytes() == 900);
  CHECK(joined->record_bytes() == 0);
  CHECK(joined->packed());
  CHECK(joined->has_labels());
  CHECK_FALSE(joined->has_crc());  // not all members have
  CHECK_FALSE(joined->has_mtimes());
  CHECK_FALSE(joined->has_place_order());
  CHECK(joined->class_count() == 0);  // not all members have the same
  CHECK(joined->format() == ShardFormat::kFiles);
  CHECK(joined->path().empty());
  REQUIRE_OK(joined->Verify());
  std::string scratch;
  CHECK_FALSE(objects->Target(first_object, scratch).ok());
  objects->Prefetch({0, first_object - 1, 2});
}

TEST_CASE("what all members have, the joined manifest has", "[manifest]") {
  TempFolder folder;
  const Members members = {Classes(folder.At("a"), 5), Classes(folder.At("b"), 3)};
  const auto joined = MustJoin(members);
  REQUIRE(joined->has_crc());
  REQUIRE(joined->has_mtimes());
  for (int64_t i = 0; i < 3; ++i) CHECK(joined->Crc(5 + i, 0) == members[1]->Crc(i, 0));
  CHECK(joined->class_count() == 2);
  CHECK(joined->class_name(1) == "dog");
  CHECK_FALSE(joined->packed());
}

TEST_CASE("the fingerprint of a joined manifest says which members, and in which order", "[manifest]") {
  TempFolder folder;
  const auto a = Classes(folder.At("a"), 5);
  const auto b = Records(folder.At("b"));
  std::filesystem::copy(folder.At("b"), folder.At("elsewhere"), std::filesystem::copy_options::recursive);
  const auto copy = Records(folder.At("elsewhere"));
  const std::string fingerprint = MustJoin({a, b})->fingerprint();
  CHECK(fingerprint.size() == 32);
  CHECK(fingerprint == MustJoin({a, copy})->fingerprint());
  CHECK(fingerprint != MustJoin({b, a})->fingerprint());
  CHECK(fingerprint != MustJoin({a, b, b})->fingerprint());
  CHECK(fingerprint != a->fingerprint());
  CHECK(MustJoin({a})->fingerprint() != a->fingerprint());
}

TEST_CASE("what cannot be joined is refused", "[manifest]") {
  TempFolder folder;
  const auto a = Records(folder.At("a"));
  CHECK(absl::IsInvalidArgument(Manifest::Join({}).status()));
  CHECK(absl::IsInvalidArgument(Manifest::Join(Members(257, a)).status()));
  REQUIRE_OK(Manifest::Join(Members(256, a)));
  CHECK(absl::StrContains(Manifest::Join(Members{a, nullptr}).status().message(), "member 1 is null"));
  CHECK(absl::StrContains(Manifest::Join(Members{a, MustJoin({a})}).status().message(), "member 1 is joined itself"));
}
