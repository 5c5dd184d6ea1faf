// A damaged manifest is refused, or gives answers inside its own bounds; it never crashes. Run under AddressSanitizer, these
// tests also see a read outside of the mapping.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "base/crc32c.h"
#include "base/unique_fd.h"
#include "manifest/fixture.h"
#include "manifest/layout.h"
#include "manifest/map_file.h"
#include "manifest/open.h"
#include "store/object_store.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// With every column that there is.
std::string RichManifest(const TempFolder& folder, int samples) {
  ManifestBuilder builder(folder.path());
  for (int i = 0; i < 20; ++i) {
    const std::string name = "f" + std::to_string(i % 3) + "/object" + std::to_string(i);
    REQUIRE_OK(builder.AddObject(name, 1000, static_cast<uint64_t>(i) + 1, i));
  }
  for (int i = 0; i < samples; ++i) {
    const auto object = static_cast<uint32_t>(i % 20);
    const std::vector<Range> ranges = {{object, 10, 20, 40, 1}, {object, 0, 1000, 1000, 2}};
    const std::vector<uint32_t> crcs = {1, 2};
    REQUIRE_OK(builder.AddSample(i % 2, ranges, crcs));
  }
  builder.SetClassNames({"cat", "dog"});
  REQUIRE_OK(builder.Write(folder.At("m")));
  return ReadFile(folder.At("m"));
}

// One range each, as a tree has them.
std::string TreeManifest(const TempFolder& folder) {
  ManifestBuilder builder(folder.path());
  for (uint32_t i = 0; i < 50; ++i) {
    REQUIRE_OK(builder.AddObject("f" + std::to_string(i % 3) + "/" + std::to_string(i), i, i + 1));
    REQUIRE_OK(builder.AddSample(static_cast<int32_t>(i % 2), {Range{i, 0, i, i, 0}}));
  }
  REQUIRE_OK(builder.Write(folder.At("m")));
  return ReadFile(folder.At("m"));
}

// Shards of records.
std::string RecordManifest(const TempFolder& folder) {
  for (int i = 0; i < 5; ++i) folder.Write("data/" + std::to_string(i), std::string(static_cast<size_t>(16 + 8 * (1 + i % 3)), 'x'));
  IndexOptions options;
  options.format = ShardFormat::kRaw;
  options.record_bytes = 8;
  options.header_bytes = 16;
  options.manifest_path = folder.At("m");
  REQUIRE_OK(Manifest::Build(folder.At("data"), options));
  return ReadFile(folder.At("m"));
}

// A tree with its order of place.
std::string PlacedManifest(const TempFolder& folder) {
  for (int i = 0; i < 30; ++i) {
    folder.Write("tree/c" + std::to_string(i % 2) + "/" + std::to_string(i), std::string(static_cast<size_t>(i), 'x'));
  }
  IndexOptions options;
  options.place = PlaceOrder::kInode;
  options.manifest_path = folder.At("m");
  REQUIRE_OK(Manifest::Build(folder.At("tree"), options));
  return ReadFile(folder.At("m"));
}

layout::Header HeaderOf(const std::string& bytes) {
  layout::Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

uint64_t DirectoryEnd(const std::string& bytes) { return sizeof(layout::Header) + HeaderOf(bytes).column_count * sizeof(layout::Column); }

void SetHeader(std::string& bytes, layout::Header header) {
  const uint64_t end = DirectoryEnd(bytes);
  header.header_crc = 0;
  std::memcpy(bytes.data(), &header, sizeof header);
  header.header_crc = Crc32c(bytes.data(), end);
  std::memcpy(bytes.data(), &header, sizeof header);
}

// The column of a manifest, or null.
const layout::Column* FindColumn(std::string& bytes, uint32_t tag) {
  for (uint32_t i = 0; i < HeaderOf(bytes).column_count; ++i) {
    auto* const column = reinterpret_cast<layout::Column*>(bytes.data() + sizeof(layout::Header) + i * sizeof(layout::Column));
    if (column->tag == tag) return column;
  }
  return nullptr;
}

// Changes value `index` of a column of T, and makes all checksums right.
template <typename T, typename Change>
std::string Forged(std::string bytes, uint32_t tag, size_t index, Change&& change) {
  auto* const column = const_cast<layout::Column*>(FindColumn(bytes, tag));
  REQUIRE(column != nullptr);
  REQUIRE((index + 1) * sizeof(T) <= column->bytes);
  T value;
  char* const place = bytes.data() + column->offset_bytes + index * sizeof(T);
  std::memcpy(&value, place, sizeof value);
  change(value);
  std::memcpy(place, &value, sizeof value);
  column->crc = Crc32c(bytes.data() + column->offset_bytes, column->bytes);
  SetHeader(bytes, HeaderOf(bytes));
  return bytes;
}

// From memory: tens of thousands of variants are opened here, and rewriting a file waits for the drive.
absl::StatusOr<std::shared_ptr<const Manifest>> OpenBytes(const TempFolder& folder, const std::string& bytes, ManifestCheck check) {
  UniqueFd fd(::memfd_create("damaged", MFD_CLOEXEC));
  REQUIRE(fd.valid());
  REQUIRE(::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  auto file = MappedFile::FromDescriptor(std::move(fd), "damaged", MappedFile::Mode::kAuto);
  REQUIRE_OK(file);
  return ManifestOpener::FromMapping(*std::move(file), "damaged", folder.path(), check);
}

// Asks for everything; returns false where an answer is out of bounds.
bool AnswersAreInBounds(const Manifest& manifest) {
  const auto store = manifest.OpenObjects();
  std::string scratch;
  for (int64_t id = 0; id < manifest.sample_count(); ++id) {
    static_cast<void>(manifest.Name(id));
    static_cast<void>(manifest.Label(id));
    if (manifest.has_place_order() && (manifest.IdAtPlace(id) < 0 || manifest.IdAtPlace(id) >= manifest.sample_count())) return false;
    const int count = manifest.RangeCount(id);
    if (count < 1 || count > manifest.range_count()) return false;
    if (manifest.DeliveredBytes(id) > manifest.max_delivered_bytes()) return false;
    if (manifest.StoredBytes(id) > manifest.max_stored_bytes()) return false;
    std::vector<Range> all;
    manifest.AppendRanges(id, all);
    uint64_t stored = 0;
    uint64_t delivered = 0;
    for (const Range& range : all) {
      if (range.object >= manifest.object_count()) return false;
      static_cast<void>(manifest.EndsObject(range));
      stored += range.stored_bytes;
      delivered += range.delivered_bytes;
    }
    if (static_cast<int>(all.size()) != count || stored != manifest.StoredBytes(id) || delivered != manifest.DeliveredBytes(id)) return false;
    for (int i = 0; i < count; ++i) {
      const Range range = manifest.RangeAt(id, i);
      if (range.stored_bytes >= uint64_t{1} << 48 || range.offset_bytes >= uint64_t{1} << 48) return false;
      if (range.delivered_bytes > manifest.max_delivered_bytes()) return false;
      if (manifest.has_crc()) static_cast<void>(manifest.Crc(id, i));
      static_cast<void>(store->Target(range.object, scratch));
      static_cast<void>(store->Name(range.object));
    }
  }
  for (int64_t label = 0; label < manifest.class_count(); ++label) static_cast<void>(manifest.class_name(static_cast<int32_t>(label)));
  return true;
}

}  // namespace

TEST_CASE("every flipped byte of header and column directory is refused", "[manifest]") {
  TempFolder folder;
  const std::string good = RichManifest(folder, 40);
  REQUIRE(OpenBytes(folder, good, ManifestCheck::kHeader).ok());
  const uint64_t end = DirectoryEnd(good);
  REQUIRE(end > 500);
  for (uint64_t i = 0; i < end; ++i) {
    for (const int bit : {0x01, 0x80, 0xFF}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ bit);
      const auto opened = OpenBytes(folder, bad, ManifestCheck::kHeader);
      INFO("byte " << i << ": " << opened.status().ToString());
      REQUIRE(opened.status().code() == absl::StatusCode::kDataLoss);
      REQUIRE(Contains(MessageOf(opened), "penstock index"));
    }
  }
}

TEST_CASE("a manifest cut off anywhere is refused", "[manifest]") {
  TempFolder folder;
  const std::string good = RichManifest(folder, 40);
  for (size_t length = 0; length < good.size(); ++length) {
    const auto opened = OpenBytes(folder, good.substr(0, length), ManifestCheck::kHeader);
    INFO("length " << length << ": " << opened.status().ToString());
    REQUIRE(opened.status().code() == absl::StatusCode::kDataLoss);
  }
  CHECK(OpenBytes(folder, good + "x", ManifestCheck::kHeader).status().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("every flipped byte of a column is refused when columns are checked", "[manifest]") {
  TempFolder folder;
  const std::string good = RichManifest(folder, 10);
  std::vector<bool> in_column(good.size());
  for (uint32_t i = 0; i < HeaderOf(good).column_count; ++i) {
    layout::Column column;
    std::memcpy(&column, good.data() + sizeof(layout::Header) + i * sizeof column, sizeof column);
    for (uint64_t k = 0; k < column.bytes; ++k) in_column[column.offset_bytes + k] = true;
  }
  for (size_t i = DirectoryEnd(good); i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    const auto opened = OpenBytes(folder, bad, ManifestCheck::kAuto);
    INFO("byte " << i);
    REQUIRE(opened.ok() == !in_column[i]);  // what fills the space between columns means nothing
  }
}

TEST_CASE("unchecked damage of columns gives answers in bounds", "[manifest]") {
  TempFolder folder;
  const int kind = GENERATE(0, 1, 2, 3);
  const std::string good = kind == 0   ? RichManifest(folder, 100)
                           : kind == 1 ? TreeManifest(folder)
                           : kind == 2 ? RecordManifest(folder)
                                       : PlacedManifest(folder);
  const uint64_t begin = DirectoryEnd(good);
  std::mt19937_64 random(11);
  int opened_count = 0;
  for (int round = 0; round < 400; ++round) {
    std::string bad = good;
    const int flips = 1 + static_cast<int>(random() % 200);
    for (int i = 0; i < flips; ++i) bad[begin + random() % (bad.size() - begin)] = static_cast<char>(random());
    const auto opened = OpenBytes(folder, bad, ManifestCheck::kHeader);
    if (!opened.ok()) continue;
    ++opened_count;
    REQUIRE(AnswersAreInBounds(**opened));
  }
  CHECK(opened_count > 50);
  // All bits set and all bits clear are the worst values that counts and offsets can have.
  for (const char fill : {'\xFF', '\0'}) {
    std::string bad = good;
    for (size_t i = begin; i < bad.size(); ++i) bad[i] = fill;
    const auto opened = OpenBytes(folder, bad, ManifestCheck::kHeader);
    if (opened.ok()) CHECK(AnswersAreInBounds(**opened));
  }
}

// What somebody writes who also computes the checksums.
TEST_CASE("a header that lies with a right checksum is refused or answered in bounds", "[manifest]") {
  TempFolder folder;
  const std::string good = GENERATE(true, false) ? RichManifest(folder, 10) : RecordManifest(folder);
  std::mt19937_64 random(5);
  const std::vector<uint64_t> values = {
      0, 1, 2, 9, 11, 0x7FFFFFFF, 0xFFFFFFFF, uint64_t{1} << 32, uint64_t{1} << 61, uint64_t{1} << 63, ~uint64_t{0}};
  uint64_t layout::Header::*const counts[] = {
      &layout::Header::sample_count, &layout::Header::object_count,     &layout::Header::range_count,
      &layout::Header::folder_count, &layout::Header::class_count,      &layout::Header::file_bytes,
      &layout::Header::total_bytes,  &layout::Header::max_stored_bytes, &layout::Header::max_delivered_bytes};
  for (const auto count : counts) {
    for (const uint64_t value : values) {
      std::string bad = good;
      layout::Header header = HeaderOf(bad);
      header.*count = value;
      SetHeader(bad, header);
      const auto opened = OpenBytes(folder, bad, ManifestCheck::kHeader);
      if (opened.ok()) CHECK(AnswersAreInBounds(**opened));
    }
  }
  for (uint32_t i = 0; i < HeaderOf(good).column_count; ++i) {
    for (int round = 0; round < 100; ++round) {
      std::string bad = good;
      layout::Column column;
      char* place = bad.data() + sizeof(layout::Header) + i * sizeof column;
      std::memcpy(&column, place, sizeof column);
      (round % 2 == 0 ? column.offset_bytes : column.bytes) = round % 3 == 0 ? random() : random() % (good.size() + 64) & ~uint64_t{63};
      std::memcpy(place, &column, sizeof column);
      SetHeader(bad, HeaderOf(bad));
      const auto opened = OpenBytes(folder, bad, ManifestCheck::kHeader);
      if (opened.ok()) CHECK(AnswersAreInBounds(**opened));
    }
  }
}

TEST_CASE("a column that is missing or there twice is refused", "[manifest]") {
  TempFolder folder;
  const std::string good = GENERATE(true, false) ? RichManifest(folder, 10) : RecordManifest(folder);
  const uint32_t optional[] = {layout::kObjectPlaces, layout::kObjectTimes, layout::kLabels,      layout::kRangeFields,
                               layout::kRangeCrcs,    layout::kRecordSource, layout::kFolderTimes,
                               layout::kFolderHashes, layout::kIdentity};
  for (uint32_t i = 0; i < HeaderOf(good).column_count; ++i) {
    std::string bad = good;
    layout::Column column;
    char* place = bad.data() + sizeof(layout::Header) + i * sizeof column;
    std::memcpy(&column, place, sizeof column);
    const bool can_go = std::find(std::begin(optional), std::end(optional), column.tag) != std::end(optional);
    column.tag = layout::Tag("zzzz");
    std::memcpy(place, &column, sizeof column);
    SetHeader(bad, HeaderOf(bad));
    const auto opened = OpenBytes(folder, bad, ManifestCheck::kHeader);
    INFO("column " << i << ": " << opened.status().ToString());
    CHECK(opened.ok() == can_go);
    if (opened.ok()) CHECK(AnswersAreInBounds(**opened));

    if (i == 0) continue;
    std::memcpy(place, bad.data() + sizeof(layout::Header), sizeof column);
    SetHeader(bad, HeaderOf(bad));
    CHECK(OpenBytes(folder, bad, ManifestCheck::kHeader).status().code() == absl::StatusCode::kDataLoss);
  }
}

TEST_CASE("an unknown column is skipped unless it is required", "[manifest]") {
  TempFolder folder;
  std::string bytes = RichManifest(folder, 10);
  // The checksums' column becomes one from the future.
  for (uint32_t i = 0; i < HeaderOf(bytes).column_count; ++i) {
    layout::Column column;
    char* place = bytes.data() + sizeof(layout::Header) + i * sizeof column;
    std::memcpy(&column, place, sizeof column);
    if (column.tag != layout::kRangeCrcs) continue;
    const bool required = GENERATE(true, false);
    column.tag = layout::Tag("NEWS");
    column.flags = required ? layout::kColumnRequired : 0;
    std::memcpy(place, &column, sizeof column);
    SetHeader(bytes, HeaderOf(bytes));
    const auto opened = OpenBytes(folder, bytes, ManifestCheck::kAll);
    if (required) {
      CHECK(opened.status().code() == absl::StatusCode::kFailedPrecondition);
      CHECK(Contains(MessageOf(opened), "NEWS"));
      CHECK(Contains(MessageOf(opened), "newer penstock"));
    } else {
      REQUIRE_OK(opened);
      CHECK_FALSE((*opened)->has_crc());
    }
  }
}

TEST_CASE("records whose column is not known are refused, not taken for whole files", "[manifest]") {
  TempFolder folder;
  std::string bytes = RecordManifest(folder);
  bool found = false;
  for (uint32_t i = 0; i < HeaderOf(bytes).column_count; ++i) {
    layout::Column column;
    char* place = bytes.data() + sizeof(layout::Header) + i * sizeof column;
    std::memcpy(&column, place, sizeof column);
    if (column.tag != layout::kRecords) continue;
    found = true;
    CHECK((column.flags & layout::kColumnRequired) != 0);
    column.tag = layout::Tag("FIX2");
    std::memcpy(place, &column, sizeof column);
  }
  REQUIRE(found);
  SetHeader(bytes, HeaderOf(bytes));
  const auto opened = OpenBytes(folder, bytes, ManifestCheck::kAll);
  CHECK(opened.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Contains(MessageOf(opened), "FIX2"));
}

TEST_CASE("another layout version is refused and never overwritten", "[manifest]") {
  LogCapture log;
  TempFolder cache;
  CacheHome home(cache.path());
  TempFolder tree;
  tree.Write("set/x");
  const std::string root = tree.At("set");
  const auto built = Manifest::Build(root);
  REQUIRE_OK(built);
  const std::string path = built->manifest->path();
  std::string bytes = ReadFile(path);
  layout::Header header = HeaderOf(bytes);
  header.version = layout::kVersion + 1;
  SetHeader(bytes, header);
  std::ofstream(path, std::ios::binary) << bytes;
  IndexOptions named;
  named.manifest_path = path;
  for (const absl::Status& status : {Manifest::OpenSaved(path).status(), Manifest::Open(root, named).status()}) {
    CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
    CHECK(Contains(std::string(status.message()), "newer penstock"));
  }
  // A default place is a convenience: another one is taken.
  const auto opened = Manifest::Open(root);
  REQUIRE_OK(opened);
  CHECK((*opened)->path() == PlacesOf(root)[1]);
  CHECK(log.CountOf("newer penstock") == 1);
  CHECK(ReadFile(path) == bytes);
}

TEST_CASE("Verify finds what an unchecked open let pass", "[manifest]") {
  TempFolder folder;
  std::string bytes = TreeManifest(folder);
  REQUIRE_OK((*OpenBytes(folder, bytes, ManifestCheck::kHeader))->Verify());
  layout::Column first;
  std::memcpy(&first, bytes.data() + sizeof(layout::Header), sizeof first);
  bytes[first.offset_bytes] ^= 1;
  const auto opened = OpenBytes(folder, bytes, ManifestCheck::kHeader);
  REQUIRE_OK(opened);
  CHECK((*opened)->Verify().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("other files are not taken for manifests", "[manifest]") {
  TempFolder folder;
  for (const std::string& text : {std::string(), std::string("text"), std::string(10'000, '\0'), std::string(10'000, '\xFF')}) {
    CHECK(OpenBytes(folder, text, ManifestCheck::kAuto).status().code() == absl::StatusCode::kDataLoss);
  }
}

// Each number below is one that a consumer would index, allocate or wait by. The checksums are right.
TEST_CASE("a forged number is refused by name where columns are checked, and harmless where not", "[manifest]") {
  TempFolder folder;
  const std::string rich = RichManifest(folder, 10);
  const std::string tree = TreeManifest(folder);
  const std::string records = RecordManifest(folder);
  const std::string placed = PlacedManifest(folder);
  using layout::PackedRange;
  const auto bump = [](auto& value) { ++value; };
  const auto most = [](auto& value) { value = static_cast<std::remove_reference_t<decltype(value)>>(~uint64_t{0}); };
  const auto header = [](std::string bytes, uint64_t layout::Header::*member, uint64_t value) {
    layout::Header changed = HeaderOf(bytes);
    changed.*member = value;
    SetHeader(bytes, changed);
    return bytes;
  };
  const struct {
    std::string bytes;
    std::string said;
  } cases[] = {
      {Forged<PackedRange>(rich, layout::kRanges, 4, [](PackedRange& range) { range.object = 20; }), "sample 2 has a range of object 20 of 20"},
      {Forged<PackedRange>(rich, layout::kRanges, 4, [](PackedRange& range) { range.object = UINT32_MAX; }), "sample 2 has a range of object"},
      {Forged<PackedRange>(rich, layout::kRanges, 5, [](PackedRange& range) { range.stored_high = range.offset_high = 0xFFFF; }),
       "sample 2 has a range of"},
      {Forged<PackedRange>(rich, layout::kRanges, 4, [](PackedRange& range) { range.stored_low = 30; }), "largest sample is stored in"},
      {Forged<uint64_t>(rich, layout::kRangeDelivered, 3, most), "sample 1 has 2^48 bytes or more"},
      {Forged<uint64_t>(rich, layout::kRangeDelivered, 3, bump), "largest sample is stored in"},
      {Forged<uint32_t>(rich, layout::kRangeFirst, 3, most), "sample 2 has ranges that are not there"},
      {Forged<uint32_t>(rich, layout::kRangeFirst, 3, [](uint32_t& value) { value = 0; }), "sample 2 does not begin where"},
      {Forged<uint32_t>(rich, layout::kRangeFirst, 10, [](uint32_t& value) { --value; }), "it has ranges of no sample"},
      {Forged<uint64_t>(rich, layout::kRangeBases, 0, most), "sample 0 "},
      {Forged<int32_t>(rich, layout::kLabels, 7, [](int32_t& value) { value = -2; }), "sample 7 has the label -2"},
      {Forged<uint64_t>(rich, layout::kClassOffsets, 1, most), "class 1 has its name outside of the names"},
      {Forged<uint64_t>(rich, layout::kFolderOffsets, 1, most), "folder 1 has its name outside of the names"},
      {Forged<uint32_t>(rich, layout::kObjectFolders, 3, most), "object 3 has no name"},
      {Forged<uint32_t>(rich, layout::kNameOffsets, 3, most), "object 3 has no name"},
      {Forged<uint64_t>(rich, layout::kObjectBytes, 3, most), "object 3 has 2^48 bytes or more"},
      {Forged<uint64_t>(tree, layout::kObjectBytes, 3, bump), "largest sample is stored in"},
      {Forged<uint64_t>(tree, layout::kObjectBytes, 49, bump), "largest sample is stored in"},
      {Forged<uint64_t>(records, layout::kRecords, 0, [](uint64_t& value) { value = 4; }), "object 1 of"},
      {Forged<uint64_t>(records, layout::kRecords, 3, bump), "object 1 of"},
      {Forged<uint64_t>(records, layout::kRecords, 4, most), "object 1 of"},
      {Forged<uint32_t>(placed, layout::kOrderByInode, 3, most), "its order of place has the sample 4294967295"},
      {Forged<uint32_t>(placed, layout::kOrderByInode, 3, [](uint32_t& value) { value = value == 0 ? 1 : 0; }), "twice"},
      {header(rich, &layout::Header::total_bytes, 17), "all in"},
      {header(rich, &layout::Header::max_delivered_bytes, HeaderOf(rich).max_delivered_bytes + 1), "largest sample is stored in"},
      {header(rich, &layout::Header::max_stored_bytes, HeaderOf(rich).max_stored_bytes - 1), "largest sample is stored in"},
      {header(records, &layout::Header::total_bytes, 8), "its files hold"},
  };
  for (const auto& forged : cases) {
    INFO(forged.said);
    const auto unchecked = OpenBytes(folder, forged.bytes, ManifestCheck::kHeader);
    if (unchecked.ok()) CHECK(AnswersAreInBounds(**unchecked));
    const auto checked = OpenBytes(folder, forged.bytes, ManifestCheck::kAuto);
    CHECK(checked.status().code() == absl::StatusCode::kDataLoss);
    CHECK(Contains(MessageOf(checked), forged.said));
    CHECK(Contains(MessageOf(checked), "penstock index"));
  }
  // What the header says alone is refused without a look at the columns.
  const struct {
    std::string bytes;
    std::string said;
  } headers[] = {
      {header(tree, &layout::Header::max_delivered_bytes, 48), "and it has no column RDLV"},
      {header(rich, &layout::Header::max_delivered_bytes, uint64_t{1} << 48), "the limit is 2^48-1"},
      {header(rich, &layout::Header::max_stored_bytes, ~uint64_t{0}), "the limit is 2^48-1"},
      {header(rich, &layout::Header::total_bytes, ~uint64_t{0}), "cannot have"},
      {header(rich, &layout::Header::flags, 2), "its flags are 2"},
  };
  for (const auto& forged : headers) {
    INFO(forged.said);
    const auto opened = OpenBytes(folder, forged.bytes, ManifestCheck::kHeader);
    CHECK(opened.status().code() == absl::StatusCode::kDataLoss);
    CHECK(Contains(MessageOf(opened), forged.said));
  }
}

// 65,536 ranges of 2^48-1 bytes have 2^64 in all but 65,536.
TEST_CASE("ranges whose sum would wrap end with the largest sample of the header", "[manifest]") {
  TempFolder folder;
  ManifestBuilder builder(folder.path());
  const uint64_t most = (uint64_t{1} << 48) - 1;
  REQUIRE_OK(builder.AddObject("a", most));
  std::vector<Range> ranges(65'537, Range{0, 0, 1, 1, 0});
  REQUIRE_OK(builder.AddSample(0, ranges));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 0, 1, 1, 0}}));
  REQUIRE_OK(builder.Write(folder.At("m")));
  std::string bytes = ReadFile(folder.At("m"));
  const layout::Column* const column = FindColumn(bytes, layout::kRanges);
  REQUIRE(column != nullptr);
  for (size_t i = 0; i < ranges.size(); ++i) {
    const layout::PackedRange packed{0, 0, 0xFFFF, 0, 0xFFFFFFFF};
    std::memcpy(bytes.data() + column->offset_bytes + i * sizeof packed, &packed, sizeof packed);
  }
  bytes = Forged<layout::PackedRange>(bytes, layout::kRanges, 0, [](layout::PackedRange&) {});
  CHECK(Contains(MessageOf(OpenBytes(folder, bytes, ManifestCheck::kAll)), "sample 0 has 2^48 bytes or more"));
  const auto opened = OpenBytes(folder, bytes, ManifestCheck::kHeader);
  REQUIRE_OK(opened);
  CHECK((*opened)->StoredBytes(0) == 65'537);
  CHECK((*opened)->DeliveredBytes(0) == 65'537);
  std::vector<Range> given;
  (*opened)->AppendRanges(0, given);
  uint64_t sum = 0;
  for (const Range& range : given) sum += range.stored_bytes;
  CHECK(sum == 65'537);
}

TEST_CASE("a damaged name is told by the object's number and with the cure", "[manifest]") {
  TempFolder folder;
  const std::string bytes =
      Forged<uint32_t>(TreeManifest(folder), layout::kNameOffsets, 3, [](uint32_t& value) { value = 1 << 30; });
  const auto opened = OpenBytes(folder, bytes, ManifestCheck::kHeader);
  REQUIRE_OK(opened);
  const std::string name = (*opened)->OpenObjects()->Name(3);
  CHECK(Contains(name, "object 3"));
  CHECK(Contains(name, "damaged"));
  CHECK(Contains(name, "penstock index"));
}
