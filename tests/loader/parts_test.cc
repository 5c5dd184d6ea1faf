// Samples that are parts of their files, one a file: made by a ManifestBuilder, read by both engines.
#include <filesystem>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "loader/data_set.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

class Parts {
 public:
  Parts() {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-parts-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
  }
  ~Parts() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
    std::filesystem::remove(root_ + ".manifest", ignored);
  }
  void WriteFile(const std::string& name, const std::string& text) const {
    std::ofstream(root_ + "/" + name, std::ios::binary | std::ios::trunc) << text;
  }
  LoaderOptions Save(ManifestBuilder& builder, const ManifestWriteOptions& write = {}) const {
    REQUIRE_OK(builder.Write(root_ + ".manifest", write));
    LoaderOptions options = OptionsOf(root_, 2);
    options.manifest_path = root_ + ".manifest";
    options.shuffle = false;
    options.tail = Tail::kPartial;
    return options;
  }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

std::string TextOf(const Batch& batch, int64_t i) {
  const auto bytes = batch.sample(i);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

TEST_CASE("a sample that is a part of its file, one a file, is that part", "[loader]") {
  const Parts parts;
  parts.WriteFile("a", "header-AAAA-trail");
  parts.WriteFile("b", "header+BBBB+trail");
  ManifestBuilder builder(parts.root());
  REQUIRE_OK(builder.AddObject("a", 17));
  REQUIRE_OK(builder.AddObject("b", 17));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 7, 4, 4, 0}}));
  REQUIRE_OK(builder.AddSample(1, {Range{1, 7, 4, 4, 0}}));
  for (const bool crc : {false, true}) {
    LoaderOptions options = parts.Save(builder, {.crc = crc});
    options.codec.verify_crc = crc;
    for (const EngineOption engine : Engines()) {
      options.engine = engine;
      auto loader = Loader::Open(options);
      REQUIRE_OK(loader);
      auto batch = (*loader)->Next();
      REQUIRE_OK(batch);
      REQUIRE(batch->size() == 2);
      CHECK(TextOf(*batch, 0) == "AAAA");
      CHECK(TextOf(*batch, 1) == "BBBB");
    }
  }
}

TEST_CASE("a part that ends with its file shows that the file grew", "[loader]") {
  const Parts parts;
  parts.WriteFile("a", "header-AAAA");
  parts.WriteFile("b", "header+BBBB");
  ManifestBuilder builder(parts.root());
  REQUIRE_OK(builder.AddObject("a", 11));
  REQUIRE_OK(builder.AddObject("b", 11));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 7, 4, 4, 0}}));
  REQUIRE_OK(builder.AddSample(1, {Range{1, 7, 4, 4, 0}}));
  LoaderOptions options = parts.Save(builder);
  parts.WriteFile("b", "header+BBBB and more");
  for (const EngineOption engine : Engines()) {
    options.engine = engine;
    auto loader = Loader::Open(options);
    REQUIRE_OK(loader);
    const absl::Status error = FirstError(**loader);
    CHECK(error.code() == absl::StatusCode::kDataLoss);
    CHECK(absl::StrContains(error.message(), "longer than its index says (11 bytes)"));
    CHECK(absl::StrContains(error.message(), "/b"));
  }
}

TEST_CASE("several samples of a file that another file outnumbers are read as packed ones", "[loader]") {
  const Parts parts;
  parts.WriteFile("a", "AAAABBBB");
  parts.WriteFile("unused", "nothing");
  ManifestBuilder builder(parts.root());
  REQUIRE_OK(builder.AddObject("a", 8));
  REQUIRE_OK(builder.AddObject("unused", 7));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 0, 4, 4, 0}}));
  REQUIRE_OK(builder.AddSample(1, {Range{0, 4, 4, 4, 0}}));
  LoaderOptions options = parts.Save(builder);
  auto loader = Loader::Open(options);
  REQUIRE_OK(loader);
  CHECK((*loader)->manifest()->packed());
  auto batch = (*loader)->Next();
  REQUIRE_OK(batch);
  CHECK(TextOf(*batch, 0) == "AAAA");
  CHECK(TextOf(*batch, 1) == "BBBB");
}

// Without a codec a sample takes what is stored, however little the manifest says that a codec would make of it.
TEST_CASE("a sample that is stored in more bytes than it delivers has room", "[loader]") {
  const Parts parts;
  const std::string text(3 << 20, 'x');
  ManifestBuilder builder(parts.root());
  for (uint32_t i = 0; i < 4; ++i) {
    parts.WriteFile(std::to_string(i), text);
    REQUIRE_OK(builder.AddObject(std::to_string(i), text.size()));
    REQUIRE_OK(builder.AddSample(0, {Range{i, 0, text.size(), 1, 0}}));
  }
  LoaderOptions options = parts.Save(builder);
  options.batch_size = 4;
  options.memory_bytes = 48 << 20;
  auto loader = Loader::Open(options);
  REQUIRE_OK(loader);
  CHECK((*loader)->setup().batch_bytes_max >= static_cast<int64_t>(4 * text.size()));
  auto batch = (*loader)->Next();
  REQUIRE_OK(batch);
  CHECK(TextOf(*batch, 3) == text);
  options.memory_bytes = 8 << 20;
  const auto refused = Loader::Open(options);
  CHECK(refused.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK(absl::StrContains(refused.status().message(), "memory_bytes must be at least"));
}
TEST_CASE("a manifest that a program made is not replaced by one of the folder's files", "[loader]") {
  const Parts parts;
  parts.WriteFile("a", "header-AAAA-trail");
  ManifestBuilder builder(parts.root());
  REQUIRE_OK(builder.AddObject("a", 17));
  REQUIRE_OK(builder.AddSample(0, {Range{0, 7, 4, 4, 0}}));
  const LoaderOptions options = parts.Save(builder);
  IndexOptions index;
  index.manifest_path = options.manifest_path;
  REQUIRE_OK(Manifest::Open(parts.root(), index));
  const auto updated = Manifest::Update(parts.root(), index);
  CHECK(updated.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(absl::StrContains(updated.status().message(), "ManifestBuilder"));
  index.crc = true;
  const auto opened = Manifest::Open(parts.root(), index);
  CHECK(opened.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(absl::StrContains(opened.status().message(), "ManifestBuilder"));
  index.crc = false;
  auto again = Manifest::Open(parts.root(), index);
  REQUIRE_OK(again);
  CHECK((*again)->StoredBytes(0) == 4);
}

