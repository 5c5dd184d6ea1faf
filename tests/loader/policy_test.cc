// What happens to samples that cannot be read.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "loader/data_set.h"
#include "loader/substitutes.h"
#include "penstock/codec.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Removes the file of a sample, as seen by a manifest that was made before.
void RemoveSample(const Manifest& manifest, int64_t id) { REQUIRE(std::filesystem::remove(manifest.root() + "/" + manifest.Name(id))); }

std::shared_ptr<const Manifest> IndexAndOpen(const DataSet& data) {
  REQUIRE_OK(Manifest::Build(data.root()));
  auto manifest = Manifest::Open(data.root());
  REQUIRE_OK(manifest);
  return *manifest;
}

// Four samples of three ranges each, in three files of their own a sample: a/0, b/0 and c/0 hold sample 0.
struct Parts {
  Parts() : data(1, -10, 1) {
    ManifestBuilder builder(data.root());
    for (int s = 0; s < 4; ++s) {
      std::vector<Range> ranges;
      for (const char* part : {"a", "b", "c"}) {
        const std::string name = absl::StrCat(part, s);
        DataSet::Write(data.root() + "/" + name, 100);
        const auto object = builder.AddObject(name, 100);
        REQUIRE_OK(object);
        ranges.push_back(Range{*object, 0, 100, 100, static_cast<uint8_t>(ranges.size())});
      }
      REQUIRE_OK(builder.AddSample(s, ranges));
    }
    options = data.Options(4);
    std::filesystem::create_directories(data.root() + "/.penstock");
    options.manifest_path = data.root() + "/.penstock/parts.manifest";
    options.shuffle = false;
    options.retries = 0;
    options.skip_share_max = 1;
    REQUIRE_OK(builder.Write(options.manifest_path));
  }
  void Remove(int sample) {
    for (const char* part : {"a", "b", "c"}) std::filesystem::remove(data.root() + "/" + absl::StrCat(part, sample));
  }
  DataSet data;
  LoaderOptions options;
};

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

TEST_CASE("a substitute is one of the ids of the run and no broken one", "[policy]") {
  const DataSet data(100, -200);
  const auto manifest = IndexAndOpen(data);
  for (const int64_t gone : {1, 3, 4, 6}) RemoveSample(*manifest, gone);
  LoaderOptions options = data.Options(4);
  options.ids = {0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 2, 1};
  options.policy = ErrorPolicy::kSubstitute;
  options.retries = 0;
  options.skip_share_max = 1;
  const std::set<int64_t> whole = {0, 2, 5, 7};
  for (const EngineOption engine : Engines()) {
    options.engine = engine;
    const auto loader = MustOpen(options);
    for (int epoch = 0; epoch < 20; ++epoch) {
      if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
      const std::vector<int64_t> ids = TakeEpoch(*loader);
      REQUIRE(ids.size() == 12);
      for (const int64_t id : ids) CHECK(whole.count(id) == 1);
      CHECK(loader->report().substituted == 5);
      // Each of the broken samples is tried once in its own place, and no more than once in the place of another one.
      std::set<std::pair<int64_t, int64_t>> tried;
      for (const LedgerEntry& entry : loader->report().ledger) CHECK(tried.insert({entry.position, entry.id}).second);
    }
  }
}

TEST_CASE("a substitute is found where it is the last sample that can be read", "[policy]") {
  const DataSet data(30, -200);
  const auto manifest = IndexAndOpen(data);
  for (int64_t id = 0; id < 30; ++id) {
    if (id != 17) RemoveSample(*manifest, id);
  }
  LoaderOptions options = data.Options(5);
  options.policy = ErrorPolicy::kSubstitute;
  options.retries = 0;
  options.skip_share_max = 1;
  const auto loader = MustOpen(options);
  CHECK(TakeEpoch(*loader) == std::vector<int64_t>(30, 17));
  CHECK(loader->report().substituted == 29);
}

TEST_CASE("without a sample that can be read the batch fails with the cause until there is one", "[policy]") {
  const DataSet data(8, -200);
  const auto manifest = IndexAndOpen(data);
  for (int64_t id = 0; id < 8; ++id) RemoveSample(*manifest, id);
  LoaderOptions options = data.Options(4);
  options.policy = ErrorPolicy::kSubstitute;
  options.retries = 0;
  options.skip_share_max = 1;
  const auto loader = MustOpen(options);
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = loader->Next().status();
    INFO(status);
    CHECK(status.code() == absl::StatusCode::kNotFound);
    CHECK(absl::StrContains(status.message(), "none of the 8 samples"));
    CHECK(absl::StrContains(status.message(), ".bin"));
  }
  for (int64_t id = 0; id < 8; ++id) {
    const std::string name = manifest->Name(id);
    DataSet::Write(data.root() + "/" + name, 200);
  }
  CHECK(TakeEpoch(*loader).size() == 8);
  CHECK(loader->report().delivered == 8);
}

TEST_CASE("the samples that may stand in a place come in an order of the place's own and each once", "[policy]") {
  for (const int64_t count : {1, 2, 3, 4, 6, 97, 360, 1000}) {
    for (int64_t position = 0; position < 20; ++position) {
      const SubstituteWalk walk(7, 3, position, count);
      std::set<int64_t> seen;
      for (int64_t n = 0; n < count; ++n) seen.insert(walk.At(n));
      CHECK(static_cast<int64_t>(seen.size()) == count);
      CHECK(*seen.begin() == 0);
      CHECK(*seen.rbegin() == count - 1);
    }
  }
  std::set<int64_t> firsts;
  for (int64_t position = 0; position < 50; ++position) firsts.insert(SubstituteWalk(7, 3, position, int64_t{1} << 50).At(0));
  CHECK(firsts.size() == 50);
}

TEST_CASE("a sample of several ranges fails once", "[policy]") {
  for (const EngineOption engine : Engines()) {
    {
      Parts parts;
      parts.options.engine = engine;
      parts.Remove(1);
      parts.Remove(2);
      parts.options.skip_max = 2;
      parts.options.policy = ErrorPolicy::kSkip;
      const auto loader = MustOpen(parts.options);
      const auto batch = loader->Next();
      REQUIRE_OK(batch);
      CHECK(batch->size() == 4);
      CHECK(loader->report().skipped == 2);
      REQUIRE(loader->report().ledger.size() == 2);
      CHECK(loader->report().ledger[0].id == 1);
      CHECK(loader->report().ledger[1].id == 2);
    }
    {
      Parts parts;
      parts.options.engine = engine;
      parts.Remove(1);
      parts.options.skip_max = 1;
      parts.options.policy = ErrorPolicy::kSubstitute;
      const auto loader = MustOpen(parts.options);
      const auto batch = loader->Next();
      REQUIRE_OK(batch);
      const EpochReport report = loader->report();
      CHECK(report.substituted == 1);
      REQUIRE(report.ledger.size() == 1);  // no healthy sample stands there
      CHECK(report.ledger[0].id == 1);
      CHECK(report.ledger[0].substitute == batch->ids()[1]);
      const SubstituteWalk walk(0, 0, 1, 4);
      CHECK(batch->ids()[1] == (walk.At(0) == 1 ? walk.At(1) : walk.At(0)));
    }
    {
      Parts parts;
      parts.options.engine = engine;
      parts.Remove(1);
      parts.Remove(3);
      const auto loader = MustOpen(parts.options);
      const absl::Status status = loader->Next().status();
      INFO(status);
      CHECK(absl::StrContains(status.message(), "(and 1 more samples of this batch)"));
      CHECK(absl::StrContains(status.message(), "sample 1"));
    }
  }
}

TEST_CASE("failures beyond a share of the epoch fail it with the cause", "[policy]") {
  const DataSet data(40, -200);
  const auto manifest = IndexAndOpen(data);
  for (int64_t id = 0; id < 40; id += 2) RemoveSample(*manifest, id);
  LoaderOptions options = data.Options(4);
  options.policy = ErrorPolicy::kSkip;
  options.retries = 0;
  options.shuffle = false;
  CHECK(options.skip_share_max == 0.25);
  const auto loader = MustOpen(options);
  for (int step = 0; step < 5; ++step) REQUIRE_OK(loader->Next());  // 10 of 40
  const absl::Status status = loader->Next().status();
  INFO(status);
  CHECK(status.code() == absl::StatusCode::kNotFound);
  CHECK(absl::StrContains(status.message(), "11 of the 40 samples of epoch 0"));
  CHECK(absl::StrContains(status.message(), "skip_share_max = 0.25"));
  CHECK(absl::StrContains(status.message(), manifest->Name(20)));
  CHECK(loader->report().skipped == 10);
  CHECK(loader->step() == 5);
  options.skip_share_max = 0.5;
  CHECK(TakeEpoch(*MustOpen(options)).size() == 40);
}

TEST_CASE("a data set that is gone in mid-epoch does not end as skipped samples", "[policy]") {
  for (const ErrorPolicy policy : {ErrorPolicy::kSkip, ErrorPolicy::kSubstitute}) {
    const DataSet data(400, -200);
    const auto manifest = IndexAndOpen(data);
    LoaderOptions options = data.Options(10);
    options.policy = policy;
    options.retries = 0;
    options.open_files = 0;
    options.skip_share_max = 1;  // the row alone
    options.prefetch_batches = 2;
    const auto loader = MustOpen(options);
    for (int step = 0; step < 4; ++step) REQUIRE_OK(loader->Next());
    for (int64_t id = 0; id < 400; ++id) RemoveSample(*manifest, id);
    absl::Status failed;
    int64_t steps = 4;
    std::string state;
    for (; failed.ok() && steps < 40; ++steps) {
      state = loader->state();
      failed = loader->Next().status();
    }
    INFO(failed);
    CHECK(failed.code() == absl::StatusCode::kNotFound);
    CHECK(absl::StrContains(failed.message(), ".bin"));
    // A substitute may also find that no sample is left.
    CHECK((policy == ErrorPolicy::kSubstitute || absl::StrContains(failed.message(), "skip_run_max = 32")));
    CHECK(loader->report().skipped + loader->report().substituted < 100);  // a row of 32, and what was in flight
    CHECK(loader->state() == state);
    CHECK_FALSE(loader->Next().ok());
    // What was read ahead as skipped is read again when the set is back.
    for (int64_t id = 0; id < 400; ++id) DataSet::Write(data.root() + "/" + manifest->Name(id), 200);
    const int64_t before = loader->report().skipped + loader->report().substituted;
    TakeEpoch(*loader);
    CHECK(loader->report().skipped + loader->report().substituted == before);
    CHECK(loader->report().taken == 400);
  }
}

TEST_CASE("neighbours in one file that cannot be read are one in the row", "[policy]") {
  const DataSet data(2, -10, 1);
  ManifestBuilder builder(data.root());
  std::vector<uint32_t> objects;
  for (int o = 0; o < 2; ++o) {
    const std::string name = "class0/" + std::to_string(1000000 + o) + ".bin";
    DataSet::Write(data.root() + "/" + name, 4000);
    objects.push_back(*builder.AddObject(name, 4000));
  }
  for (uint64_t s = 0; s < 80; ++s) REQUIRE_OK(builder.AddSample(0, {{Range{objects[s / 40], s % 40 * 100, 100, 100, 0}}}));
  LoaderOptions options = data.Options(10);
  std::filesystem::create_directories(data.root() + "/.penstock");
  options.manifest_path = data.root() + "/.penstock/records.manifest";
  REQUIRE_OK(builder.Write(options.manifest_path));
  std::filesystem::remove(data.root() + "/class0/1000001.bin");
  options.shuffle = false;
  options.policy = ErrorPolicy::kSkip;
  options.retries = 0;
  options.skip_share_max = 0.5;
  options.skip_run_max = 1;
  const auto loader = MustOpen(options);
  int64_t taken = 0;
  for (auto batch = loader->Next(); !EpochEnded(batch); batch = loader->Next()) {
    REQUIRE_OK(batch);
    taken += batch->size();
  }
  CHECK(taken == 80);
  CHECK(loader->report().skipped == 40);
}

TEST_CASE("samples that failed in batches that were passed over do not count", "[policy]") {
  const DataSet data(40, -200);
  const auto manifest = IndexAndOpen(data);
  for (const int64_t id : {4, 5, 6, 7, 30}) RemoveSample(*manifest, id);
  LoaderOptions options = data.Options(4);
  options.policy = ErrorPolicy::kSkip;
  options.retries = 0;
  options.shuffle = false;
  options.skip_max = 1;
  const auto loader = MustOpen(options);
  REQUIRE_OK(loader->Next());
  CHECK_FALSE(loader->Next().ok());  // 4 of them in one batch
  REQUIRE_OK(loader->Skip(1));
  TakeEpoch(*loader);
  CHECK(loader->report().skipped == 1);
  // The next epoch counts from 0, whatever was read ahead of it.
  REQUIRE_OK(loader->StartEpoch());
  REQUIRE_OK(loader->Skip(2));
  TakeEpoch(*loader);
  CHECK(loader->report().skipped == 1);
}
