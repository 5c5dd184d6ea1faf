// Manifests made sample by sample: several ranges, codecs, fields, checksums.
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "base/crc32c.h"
#include "manifest/fixture.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

bool Same(const Range& a, const Range& b) {
  return a.object == b.object && a.offset_bytes == b.offset_bytes && a.stored_bytes == b.stored_bytes &&
         a.delivered_bytes == b.delivered_bytes && a.field == b.field;
}

std::shared_ptr<const Manifest> WriteAndOpen(ManifestBuilder& builder, const TempFolder& folder) {
  REQUIRE_OK(builder.Write(folder.At("m")));
  OpenSavedOptions options;
  options.check = ManifestCheck::kAll;
  auto manifest = Manifest::OpenSaved(folder.At("m"), options);
  REQUIRE_OK(manifest);
  return *std::move(manifest);
}

struct Sample {
  int32_t label = -1;
  std::vector<Range> ranges;
  std::vector<uint32_t> crcs;
};

}  // namespace

TEST_CASE("samples of several ranges come back as they were added", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  REQUIRE_OK(builder.AddObject("shard-0.tar", 10'000));
  REQUIRE_OK(builder.AddObject("sub/shard-1.tar", uint64_t{1} << 47));
  std::mt19937_64 random(3);
  std::vector<Sample> samples;
  // More than 2^16 samples, so that the bases of a second block count.
  for (int i = 0; i < 70'000; ++i) {
    Sample sample;
    sample.label = static_cast<int32_t>(random() % 1000) - 1;
    const int count = 1 + static_cast<int>(random() % 4);
    for (int k = 0; k < count; ++k) {
      Range range;
      range.object = static_cast<uint32_t>(random() % 2);
      range.offset_bytes = range.object == 0 ? random() % 10'000 : random() % (uint64_t{1} << 46);
      range.stored_bytes = range.object == 0 ? random() % (10'001 - range.offset_bytes) : random() % (uint64_t{1} << 46);
      range.delivered_bytes = random() % (uint64_t{1} << 40);
      range.field = static_cast<uint16_t>(random());
      sample.ranges.push_back(range);
      sample.crcs.push_back(static_cast<uint32_t>(random()));
    }
    const auto id = builder.AddSample(sample.label, sample.ranges, sample.crcs);
    REQUIRE_OK(id);
    REQUIRE(*id == i);
    samples.push_back(std::move(sample));
  }
  const auto manifest = WriteAndOpen(builder, folder);
  REQUIRE(manifest->sample_count() == 70'000);
  CHECK(manifest->object_count() == 2);
  CHECK(manifest->ObjectName(1) == "sub/shard-1.tar");
  uint64_t total = 0;
  uint64_t largest = 0;
  bool equal = true;
  for (size_t i = 0; i < samples.size(); ++i) {
    const Sample& sample = samples[i];
    const auto id = static_cast<int64_t>(i);
    uint64_t stored = 0;
    uint64_t delivered = 0;
    equal = equal && manifest->RangeCount(id) == static_cast<int>(sample.ranges.size()) && manifest->Label(id) == sample.label;
    for (size_t k = 0; k < sample.ranges.size() && equal; ++k) {
      equal =
          Same(manifest->RangeAt(id, static_cast<int>(k)), sample.ranges[k]) && manifest->Crc(id, static_cast<int>(k)) == sample.crcs[k];
      stored += sample.ranges[k].stored_bytes;
      delivered += sample.ranges[k].delivered_bytes;
    }
    equal = equal && manifest->StoredBytes(id) == stored && manifest->DeliveredBytes(id) == delivered;
    total += delivered;
    largest = std::max(largest, delivered);
  }
  CHECK(equal);
  CHECK(manifest->total_bytes() == total);
  CHECK(manifest->max_delivered_bytes() == largest);
}

TEST_CASE("a first sample of one range does not decide for the rest", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  for (int i = 0; i < 3; ++i) REQUIRE_OK(builder.AddObject("o" + std::to_string(i), 100));
  const Range whole0{0, 0, 100, 100, 0};
  const Range whole1{1, 0, 100, 100, 0};
  const Range part{2, 10, 20, 30, 4};
  REQUIRE_OK(builder.AddSample(5, {whole0}));
  REQUIRE_OK(builder.AddSample(6, {whole1}));
  REQUIRE_OK(builder.AddSample(7, {part, whole0}));
  const auto manifest = WriteAndOpen(builder, folder);
  CHECK(Same(manifest->RangeAt(0, 0), whole0));
  CHECK(Same(manifest->RangeAt(1, 0), whole1));
  REQUIRE(manifest->RangeCount(2) == 2);
  CHECK(Same(manifest->RangeAt(2, 0), part));
  CHECK(Same(manifest->RangeAt(2, 1), whole0));
  CHECK(manifest->StoredBytes(2) == 120);
  CHECK(manifest->DeliveredBytes(2) == 130);
  CHECK(manifest->RangeCount(0) == 1);
}

TEST_CASE("samples of one range inside shards need no list of ranges each", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  REQUIRE_OK(builder.AddObject("shard", 100'000));
  for (uint64_t i = 0; i < 1000; ++i) REQUIRE_OK(builder.AddSample(-1, {Range{0, i * 100, 100, 100, 0}}));
  const auto manifest = WriteAndOpen(builder, folder);
  CHECK(manifest->RangeCount(999) == 1);
  CHECK(manifest->RangeAt(999, 0).offset_bytes == 99'900);
  CHECK(manifest->StoredBytes(999) == 100);
  CHECK(manifest->Label(0) == -1);
  CHECK(manifest->file_bytes() < 1000 * 16 + 2000);
}

TEST_CASE("the layout keeps its promise of bytes per sample", "[manifest]") {
  TempFolder folder;
  constexpr uint64_t kSamples = 100'000;
  const std::vector<uint32_t> one_crc = {1};
  const std::vector<uint32_t> three_crcs = {1, 2, 3};
  uint64_t name_bytes = 0;
  ManifestBuilder single(folder.path());
  ManifestBuilder triple(folder.path());
  for (uint64_t i = 0; i < kSamples; ++i) {
    const std::string name = "f" + std::to_string(i);
    name_bytes += name.size() + 1;
    for (ManifestBuilder* builder : {&single, &triple}) REQUIRE_OK(builder->AddObject(name, 1000, i + 1));
    const Range whole{static_cast<uint32_t>(i), 0, 1000, 1000, 0};
    REQUIRE_OK(single.AddSample(1, {whole}, one_crc));
    REQUIRE_OK(triple.AddSample(1, {whole, whole, whole}));
  }
  // 40 bytes per sample with all columns and 16 per further range, beside names, header and alignment.
  CHECK(WriteAndOpen(single, folder)->file_bytes() <= 40 * kSamples + name_bytes + 4096);
  CHECK(WriteAndOpen(triple, folder)->file_bytes() <= (40 + 2 * 16 + 16) * kSamples + name_bytes + 4096);
}

TEST_CASE("the fingerprint covers ranges and lengths and labels and fields but not checksums", "[manifest]") {
  TempFolder folder;
  const auto fingerprint = [&](const Range& range, int32_t label, bool crc) {
    ManifestBuilder builder(folder.path());
    REQUIRE_OK(builder.AddObject("a", 100));
    REQUIRE_OK(builder.AddObject("b", 100));
    const std::vector<uint32_t> crcs = {9};
    REQUIRE_OK(builder.AddSample(label, {range}, crc ? absl::MakeSpan(crcs) : absl::Span<const uint32_t>()));
    return WriteAndOpen(builder, folder)->fingerprint();
  };
  const Range range{0, 10, 20, 30, 1};
  const std::string base = fingerprint(range, 2, false);
  CHECK(fingerprint(range, 2, true) == base);
  CHECK(fingerprint(range, 3, false) != base);
  CHECK(fingerprint({1, 10, 20, 30, 1}, 2, false) != base);
  CHECK(fingerprint({0, 11, 20, 30, 1}, 2, false) != base);
  CHECK(fingerprint({0, 10, 21, 30, 1}, 2, false) != base);
  CHECK(fingerprint({0, 10, 20, 31, 1}, 2, false) != base);
  CHECK(fingerprint({0, 10, 20, 30, 2}, 2, false) != base);
}

TEST_CASE("whole files have one fingerprint whether their ranges are written out or not", "[manifest]") {
  TempFolder folder;
  const auto build = [&](bool explicit_ranges) {
    ManifestBuilder builder(folder.path());
    REQUIRE_OK(builder.AddObject("a", 1));
    REQUIRE_OK(builder.AddObject("b", 2));
    if (explicit_ranges) REQUIRE_OK(builder.AddObject("unused", 3));
    REQUIRE_OK(builder.AddSample(0, {Range{0, 0, 1, 1, 0}}));
    REQUIRE_OK(builder.AddSample(1, {Range{1, 0, 2, 2, 0}}));
    const auto manifest = WriteAndOpen(builder, folder);
    CHECK(manifest->sample_count() == 2);
    return manifest->fingerprint();
  };
  CHECK(build(true) == build(false));
}

TEST_CASE("an empty manifest can be saved and opened", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  const auto manifest = WriteAndOpen(builder, folder);
  CHECK(manifest->sample_count() == 0);
  CHECK(manifest->max_delivered_bytes() == 0);
}

TEST_CASE("what is no sample is refused with its number", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  REQUIRE_OK(builder.AddObject("a", 100));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 0, 100, 100, 0}}));
  const auto refused = [&](int32_t label, std::vector<Range> ranges, std::vector<uint32_t> crcs = {}) {
    const auto result = builder.AddSample(label, ranges, crcs);
    INFO(result.status().ToString());
    CHECK(result.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK(Contains(MessageOf(result), "sample 1"));
  };
  const uint64_t huge = ~uint64_t{0};
  refused(-2, {Range{0, 0, 1, 1, 0}});
  refused(0, {});
  refused(0, {Range{1, 0, 1, 1, 0}});
  refused(0, {Range{0, 101, 0, 0, 0}});
  refused(0, {Range{0, 50, 51, 1, 0}});
  refused(0, {Range{0, huge, 1, 1, 0}});
  refused(0, {Range{0, 1, huge, 1, 0}});
  refused(0, {Range{0, 0, 1, huge, 0}});
  refused(0, {Range{0, 0, 1, huge >> 16, 0}, Range{0, 0, 1, 1, 0}});
  refused(0, {Range{0, 0, 1, 1, 0}}, {7});  // the first sample has no checksum
  CHECK(builder.AddSample(0, {Range{0, 100, 0, 0, 0}}).ok());
}

TEST_CASE("what is no name is refused", "[manifest]") {
  ManifestBuilder builder("/data");
  for (const std::string& name : {std::string(""), std::string("a/"), std::string("a\0b", 3)}) {
    CHECK(builder.AddObject(name, 1).status().code() == absl::StatusCode::kInvalidArgument);
  }
  CHECK(builder.AddObject("a", uint64_t{1} << 48).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("classes of a built manifest have their names", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  REQUIRE_OK(builder.AddObject("a", 1));
  REQUIRE_OK(builder.AddSample(1, {Range{0, 0, 1, 1, 0}}));
  builder.SetClassNames({"cat", "dog"});
  const auto manifest = WriteAndOpen(builder, folder);
  CHECK(manifest->class_count() == 2);
  CHECK(manifest->class_name(1) == "dog");
}

// Names as data sets have them. The real thing, a tree of as many files, is measured in bench/README.md.
TEST_CASE("a manifest of a million files stays below 200 MB and answers", "[manifest]") {
  TempFolder folder;
  constexpr uint32_t kSamples = 1'000'000;
  ManifestBuilder builder(folder.path());
  for (uint32_t i = 0; i < kSamples; ++i) {
    const std::string folder_name = "n" + std::to_string(10'000'000 + i / 1000);
    const std::string name = "train/" + folder_name + "/" + folder_name + "_" + std::to_string(100'000 + i % 1000) + ".JPEG";
    REQUIRE(builder.AddObject(name, i % 200'000, i + 1, i + 1).ok());
    const uint32_t crc = i;
    REQUIRE(builder.AddSample(static_cast<int32_t>(i / 1000), {Range{i, 0, i % 200'000, i % 200'000, 0}}, {&crc, 1}).ok());
  }
  const auto manifest = WriteAndOpen(builder, folder);
  CHECK(manifest->file_bytes() < 200'000'000);
  CHECK(manifest->sample_count() == kSamples);
  CHECK(manifest->Name(999'999) == "train/n10000999/n10000999_100999.JPEG");
  CHECK(manifest->Label(999'999) == 999);
  CHECK(manifest->mtime_ns(999'999) == 1'000'000);
  CHECK(manifest->StoredBytes(123'456) == 123'456);
  CHECK(manifest->folder_count() == 1000);
}

TEST_CASE("checksums over explicit ranges are those of the ranges", "[manifest]") {
  TempFolder folder;
  const std::string shard = "0123456789abcdefghij";
  folder.Write("shard", shard);
  folder.Write("other", "0123456789");
  ManifestBuilder builder(folder.path());
  REQUIRE_OK(builder.AddObject("shard", shard.size()));
  REQUIRE_OK(builder.AddObject("other", 10));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 4, 6, 6, 0}, Range{1, 2, 3, 3, 1}}));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 0, 20, 20, 0}}));
  REQUIRE_OK(builder.AddSample(0, {Range{1, 9, 0, 0, 0}}));
  REQUIRE_OK(builder.Write(folder.At("m"), {.crc = true}));
  auto manifest = Manifest::OpenSaved(folder.At("m"));
  REQUIRE_OK(manifest);
  REQUIRE((*manifest)->has_crc());
  CHECK((*manifest)->Crc(0, 0) == Crc32c("456789", 6));
  CHECK((*manifest)->Crc(0, 1) == Crc32c("234", 3));
  CHECK((*manifest)->Crc(1, 0) == Crc32c(shard.data(), shard.size()));
  CHECK((*manifest)->Crc(2, 0) == 0);
  // What Write found out is not kept for the next one.
  REQUIRE_OK(builder.AddSample(0, {Range{0, 1, 1, 1, 0}}));
  CHECK_FALSE(WriteAndOpen(builder, folder)->has_crc());
  folder.Write("other", "01234567");
  const absl::Status changed = builder.Write(folder.At("m"), {.crc = true});
  CHECK(changed.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Contains(std::string(changed.message()), "had 10 bytes when it was added and has 8 now"));
}

TEST_CASE("the order of place over explicit ranges is by object, and within it by offset", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  REQUIRE_OK(builder.AddObject("late", 100, /*inode=*/9));
  REQUIRE_OK(builder.AddObject("early", 100, /*inode=*/4));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 50, 10, 10, 0}}));
  REQUIRE_OK(builder.AddSample(0, {Range{1, 80, 10, 10, 0}}));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 0, 10, 10, 0}, Range{1, 0, 5, 5, 0}}));
  REQUIRE_OK(builder.AddSample(0, {Range{1, 20, 10, 10, 0}}));
  REQUIRE_OK(builder.Write(folder.At("m"), {.place = PlaceOrder::kInode}));
  OpenSavedOptions all;
  all.check = ManifestCheck::kAll;
  auto manifest = Manifest::OpenSaved(folder.At("m"), all);
  REQUIRE_OK(manifest);
  REQUIRE((*manifest)->has_place_order());
  std::vector<int64_t> ids;
  for (int64_t place = 0; place < 4; ++place) ids.push_back((*manifest)->IdAtPlace(place));
  CHECK(ids == std::vector<int64_t>{3, 1, 2, 0});
}

TEST_CASE("whether files are shared between samples is a fact, not a count", "[manifest]") {
  TempFolder folder;
  {
    ManifestBuilder builder(folder.path());
    for (const char* name : {"a", "b"}) REQUIRE_OK(builder.AddObject(name, 17));
    for (uint32_t i = 0; i < 2; ++i) REQUIRE_OK(builder.AddSample(0, {Range{i, 6, 4, 4, 0}}));
    const auto manifest = WriteAndOpen(builder, folder);
    CHECK_FALSE(manifest->packed());
    CHECK_FALSE(manifest->EndsObject(manifest->RangeAt(0, 0)));
  }
  {
    ManifestBuilder builder(folder.path());
    for (const char* name : {"a", "b"}) REQUIRE_OK(builder.AddObject(name, 17));
    for (uint32_t i = 0; i < 2; ++i) REQUIRE_OK(builder.AddSample(0, {Range{0, 6 + 4 * i, 4, 4, 0}}));
    CHECK(WriteAndOpen(builder, folder)->packed());
  }
  {
    // Fewer files than samples would need, and yet each range is of its own sample.
    ManifestBuilder builder(folder.path());
    for (const char* name : {"a", "b", "c"}) REQUIRE_OK(builder.AddObject(name, 17));
    REQUIRE_OK(builder.AddSample(0, {Range{0, 0, 17, 17, 0}, Range{1, 7, 10, 10, 0}}));
    REQUIRE_OK(builder.AddSample(0, {Range{2, 7, 10, 10, 0}}));
    const auto manifest = WriteAndOpen(builder, folder);
    CHECK_FALSE(manifest->packed());
    CHECK(manifest->EndsObject(manifest->RangeAt(1, 0)));
  }
}

TEST_CASE("a sample of 2^48 stored bytes and more is refused", "[manifest]") {
  ManifestBuilder builder("/tmp");
  const uint64_t most = (uint64_t{1} << 48) - 1;
  REQUIRE_OK(builder.AddObject("a", most));
  const auto added = builder.AddSample(0, {Range{0, 0, most, 1, 0}, Range{0, 0, 1, 1, 0}});
  CHECK(added.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(MessageOf(added), "it stores 2^48 bytes or more"));
}
