// Through the page cache or past it: what is decided from what is known, and that a loader looks again.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "loader/data_set.h"
#include "loader/intervals.h"
#include "loader/io_choice.h"
#include "loader/residency.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int64_t kGib = int64_t{1} << 30;

IoFacts Cold() {
  IoFacts facts;
  facts.data_bytes = kGib;
  facts.available_bytes = 10 * kGib;
  facts.direct_alignment = 512;
  facts.cached_share = 0;
  return facts;
}

std::vector<Range> AllRanges(const Manifest& manifest) {
  std::vector<Range> ranges;
  for (int64_t id = 0; id < manifest.sample_count(); ++id) ranges.push_back(manifest.RangeAt(id, 0));
  return ranges;
}

// Writes back and drops the pages of each file; false: this file system keeps them (tmpfs).
bool Evict(const Manifest& manifest, const ObjectStore& objects) {
  for (int64_t id = 0; id < manifest.sample_count(); ++id) {
    const UniqueFd fd(::open((manifest.root() + "/" + manifest.Name(id)).c_str(), O_RDONLY));
    if (!fd.valid() || ::fsync(fd.get()) != 0 || ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) != 0) return false;
  }
  return CachedShare(objects, AllRanges(manifest)) < 0.1;
}

struct LookAtSmallSets {
  LookAtSmallSets() { Intervals().io_look_bytes = 0; }
  ~LookAtSmallSets() { Intervals() = LoaderIntervals(); }
};

}  // namespace

TEST_CASE("a set that fits in memory is read through the page cache, for the next epoch", "[io]") {
  CHECK_FALSE(DecideIo(Cold()).direct);
  IoFacts unknown = Cold();
  unknown.available_bytes = 0;
  CHECK_FALSE(DecideIo(unknown).direct);
}

TEST_CASE("a set that does not fit goes past the page cache, unless it is there already", "[io]") {
  IoFacts facts = Cold();
  facts.data_bytes = 9 * kGib;
  CHECK(DecideIo(facts).direct);
  facts.cached_share = 0.95;
  CHECK_FALSE(DecideIo(facts).direct);
  facts.cached_share = 0;
  facts.direct_alignment = 0;
  facts.direct_why = "the file system refuses";
  CHECK_FALSE(DecideIo(facts).direct);
  CHECK(DecideIo(facts).why.find("the file system refuses") != std::string::npos);
}

TEST_CASE("what the page cache did not keep is read direct", "[io]") {
  IoFacts facts = Cold();
  facts.not_kept = true;
  CHECK(DecideIo(facts).direct);
}

TEST_CASE("in the last epoch the cheaper way is taken, as it was measured", "[io]") {
  IoFacts facts = Cold();
  facts.last_epoch = true;
  CHECK_FALSE(DecideIo(facts).direct);  // nothing was measured
  facts.costs = {50, 140, 20, "", 0};
  CHECK(DecideIo(facts).direct);
  facts.cached_share = 0.8;  // 0.8 * 20 + 0.2 * 140 = 44
  CHECK_FALSE(DecideIo(facts).direct);
  facts.cached_share = 0;
  facts.costs = {135, 140, 20, "", 0};  // within the noise
  CHECK_FALSE(DecideIo(facts).direct);
  facts.direct_now = true;  // beside direct reads that keep the drive busy both ways cost about as much
  CHECK(DecideIo(facts).direct);
  facts.costs = {140, 135, 20, "", 0};
  CHECK(DecideIo(facts).direct);
  facts.costs = {140, 120, 20, "", 0};
  CHECK_FALSE(DecideIo(facts).direct);
  facts.costs = {140, 70, 20, "", 0.95};  // but not in each round
  CHECK(DecideIo(facts).direct);
  facts.costs = {140, 70, 20, "", 0.8};
  CHECK_FALSE(DecideIo(facts).direct);
  facts.costs = {140, 70, 20, "", 1.5};
  facts.cached_share = 0.7;  // what is there already is cheap whatever a round said: 0.7 * 20 + 0.3 * 210 = 77
  CHECK_FALSE(DecideIo(facts).direct);
  facts.cached_share = 0;
  facts.direct_now = false;
  CHECK_FALSE(DecideIo(facts).direct);
  facts.costs = {50, 140, 20, "", 0};
  facts.last_epoch = false;
  CHECK_FALSE(DecideIo(facts).direct);
}

TEST_CASE("the share in the page cache is that of the bytes looked at", "[io]") {
  DataSet data(40, -20000);
  const auto built = Manifest::Build(data.root());
  REQUIRE_OK(built);
  const auto objects = built->manifest->OpenObjects();
  const std::vector<Range> ranges = AllRanges(*built->manifest);
  CHECK(CachedShare(*objects, ranges) > 0.99);
  if (!Evict(*built->manifest, *objects)) SkipTest("this file system keeps its pages (tmpfs): nothing can be evicted");
  // A quarter of the files, and so of the bytes.
  for (int64_t id = 0; id < 10; ++id) DataSet::Write(data.root() + "/" + std::string(built->manifest->Name(id)), 20000);
  CHECK(CachedShare(*objects, ranges) == Approx(0.25).margin(0.01));
}

TEST_CASE("an epoch whose pages were evicted is followed by one that is read direct", "[io]") {
  const LookAtSmallSets look;
  DataSet data(256, -20000);
  LoaderOptions options = OptionsOf(data.root(), 32);
  options.next_epoch_prefetch = false;  // else the next epoch is planned before they are evicted
  Index(options);
  const auto loader = MustOpen(options);
  CHECK(TakeEpoch(*loader).size() == 256);
  CHECK(loader->report().io == "buffered");
  const auto manifest = loader->manifest();
  REQUIRE_OK(loader->StartEpoch());
  CHECK(TakeEpoch(*loader).size() == 256);
  CHECK(loader->report().io == "buffered");  // nothing was evicted
  const auto objects = manifest->OpenObjects();
  if (!Evict(*manifest, *objects)) SkipTest("this file system keeps its pages (tmpfs): nothing can be evicted");
  REQUIRE_OK(loader->StartEpoch());
  CHECK(TakeEpoch(*loader).size() == 256);
  CHECK(loader->report().io == "direct");
  CHECK(loader->report().io_why.find("did not keep") != std::string::npos);
}

TEST_CASE("while the costs of both ways are being measured, reads are direct", "[io]") {
  IoFacts facts = Cold();
  facts.last_epoch = true;
  facts.measuring = true;
  CHECK(DecideIo(facts).direct);
  facts.cached_share = 0.95;  // what is there already is nowhere cheaper
  CHECK_FALSE(DecideIo(facts).direct);
}

TEST_CASE("the costs of both ways are measured beside the first batches, and the rest of the epoch goes by them", "[io]") {
  const LookAtSmallSets look;
  DataSet data(2048, -20000);
  LoaderOptions options = OptionsOf(data.root(), 4);
  options.epochs = 1;
  const auto built = Manifest::Build(data.root());
  REQUIRE_OK(built);
  const auto objects = built->manifest->OpenObjects();
  if (!Evict(*built->manifest, *objects)) SkipTest("this file system keeps its pages (tmpfs): nothing can be evicted");
  const auto loader = MustOpen(options);
  if (loader->setup().io != "direct") SkipTest("this file system has no direct reads: " + loader->setup().io_why);
  CHECK(loader->setup().io_why.find("until both ways are measured") != std::string::npos);
  std::set<int64_t> ids;
  for (int step = 0; step < 512; ++step) {
    const auto batch = loader->Next();
    REQUIRE_OK(batch);
    for (const int64_t id : CheckBatch(*loader, *batch)) ids.insert(id);
    // It has nothing to do with how many batches there are, so that they wait for it here.
    if (loader->report().io_why.find("until") != std::string::npos) SleepNs(20 * kNsPerMs);
  }
  CHECK(ids.size() == 2048);
  CHECK(loader->report().io_why.find("until") == std::string::npos);
  CHECK(loader->report().io_why.find("measured") != std::string::npos);
}

TEST_CASE("after the last of the epochs that were announced nothing is read ahead", "[io]") {
  DataSet data(64, -1000);
  LoaderOptions options = OptionsOf(data.root(), 32);
  options.epochs = 1;
  Index(options);
  const auto loader = MustOpen(options);
  for (int step = 0; step < 2; ++step) REQUIRE_OK(loader->Next());
  CHECK(EpochEnded(loader->Next()));
  CHECK(loader->report().requests == 64);
  REQUIRE_OK(loader->StartEpoch());  // it may go on all the same
  for (int step = 0; step < 2; ++step) REQUIRE_OK(loader->Next());
}
