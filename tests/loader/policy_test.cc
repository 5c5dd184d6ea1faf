// What happens to samples that cannot be read.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "penstock/codec.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Opens once to index the whole set, so that what is done to files afterwards is a change under the run.
void Index(const DataSet& data) { REQUIRE_OK(Manifest::Build(data.root())); }

}  // namespace

TEST_CASE("a deleted file fails with its name and the position stays until it is back", "[policy]") {
  DataSet data(100, -1000);
  Index(data);
  const std::string victim = data.root() + "/class1/1000040.bin";
  std::filesystem::rename(victim, data.root() + "/.hidden");
  auto loader = MustOpen(data.Options(20));
  std::set<int64_t> seen;
  int failures = 0;
  while (true) {
    const std::string before = loader->state();
    auto batch = loader->Next();
    if (EpochEnded(batch)) break;
    if (!batch.ok()) {
      CHECK(batch.status().code() == absl::StatusCode::kNotFound);
      CHECK(batch.status().message().find("class1/1000040.bin") != std::string::npos);
      CHECK(loader->state() == before);
      if (++failures == 2) std::filesystem::rename(data.root() + "/.hidden", victim);
      REQUIRE(failures <= 2);
      continue;
    }
    for (const int64_t id : CheckBatch(*loader, *batch)) CHECK(seen.insert(id).second);
  }
  CHECK(failures == 2);
  CHECK(seen.size() == 100);
}

TEST_CASE("a file that shrank or grew since it was indexed is an error that says so", "[policy]") {
  for (const size_t bytes : {size_t{999}, size_t{0}, size_t{1001}}) {
    DataSet data(20, -1000);
    Index(data);
    DataSet::Write(data.root() + "/class0/1000003.bin", bytes);
    LoaderOptions options = data.Options(20);
    auto loader = MustOpen(options);
    const auto batch = loader->Next();
    REQUIRE(batch.status().code() == absl::StatusCode::kDataLoss);
    CHECK(batch.status().message().find("1000003.bin") != std::string::npos);
    CHECK(batch.status().message().find(bytes < 1000 ? "shorter" : "longer") != std::string::npos);
  }
}

TEST_CASE("skip keeps the batch places and the ledger names what was skipped", "[policy]") {
  DataSet data(100, -1000);
  Index(data);
  std::filesystem::remove(data.root() + "/class1/1000040.bin");
  std::filesystem::remove(data.root() + "/class2/1000050.bin");
  LoaderOptions options = data.Options(20);
  options.policy = ErrorPolicy::kSkip;
  auto loader = MustOpen(options);
  CHECK(TakeEpoch(*loader).size() == 100);
  const EpochReport report = loader->report();
  CHECK(report.skipped == 2);
  CHECK(report.delivered == 98);
  CHECK(report.delivered + report.substituted + report.skipped == report.expected);
  REQUIRE(report.ledger.size() == 2);
  CHECK(report.ledger[0].substitute == -1);
  CHECK(report.ledger[0].reason.find(".bin") != std::string::npos);
}

TEST_CASE("substitutes are the same in every run", "[policy]") {
  DataSet data(100, 3000);
  Index(data);
  std::filesystem::remove(data.root() + "/class1/1000040.bin");
  LoaderOptions options = data.Options(20);
  options.policy = ErrorPolicy::kSubstitute;
  std::vector<int64_t> first;
  for (int run = 0; run < 2; ++run) {
    options.streams = run + 1;
    auto loader = MustOpen(options);
    const std::vector<int64_t> ids = TakeEpoch(*loader);
    CHECK(ids.size() == 100);
    CHECK(loader->report().substituted == 1);
    CHECK(loader->report().delivered == 99);
    if (run == 0) first = ids;
    CHECK(ids == first);
  }
}

TEST_CASE("more failures than skip_max end the skipping", "[policy]") {
  DataSet data(100, -1000);
  Index(data);
  for (int i = 0; i < 10; ++i) {
    std::filesystem::remove(data.root() + "/class" + std::to_string(i % 3) + "/" + std::to_string(1000000 + i) + ".bin");
  }
  LoaderOptions options = data.Options(100);
  options.policy = ErrorPolicy::kSkip;
  options.skip_max = 3;
  auto loader = MustOpen(options);
  const auto batch = loader->Next();
  REQUIRE_FALSE(batch.ok());
  CHECK(batch.status().message().find("skip_max") != std::string::npos);
}

TEST_CASE("a flipped bit is found by the checksum and by nothing else", "[policy]") {
  DataSet data(60, -1000);
  IndexOptions index;
  index.crc = true;
  REQUIRE_OK(Manifest::Build(data.root(), index));
  const std::string victim = data.root() + "/class0/1000003.bin";
  {
    std::fstream file(victim, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(500);
    const char flipped = static_cast<char>(DataSet::Content(victim, 1000)[500] ^ 1);
    file.write(&flipped, 1);
  }
  LoaderOptions options = data.Options(60);
  {
    auto loader = MustOpen(options);
    CHECK(loader->Next().ok());
  }
  options.codec.verify_crc = true;
  auto loader = MustOpen(options);
  const auto batch = loader->Next();
  REQUIRE(batch.status().code() == absl::StatusCode::kDataLoss);
  CHECK(batch.status().message().find("1000003.bin") != std::string::npos);
  options.policy = ErrorPolicy::kSkip;
  auto skipping = MustOpen(options);
  REQUIRE_OK(skipping->Next());
  CHECK(skipping->report().skipped == 1);
}

extern "C" int DoubleBytes(void*, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t capacity,
                           size_t* delivered_bytes, char*, size_t) {
  if (capacity < 2 * stored_bytes) return 1;
  const auto* in = static_cast<const unsigned char*>(stored);
  auto* out = static_cast<unsigned char*>(delivered);
  for (size_t i = 0; i < stored_bytes; ++i) out[2 * i] = out[2 * i + 1] = in[i];
  *delivered_bytes = 2 * stored_bytes;
  return 0;
}

TEST_CASE("a user's function writes what is delivered", "[policy]") {
  DataSet data(90, 6000);
  LoaderOptions options = data.Options(30);
  options.codec.function = DoubleBytes;
  options.codec.expansion_max = 2;
  options.piece_bytes = 64 << 10;
  auto loader = MustOpen(options);
  for (int epoch = 0; epoch < 2; ++epoch) {
    if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
    for (int step = 0; step < 3; ++step) {
      auto batch = loader->Next();
      REQUIRE_OK(batch);
      for (int64_t i = 0; i < batch->size(); ++i) {
        const int64_t id = batch->ids()[static_cast<size_t>(i)];
        const std::string stored = DataSet::Content(loader->manifest()->Name(id), loader->manifest()->StoredBytes(id));
        const auto bytes = batch->sample(i);
        REQUIRE(bytes.size() == 2 * stored.size());
        bool same = true;
        for (size_t k = 0; k < bytes.size(); ++k) same = same && static_cast<char>(bytes[k]) == stored[k / 2];
        REQUIRE(same);
      }
    }
  }
}

extern "C" int FailOnId7(void*, int64_t id, const void* stored, size_t stored_bytes, void* delivered, size_t, size_t* delivered_bytes,
                         char* message, size_t message_capacity) {
  if (id == 7) {
    std::snprintf(message, message_capacity, "not a picture");
    return 3;
  }
  std::memcpy(delivered, stored, stored_bytes);
  *delivered_bytes = stored_bytes;
  return 0;
}

TEST_CASE("a sample that the user's function refuses follows the policy with its message", "[policy]") {
  DataSet data(32, -500);
  LoaderOptions options = data.Options(32);
  options.codec.function = FailOnId7;
  {
    auto loader = MustOpen(options);
    const auto batch = loader->Next();
    REQUIRE_FALSE(batch.ok());
    CHECK(batch.status().message().find("not a picture") != std::string::npos);
  }
  options.policy = ErrorPolicy::kSkip;
  auto loader = MustOpen(options);
  auto batch = loader->Next();
  REQUIRE_OK(batch);
  CHECK(loader->report().skipped == 1);
}
