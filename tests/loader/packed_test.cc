// Many samples in one file: neighbours share reads, holes stay inside, the file is opened once.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "loader/data_set.h"
#include "loader/gap.h"
#include "plan/batch_plan.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Every byte of a record follows from its number.
std::string Record(int64_t id, int64_t bytes) { return DataSet::Content(absl::StrCat("record", id), static_cast<size_t>(bytes)); }

class Shards {
 public:
  Shards(const std::vector<int>& counts, int64_t record_bytes, int64_t header_bytes) : record_bytes_(record_bytes) {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-packed-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
    int64_t id = 0;
    for (size_t shard = 0; shard < counts.size(); ++shard) {
      std::ofstream file(absl::StrCat(root_, "/shard", 100 + shard), std::ios::binary);
      file << std::string(static_cast<size_t>(header_bytes), 'h');
      for (int i = 0; i < counts[shard]; ++i) file << Record(id++, record_bytes);
    }
    IndexOptions index;
    index.format = ShardFormat::kRaw;
    index.record_bytes = record_bytes;
    index.header_bytes = header_bytes;
    REQUIRE_OK(Manifest::Build(root_, index));
    count_ = id;
  }
  ~Shards() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  LoaderOptions Options(int64_t batch_size) const {
    LoaderOptions options = OptionsOf(root_, batch_size);
    options.cpu_share = 1;
    options.tail = Tail::kPartial;
    return options;
  }
  // Takes the rest of the epoch and checks every byte; the ids in the order of delivery.
  std::vector<int64_t> TakeAll(Loader& loader) const {
    std::vector<int64_t> ids;
    while (true) {
      absl::StatusOr<Batch> batch = loader.Next();
      if (EpochEnded(batch)) return ids;
      REQUIRE_OK(batch);
      for (int64_t i = 0; i < batch->size(); ++i) {
        const auto bytes = batch->sample(i);
        const int64_t id = batch->ids()[static_cast<size_t>(i)];
        REQUIRE((std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == Record(id, record_bytes_)));
        ids.push_back(id);
      }
    }
  }
  int64_t count() const { return count_; }
  const std::string& root() const { return root_; }

 private:
  const int64_t record_bytes_;
  std::string root_;
  int64_t count_ = 0;
};

bool IsEverything(std::vector<int64_t> ids, int64_t count) {
  std::sort(ids.begin(), ids.end());
  for (int64_t i = 0; i < count; ++i) {
    if (static_cast<int64_t>(ids.size()) != count || ids[static_cast<size_t>(i)] != i) return false;
  }
  return true;
}

int OpenFilesBelow(const std::string& root) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    count += absl::StartsWith(target, absl::StrCat(root, "/shard")) ? 1 : 0;
  }
  return count;
}

}  // namespace

TEST_CASE("every record of several shards is delivered once, whole, with both engines, both kinds of reads and any block", "[loader]") {
  for (const auto& [record, header] : {std::pair<int64_t, int64_t>{4096, 0}, {1000, 128}, {64, 4096}}) {
    Shards shards({300, 1, 77, 300}, record, header);
    for (const EngineOption engine : {EngineOption::kAuto, EngineOption::kThreads}) {
      for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
        for (const int64_t block : {1, 32}) {
          LoaderOptions options = shards.Options(50);
          options.engine = engine;
          options.io = io;
          options.block_samples = options.window_samples = block;
          options.piece_bytes = 64 << 10;
          options.streams = 2;
          auto loader = MustOpen(options);
          for (int epoch = 0; epoch < 2; ++epoch) {
            if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
            CHECK(IsEverything(shards.TakeAll(*loader), shards.count()));
          }
        }
      }
    }
  }
}

TEST_CASE("blocks of neighbours become shared reads and the report says how many", "[loader]") {
  Shards shards({4096}, 512, 0);
  const auto reads_per_sample = [&](int64_t block, int64_t gap) {
    LoaderOptions options = shards.Options(256);
    options.block_samples = options.window_samples = block;
    options.coalesce_gap_bytes = gap;
    auto loader = MustOpen(options);
    CHECK(IsEverything(shards.TakeAll(*loader), shards.count()));
    const EpochReport report = loader->report();
    CHECK(report.reads_per_sample == Approx(static_cast<double>(report.reads) / 4096));
    if (gap == 0) CHECK(report.read_bytes == 4096 * 512);
    CHECK(report.read_bytes_per_byte == Approx(static_cast<double>(report.read_bytes) / (4096.0 * 512)));
    return report.reads_per_sample;
  };
  CHECK(reads_per_sample(1, 0) > 0.8);
  CHECK(reads_per_sample(32, 0) == Approx(1.0 / 32).margin(0.001));
  CHECK(reads_per_sample(256, 0) == Approx(1.0 / 256).margin(0.001));
  // With a gap, even strangers of one batch share reads, as long as holes do not take too much memory.
  CHECK(reads_per_sample(1, 64 << 10) < 0.6);
}

TEST_CASE("what lies between neighbours is not seen by the consumer", "[loader]") {
  Shards shards({1000}, 512, 0);
  LoaderOptions options = shards.Options(100);
  options.coalesce_gap_bytes = 8192;
  auto loader = MustOpen(options);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  int64_t delivered = 0;
  std::set<std::pair<const std::byte*, const std::byte*>> places;
  for (int64_t i = 0; i < batch->size(); ++i) {
    const auto bytes = batch->sample(i);
    delivered += static_cast<int64_t>(bytes.size());
    places.emplace(bytes.data(), bytes.data() + bytes.size());
  }
  CHECK(delivered == 100 * 512);
  const std::byte* end = nullptr;
  for (const auto& [begin, stop] : places) {
    if (end != nullptr) CHECK(begin >= end);  // no two share a byte
#ifndef NDEBUG
    for (const std::byte* at = end; at != nullptr && at < begin; ++at) REQUIRE(*at == static_cast<std::byte>(kHolePoison));
#endif
    end = stop;
  }
  CHECK(loader->report().read_bytes > 100 * 512);  // there were holes
}

TEST_CASE("a dense batch is in batch order, and neighbours that follow one another there share a read", "[loader]") {
  Shards shards({512}, 4096, 0);
  LoaderOptions options = shards.Options(64);
  options.layout = Layout::kDense;
  options.shuffle = false;
  options.coalesce_gap_bytes = 0;
  auto loader = MustOpen(options);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  REQUIRE(batch->stride() == 4096);
  for (int64_t i = 0; i < 64; ++i) CHECK(batch->offsets()[static_cast<size_t>(i)] == i * 4096);
  batch->Release();
  shards.TakeAll(*loader);
  CHECK(loader->report().reads == 8);
  // Shuffled, each goes to its own place.
  options.shuffle = true;
  auto shuffled = MustOpen(options);
  CHECK(IsEverything(shards.TakeAll(*shuffled), 512));
  CHECK(shuffled->report().reads > 400);
}

TEST_CASE("shards stay open from read to read and are closed with the loader", "[loader]") {
  Shards shards({200, 200, 200}, 512, 0);
  for (const EngineOption engine : {EngineOption::kAuto, EngineOption::kThreads}) {
    LoaderOptions options = shards.Options(16);
    options.engine = engine;
    options.coalesce_gap_bytes = 0;
    auto loader = MustOpen(options);
    shards.TakeAll(*loader);
    // Readers that come to a shard at the same moment may each open it, and then each is kept; 600 reads are not 600 opens.
    const auto open = OpenFilesBelow(shards.root());
    CHECK(open >= 3);
    CHECK(open <= 48);
    loader.reset();
    // A thread of the pool lets go of the ring a moment after its last read.
    for (int i = 0; i < 200 && OpenFilesBelow(shards.root()) > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CHECK(OpenFilesBelow(shards.root()) == 0);
  }
}

TEST_CASE("a shard that became shorter fails by name, range and sample", "[loader]") {
  Shards shards({100}, 512, 0);
  LoaderOptions options = shards.Options(100);
  options.coalesce_gap_bytes = 0;
  options.policy = ErrorPolicy::kSkip;
  REQUIRE(::truncate(absl::StrCat(shards.root(), "/shard100").c_str(), 90 * 512 + 100) == 0);
  auto loader = MustOpen(options);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  int skipped = 0;
  for (int64_t i = 0; i < batch->size(); ++i) {
    const bool gone = batch->ids()[static_cast<size_t>(i)] >= 90;
    CHECK((batch->valid()[static_cast<size_t>(i)] == 0) == gone);
    skipped += gone ? 1 : 0;
  }
  CHECK(skipped == 10);
  const EpochReport report = loader->report();
  REQUIRE(report.ledger.size() == 10);
  CHECK(absl::StrContains(report.ledger[0].reason, "shard100"));
}

TEST_CASE("a file of one record behind a header is no whole object that could have grown", "[loader]") {
  Shards shards({1, 1, 1, 1}, 1000, 24);
  auto loader = MustOpen(shards.Options(2));
  CHECK(IsEverything(shards.TakeAll(*loader), 4));
}

TEST_CASE("the gap is what the store delivers in the time of one read", "[loader]") {
  // 10 us a read and 1 byte a ns: 4096 bytes take 14.096 us, 128 KiB take 141.072 us.
  const GapChoice gap = GapFromCosts(14096, 4096, 141072, 131072);
  CHECK(gap.gap_bytes == 8192);
  CHECK(gap.read_us == Approx(10));
  CHECK(gap.mb_per_s == Approx(1000));
  CHECK(GapFromCosts(1000, 4096, 1000, 131072).gap_bytes == 1 << 20);    // bytes cost nothing
  CHECK(GapFromCosts(1, 4096, 100'000, 131072).gap_bytes == 4096);       // reads cost nothing
}

TEST_CASE("a loader measures the gap by itself and says so", "[loader]") {
  Shards shards({20'000}, 512, 0);
  for (const EngineOption engine : {EngineOption::kAuto, EngineOption::kThreads}) {
    LoaderOptions options = shards.Options(16);
    options.engine = engine;
    auto loader = MustOpen(options);
    const SetupReport setup = loader->setup();
    CHECK(setup.coalesce_gap_bytes >= 4096);
    CHECK(setup.coalesce_gap_bytes <= 1 << 20);
    CHECK_FALSE(setup.coalesce_gap_why.empty());
  }
  DataSet files(20);
  auto loader = MustOpen(files.Options(10));
  CHECK(loader->setup().coalesce_gap_bytes == 0);
}
