// The C API as it is meant to be used: what a program sees is what the C++ library has.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "capi/c_api.h"
#include "penstock/version.h"
#include "support/fault_fs.h"

using namespace penstock;
using namespace penstock::testing;
using Json = nlohmann::json;

namespace {

// Takes the rest of the epoch and checks every sample's bytes against its file's name.
std::vector<int64_t> TakeCEpoch(penstock_loader* loader) {
  Error error;
  penstock_manifest* manifest = nullptr;
  C_OK(error, penstock_loader_manifest(loader, &manifest, &error));
  std::vector<int64_t> ids;
  while (true) {
    penstock_batch* batch = nullptr;
    const penstock_code code = penstock_loader_next(loader, &batch, &error);
    if (code == PENSTOCK_END_OF_EPOCH) break;
    INFO(error.text());
    REQUIRE(code == PENSTOCK_OK);
    const penstock_batch_view view = ViewOf(batch);
    CHECK(view.on_device == 0);
    CHECK(view.device == -1);
    for (int64_t i = 0; i < view.size; ++i) {
      char* name = nullptr;
      int64_t name_bytes = 0;
      C_OK(error, penstock_manifest_sample_name(manifest, view.ids[i], &name, &name_bytes, &error));
      CHECK(static_cast<int64_t>(std::strlen(name)) == name_bytes);
      int64_t size = 0;
      int32_t label = 0;
      C_OK(error, penstock_manifest_samples(manifest, view.ids[i], 1, &size, &label, &error));
      REQUIRE(view.lengths[i] == size);
      REQUIRE(view.labels[i] == label);
      REQUIRE(view.valid[i] == 1);
      const std::string bytes(static_cast<const char*>(view.data) + view.offsets[i], static_cast<size_t>(view.lengths[i]));
      REQUIRE((bytes == DataSet::Content(TakeText(name), bytes.size())));
      ids.push_back(view.ids[i]);
    }
    C_OK(error, penstock_batch_release(batch, &error));
  }
  C_OK(error, penstock_manifest_close(manifest, &error));
  return ids;
}

Json Report(penstock_loader* loader) {
  Error error;
  char* json = nullptr;
  C_OK(error, penstock_loader_report_json(loader, &json, &error));
  return Json::parse(TakeText(json));
}

}  // namespace

TEST_CASE("an epoch from C has the samples of the same epoch from C++, in its order", "[capi]") {
  const DataSet data(150);
  for (const EngineOption engine : Engines()) {
    COptions options(data.root(), engine);
    options.Set("tail", "partial");
    options.Set("seed", "7");
    penstock_loader* loader = options.Open();
    LoaderOptions same = data.Options();
    same.tail = Tail::kPartial;
    same.seed = 7;
    const auto other = MustOpen(same);
    Error error;
    for (int epoch = 0; epoch < 2; ++epoch) {
      CHECK(TakeCEpoch(loader) == TakeEpoch(*other));
      int64_t now = -1, step = -1, steps = -1, left = -1;
      C_OK(error, penstock_loader_position(loader, &now, &step, &steps, &left, &error));
      CHECK(now == epoch);
      CHECK(step == other->step());
      CHECK(steps == other->steps());
      CHECK(left == 0);
      CHECK(Report(loader)["delivered"] == 150);
      C_OK(error, penstock_loader_start_epoch(loader, -1, &error));
      REQUIRE_OK(other->StartEpoch());
    }
    C_OK(error, penstock_loader_start_epoch(loader, 0, &error));
    REQUIRE_OK(other->StartEpoch(0));
    CHECK(TakeCEpoch(loader) == TakeEpoch(*other));
    char* json = nullptr;
    C_OK(error, penstock_loader_setup_json(loader, &json, &error));
    CHECK(Json::parse(TakeText(json))["engine"] == (engine == EngineOption::kUring ? "uring" : "threads"));
    C_OK(error, penstock_loader_close(loader, &error));
  }
}

TEST_CASE("a run goes on from a state that was taken from C", "[capi]") {
  const DataSet data(120);
  COptions options(data.root(), EngineOption::kThreads);
  penstock_loader* loader = options.Open();
  const std::vector<int64_t> all = TakeCEpoch(loader);
  Error error;
  C_OK(error, penstock_loader_start_epoch(loader, 0, &error));
  std::vector<int64_t> ids;
  for (int i = 0; i < 3; ++i) {
    penstock_batch* batch = TakeBatch(loader);
    const penstock_batch_view view = ViewOf(batch);
    CHECK(view.epoch == 0);
    CHECK(view.step == i);
    ids.insert(ids.end(), view.ids, view.ids + view.size);
    C_OK(error, penstock_batch_release(batch, &error));
  }
  char* text = nullptr;
  C_OK(error, penstock_loader_state(loader, &text, &error));
  const std::string state = TakeText(text);
  CHECK(state.size() < 1024);
  C_OK(error, penstock_loader_close(loader, &error));
  options.Set("state", state);
  loader = options.Open();
  int64_t step = -1, steps = -1, left = -1;
  C_OK(error, penstock_loader_position(loader, nullptr, &step, &steps, &left, &error));
  CHECK(step == 0);
  CHECK(steps == static_cast<int64_t>(all.size() / (ids.size() / 3)));
  CHECK(left == steps - 3);
  for (const int64_t id : TakeCEpoch(loader)) ids.push_back(id);
  CHECK(ids == all);
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("the report of an epoch stays as it was when its last batch was taken", "[capi]") {
  const DataSet data(120);
  for (const EngineOption engine : Engines()) {
    COptions options(data.root(), engine);
    penstock_loader* loader = options.Open();
    TakeCEpoch(loader);
    const Json report = Report(loader);
    CHECK(report["taken"] == report["expected"]);
    // The process goes on: CPU time, waits and what is read ahead of the next epoch are none of the old one's.
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
    while (std::chrono::steady_clock::now() < end) {
    }
    TakeCEpoch(loader);  // finds the end again
    CHECK(Report(loader) == report);
    Error error;
    C_OK(error, penstock_loader_start_epoch(loader, -1, &error));
    CHECK(Report(loader)["taken"] == 0);
    C_OK(error, penstock_loader_skip(loader, 7, &error));  // all of them
    const Json passed = Report(loader);
    CHECK(passed["passed"] == 112);
    CHECK(Report(loader) == passed);
    C_OK(error, penstock_loader_close(loader, &error));
  }
}

TEST_CASE("skip stands where next would, and the state counts it", "[capi]") {
  const DataSet data(120);
  COptions options(data.root(), EngineOption::kThreads);
  penstock_loader* loader = options.Open();
  const std::vector<int64_t> all = TakeCEpoch(loader);
  Error error;
  C_OK(error, penstock_loader_start_epoch(loader, 0, &error));
  int64_t step = 0, steps = 0, left = 0;
  C_OK(error, penstock_loader_skip(loader, 2, &error));
  C_OK(error, penstock_loader_position(loader, nullptr, &step, &steps, &left, &error));
  CHECK(step == 2);
  CHECK(left == steps - 2);
  const auto per_step = static_cast<int64_t>(all.size()) / steps;
  CHECK(TakeCEpoch(loader) == std::vector<int64_t>(all.begin() + 2 * per_step, all.end()));
  CHECK(Report(loader)["passed"] == 2 * per_step);
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("a mixture of data sets, its members, and new weights", "[capi]") {
  const DataSet a(40, -100);
  const DataSet b(30, -60);
  COptions options("", EngineOption::kThreads, 10);
  options.Set("mixture", "[{\"root\": \"" + a.root() + "\", \"weight\": 8}, {\"root\": \"" + b.root() + "\", \"weight\": 2}]");
  options.Set("mixture_period", "10");
  options.Set("epoch_samples", "50");
  penstock_loader* loader = options.Open();
  Error error;
  const auto counts = [&](int64_t of_b) {
    penstock_batch* batch = TakeBatch(loader);
    const penstock_batch_view view = ViewOf(batch);
    REQUIRE(view.members != nullptr);
    int64_t count = 0;
    for (int64_t i = 0; i < view.size; ++i) {
      CHECK(view.members[i] == (view.ids[i] >= 40 ? 1 : 0));
      CHECK(view.lengths[i] == (view.ids[i] >= 40 ? 60 : 100));
      count += view.members[i];
    }
    CHECK(count == of_b);
    C_OK(error, penstock_batch_release(batch, &error));
  };
  counts(2);
  const double weights[] = {1, 1};
  C_OK(error, penstock_loader_set_weights(loader, weights, 2, &error));
  counts(5);
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_set_weights(loader, weights, 1, &error));
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_set_weights(loader, nullptr, 2, &error));
  for (const int64_t count : {INT64_MIN, int64_t{-1}, int64_t{0}, int64_t{257}, INT64_MAX}) {
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_set_weights(loader, weights, count, &error));
  }
  counts(5);
  CHECK(Report(loader)["member_samples"] == nlohmann::json({18, 12}));
  char* text = nullptr;
  C_OK(error, penstock_loader_setup_json(loader, &text, &error));
  const nlohmann::json setup = nlohmann::json::parse(TakeText(text));
  CHECK(setup["members"][1]["root"] == b.root());
  CHECK(setup["members"][1]["first_id"] == 40);
  CHECK(setup["members"][1]["period_samples"] == 5);
  C_OK(error, penstock_loader_close(loader, &error));

  // Without a mixture.
  COptions single(a.root(), EngineOption::kThreads);
  loader = single.Open();
  C_FAILS(error, PENSTOCK_FAILED_PRECONDITION, penstock_loader_set_weights(loader, weights, 2, &error));
  penstock_batch* batch = TakeBatch(loader);
  CHECK(ViewOf(batch).members == nullptr);
  // A program that was built before there were members.
  penstock_batch_view older{};
  int32_t untouched = 0;
  older.struct_bytes = offsetof(penstock_batch_view, members);
  older.members = &untouched;
  C_OK(error, penstock_batch_get(batch, &older, &error));
  CHECK(older.size == 16);
  CHECK(older.members == &untouched);
  C_OK(error, penstock_batch_release(batch, &error));
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("ids of four bytes that are not aligned are the same order", "[capi]") {
  const DataSet data(40, -100);
  COptions options(data.root(), EngineOption::kThreads, 4);
  const std::vector<int32_t> ids = {5, 3, 39, 3};
  std::vector<char> memory(1 + ids.size() * sizeof(int32_t));
  std::memcpy(memory.data() + 1, ids.data(), memory.size() - 1);
  Error error;
  C_OK(error, penstock_options_set_ids(options.get(), memory.data() + 1, 4, static_cast<int64_t>(ids.size()), &error));
  penstock_loader* loader = options.Open();
  CHECK(TakeCEpoch(loader) == std::vector<int64_t>{5, 3, 39, 3});
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("a list of ids is the order, and a codec function sees every sample", "[capi]") {
  const DataSet data(40, -100);
  COptions options(data.root(), EngineOption::kThreads, 4);
  const std::vector<int64_t> ids = {5, 3, 39, 3, 0, 1, 2, 30};
  Error error;
  C_OK(error, penstock_options_set_ids(options.get(), ids.data(), 8, static_cast<int64_t>(ids.size()), &error));
  const auto invert = [](void* user, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t, size_t* delivered_bytes,
                         char*, size_t) {
    for (size_t i = 0; i < stored_bytes; ++i)
      static_cast<unsigned char*>(delivered)[i] = static_cast<unsigned char>(~static_cast<const unsigned char*>(stored)[i]);
    *delivered_bytes = stored_bytes;
    static_cast<std::atomic<int>*>(user)->fetch_add(1);
    return 0;
  };
  std::atomic<int> calls{0};
  C_OK(error, penstock_options_set_codec(options.get(), invert, &calls, &error));
  penstock_loader* loader = options.Open();
  std::vector<int64_t> seen;
  for (int i = 0; i < 2; ++i) {
    penstock_batch* batch = TakeBatch(loader);
    const penstock_batch_view view = ViewOf(batch);
    seen.insert(seen.end(), view.ids, view.ids + view.size);
    std::string bytes(static_cast<const char*>(view.data) + view.offsets[0], 100);
    for (char& c : bytes) c = static_cast<char>(~c);
    const auto manifest = *Manifest::Open(data.root());
    CHECK((bytes == DataSet::Content(manifest->Name(view.ids[0]), 100)));
    C_OK(error, penstock_batch_release(batch, &error));
  }
  CHECK(seen == ids);
  C_OK(error, penstock_loader_close(loader, &error));
  CHECK(calls >= 8);
}

TEST_CASE("next_within gives up in time, loses nothing, and its waits are one wait", "[capi]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 8, -1000, 1);
  COptions options(fs.mounted(), EngineOption::kThreads, 4);
  options.Set("manifest_path", fs.backing() + ".manifest");
  options.Set("open_files", "0");
  fs.Set("*.bin delay 300000\n");
  penstock_loader* loader = options.Open();
  Error error;
  penstock_batch* batch = nullptr;
  C_OK(error, penstock_loader_next_within(loader, 0, &batch, &error));
  CHECK(batch == nullptr);
  int waits = 0;
  while (batch == nullptr) {
    C_OK(error, penstock_loader_next_within(loader, 20, &batch, &error));
    REQUIRE(++waits < 10000);
  }
  CHECK(waits > 1);
  const penstock_batch_view view = ViewOf(batch);
  CHECK(view.step == 0);
  CHECK(view.size == 4);
  C_OK(error, penstock_batch_release(batch, &error));
  fs.Clear();
  batch = TakeBatch(loader);
  CHECK(ViewOf(batch).step == 1);
  C_OK(error, penstock_batch_release(batch, &error));
  CHECK(penstock_loader_next_within(loader, 20, &batch, &error) == PENSTOCK_END_OF_EPOCH);
  C_OK(error, penstock_loader_close(loader, &error));
  std::filesystem::remove(fs.backing() + ".manifest");
}

TEST_CASE("the deadline counts over several next_within", "[capi]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 4, -1000, 1);
  COptions options(fs.mounted(), EngineOption::kThreads, 4);
  options.Set("manifest_path", fs.backing() + ".manifest");
  options.Set("open_files", "0");
  options.Set("deadline_s", "0.2");
  options.Set("max_quarantine_bytes", "32MiB");
  fs.Set("*.bin hang\n");
  penstock_loader* loader = options.Open();
  Error error;
  penstock_batch* batch = nullptr;
  penstock_code code = PENSTOCK_OK;
  for (int i = 0; i < 1000 && code == PENSTOCK_OK && batch == nullptr; ++i) code = penstock_loader_next_within(loader, 20, &batch, &error);
  INFO(error.text());
  CHECK(code == PENSTOCK_DEADLINE_EXCEEDED);
  fs.Clear();
  C_OK(error, penstock_loader_close(loader, &error));
  std::filesystem::remove(fs.backing() + ".manifest");
}

TEST_CASE("a manifest is built, saved, opened and asked from C", "[capi]") {
  const DataSet data(30, 500, 3);
  Error error;
  penstock_options* options = nullptr;
  C_OK(error, penstock_options_create(PENSTOCK_INDEX_OPTIONS, &options, &error));
  C_OK(error, penstock_options_set(options, "crc", "true", &error));
  C_OK(error, penstock_options_set(options, "stat", "true", &error));
  char* counts = nullptr;
  penstock_manifest* manifest = nullptr;
  C_OK(error, penstock_manifest_build(data.root().c_str(), options, &manifest, &counts, &error));
  CHECK(Json::parse(TakeText(counts))["added"] == 30);
  penstock_manifest_view view{};
  view.struct_bytes = sizeof view;
  C_OK(error, penstock_manifest_get(manifest, &view, &error));
  CHECK(view.sample_count == 30);
  CHECK(view.class_count == 3);
  CHECK(view.has_checksums == 1);
  CHECK(view.has_mtimes == 1);
  std::vector<int64_t> sizes(30);
  C_OK(error, penstock_manifest_samples(manifest, 0, 30, sizes.data(), nullptr, &error));
  int64_t sum = 0;
  for (const int64_t size : sizes) sum += size;
  CHECK(sum == view.total_bytes);
  CHECK(*std::max_element(sizes.begin(), sizes.end()) == view.max_sample_bytes);
  char* text = nullptr;
  C_OK(error, penstock_manifest_class_name(manifest, 2, &text, nullptr, &error));
  CHECK(TakeText(text) == "class2");
  C_OK(error, penstock_manifest_fingerprint(manifest, &text, &error));
  const std::string fingerprint = TakeText(text);
  CHECK(fingerprint == (*Manifest::Open(data.root()))->fingerprint());
  C_OK(error, penstock_manifest_verify(manifest, &error));
  C_OK(error, penstock_manifest_path(manifest, &text, nullptr, &error));
  const std::string path = TakeText(text);
  C_OK(error, penstock_manifest_close(manifest, &error));
  C_OK(error, penstock_manifest_open_saved(path.c_str(), nullptr, &manifest, &error));
  C_OK(error, penstock_manifest_root(manifest, &text, nullptr, &error));
  CHECK(TakeText(text) == std::filesystem::canonical(data.root()).string());
  C_OK(error, penstock_manifest_close(manifest, &error));
  DataSet::Write(data.root() + "/class0/new.bin", 10);
  C_OK(error, penstock_manifest_update(data.root().c_str(), options, &manifest, &counts, &error));
  CHECK(Json::parse(TakeText(counts))["added"] == 1);
  C_OK(error, penstock_manifest_close(manifest, &error));
  C_OK(error, penstock_options_close(options, &error));
}

TEST_CASE("the option tables of C are those of C++, with their defaults", "[capi]") {
  const auto check = [](int32_t table, absl::Span<const OptionInfo> infos) {
    Error error;
    REQUIRE(penstock_option_count(table) == static_cast<int64_t>(infos.size()));
    penstock_options* options = nullptr;
    C_OK(error, penstock_options_create(table, &options, &error));
    for (size_t i = 0; i < infos.size(); ++i) {
      const char *name, *group, *type, *help, *initial;
      C_OK(error, penstock_option_at(table, static_cast<int64_t>(i), &name, &group, &type, &help, &initial, &error));
      CHECK(std::string(name) == infos[i].name);
      CHECK(std::string(group) == infos[i].kind);
      CHECK(std::string(type) == infos[i].type);
      CHECK(std::string(help) == infos[i].help);
      char* value = nullptr;
      C_OK(error, penstock_options_get(options, name, &value, &error));
      CHECK(TakeText(value) == initial);
      C_OK(error, penstock_options_set(options, name, initial, &error));
    }
    C_OK(error, penstock_options_close(options, &error));
  };
  check(PENSTOCK_LOADER_OPTIONS, OptionTable());
  check(PENSTOCK_INDEX_OPTIONS, IndexOptionTable());
  check(PENSTOCK_RUNTIME_OPTIONS, RuntimeOptionTable());
}

TEST_CASE("the machine, the rank and the doctor answer in JSON", "[capi]") {
  Error error;
  char* json = nullptr;
  C_OK(error, penstock_topology_json(&json, &error));
  CHECK_FALSE(Json::parse(TakeText(json))["allowed_cpus"].empty());
  C_OK(error, penstock_doctor_json(nullptr, &json, &error));
  CHECK_FALSE(Json::parse(TakeText(json))["findings"].empty());
  C_OK(error, penstock_rank_json(2, 5, NULL, &json, &error));
  const Json rank = Json::parse(TakeText(json));
  CHECK(rank["rank"] == 2);
  CHECK(rank["world_size"] == 5);
  CHECK(rank["source"] == "arguments");
}

TEST_CASE("a log function is called with its pointer, and no more once it was replaced", "[capi]") {
  const DataSet data(8);
  Error error;
  std::atomic<int> lines{0};
  const auto count = [](void* user, int32_t level, const char* message) {
    if (level >= 0 && level <= PENSTOCK_LOG_ERROR && std::strlen(message) > 0) static_cast<std::atomic<int>*>(user)->fetch_add(1);
  };
  C_OK(error, penstock_set_log(count, &lines, &error));
  penstock_manifest* manifest = nullptr;
  C_OK(error, penstock_manifest_open(data.root().c_str(), nullptr, &manifest, &error));
  C_OK(error, penstock_set_log(nullptr, nullptr, &error));
  const int before = lines.load();
  CHECK(before > 0);
  C_OK(error, penstock_manifest_close(manifest, &error));
  C_OK(error, penstock_manifest_build(data.root().c_str(), nullptr, &manifest, nullptr, &error));
  C_OK(error, penstock_manifest_close(manifest, &error));
  CHECK(lines.load() == before);
}

TEST_CASE("loaders of one runtime share its budget, and it may be closed before them", "[capi]") {
  const DataSet data(64);
  Error error;
  penstock_options* budget = nullptr;
  C_OK(error, penstock_options_create(PENSTOCK_RUNTIME_OPTIONS, &budget, &error));
  C_OK(error, penstock_options_set(budget, "memory_bytes", "80MiB", &error));
  penstock_runtime* runtime = nullptr;
  C_OK(error, penstock_runtime_create(budget, &runtime, &error));
  C_OK(error, penstock_options_close(budget, &error));
  COptions options(data.root(), EngineOption::kThreads);
  penstock_loader* loader = options.Open(runtime);
  penstock_loader* other = nullptr;
  C_FAILS(error, PENSTOCK_RESOURCE_EXHAUSTED, penstock_loader_open(options.get(), runtime, &other, &error));
  CHECK(other == nullptr);
  C_OK(error, penstock_runtime_close(runtime, &error));
  CHECK(TakeCEpoch(loader).size() == 64);
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("the version of the library is that of its headers", "[capi]") {
  CHECK(std::string(penstock_version()) == PENSTOCK_VERSION_STRING);
  CHECK(penstock_version_number() == 10000 * PENSTOCK_VERSION_MAJOR + 100 * PENSTOCK_VERSION_MINOR + PENSTOCK_VERSION_PATCH);
  CHECK(penstock_abi_version() == PENSTOCK_C_ABI_VERSION);
}
