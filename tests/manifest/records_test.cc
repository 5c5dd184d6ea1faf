// Shards of fixed-size records: what is read from them, what is refused, and that the implicit form says the same as the explicit one.
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "base/crc32c.h"
#include "manifest/fixture.h"
#include "manifest/npy.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

std::string Npy(const std::string& dict, const std::string& data, int major = 1) {
  std::string head = dict;
  const size_t prelude = major == 1 ? 10 : 12;
  while ((prelude + head.size() + 1) % 64 != 0) head += ' ';
  head += '\n';
  std::string text("\x93NUMPY", 6);
  text += static_cast<char>(major);
  text += '\0';
  for (size_t i = 0; i < (major == 1 ? 2 : 4); ++i) text += static_cast<char>(head.size() >> (8 * i) & 0xFF);
  return text + head + data;
}
std::string Dict(const std::string& descr, const std::string& shape, const std::string& fortran = "False") {
  return absl::StrCat("{'descr': ", descr, ", 'fortran_order': ", fortran, ", 'shape': ", shape, ", }");
}
std::string Data(size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 31 + i / 251);
  return text;
}
std::string LabelsNpy(const std::vector<int32_t>& labels) {
  return Npy(Dict("'<i4'", absl::StrCat("(", labels.size(), ",)")),
             std::string(reinterpret_cast<const char*>(labels.data()), labels.size() * 4));
}
IndexOptions As(ShardFormat format, int64_t record_bytes = 0, int64_t header_bytes = 0) {
  IndexOptions options;
  options.format = format;
  options.record_bytes = record_bytes;
  options.header_bytes = header_bytes;
  return options;
}

}  // namespace

TEST_CASE("the records of raw shards follow one another from file to file in the order of the names", "[manifest]") {
  TempFolder folder;
  folder.Write("b.bin", Data(16 + 5 * 100));
  folder.Write("a.bin", Data(16 + 3 * 100));
  folder.Write("c/d.bin", Data(16 + 1 * 100));
  IndexOptions options = As(ShardFormat::kRaw, 100, 16);
  options.rule = TreeRule::kFlat;
  auto built = Manifest::Build(folder.path(), options);
  REQUIRE_OK(built);
  const Manifest& manifest = *built->manifest;
  REQUIRE(manifest.sample_count() == 9);
  CHECK(manifest.object_count() == 3);
  CHECK(manifest.range_count() == 9);
  CHECK(manifest.record_bytes() == 100);
  CHECK(manifest.format() == ShardFormat::kRaw);
  CHECK(manifest.total_bytes() == 900);
  CHECK(NamesOf(manifest) == std::vector<std::string>{"a.bin", "a.bin", "a.bin", "b.bin", "b.bin", "b.bin", "b.bin", "b.bin", "c/d.bin"});
  const std::vector<uint64_t> offsets = {16, 116, 216, 16, 116, 216, 316, 416, 16};
  for (int64_t id = 0; id < 9; ++id) {
    const Range range = manifest.RangeAt(id, 0);
    CHECK(range.offset_bytes == offsets[static_cast<size_t>(id)]);
    CHECK(range.stored_bytes == 100);
    CHECK(range.delivered_bytes == 100);
    CHECK(manifest.StoredBytes(id) == 100);
    CHECK(manifest.DeliveredBytes(id) == 100);
    CHECK(manifest.RangeCount(id) == 1);
    CHECK(manifest.Label(id) == -1);
  }
  // Opened again without being told, and kept up by an update.
  auto opened = Manifest::Open(folder.path(), [] { IndexOptions flat; flat.rule = TreeRule::kFlat; return flat; }());
  REQUIRE_OK(opened);
  CHECK((*opened)->record_bytes() == 100);
  CHECK((*opened)->fingerprint() == manifest.fingerprint());
  folder.Write("e.bin", Data(16 + 2 * 100));
  IndexOptions update;
  update.rule = TreeRule::kFlat;
  auto updated = Manifest::Update(folder.path(), update);
  REQUIRE_OK(updated);
  CHECK(updated->manifest->sample_count() == 11);
}

TEST_CASE("every record of any set of shards is found and none overlaps another", "[manifest]") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 30; ++round) {
    TempFolder folder;
    const auto shards = static_cast<int>(1 + random() % 20);
    const auto record = static_cast<int64_t>(1 + random() % 300);
    const auto header = static_cast<int64_t>(random() % 3 == 0 ? 0 : random() % 200);
    std::vector<int64_t> counts;
    for (int i = 0; i < shards; ++i) {
      // Alike, or very unlike: the guess of the object hits, or has to be corrected.
      counts.push_back(static_cast<int64_t>(round % 2 == 0 ? 7 : i % 5 == 0 ? 1 + random() % 400 : 1));
      folder.Write(absl::StrCat("s", 100 + i), Data(static_cast<size_t>(header + counts.back() * record)));
    }
    auto built = Manifest::Build(folder.path(), As(ShardFormat::kRaw, record, header));
    REQUIRE_OK(built);
    const Manifest& manifest = *built->manifest;
    REQUIRE(manifest.sample_count() == std::accumulate(counts.begin(), counts.end(), int64_t{0}));
    int64_t id = 0;
    for (int object = 0; object < shards; ++object) {
      for (int64_t i = 0; i < counts[static_cast<size_t>(object)]; ++i, ++id) {
        const Range range = manifest.RangeAt(id, 0);
        REQUIRE(range.object == static_cast<uint32_t>(object));
        REQUIRE(range.offset_bytes == static_cast<uint64_t>(header + i * record));
        REQUIRE(range.offset_bytes + range.stored_bytes <= manifest.ObjectBytes(range.object));
      }
    }
  }
}

TEST_CASE("records take no bytes each but for their labels, and the fingerprint is that of explicit ranges", "[manifest]") {
  TempFolder folder;
  TempFolder elsewhere;
  folder.Write("x.bin", Data(100'000 * 8));
  std::vector<int32_t> labels(100'000);
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int32_t>(i % 10);
  folder.Write("labels.npy", LabelsNpy(labels));
  auto built = Manifest::Build(folder.path(), As(ShardFormat::kRaw, 8));
  REQUIRE_OK(built);
  CHECK(built->manifest->sample_count() == 100'000);
  CHECK(built->manifest->Label(99'999) == 9);
  CHECK(built->manifest->file_bytes() < 4 * 100'000 + 4096);

  ManifestBuilder builder(folder.path());
  REQUIRE_OK(builder.AddObject("x.bin", 800'000));
  for (uint64_t i = 0; i < 100'000; ++i) REQUIRE_OK(builder.AddSample(labels[i], {Range{0, i * 8, 8, 8, 0}}));
  REQUIRE_OK(builder.Write(elsewhere.At("m")));
  auto explicit_form = Manifest::OpenSaved(elsewhere.At("m"));
  REQUIRE_OK(explicit_form);
  CHECK((*explicit_form)->fingerprint() == built->manifest->fingerprint());
  CHECK((*explicit_form)->total_bytes() == built->manifest->total_bytes());
}

TEST_CASE("a NumPy array's first axis is the samples, in every version of its header", "[manifest]") {
  for (const int version : {1, 2, 3}) {
    TempFolder folder;
    folder.Write("train.npy", Npy(Dict("'<f4'", "(6, 2, 5)"), Data(6 * 40), version));
    auto built = Manifest::Build(folder.At("train.npy"));  // its magic says what it is
    REQUIRE_OK(built);
    const Manifest& manifest = *built->manifest;
    REQUIRE(manifest.sample_count() == 6);
    CHECK(manifest.format() == ShardFormat::kNpy);
    CHECK(manifest.record_bytes() == 40);
    CHECK(manifest.RangeAt(5, 0).offset_bytes == manifest.ObjectBytes(0) - 40);
    CHECK(manifest.RangeAt(0, 0).offset_bytes % 64 == 0);
    auto opened = Manifest::Open(folder.At("train.npy"));
    REQUIRE_OK(opened);
    CHECK((*opened)->sample_count() == 6);
  }
}

TEST_CASE("any dtype of fixed size has its bytes counted", "[manifest]") {
  struct Type {
    std::string descr;
    uint64_t bytes;
  };
  for (const Type& type : {Type{"'|u1'", 1}, Type{"'|b1'", 1}, Type{"'>f8'", 8}, Type{"'<c16'", 16}, Type{"'|S10'", 10}, Type{"'<U3'", 12},
                           Type{"'<M8[ns]'", 8}, Type{"'|V7'", 7},
                           Type{"[('a', '<f4'), ('b', '|u1', (3, 2)), ('c', [('d', '<i2'), (('title', 'e'), '<i4')])]", 16},
                           Type{"[('a', '<f4', 3)]", 12}, Type{"u'<f2'", 2}}) {
    const std::string text = Npy(Dict(type.descr, "(4L, 3)"), Data(4 * 3 * type.bytes));
    const auto header = ParseNpy(text, text.size(), "x");
    INFO(type.descr);
    REQUIRE_OK(header);
    CHECK(header->item_bytes == type.bytes);
    CHECK(header->record_bytes == 3 * type.bytes);
    CHECK(header->sample_count == 4);
  }
}

TEST_CASE("what is no array of equal records is refused with its cure", "[manifest]") {
  struct Bad {
    std::string name, file;
    std::string part;
    absl::StatusCode code = absl::StatusCode::kInvalidArgument;
  };
  const std::string good = Npy(Dict("'<f4'", "(10, 3)"), Data(120));
  std::string long_header = Npy(Dict("'<f4'", "(10, 3)"), Data(120), 2);
  std::memset(long_header.data() + 8, 0x7F, 4);
  std::string version = good;
  version[6] = 4;
  for (const Bad& bad : {
           Bad{"object", Npy(Dict("'|O'", "(10,)"), Data(80)), "numpy.stack"},
           Bad{"object field", Npy(Dict("[('a', '<f4'), ('b', '|O')]", "(10,)"), Data(120)), "numpy.stack"},
           Bad{"fortran", Npy(Dict("'<f4'", "(10, 3)", "True"), Data(120)), "numpy.ascontiguousarray"},
           Bad{"scalar", Npy(Dict("'<f4'", "()"), Data(4)), "without axes"},
           Bad{"none", Npy(Dict("'<f4'", "(0, 3)"), ""), "0 samples", absl::StatusCode::kNotFound},
           Bad{"empty", Npy(Dict("'<f4'", "(3, 0)"), ""), "samples of 0 bytes"},
           Bad{"short", good.substr(0, good.size() - 13), "It was cut short at sample 8", absl::StatusCode::kDataLoss},
           Bad{"long", good + "x", "1 more than"},
           Bad{"header cut", good.substr(0, 60), "inside its .npy header", absl::StatusCode::kDataLoss},
           Bad{"prelude cut", good.substr(0, 9), "inside its .npy header", absl::StatusCode::kDataLoss},
           Bad{"huge header", long_header, "the limit is 1048576"},
           Bad{"version", version, "version 4.0"},
           Bad{"overflow", Npy(Dict("'<f8'", "(4294967296, 4294967296, 4294967296)"), Data(8)), "2^48 bytes or more"},
           Bad{"number", Npy(Dict("'<f8'", "(99999999999999999999999,)"), Data(8)), "2^64 or more"},
           Bad{"item", Npy(Dict("'|S999999999999999'", "(1,)"), Data(8)), "2^48 bytes or more"},
           Bad{"dict", Npy("{'descr': '<f4', 'shape': (1,)}", Data(4)), "'fortran_order' or 'shape' is missing"},
           Bad{"twice", Npy("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", Data(4)), "there twice"},
           Bad{"code", Npy("__import__('os').system('true')", Data(4)), "malformed"},
           Bad{"deep",
               Npy(Dict(
                       [] {
                         std::string s;
                         for (int i = 0; i < 100; ++i) s += "[('a', ";
                         return s + "'<f4'";
                       }(),
                       "(1,)"),
                   Data(4)),
               "too deep"},
       }) {
    TempFolder folder;
    folder.Write("x.npy", bad.file);
    const auto built = Manifest::Build(folder.At("x.npy"), As(ShardFormat::kNpy));
    INFO(bad.name << ": " << built.status().ToString());
    CHECK(built.status().code() == bad.code);
    CHECK(Contains(MessageOf(built), bad.part));
    CHECK(Contains(MessageOf(built), "x.npy"));
  }
}

TEST_CASE("any cut or flipped header of a NumPy file is answered, never a crash", "[manifest]") {
  const std::string good = Npy(Dict("[('a', '<f4'), ('b', '|u1', (3, 2))]", "(4, 3)"), "");
  std::mt19937_64 random(3);
  for (int round = 0; round < 50'000; ++round) {
    std::string text = good;
    for (uint64_t i = 0, flips = 1 + random() % 4; i < flips; ++i) text[random() % text.size()] = static_cast<char>(random());
    if (random() % 4 == 0) text.resize(random() % text.size());
    const auto header = ParseNpy(text, 120 + random() % 200, "x");
    if (header.ok()) REQUIRE((header->record_bytes > 0 && header->sample_count > 0));
  }
}

TEST_CASE("raw shards whose size is no multiple of the record are refused with the numbers", "[manifest]") {
  TempFolder folder;
  folder.Write("a.bin", Data(1000));
  folder.Write("b.bin", Data(1050));
  const auto odd = Manifest::Build(folder.path(), As(ShardFormat::kRaw, 100));
  CHECK(odd.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(MessageOf(odd), "b.bin has 1050 bytes: 0 of header, 10 records of 100, and 50 bytes over"));
  const auto empty = Manifest::Build(folder.path(), As(ShardFormat::kRaw, 100, 1050));
  CHECK(empty.status().code() == absl::StatusCode::kNotFound);
  CHECK(Contains(MessageOf(empty), "0 samples"));
  CHECK(Contains(MessageOf(Manifest::Build(folder.path(), As(ShardFormat::kRaw))), "--record-bytes"));
  CHECK(Manifest::Build(folder.path(), As(ShardFormat::kNpy, 100)).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Manifest::Build(folder.path(), As(ShardFormat::kRaw, INT64_MAX)).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Manifest::Build(folder.path(), As(ShardFormat::kRaw, -1)).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("a folder with a labels.npy is a set of NumPy shards, which have to be alike", "[manifest]") {
  TempFolder folder;
  folder.Write("1.npy", Npy(Dict("'|u1'", "(3, 7)"), Data(21)));
  folder.Write("2.npy", Npy(Dict("'|u1'", "(2, 7)"), Data(14)));
  folder.Write("README.txt", "x");
  folder.Write("labels.npy", LabelsNpy({4, 3, 2, -1, 0}));
  auto built = Manifest::Build(folder.path());
  REQUIRE_OK(built);
  CHECK(LabelsOf(*built->manifest) == std::vector<int32_t>{4, 3, 2, -1, 0});
  CHECK(built->counts.no_shards == 1);  // the labels are known, README.txt is not
  folder.Write("3.npy", Npy(Dict("'|u1'", "(2, 8)"), Data(16)));
  const auto unlike = Manifest::Build(folder.path());
  CHECK(unlike.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(MessageOf(unlike), "3.npy"));
  CHECK(Contains(MessageOf(unlike), "(8)"));
}

TEST_CASE("shards in class folders have the class of their folder", "[manifest]") {
  TempFolder folder;
  folder.Write("cat/a.npy", Npy(Dict("'|u1'", "(2, 7)"), Data(14)));
  folder.Write("dog/a.npy", Npy(Dict("'|u1'", "(3, 7)"), Data(21)));
  auto built = Manifest::Build(folder.path(), As(ShardFormat::kNpy));
  REQUIRE_OK(built);
  CHECK(LabelsOf(*built->manifest) == std::vector<int32_t>{0, 0, 1, 1, 1});
  CHECK(built->manifest->class_name(1) == "dog");
}

TEST_CASE("labels come from an array, a list of numbers or raw integers, and their number and values are checked", "[manifest]") {
  TempFolder folder;
  TempFolder beside;
  folder.Write("a.bin", Data(30));
  const auto build = [&](const std::string& name, const std::string& content) {
    beside.Write(name, content);
    IndexOptions options = As(ShardFormat::kRaw, 10);
    options.labels = beside.At(name);
    return Manifest::Build(folder.path(), options);
  };
  const std::vector<int32_t> expected = {7, 0, 255};
  const auto labels_of = [](const absl::StatusOr<IndexResult>& built) {
    REQUIRE_OK(built);
    return LabelsOf(*built->manifest);
  };
  CHECK(labels_of(build("l.npy", LabelsNpy(expected))) == expected);
  CHECK(labels_of(build("big.npy", Npy(Dict("'>u2'", "(3,)"), std::string("\0\x07\0\0\0\xFF", 6)))) == expected);
  CHECK(labels_of(build("l.txt", "7\n0\n255\n")) == expected);
  CHECK(labels_of(build("l8.bin", std::string("\x07\0\xFF", 3))) == expected);
  CHECK(labels_of(build("l64.bin", std::string("\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xFF\0\0\0\0\0\0\0", 24))) == expected);
  CHECK(Contains(MessageOf(build("few.npy", LabelsNpy({1, 2}))), "hold 2 labels, and the shards hold 3 samples"));
  CHECK(Contains(MessageOf(build("few.txt", "1\n2\n")), "hold 2 labels"));
  CHECK(Contains(MessageOf(build("x.txt", "1\ncat\n3\n")), "line 2"));
  CHECK(Contains(MessageOf(build("odd.bin", "12345")), "have 5 bytes"));
  CHECK(Contains(MessageOf(build("low.npy", LabelsNpy({1, -2, 3}))), "sample 1"));
  CHECK(Contains(MessageOf(build("float.npy", Npy(Dict("'<f4'", "(3,)"), Data(12)))), "astype(numpy.int32)"));
  IndexOptions none = As(ShardFormat::kRaw, 10);
  none.labels = beside.At("absent.npy");
  CHECK(Manifest::Build(folder.path(), none).status().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("checksums are those of each record", "[manifest]") {
  TempFolder folder;
  const std::string a = Data(16 + 3 * 700'000);
  folder.Write("a.bin", a);
  folder.Write("b.bin", Data(16 + 700'000));
  IndexOptions options = As(ShardFormat::kRaw, 700'000, 16);
  options.crc = true;
  auto built = Manifest::Build(folder.path(), options);
  REQUIRE_OK(built);
  REQUIRE(built->manifest->has_crc());
  for (int64_t id = 0; id < 3; ++id) CHECK(built->manifest->Crc(id, 0) == Crc32c(a.data() + 16 + id * 700'000, 700'000));
  CHECK(built->manifest->Crc(3, 0) == Crc32c(a.data() + 16, 700'000));
}

TEST_CASE("a large file of zeros is not read as a list", "[manifest]") {
  TempFolder folder;
  folder.Write("x.bin", std::string(100'000, '\0'));
  const auto opened = Manifest::Open(folder.At("x.bin"));
  CHECK(opened.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(MessageOf(opened), "--record-bytes"));
}

TEST_CASE("dtype and shape of an array are kept, byte order too", "[manifest]") {
  TempFolder folder;
  folder.Write("a.npy", Npy(Dict("'>i2'", "(4, 3, 5)"), Data(120)));
  folder.Write("b.npy", Npy(Dict("'>i2'", "(2, 3, 5)"), Data(60)));
  auto built = Manifest::Build(folder.path());
  REQUIRE_OK(built);
  CHECK(built->manifest->format() == ShardFormat::kNpy);
  CHECK(built->manifest->sample_count() == 6);
  CHECK(built->manifest->field_types() == std::vector<FieldType>{{"", ">i2", true, {3, 5}}});
  auto opened = Manifest::OpenSaved(built->manifest->path());
  REQUIRE_OK(opened);
  CHECK((*opened)->field_types() == built->manifest->field_types());

  TempFolder more;
  more.Write("s.npy", Npy(Dict("[('x', '<f4'), ('y', '|u1', (3,))]", "(2,)"), Data(14)));
  auto structure = Manifest::Build(more.At("s.npy"));
  REQUIRE_OK(structure);
  CHECK(structure->manifest->field_types() == std::vector<FieldType>{{"", "[('x', '<f4'), ('y', '|u1', (3,))]", true, {}}});
  // Joined ones have a type where all have the same.
  auto joined = Manifest::Join({built->manifest, *opened});
  REQUIRE_OK(joined);
  CHECK((*joined)->field_types() == built->manifest->field_types());
  auto mixed = Manifest::Join({built->manifest, structure->manifest});
  REQUIRE_OK(mixed);
  CHECK((*mixed)->field_types().empty());
  TempFolder raw;
  raw.Write("r", Data(100));
  CHECK(Manifest::Build(raw.path(), As(ShardFormat::kRaw, 10))->manifest->field_types().empty());
}

TEST_CASE("one array a file is delivered without its header", "[manifest]") {
  TempFolder folder;
  const std::string first = Data(24);
  folder.Write("cat/1.npy", Npy(Dict("'<f4'", "(2, 3)"), first));
  folder.Write("dog/2.npy", Npy(Dict("'<f4'", "(2, 3)"), Data(24), 2));
  auto built = Manifest::Build(folder.path(), As(ShardFormat::kNpyFiles));
  REQUIRE_OK(built);
  const Manifest& manifest = *built->manifest;
  CHECK(manifest.format() == ShardFormat::kNpyFiles);
  CHECK(LabelsOf(manifest) == std::vector<int32_t>{0, 1});
  CHECK(manifest.field_types() == std::vector<FieldType>{{"", "<f4", true, {2, 3}}});
  CHECK_FALSE(manifest.packed());
  for (int64_t id = 0; id < 2; ++id) {
    const Range range = manifest.RangeAt(id, 0);
    CHECK(range.offset_bytes % 64 == 0);
    CHECK(range.offset_bytes > 0);
    CHECK(range.stored_bytes == 24);
    CHECK(manifest.EndsObject(range));
  }
  REQUIRE_OK(manifest.Verify());
  // The format stays what it was for an update that does not say it, and checksums are those of the arrays.
  IndexOptions with_crc;
  with_crc.crc = true;
  auto updated = Manifest::Update(folder.path(), with_crc);
  REQUIRE_OK(updated);
  CHECK(updated->manifest->format() == ShardFormat::kNpyFiles);
  CHECK(updated->manifest->Crc(0, 0) == Crc32c(first.data(), first.size()));
  auto again = Manifest::Update(folder.path());
  REQUIRE_OK(again);
  CHECK(again->manifest->Crc(0, 0) == Crc32c(first.data(), first.size()));

  folder.Write("dog/3.npy", Npy(Dict("'<f4'", "()"), Data(4)));
  auto scalar = Manifest::Update(folder.path());
  REQUIRE_OK(scalar);
  CHECK(scalar->manifest->field_types() == std::vector<FieldType>{{"", "<f4", false, {}}});
  CHECK(scalar->manifest->DeliveredBytes(2) == 4);
  folder.Write("dog/4.npy", Npy(Dict("'>f4'", "(2, 3)"), Data(24)));
  const auto other = Manifest::Update(folder.path());
  CHECK(Contains(MessageOf(other), "'>f4' of shape (2,3)"));
  CHECK(Contains(MessageOf(other), "one dtype"));
  folder.Write("dog/4.npy", Npy(Dict("'<f4'", "(2, 3)", "True"), Data(24)));
  CHECK(Contains(MessageOf(Manifest::Update(folder.path())), "Fortran order"));
}

TEST_CASE("one array a file may have labels of its own", "[manifest]") {
  TempFolder folder;
  for (const char* name : {"a.npy", "b.npy", "c.npy"}) folder.Write(name, Npy(Dict("'|u1'", "(5,)"), Data(5)));
  folder.Write("labels.npy", LabelsNpy({7, 8, 9}));
  auto built = Manifest::Build(folder.path(), As(ShardFormat::kNpyFiles));
  REQUIRE_OK(built);
  CHECK(LabelsOf(*built->manifest) == std::vector<int32_t>{7, 8, 9});
}

TEST_CASE("a flat folder of arrays is shards; of class folders and lists the format is asked for", "[manifest]") {
  LogCapture log;
  TempFolder flat;
  flat.Write("a.npy", Npy(Dict("'|u1'", "(3, 7)"), Data(21)));
  flat.Write("README.md", "x");
  auto built = Manifest::Build(flat.path());
  REQUIRE_OK(built);
  CHECK(built->manifest->sample_count() == 3);
  CHECK(log.CountOf("npy-files") == 1);
  auto files = Manifest::Build(flat.path(), As(ShardFormat::kFiles));
  REQUIRE_OK(files);
  CHECK(files->manifest->sample_count() == 2);
  // What was said once holds for an update.
  CHECK(Manifest::Update(flat.path())->manifest->sample_count() == 2);

  TempFolder classes;
  classes.Write("cat/a.npy", Npy(Dict("'|u1'", "(3, 7)"), Data(21)));
  classes.Write("list.txt", "cat/a.npy\t3\n");
  for (const std::string& root : {classes.path(), classes.At("list.txt")}) {
    const auto ambiguous = Manifest::Build(root);
    CHECK(ambiguous.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK(Contains(MessageOf(ambiguous), "format=npy-files"));
    CHECK(Manifest::Build(root, As(ShardFormat::kNpy))->manifest->sample_count() == 3);
    CHECK(Manifest::Build(root, As(ShardFormat::kNpyFiles))->manifest->sample_count() == 1);
    CHECK(Manifest::Build(root, As(ShardFormat::kFiles))->manifest->StoredBytes(0) > 64);
  }
}

TEST_CASE("labels beside images do not hide the images", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  for (const char* name : {"1.jpg", "2.jpg", "3.jpg"}) folder.Write(name, "jpeg");
  folder.Write("labels.npy", LabelsNpy({4, 3, 2}));
  auto built = Manifest::Build(folder.path());
  REQUIRE_OK(built);
  CHECK(NamesOf(*built->manifest) == std::vector<std::string>{"1.jpg", "2.jpg", "3.jpg"});
  CHECK(built->counts.no_shards == 1);
  CHECK(log.CountOf("labels.npy is left out: it lies beside 3 files that are no .npy shards (1.jpg)") == 1);
  CHECK(Manifest::Update(folder.path())->manifest->sample_count() == 3);
  folder.Write("x.npy", Npy(Dict("'|u1'", "(3, 7)"), Data(21)));
  const auto mixed = Manifest::Build(folder.path());
  CHECK(mixed.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(MessageOf(mixed), "format=npy"));
  CHECK(Contains(MessageOf(mixed), "3 others (1.jpg)"));
  CHECK(Manifest::Build(folder.path(), As(ShardFormat::kNpy))->manifest->sample_count() == 3);
  // Documents describe data, but many are data.
  TempFolder texts;
  texts.Write("a.npy", Npy(Dict("'|u1'", "(3, 7)"), Data(21)));
  for (int i = 0; i < 9; ++i) texts.Write(std::to_string(i) + ".txt", "caption");
  CHECK(Manifest::Build(texts.path())->manifest->sample_count() == 10);
}
