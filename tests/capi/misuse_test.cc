// The C API called wrongly: every function, with every kind of wrong argument. The answer is a code and a text, and never a crash.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "capi/c_api.h"
#include "support/child.h"
#include "support/fault_fs.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();

// A function of the API on a handle, and whether NULL is allowed there.
struct HandleCall {
  const char* name;
  std::function<penstock_code(void* handle, penstock_error** error)> call;
  bool null_is_ok = false;
};

std::vector<HandleCall> OptionsCalls() {
  return {
      {"options_set", [](void* h, penstock_error** e) { return penstock_options_set(static_cast<penstock_options*>(h), "seed", "1", e); }},
      {"options_get",
       [](void* h, penstock_error** e) {
         char* text = reinterpret_cast<char*>(1);
         const penstock_code code = penstock_options_get(static_cast<penstock_options*>(h), "seed", &text, e);
         CHECK(text == nullptr);
         return code;
       }},
      {"options_set_ids",
       [](void* h, penstock_error** e) { return penstock_options_set_ids(static_cast<penstock_options*>(h), nullptr, 8, 0, e); }},
      {"options_set_codec",
       [](void* h, penstock_error** e) { return penstock_options_set_codec(static_cast<penstock_options*>(h), nullptr, nullptr, e); }},
      {"loader_open",
       [](void* h, penstock_error** e) {
         penstock_loader* loader = reinterpret_cast<penstock_loader*>(1);
         const penstock_code code = penstock_loader_open(static_cast<penstock_options*>(h), nullptr, &loader, e);
         CHECK(loader == nullptr);
         return code;
       }},
      {"options_close", [](void* h, penstock_error** e) { return penstock_options_close(static_cast<penstock_options*>(h), e); }, true},
  };
}

std::vector<HandleCall> RuntimeCalls() {
  return {
      {"runtime_close", [](void* h, penstock_error** e) { return penstock_runtime_close(static_cast<penstock_runtime*>(h), e); }, true}};
}

template <typename Function>
HandleCall ManifestText(const char* name, Function function) {
  return {name, [function](void* h, penstock_error** e) {
            char* text = reinterpret_cast<char*>(1);
            const penstock_code code = function(static_cast<penstock_manifest*>(h), &text, e);
            CHECK(text == nullptr);
            return code;
          }};
}

std::vector<HandleCall> ManifestCalls() {
  return {
      {"manifest_get",
       [](void* h, penstock_error** e) {
         penstock_manifest_view view{};
         view.struct_bytes = sizeof view;
         return penstock_manifest_get(static_cast<penstock_manifest*>(h), &view, e);
       }},
      ManifestText("fingerprint",
                   [](penstock_manifest* m, char** t, penstock_error** e) { return penstock_manifest_fingerprint(m, t, e); }),
      ManifestText("root", [](penstock_manifest* m, char** t, penstock_error** e) { return penstock_manifest_root(m, t, nullptr, e); }),
      ManifestText("path", [](penstock_manifest* m, char** t, penstock_error** e) { return penstock_manifest_path(m, t, nullptr, e); }),
      ManifestText("sample_name",
                   [](penstock_manifest* m, char** t, penstock_error** e) { return penstock_manifest_sample_name(m, 0, t, nullptr, e); }),
      ManifestText("class_name",
                   [](penstock_manifest* m, char** t, penstock_error** e) { return penstock_manifest_class_name(m, 0, t, nullptr, e); }),
      ManifestText("fields_json",
                   [](penstock_manifest* m, char** t, penstock_error** e) { return penstock_manifest_fields_json(m, t, e); }),
      {"manifest_samples",
       [](void* h, penstock_error** e) {
         return penstock_manifest_samples(static_cast<penstock_manifest*>(h), 0, 0, nullptr, nullptr, e);
       }},
      {"manifest_verify", [](void* h, penstock_error** e) { return penstock_manifest_verify(static_cast<penstock_manifest*>(h), e); }},
      {"manifest_close", [](void* h, penstock_error** e) { return penstock_manifest_close(static_cast<penstock_manifest*>(h), e); }, true},
  };
}

template <typename Function>
HandleCall LoaderText(const char* name, Function function) {
  return {name, [function](void* h, penstock_error** e) {
            char* text = reinterpret_cast<char*>(1);
            const penstock_code code = function(static_cast<penstock_loader*>(h), &text, e);
            CHECK(text == nullptr);
            return code;
          }};
}

std::vector<HandleCall> LoaderCalls() {
  return {
      {"next",
       [](void* h, penstock_error** e) {
         penstock_batch* batch = reinterpret_cast<penstock_batch*>(1);
         const penstock_code code = penstock_loader_next(static_cast<penstock_loader*>(h), &batch, e);
         CHECK(batch == nullptr);
         return code;
       }},
      {"next_within",
       [](void* h, penstock_error** e) {
         penstock_batch* batch = reinterpret_cast<penstock_batch*>(1);
         const penstock_code code = penstock_loader_next_within(static_cast<penstock_loader*>(h), 1, &batch, e);
         CHECK(batch == nullptr);
         return code;
       }},
      {"start_epoch", [](void* h, penstock_error** e) { return penstock_loader_start_epoch(static_cast<penstock_loader*>(h), -1, e); }},
      {"skip", [](void* h, penstock_error** e) { return penstock_loader_skip(static_cast<penstock_loader*>(h), 0, e); }},
      {"set_weights",
       [](void* h, penstock_error** e) {
         const double weight = 1;
         return penstock_loader_set_weights(static_cast<penstock_loader*>(h), &weight, 1, e);
       }},
      {"stop", [](void* h, penstock_error** e) { return penstock_loader_stop(static_cast<penstock_loader*>(h), e); }},
      {"position",
       [](void* h, penstock_error** e) {
         return penstock_loader_position(static_cast<penstock_loader*>(h), nullptr, nullptr, nullptr, nullptr, e);
       }},
      LoaderText("state", [](penstock_loader* l, char** t, penstock_error** e) { return penstock_loader_state(l, t, e); }),
      LoaderText("report_json", [](penstock_loader* l, char** t, penstock_error** e) { return penstock_loader_report_json(l, t, e); }),
      LoaderText("setup_json", [](penstock_loader* l, char** t, penstock_error** e) { return penstock_loader_setup_json(l, t, e); }),
      {"close", [](void* h, penstock_error** e) { return penstock_loader_close(static_cast<penstock_loader*>(h), e); }, true},
  };
}

std::vector<HandleCall> BatchCalls() {
  return {
      {"batch_get",
       [](void* h, penstock_error** e) {
         penstock_batch_view view{};
         view.struct_bytes = sizeof view;
         return penstock_batch_get(static_cast<penstock_batch*>(h), &view, e);
       }},
      {"wait_on", [](void* h, penstock_error** e) { return penstock_batch_wait_on(static_cast<penstock_batch*>(h), nullptr, e); }},
      {"record_use", [](void* h, penstock_error** e) { return penstock_batch_record_use(static_cast<penstock_batch*>(h), nullptr, e); }},
      {"to_dlpack",
       [](void* h, penstock_error** e) {
         DLManagedTensor* tensor = reinterpret_cast<DLManagedTensor*>(1);
         const penstock_code code = penstock_batch_to_dlpack(static_cast<penstock_batch*>(h), 0, 0, 0, 0, 0, nullptr, -1, &tensor, e);
         CHECK(tensor == nullptr);
         return code;
       }},
      {"to_dlpack_versioned",
       [](void* h, penstock_error** e) {
         DLManagedTensorVersioned* tensor = reinterpret_cast<DLManagedTensorVersioned*>(1);
         const penstock_code code =
             penstock_batch_to_dlpack_versioned(static_cast<penstock_batch*>(h), 0, 0, 0, 0, 0, nullptr, -1, &tensor, e);
         CHECK(tensor == nullptr);
         return code;
       }},
      {"release_after",
       [](void* h, penstock_error** e) { return penstock_batch_release_after(static_cast<penstock_batch*>(h), nullptr, e); }, true},
      {"release", [](void* h, penstock_error** e) { return penstock_batch_release(static_cast<penstock_batch*>(h), e); }, true},
  };
}

// `closed`: a handle that was closed; `foreign`: an open one of another kind.
void CheckWrongHandles(const std::vector<HandleCall>& calls, void* closed, void* foreign) {
  int local = 0;
  void* const made_up[] = {reinterpret_cast<void*>(1),
                           reinterpret_cast<void*>(~uint64_t{0}),
                           reinterpret_cast<void*>(uint64_t{1} << 63),
                           &local,
                           reinterpret_cast<void*>(reinterpret_cast<uint64_t>(foreign) + (uint64_t{1} << 24)),
                           reinterpret_cast<void*>(reinterpret_cast<uint64_t>(foreign) | 0xFFFFFF)};
  Error error;
  for (const HandleCall& call : calls) {
    INFO(call.name);
    if (call.null_is_ok) {
      CHECK(call.call(nullptr, &error) == PENSTOCK_OK);
    } else {
      C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, call.call(nullptr, &error));
    }
    CHECK(call.call(nullptr, nullptr) == (call.null_is_ok ? PENSTOCK_OK : PENSTOCK_INVALID_ARGUMENT));
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, call.call(closed, &error));
    CHECK(error.text().find("closed") != std::string::npos);
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, call.call(foreign, &error));
    CHECK(error.text().find(" not ") != std::string::npos);
    for (void* handle : made_up) C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, call.call(handle, &error));
  }
}

}  // namespace

TEST_CASE("NULL, closed, foreign and made-up handles are refused by every function, with a text", "[capi]") {
  const DataSet data(40);
  Error error;
  for (const EngineOption engine : Engines()) {
    const COptions options(data.root(), engine);
    penstock_loader* loader = options.Open();
    penstock_manifest* manifest = nullptr;
    C_OK(error, penstock_loader_manifest(loader, &manifest, &error));
    penstock_runtime* runtime = nullptr;
    C_OK(error, penstock_runtime_create(nullptr, &runtime, &error));
    penstock_options* closed_options = nullptr;
    C_OK(error, penstock_options_create(PENSTOCK_LOADER_OPTIONS, &closed_options, &error));
    C_OK(error, penstock_options_close(closed_options, &error));
    CheckWrongHandles(OptionsCalls(), closed_options, loader);
    penstock_batch* batch = TakeBatch(loader);
    C_OK(error, penstock_batch_release(batch, &error));
    CheckWrongHandles(BatchCalls(), batch, loader);
    CheckWrongHandles(LoaderCalls(), batch == nullptr ? nullptr : [&] {
      penstock_loader* other = options.Open();
      C_OK(error, penstock_loader_close(other, &error));
      return static_cast<void*>(other);
    }(), manifest);
    C_OK(error, penstock_manifest_close(manifest, &error));
    CheckWrongHandles(ManifestCalls(), manifest, loader);
    C_OK(error, penstock_runtime_close(runtime, &error));
    CheckWrongHandles(RuntimeCalls(), runtime, loader);
    penstock_loader* refused = nullptr;
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_open(options.get(), runtime, &refused, &error));
    C_OK(error, penstock_loader_close(loader, &error));
  }
}

TEST_CASE("outputs that are NULL are refused by name", "[capi]") {
  const DataSet data(20);
  const COptions options(data.root(), EngineOption::kThreads);
  penstock_loader* loader = options.Open();
  penstock_manifest* manifest = nullptr;
  Error error;
  C_OK(error, penstock_loader_manifest(loader, &manifest, &error));
  penstock_batch* batch = TakeBatch(loader);
  const std::vector<std::pair<const char*, std::function<penstock_code()>>> calls = {
      {"options", [&] { return penstock_options_create(PENSTOCK_LOADER_OPTIONS, nullptr, &error); }},
      {"name", [&] { return penstock_options_set(options.get(), nullptr, "1", &error); }},
      {"value", [&] { return penstock_options_set(options.get(), "seed", nullptr, &error); }},
      {"value", [&] { return penstock_options_get(options.get(), "seed", nullptr, &error); }},
      {"json", [&] { return penstock_topology_json(nullptr, &error); }},
      {"json", [&] { return penstock_doctor_json(nullptr, nullptr, &error); }},
      {"json", [&] { return penstock_rank_json(-1, -1, nullptr, nullptr, &error); }},
      {"root", [&] { return penstock_manifest_open(nullptr, nullptr, &manifest, &error); }},
      {"root", [&] { return penstock_manifest_build(nullptr, nullptr, &manifest, nullptr, &error); }},
      {"root", [&] { return penstock_manifest_update(nullptr, nullptr, &manifest, nullptr, &error); }},
      {"manifest_path", [&] { return penstock_manifest_open_saved(nullptr, nullptr, &manifest, &error); }},
      {"manifest", [&] { return penstock_manifest_open(data.root().c_str(), nullptr, nullptr, &error); }},
      {"manifest", [&] { return penstock_loader_manifest(loader, nullptr, &error); }},
      {"runtime", [&] { return penstock_runtime_create(nullptr, nullptr, &error); }},
      {"loader", [&] { return penstock_loader_open(options.get(), nullptr, nullptr, &error); }},
      {"batch", [&] { return penstock_loader_next(loader, nullptr, &error); }},
      {"batch", [&] { return penstock_loader_next_within(loader, 1, nullptr, &error); }},
      {"view", [&] { return penstock_batch_get(batch, nullptr, &error); }},
      {"tensor", [&] { return penstock_batch_to_dlpack(batch, 0, 0, 0, 0, 0, nullptr, -1, nullptr, &error); }},
      {"tensor", [&] { return penstock_batch_to_dlpack_versioned(batch, 0, 0, 0, 0, 0, nullptr, -1, nullptr, &error); }},
  };
  penstock_manifest* const kept = manifest;
  for (const auto& [argument, call] : calls) {
    INFO(argument);
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, call());
    CHECK(error.text().find(std::string(argument) + " is NULL") != std::string::npos);
  }
  // Nothing was taken by the calls that had nowhere to put it.
  CHECK(ViewOf(batch).step == 0);
  C_OK(error, penstock_batch_release(batch, &error));
  C_OK(error, penstock_manifest_close(kept, &error));
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("numbers out of range are refused: zero, huge, negative", "[capi]") {
  const DataSet data(20);
  COptions options(data.root(), EngineOption::kThreads);
  penstock_loader* loader = options.Open();
  penstock_manifest* manifest = nullptr;
  Error error;
  C_OK(error, penstock_loader_manifest(loader, &manifest, &error));
  for (const int64_t index : {int64_t{-1}, int64_t{20}, kHuge, kLeast}) {
    char* text = nullptr;
    int64_t size = 0;
    C_FAILS(error, PENSTOCK_OUT_OF_RANGE, penstock_manifest_sample_name(manifest, index, &text, nullptr, &error));
    C_FAILS(error, PENSTOCK_OUT_OF_RANGE, penstock_manifest_samples(manifest, index, 1, &size, nullptr, &error));
    if (index != 20) C_FAILS(error, PENSTOCK_OUT_OF_RANGE, penstock_manifest_samples(manifest, 1, index, &size, nullptr, &error));
    C_FAILS(error, PENSTOCK_OUT_OF_RANGE,
            penstock_manifest_class_name(manifest, static_cast<int32_t>(std::clamp<int64_t>(index, INT32_MIN, INT32_MAX)), &text, nullptr,
                                         &error));
    if (index != 20)
      C_FAILS(error, PENSTOCK_OUT_OF_RANGE,
              penstock_option_at(PENSTOCK_LOADER_OPTIONS, index, nullptr, nullptr, nullptr, nullptr, nullptr, &error));
  }
  for (const int64_t epoch : {int64_t{-2}, kLeast})
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_start_epoch(loader, epoch, &error));
  for (const int64_t steps : {int64_t{-1}, kLeast}) C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_skip(loader, steps, &error));
  C_FAILS(error, PENSTOCK_OUT_OF_RANGE, penstock_loader_skip(loader, kHuge, &error));
  penstock_batch* batch = nullptr;
  for (const int64_t wait : {int64_t{-1}, kLeast})
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_next_within(loader, wait, &batch, &error));
  C_OK(error, penstock_loader_next_within(loader, kHuge, &batch, &error));
  C_OK(error, penstock_batch_release(batch, &error));
  const int64_t id = 0;
  for (const int64_t count : {int64_t{-1}, kLeast, kHuge})
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_set_ids(options.get(), &id, 8, count, &error));
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_set_ids(options.get(), nullptr, 8, 1, &error));
  for (const int32_t id_bytes : {0, -8, 1, 2, 3, 16, INT32_MAX})
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_set_ids(options.get(), &id, id_bytes, 1, &error));
  for (const int32_t table : {-1, 3, INT32_MAX, INT32_MIN}) {
    penstock_options* made = nullptr;
    CHECK(penstock_option_count(table) == -1);
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_create(table, &made, &error));
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_option_at(table, 0, nullptr, nullptr, nullptr, nullptr, nullptr, &error));
  }
  const char* const bad[][2] = {{"batch_size", "0"},
                                {"batch_size", "-1"},
                                {"batch_size", "99999999999999999999"},
                                {"memory_bytes", "1"},
                                {"deadline_s", "nan"},
                                {"nonsense", "1"},
                                {"", ""}};
  for (const auto& [name, value] : bad) C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_set(options.get(), name, value, &error));
  const std::string long_name(1 << 20, 'x');
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_set(options.get(), long_name.c_str(), "1", &error));
  // Ids that the data set does not have are refused when it is opened.
  for (const int64_t wrong : {int64_t{-1}, int64_t{20}, kHuge, kLeast}) {
    C_OK(error, penstock_options_set_ids(options.get(), &wrong, 8, 1, &error));
    penstock_loader* refused = nullptr;
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_open(options.get(), nullptr, &refused, &error));
  }
  // A struct of no size, of a size that is none, and of a newer program that knows more.
  batch = TakeBatch([&] {
    C_OK(error, penstock_loader_start_epoch(loader, 0, &error));
    return loader;
  }());
  struct {
    penstock_batch_view view;
    char more[64];
  } newer;
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{8}, uint64_t{1} << 40, ~uint64_t{0}}) {
    newer.view.struct_bytes = bytes;
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_batch_get(batch, &newer.view, &error));
  }
  std::fill(std::begin(newer.more), std::end(newer.more), 'x');
  newer.view.struct_bytes = sizeof newer;
  C_OK(error, penstock_batch_get(batch, &newer.view, &error));
  CHECK(newer.view.size == 16);
  CHECK(std::all_of(std::begin(newer.more), std::end(newer.more), [](char c) { return c == 0; }));
  C_OK(error, penstock_batch_release(batch, &error));
  C_OK(error, penstock_manifest_close(manifest, &error));
  C_OK(error, penstock_loader_close(loader, &error));
}

TEST_CASE("options of another table are refused where they are used", "[capi]") {
  Error error;
  const DataSet data(4);
  penstock_options *index = nullptr, *runtime_options = nullptr;
  C_OK(error, penstock_options_create(PENSTOCK_INDEX_OPTIONS, &index, &error));
  C_OK(error, penstock_options_create(PENSTOCK_RUNTIME_OPTIONS, &runtime_options, &error));
  penstock_loader* loader = nullptr;
  penstock_runtime* runtime = nullptr;
  penstock_manifest* manifest = nullptr;
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_open(index, nullptr, &loader, &error));
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_runtime_create(index, &runtime, &error));
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_manifest_open(data.root().c_str(), runtime_options, &manifest, &error));
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_set_ids(index, nullptr, 8, 0, &error));
  C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_options_set_codec(index, nullptr, nullptr, &error));
  C_OK(error, penstock_options_close(index, &error));
  C_OK(error, penstock_options_close(runtime_options, &error));
}

TEST_CASE("errors and texts that are freed twice, or are none, are left alone", "[capi]") {
  penstock_error* error = nullptr;
  REQUIRE(penstock_loader_stop(nullptr, &error) == PENSTOCK_INVALID_ARGUMENT);
  penstock_error_free(error);
  penstock_error_free(error);
  CHECK(penstock_error_code(error) == PENSTOCK_INVALID_ARGUMENT);
  CHECK(std::string(penstock_error_message(error)).find("freed") != std::string::npos);
  CHECK(penstock_error_code(nullptr) == PENSTOCK_OK);
  CHECK(std::string(penstock_error_message(nullptr)).empty());
  char local[] = "not ours";
  penstock_string_free(local);
  penstock_string_free(nullptr);
  char* json = nullptr;
  REQUIRE(penstock_topology_json(&json, nullptr) == PENSTOCK_OK);
  penstock_string_free(json);
  penstock_string_free(json);
  CHECK(std::string(penstock_code_name(PENSTOCK_DATA_LOSS)) == "DATA_LOSS");
  for (const penstock_code code : {-1, 17, INT32_MAX, INT32_MIN}) CHECK(std::string(penstock_code_name(code)) == "UNKNOWN");
}

TEST_CASE("a second thread in next is refused, and a close from a third ends the wait", "[capi]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 8, -1000, 1);
  for (const EngineOption engine : Engines()) {
    COptions options(fs.mounted(), engine, 8);
    options.Set("open_files", "0");
    options.Set("manifest_path", fs.backing() + ".manifest");
    penstock_loader* loader = options.Open();
    Error error;
    C_OK(error, penstock_batch_release(TakeBatch(loader), &error));
    const int64_t hangs = fs.hangs();
    fs.Set("*.bin hang\n");
    C_OK(error, penstock_loader_start_epoch(loader, 5, &error));
    std::atomic<penstock_code> first{-1};
    // Either thread may be the one that is in next; the one that waits without an end asks again until it is.
    std::thread waiting([&] {
      penstock_code code = PENSTOCK_FAILED_PRECONDITION;
      penstock_batch* batch = nullptr;
      while (code == PENSTOCK_FAILED_PRECONDITION) code = penstock_loader_next(loader, &batch, nullptr);
      first.store(code);
    });
    while (fs.hangs() == hangs) std::this_thread::yield();
    penstock_batch* batch = nullptr;
    penstock_code second = PENSTOCK_OK;
    while (second == PENSTOCK_OK) second = penstock_loader_next_within(loader, 1, &batch, &error);
    CHECK(second == PENSTOCK_FAILED_PRECONDITION);
    CHECK(batch == nullptr);
    C_OK(error, penstock_loader_close(loader, &error));
    waiting.join();
    CHECK(first == PENSTOCK_CANCELLED);
    C_FAILS(error, PENSTOCK_INVALID_ARGUMENT, penstock_loader_next(loader, &batch, &error));
    fs.Clear();
    std::filesystem::remove(fs.backing() + ".manifest");
  }
}

TEST_CASE("threads that open, use and close the same handles meet codes, and nothing else", "[capi]") {
  const DataSet data(60);
  const COptions options(data.root(), EngineOption::kThreads, 4);
  std::vector<std::thread> threads;
  std::atomic<penstock_loader*> shared{options.Open()};
  std::atomic<int> batches{0}, wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 60; ++i) {
        penstock_loader* loader = shared.load();
        penstock_batch* batch = nullptr;
        const penstock_code code = penstock_loader_next(loader, &batch, nullptr);
        if (code == PENSTOCK_END_OF_EPOCH) penstock_loader_start_epoch(loader, -1, nullptr);
        if (code == PENSTOCK_OK) {
          ++batches;
          penstock_batch_view view{};
          view.struct_bytes = sizeof view;
          if (penstock_batch_get(batch, &view, nullptr) != PENSTOCK_OK || view.size != 4) ++wrong;
          penstock_batch_release(batch, nullptr);
          if (penstock_batch_release(batch, nullptr) != PENSTOCK_INVALID_ARGUMENT) ++wrong;
        }
        char* state = nullptr;
        if (penstock_loader_state(loader, &state, nullptr) == PENSTOCK_OK) penstock_string_free(state);
        if (t == 0 && i % 20 == 10) {
          penstock_loader* fresh = nullptr;
          if (penstock_loader_open(options.get(), nullptr, &fresh, nullptr) != PENSTOCK_OK) ++wrong;
          shared.store(fresh);
          penstock_loader_close(loader, nullptr);
          if (penstock_loader_close(loader, nullptr) != PENSTOCK_INVALID_ARGUMENT) ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(batches > 0);
  CHECK(wrong == 0);
  CHECK(penstock_loader_close(shared.load(), nullptr) == PENSTOCK_OK);
}

TEST_CASE("in a forked child the parent's loader and batch are refused, closing them is harmless, and a loader of its own works",
          "[capi]") {
  const DataSet data(60);
  for (const EngineOption engine : Engines()) {
    const COptions options(data.root(), engine);
    penstock_runtime* runtime = nullptr;
    Error error;
    C_OK(error, penstock_runtime_create(nullptr, &runtime, &error));
    penstock_loader* loader = options.Open(runtime);
    penstock_batch* batch = TakeBatch(loader);
    penstock_batch* other = TakeBatch(loader);
    // Forks while another thread is busy with the table of handles; not under a sanitizer, whose own allocator may be locked in the child.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    std::atomic<bool> stop{true};
#else
    std::atomic<bool> stop{false};
#endif
    std::thread busy([&] {
      while (!stop) {
        penstock_options* made = nullptr;
        penstock_options_create(PENSTOCK_LOADER_OPTIONS, &made, nullptr);
        penstock_options_close(made, nullptr);
      }
    });
    for (int i = 0; i < 5; ++i) {
      const std::string result = InChild([&]() -> std::string {
        for (const HandleCall& call : LoaderCalls()) {
          const penstock_code wanted = std::string(call.name) == "close" ? PENSTOCK_OK : PENSTOCK_FAILED_PRECONDITION;
          if (call.call(loader, nullptr) != wanted) return std::string("loader ") + call.name;
        }
        for (const HandleCall& call : BatchCalls()) {
          const std::string name = call.name;
          if (name == "release") continue;  // release_after has taken it
          if (call.call(batch, nullptr) != (name == "release_after" ? PENSTOCK_OK : PENSTOCK_FAILED_PRECONDITION)) return "batch " + name;
        }
        if (penstock_batch_release(other, nullptr) != PENSTOCK_OK) return "release";
        penstock_loader* refused = nullptr;
        if (penstock_loader_open(options.get(), runtime, &refused, nullptr) != PENSTOCK_FAILED_PRECONDITION) return "the parent's runtime";
        if (penstock_runtime_close(runtime, nullptr) != PENSTOCK_OK) return "runtime";
#if !defined(__SANITIZE_THREAD__)  // which ends a child of a process with threads that starts one
        penstock_loader* own = nullptr;
        if (penstock_loader_open(options.get(), nullptr, &own, nullptr) != PENSTOCK_OK) return "open";
        penstock_batch* taken = nullptr;
        if (penstock_loader_next(own, &taken, nullptr) != PENSTOCK_OK) return "next";
        if (penstock_batch_release(taken, nullptr) != PENSTOCK_OK || penstock_loader_close(own, nullptr) != PENSTOCK_OK) return "close";
#endif
        return "";
      });
      CHECK(result == "");
    }
    stop = true;
    busy.join();
    // The parent goes on.
    CHECK(ViewOf(batch).size == 16);
    C_OK(error, penstock_batch_release(batch, &error));
    C_OK(error, penstock_batch_release(other, &error));
    C_OK(error, penstock_batch_release(TakeBatch(loader), &error));
    C_OK(error, penstock_loader_close(loader, &error));
    C_OK(error, penstock_runtime_close(runtime, &error));
  }
}
