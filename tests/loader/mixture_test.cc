// Several data sets by weight: proportions, orders, states, new weights in mid-run, errors.
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "loader/data_set.h"
#include "penstock/mixture.h"
#include "penstock/order.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Two data sets whose files have the same names and other sizes.
struct Sets {
  DataSet a{60, 4000};
  DataSet b{25, 2500, 2};

  LoaderOptions Options(int64_t batch_size = 10) const {
    LoaderOptions options = a.Options(batch_size);
    options.root.clear();
    options.mixture = {{a.root(), 0.7, ""}, {b.root(), 0.3, ""}};
    options.mixture_period = 10;
    options.seed = 5;
    return options;
  }
  LoaderOptions Options(int64_t batch_size, int32_t rank, int32_t world_size) const {
    LoaderOptions options = Options(batch_size);
    options.rank = rank;
    options.world_size = world_size;
    return options;
  }
  // The order that such a loader has to follow, made without one.
  Mixture Order(double weight_a = 0.7, double weight_b = 0.3, int64_t epoch_samples = 85) const {
    MixtureOptions options;
    options.order.seed = 5;
    options.period = 10;
    options.epoch_samples = epoch_samples;
    auto mixture = Mixture::Create({60, 25}, {weight_a, weight_b}, options);
    REQUIRE_OK(mixture);
    return *std::move(mixture);
  }
};

std::vector<int64_t> TakeSteps(Loader& loader, int64_t steps) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < steps; ++i) {
    absl::StatusOr<Batch> batch = loader.Next();
    REQUIRE_OK(batch);
    for (const int64_t id : CheckBatch(loader, *batch)) ids.push_back(id);
  }
  return ids;
}

// The ids of a step of all ranks, in the order of their positions.
std::vector<int64_t> TakeGlobal(std::vector<std::unique_ptr<Loader>>& ranks) {
  std::vector<std::vector<int64_t>> taken;
  for (auto& loader : ranks) taken.push_back(TakeSteps(*loader, 1));
  std::vector<int64_t> ids;
  for (size_t i = 0; i < taken[0].size(); ++i) {
    for (const auto& rank : taken) {
      if (i < rank.size()) ids.push_back(rank[i]);
    }
  }
  return ids;
}

std::vector<int64_t> Expected(const Mixture& mixture, int64_t begin, int64_t count) {
  std::vector<int64_t> ids;
  for (int64_t g = begin; g < begin + count; ++g) ids.push_back(mixture.At(g / mixture.epoch_samples(), g % mixture.epoch_samples()).id);
  return ids;
}

// Each data set's samples come in epochs of its own: cut by its length they are permutations of it, the last one begun.
void CheckOwnEpochs(const std::vector<int64_t>& ids) {
  std::map<bool, std::vector<int64_t>> own;
  for (const int64_t id : ids) own[id >= 60].push_back(id);
  for (const auto& [is_b, sequence] : own) {
    const size_t length = is_b ? 25 : 60;
    for (size_t begin = 0; begin < sequence.size(); begin += length) {
      const size_t end = std::min(sequence.size(), begin + length);
      const std::set<int64_t> once(sequence.begin() + static_cast<ptrdiff_t>(begin), sequence.begin() + static_cast<ptrdiff_t>(end));
      CHECK(once.size() == end - begin);
    }
  }
}

}  // namespace

TEST_CASE("a mixture delivers its data sets by weight, each in its own order and epochs", "[loader]") {
  const Sets sets;
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = sets.Options();
    options.engine = engine;
    const auto loader = MustOpen(options);
    CHECK(loader->steps() == 8);  // 85 samples of both
    std::vector<int64_t> all;
    for (int64_t epoch = 0; epoch < 6; ++epoch) {
      if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
      std::vector<int64_t> per_member = {0, 0};
      for (int64_t step = 0; step < 8; ++step) {
        absl::StatusOr<Batch> batch = loader->Next();
        REQUIRE_OK(batch);
        const std::vector<int64_t> ids = CheckBatch(*loader, *batch);
        CHECK(ids == Expected(sets.Order(), epoch * 85 + step * 10, 10));
        REQUIRE(batch->members().size() == ids.size());
        for (size_t i = 0; i < ids.size(); ++i) {
          CHECK(batch->members()[i] == (ids[i] >= 60 ? 1 : 0));
          ++per_member[static_cast<size_t>(batch->members()[i])];
        }
      }
      CHECK(loader->report().member_samples == per_member);
      const EpochReport report = loader->report();
      CHECK(report.delivered == 80);
      CHECK(report.dropped == 5);
    }
    const SetupReport setup = loader->setup();
    REQUIRE(setup.members.size() == 2);
    CHECK(setup.members[1].root == sets.b.root());
    CHECK(setup.members[1].samples == 25);
    CHECK(setup.members[1].first_id == 60);
    CHECK(setup.members[0].period_samples == 7);
    CHECK(setup.members[1].period_samples == 3);
    CHECK(setup.mixture_period == 10);
    CHECK(setup.epoch_samples == 85);
    CHECK(setup.fingerprint == loader->manifest()->fingerprint());
  }
  LoaderOptions aligned = sets.Options();
  aligned.epoch_samples = 500;
  const auto loader = MustOpen(aligned);
  std::vector<int64_t> ids;
  for (int64_t step = 0; step < 50; ++step) {
    const std::vector<int64_t> batch = TakeSteps(*loader, 1);
    // A batch is a period here.
    CHECK(std::count_if(batch.begin(), batch.end(), [](int64_t id) { return id >= 60; }) == 3);
    ids.insert(ids.end(), batch.begin(), batch.end());
  }
  CheckOwnEpochs(ids);
  CHECK(EpochEnded(loader->Next()));
}

TEST_CASE("a mixture without a sample more or less on any number of ranks", "[loader]") {
  const Sets sets;
  for (const int32_t world_size : {1, 2, 3, 6}) {
    std::vector<std::unique_ptr<Loader>> ranks;
    for (int32_t rank = 0; rank < world_size; ++rank) ranks.push_back(MustOpen(sets.Options(12 / world_size, rank, world_size)));
    for (int64_t step = 0; step < 7; ++step) CHECK(TakeGlobal(ranks) == Expected(sets.Order(), step * 12, 12));
    for (auto& loader : ranks) {
      CHECK(EpochEnded(loader->Next()));
      CHECK(loader->state() == ranks[0]->state());
    }
  }
}

TEST_CASE("a mixture goes on from its state at another world and batch size", "[loader]") {
  const Sets sets;
  const auto whole = MustOpen(sets.Options());
  TakeSteps(*whole, 3);
  const std::string state = whole->state();
  CHECK(state.size() < 1024);
  LoaderOptions options = sets.Options(5);
  options.state = state;
  // What differs from the state is refused, all of it at once.
  options.seed = 99;
  CHECK(absl::StrContains(Loader::Open(options).status().message(), "seed = 99 (the state: 5)"));
  options.seed.reset();
  options.mixture_period = 50;
  options.epoch_samples = 1000;
  const absl::Status refused = Loader::Open(options).status();
  CHECK(absl::IsInvalidArgument(refused));
  CHECK(absl::StrContains(refused.message(), "mixture_period = 50 (the state: 10), epoch_samples = 1000 (the state: 85)"));
  options.mixture_period.reset();
  options.epoch_samples = 0;  // 85: as many as the data sets have
  // Weights come with every mixture, and are the state's; that they differ is said.
  options.mixture[0].weight = 1;
  std::vector<std::unique_ptr<Loader>> ranks;
  for (int32_t rank = 0; rank < 2; ++rank) {
    options.rank = rank;
    options.world_size = 2;
    ranks.push_back(MustOpen(options));
    const std::vector<std::string> warnings = ranks.back()->setup().warnings;
    CHECK(std::any_of(warnings.begin(), warnings.end(), [](const std::string& warning) { return absl::StrContains(warning, "SetWeights"); }));
  }
  for (int64_t step = 0; step < 5; ++step) CHECK(TakeGlobal(ranks) == Expected(sets.Order(), 30 + step * 10, 10));
  for (auto& loader : ranks) REQUIRE_OK(loader->StartEpoch());
  CHECK(TakeGlobal(ranks) == Expected(sets.Order(), 85, 10));
}

TEST_CASE("the tail of a mixture's epoch", "[loader]") {
  const Sets sets;
  LoaderOptions options = sets.Options();
  options.tail = Tail::kPartial;
  const auto partial = MustOpen(options);
  CHECK(TakeEpoch(*partial) == Expected(sets.Order(), 0, 85));
  // What fills up the last step is what the next epoch begins with.
  options.tail = Tail::kPad;
  const auto pad = MustOpen(options);
  CHECK(TakeEpoch(*pad) == Expected(sets.Order(), 0, 90));
  CHECK(pad->report().padded == 5);
  REQUIRE_OK(pad->StartEpoch());
  CHECK(TakeSteps(*pad, 1) == Expected(sets.Order(), 85, 10));
  // Also where a step is longer than some epochs.
  options.epoch_samples = 4;
  const auto shorter = MustOpen(options);
  CHECK(TakeEpoch(*shorter) == Expected(sets.Order(0.7, 0.3, 4), 0, 10));
  options.tail = Tail::kDrop;
  const auto refused = Loader::Open(options);
  CHECK(absl::IsInvalidArgument(refused.status()));
  CHECK(absl::StrContains(refused.status().message(), "an epoch's 4 samples do not fill one step"));
}

TEST_CASE("new weights begin with the next batch, and no data set loses or repeats a sample", "[loader]") {
  const Sets sets;
  for (const int32_t world_size : {1, 2}) {
    std::vector<std::unique_ptr<Loader>> ranks;
    for (int32_t rank = 0; rank < world_size; ++rank) {
      LoaderOptions options = sets.Options(10 / world_size, rank, world_size);
      options.epoch_samples = 500;
      ranks.push_back(MustOpen(options));
    }
    std::vector<int64_t> ids;
    Mixture mixture = sets.Order(0.7, 0.3, 500);
    int64_t g = 0;
    const auto take = [&](int64_t steps) {
      for (int64_t i = 0; i < steps; ++i, g += 10) {
        const std::vector<int64_t> step = TakeGlobal(ranks);
        CHECK(step == Expected(mixture, g, 10));
        ids.insert(ids.end(), step.begin(), step.end());
      }
    };
    const auto change = [&](double a, double b) {
      for (auto& loader : ranks) REQUIRE_OK(loader->SetWeights({a, b}));
      auto changed = mixture.WithWeights(g / 500, g % 500, {a, b});
      REQUIRE_OK(changed);
      mixture = *std::move(changed);
    };
    take(3);
    change(0.5, 0.5);
    take(4);
    change(0, 1);
    take(2);
    CHECK(std::all_of(ids.end() - 20, ids.end(), [](int64_t id) { return id >= 60; }));
    change(9, 1);
    change(9, 1);  // the same again changes nothing
    take(41);
    for (auto& loader : ranks) {
      CHECK(EpochEnded(loader->Next()));
      CHECK(loader->setup().members[0].period_samples == 9);
    }
    // Between two epochs.
    change(1, 1);
    for (auto& loader : ranks) REQUIRE_OK(loader->StartEpoch());
    take(5);
    CheckOwnEpochs(ids);

    // The state has them, in mid-segment too.
    LoaderOptions options = sets.Options(10);
    options.state = ranks[0]->state();
    CHECK(options.state.size() < 1024);
    std::vector<std::unique_ptr<Loader>> restored;
    restored.push_back(MustOpen(options));
    for (int64_t i = 0; i < 4; ++i) CHECK(TakeGlobal(restored) == Expected(mixture, g + i * 10, 10));

    // What lies before the change cannot be gone back to; what lies behind it can.
    const absl::Status back = restored[0]->StartEpoch(0);
    CHECK(absl::IsFailedPrecondition(back));
    CHECK(absl::StrContains(back.message(), "does not begin behind it"));
    REQUIRE_OK(restored[0]->StartEpoch(7));
    CHECK(TakeGlobal(restored) == Expected(mixture, 7 * 500, 10));
    CHECK(absl::IsInvalidArgument(restored[0]->StartEpoch(kOrderMax)));
  }
}

TEST_CASE("weights that are none are refused, and nothing changes", "[loader]") {
  const Sets sets;
  const auto loader = MustOpen(sets.Options());
  TakeSteps(*loader, 2);
  const std::string state = loader->state();
  CHECK(absl::IsInvalidArgument(loader->SetWeights({1})));
  CHECK(absl::IsInvalidArgument(loader->SetWeights({1, 2, 3})));
  CHECK(absl::IsInvalidArgument(loader->SetWeights({})));
  CHECK(absl::IsInvalidArgument(loader->SetWeights({0, 0})));
  CHECK(absl::IsInvalidArgument(loader->SetWeights({-1, 2})));
  const absl::Status little = loader->SetWeights({1, 1e-6});
  CHECK(absl::IsInvalidArgument(little));
  CHECK(absl::StrContains(little.message(), "longer period"));
  CHECK(loader->state() == state);
  CHECK(TakeSteps(*loader, 1) == Expected(sets.Order(), 20, 10));
  loader->Stop();
  CHECK(absl::IsCancelled(loader->SetWeights({1, 1})));
  const auto single = MustOpen(sets.a.Options());
  CHECK(absl::IsFailedPrecondition(single->SetWeights({1})));
  CHECK(single->setup().members.empty());
  CHECK(single->report().member_samples.empty());
  const auto batch = single->Next();
  REQUIRE_OK(batch);
  CHECK(batch->members().empty());
}

TEST_CASE("weights may change at any moment of reading ahead", "[loader]") {
  const Sets sets;
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = sets.Options(5);
    options.engine = engine;
    options.epoch_samples = 10'000;
    const auto loader = MustOpen(options);
    Mixture mixture = sets.Order(0.7, 0.3, 10'000);
    std::vector<int64_t> ids;
    for (int64_t round = 0; round < 60; ++round) {
      const std::vector<double> weights = {static_cast<double>(1 + round % 7), static_cast<double>(1 + round % 3)};
      REQUIRE_OK(loader->SetWeights(weights));
      const auto g = static_cast<int64_t>(ids.size());
      auto changed = mixture.WithWeights(0, g, weights);
      REQUIRE_OK(changed);
      mixture = *std::move(changed);
      const std::vector<int64_t> taken = TakeSteps(*loader, 1 + round % 4);
      REQUIRE(taken == Expected(mixture, g, static_cast<int64_t>(taken.size())));
      ids.insert(ids.end(), taken.begin(), taken.end());
    }
    CheckOwnEpochs(ids);
  }
}

TEST_CASE("a batch that is lent while the weights change stays as it was", "[loader]") {
  const Sets sets;
  LoaderOptions options = sets.Options();
  options.memory_bytes = 8 << 20;
  const auto loader = MustOpen(options);
  absl::StatusOr<Batch> lent = loader->Next();
  REQUIRE_OK(lent);
  const std::vector<int64_t> ids = CheckBatch(*loader, *lent);
  REQUIRE_OK(loader->SetWeights({1, 9}));
  TakeSteps(*loader, 3);
  CHECK(CheckBatch(*loader, *lent) == ids);
}

TEST_CASE("a file that is gone is named with its own data set", "[loader]") {
  for (const EngineOption engine : Engines()) {
    const Sets sets;
    LoaderOptions options = sets.Options();
    options.engine = engine;
    options.retries = 0;
    const auto intact = MustOpen(options);
    const int64_t gone = 60 + 7;
    const std::string name = intact->manifest()->Name(gone);
    REQUIRE(absl::StartsWith(name, sets.b.root()));
    REQUIRE(std::filesystem::remove(name));

    absl::Status failed;
    const auto failing = MustOpen(options);
    for (int64_t i = 0; i < 80 && failed.ok(); ++i) {
      const auto batch = failing->Next();
      if (EpochEnded(batch))
        REQUIRE_OK(failing->StartEpoch());
      else
        failed = batch.status();
    }
    CHECK(absl::IsNotFound(failed));
    CHECK(absl::StrContains(failed.message(), name));

    // A substitute is of the same data set, so that the proportions stay.
    options.policy = ErrorPolicy::kSubstitute;
    options.epoch_samples = 100;
    const auto substituting = MustOpen(options);
    while (true) {
      const auto batch = substituting->Next();
      if (EpochEnded(batch)) break;
      REQUIRE_OK(batch);
      CheckBatch(*substituting, *batch);
      CHECK(std::count(batch->members().begin(), batch->members().end(), 1) == 3);
    }
    const EpochReport report = substituting->report();
    CHECK(report.substituted > 0);
    CHECK(report.member_samples == std::vector<int64_t>{70, 30});
    for (const LedgerEntry& entry : report.ledger) {
      CHECK(entry.id == gone);
      CHECK(entry.substitute >= 60);
    }

    options.policy = ErrorPolicy::kSkip;
    const auto skipping = MustOpen(options);
    TakeEpoch(*skipping);
    CHECK(skipping->report().skipped > 0);
    CHECK(skipping->report().member_samples[1] == 30 - skipping->report().skipped);
    CHECK(skipping->report().member_samples[0] == 70);
  }
}

TEST_CASE("an epoch behind the positions of a mixture is refused and the last one ends", "[loader]") {
  const Sets sets;
  LoaderOptions options = sets.Options();
  options.epoch_samples = int64_t{1} << 20;
  options.batch_size = 4;
  options.tail = Tail::kPad;
  const auto loader = MustOpen(options);
  // 2^36 epochs of 2^20 positions; the last one has no room for what pads it.
  CHECK(absl::IsFailedPrecondition(loader->StartEpoch((int64_t{1} << 36) - 1)));
  CHECK(absl::IsFailedPrecondition(loader->StartEpoch(int64_t{1} << 36)));
  CHECK(loader->epoch() == 0);
  REQUIRE_OK(loader->StartEpoch((int64_t{1} << 36) - 2));
  REQUIRE_OK(loader->Skip(loader->steps() - 2));
  CHECK(TakeEpoch(*loader).size() == 8);
  CHECK(absl::IsFailedPrecondition(loader->StartEpoch()));
  options.epoch_samples = int64_t{1} << 56;
  CHECK(absl::IsInvalidArgument(Loader::Open(options).status()));
}

TEST_CASE("what does not go with a mixture is refused by name", "[loader]") {
  const Sets sets;
  const auto refused = [](const LoaderOptions& options, const char* part) {
    const auto loader = Loader::Open(options);
    INFO(loader.status());
    CHECK_FALSE(loader.ok());
    CHECK(absl::StrContains(loader.status().message(), part));
  };
  LoaderOptions options = sets.Options();
  options.root = sets.a.root();
  refused(options, "option mixture names the data sets");
  options = sets.Options();
  options.manifest_path = "m";
  refused(options, "option mixture names the data sets");
  options = sets.Options();
  options.ids = {1, 2};
  refused(options, "order of its own");
  options = sets.Options();
  options.disk_blocks = true;
  refused(options, "order of its own");
  options = sets.Options();
  options.mixture[1].root += "/none";
  refused(options, "data set 1 of the mixture");
  refused(options, "/none");
  options = sets.Options();
  options.mixture[1].weight = -1;
  refused(options, "weight 1 of the mixture is -1");
  options = sets.Options();
  options.mixture[1].root.clear();
  refused(options, "root is missing");
  options = sets.Options();
  options.codec.verify_crc = true;
  refused(options, (std::filesystem::path(sets.a.root()).parent_path() / ".set.penstock").c_str());
  options = sets.Options();
  options.mixture_period = 100'000;
  refused(options, "mixture_period");
  options.root.clear();
  options.mixture.clear();
  options.mixture_period = 10;
  refused(options, "option root is empty");
}

TEST_CASE("a state goes only with the mixture that it is of", "[loader]") {
  const Sets sets;
  const std::string mixed = MustOpen(sets.Options())->state();
  const std::string single = MustOpen(sets.a.Options())->state();
  const auto refused = [](LoaderOptions options, const std::string& state, const char* part) {
    options.state = state;
    const auto loader = Loader::Open(options);
    INFO(loader.status());
    CHECK(absl::IsFailedPrecondition(loader.status()));
    CHECK(absl::StrContains(loader.status().message(), part));
  };
  refused(sets.a.Options(), mixed, "made with a mixture of data sets");
  refused(sets.Options(), single, "made with a single data set");
  auto disk_blocks = State::FromJson(single);
  REQUIRE_OK(disk_blocks);
  disk_blocks->disk_blocks = true;
  refused(sets.Options(), disk_blocks->ToJson(), "made with a single data set");
  LoaderOptions more = sets.Options();
  more.mixture.push_back({sets.a.root(), 1, ""});
  refused(more, mixed, "a mixture of 2 data sets, and this run has 3");
  LoaderOptions other = sets.Options();
  std::swap(other.mixture[0].root, other.mixture[1].root);
  refused(other, mixed, "fingerprint");
}

TEST_CASE("a mixture of packed records and files, direct reads too", "[loader]") {
  const DataSet files(40, 3000);
  const DataSet shards(0, 0, 0);
  std::string records;
  for (int i = 0; i < 200; ++i) records += DataSet::Content(std::to_string(i), 512);
  std::ofstream(shards.root() + "/records.raw", std::ios::binary) << records;
  IndexOptions index;
  index.format = ShardFormat::kRaw;
  index.record_bytes = 512;
  REQUIRE_OK(Manifest::Build(shards.root(), index));
  for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
    LoaderOptions options = files.Options(20);
    options.root.clear();
    options.mixture = {{files.root(), 1, ""}, {shards.root(), 3, ""}};
    options.mixture_period = 4;
    options.io = io;
    const auto loader = MustOpen(options);
    std::set<int64_t> seen;
    for (int64_t i = 0; i < 12; ++i) {
      const auto batch = loader->Next();
      REQUIRE_OK(batch);
      for (int64_t s = 0; s < batch->size(); ++s) {
        const int64_t id = batch->ids()[static_cast<size_t>(s)];
        const auto bytes = batch->sample(s);
        const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        const std::string expected = id < 40 ? DataSet::Content(loader->manifest()->Name(id), loader->manifest()->StoredBytes(id))
                                             : records.substr(static_cast<size_t>(id - 40) * 512, 512);
        REQUIRE((text == expected));
        seen.insert(id);
      }
    }
    CHECK(seen.size() > 200);
  }
}

TEST_CASE("loaders of one mixture share what they have open", "[loader]") {
  const Sets sets;
  const auto runtime = Runtime::Create();
  const auto a = MustOpen(sets.Options(10, 0, 2), runtime);
  const auto b = MustOpen(sets.Options(10, 1, 2), runtime);
  CHECK(a->manifest().get() == b->manifest().get());
  const auto single = MustOpen(sets.a.Options(), runtime);
  CHECK(single->manifest().get() == &a->manifest()->member(0));
}

TEST_CASE("the option mixture as text", "[loader]") {
  LoaderOptions options;
  REQUIRE_OK(SetOption(options, "mixture", R"([{"root": "a \" b", "weight": 0.25}, {"root": "c", "manifest_path": "m"}])"));
  REQUIRE(options.mixture.size() == 2);
  CHECK(options.mixture[0].root == "a \" b");
  CHECK(options.mixture[0].weight == 0.25);
  CHECK(options.mixture[1].weight == 1);
  CHECK(options.mixture[1].manifest_path == "m");
  LoaderOptions again;
  REQUIRE_OK(SetOption(again, "mixture", GetOption(options, "mixture")));
  CHECK(GetOption(again, "mixture") == GetOption(options, "mixture"));
  CHECK(again.mixture[0].root == options.mixture[0].root);
  REQUIRE_OK(SetOption(again, "mixture", ""));
  CHECK(again.mixture.empty());
  CHECK(GetOption(again, "mixture").empty());
  struct Bad {
    const char* text;
    const char* part;
  };
  for (const Bad& bad :
       {Bad{"a,b", "not a JSON array"}, Bad{"{}", "not a JSON array"}, Bad{"[1]", "data set 0: it is 1"},
        Bad{R"([{"weight": 1}])", "its root is missing"}, Bad{R"([{"root": ""}])", "its root is missing"},
        Bad{R"([{"root": 1}])", "its root is 1"}, Bad{R"([{"root": "a"}, {"root": "b", "weight": "x"}])", "data set 1: its weight"},
        Bad{R"([{"root": "a", "wieght": 1}])", "\"wieght\" is none of"}, Bad{"[", "not a JSON array"}}) {
    INFO(bad.text);
    const absl::Status status = SetOption(options, "mixture", bad.text);
    CHECK(absl::IsInvalidArgument(status));
    CHECK(absl::StrContains(status.message(), bad.part));
  }
  CHECK(options.mixture.size() == 2);
}
