// Waits that end at their deadline and say what they were for.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/gate.h"
#include "loader/intervals.h"
#include "ring/engine.h"
#include "support/fault_fs.h"
#include "support/log_capture.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr const char* kVictim = "1000004.bin";

// The file system, a data set of 40 files on it, and the options for a loader of it.
struct Hanging {
  explicit Hanging(EngineOption engine) {
    DataSet::Fill(fs.backing(), 40, -8000, 2);
    options = OptionsOf(fs.mounted(), 20);
    options.manifest_path = fs.backing() + "/../manifest";
    options.streams = 2;
    options.queue_depth = 16;
    options.retries = 0;
    options.deadline_s = 0.5;
    options.engine = engine;
    options.next_epoch_prefetch = false;
    Index(options);
  }
  FaultFs fs;
  LoaderOptions options;
};

// Takes batches until one fails, which must be for the hang; then ends the hang, and the rest of the epoch must come, the batch that failed
// first. The position stays meanwhile.
void FailsThenDelivers(Hanging& hanging, Loader& loader, const std::string& name) {
  std::vector<int64_t> ids;
  absl::Status status;
  std::string before;
  int64_t step = 0;
  while (status.ok()) {
    before = loader.state();
    step = loader.step();
    auto batch = loader.Next();
    status = batch.status();
    if (!batch.ok()) break;
    for (const int64_t id : CheckBatch(loader, *batch)) ids.push_back(id);
  }
  INFO(status.ToString());
  CHECK(status.code() == absl::StatusCode::kDeadlineExceeded);
  CHECK(status.message().find(name) != std::string::npos);
  CHECK(status.message().find(" ms") != std::string::npos);
  CHECK(loader.state() == before);
  CHECK(loader.step() == step);
  hanging.fs.Clear();
  for (bool first = true; true;) {
    auto batch = loader.Next();
    if (EpochEnded(batch)) break;
    if (absl::IsDeadlineExceeded(batch.status())) continue;  // a slow machine
    REQUIRE_OK(batch);
    if (first) CHECK(batch->step() == step);
    first = false;
    for (const int64_t id : CheckBatch(loader, *batch)) ids.push_back(id);
  }
  OrderOptions order_options;
  const auto order = Order::Create(40, order_options);
  REQUIRE(ids.size() == 40);
  for (int64_t p = 0; p < 40; ++p) CHECK(ids[static_cast<size_t>(p)] == order->IdAt(0, p));
  CHECK(loader.report().delivered == 40);
}

}  // namespace

TEST_CASE("an open or a read that hangs fails at deadline_s by name and the batch comes when it is over", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    for (const char* fault : {"hanghard 0 8000", "openhang", "attrhang"}) {
      for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
        INFO(fault << (engine == EngineOption::kThreads ? " threads" : " uring") << (io == IoMode::kDirect ? " direct" : " buffered"));
        Hanging hanging(engine);
        hanging.options.io = io;
        hanging.fs.Set(std::string("*") + kVictim + " " + fault + "\n");
        auto loader = MustOpen(hanging.options);
        FailsThenDelivers(hanging, *loader, std::string(kVictim) + ", bytes [0, 8000), sample ");
      }
    }
  }
}

TEST_CASE("while a read is tried again and again Next itself gives up and names the file", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    Hanging hanging(engine);
    hanging.options.retries = 100;
    hanging.options.max_quarantine_bytes = 60 << 20;
    hanging.fs.Set(std::string("*") + kVictim + " hanghard\n");
    auto loader = MustOpen(hanging.options);
    FailsThenDelivers(hanging, *loader, kVictim);
  }
}

// Not even the stream's thread comes back: it looks for the folder.
TEST_CASE("a folder that hangs fails Next at its deadline by name", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    Hanging hanging(engine);
    hanging.options.open_files = 0;  // a file that is open already needs no folder
    auto runtime = Runtime::Create();
    auto before = MustOpen(hanging.options, runtime);  // keeps the manifest open, so that nobody looks at the folders again
    CHECK(TakeEpoch(*before).size() == 40);            // and none of the pool's threads
    hanging.options.queue_depth = 2;                   // nor should all of them hang for one folder's files
    hanging.fs.Set("class1 attrhang\n");
    auto loader = MustOpen(hanging.options, runtime);
    FailsThenDelivers(hanging, *loader, "class1");
  }
}

TEST_CASE("when hung reads hold too much memory the loader fails and works again when they are back", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    Hanging hanging(engine);
    hanging.options.max_quarantine_bytes = 3 << 20;
    hanging.fs.Set(std::string("*") + kVictim + " hanghard\n");
    auto loader = MustOpen(hanging.options);
    absl::Status status;
    for (int i = 0; i < 20 && !absl::IsResourceExhausted(status); ++i) status = loader->Next().status();
    INFO(status.ToString());
    REQUIRE(absl::IsResourceExhausted(status));
    CHECK(status.message().find("max_quarantine_bytes") != std::string::npos);
    CHECK(status.message().find(kVictim) != std::string::npos);
    hanging.fs.Clear();
    absl::StatusOr<Batch> batch = loader->Next();
    for (int i = 0; i < 600 && !batch.ok(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      batch = loader->Next();
    }
    CHECK(batch.ok());
  }
}

TEST_CASE("a wait is reported in the log with what it is for", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    Hanging hanging(engine);
    hanging.options.deadline_s = 3;
    hanging.fs.Set(std::string("*") + kVictim + " hanghard\n");
    const int64_t usual_ns = Intervals().report_ns;
    Intervals().report_ns = 500'000'000;
    LogCapture log;
    auto loader = MustOpen(hanging.options);
    Intervals().report_ns = usual_ns;
    const absl::Status status = FirstError(*loader);
    CHECK(absl::IsDeadlineExceeded(status));
    int named = 0;
    for (const std::string& line : log.Warnings()) {
      named += line.find("Next() has been waiting for ") != std::string::npos && line.find(kVictim) != std::string::npos;
    }
    CHECK(named >= 2);
    // The stream says so too, once for each request.
    CHECK(log.CountOf("no answer for ") >= 1);
    CHECK(loader->report().late_reports >= 2);
  }
}

// The bounds below are no timing tests: a loader that waited for what hangs would never return.
TEST_CASE("a loader whose open hangs ends", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    for (const std::string& fault : {std::string("*") + kVictim + " openhang\n", std::string("* attrhang\n"),
                                     std::string("* openhang\n"), std::string("* hanghard\n")}) {
      INFO(fault);
      Hanging hanging(engine);
      hanging.options.open_files = 0;  // those that the other loaders have open would not hang
      auto runtime = Runtime::Create();
      auto before = MustOpen(hanging.options, runtime);
      hanging.options.deadline_s = 600;
      before.reset();
      const auto manifest = Manifest::Open(hanging.fs.mounted(), [&] {
        IndexOptions index;
        index.manifest_path = hanging.options.manifest_path;
        return index;
      }());
      REQUIRE_OK(manifest);
      auto keeper = MustOpen(hanging.options, runtime);
      hanging.fs.Set(fault);
      auto loader = MustOpen(hanging.options, runtime);
      while (hanging.fs.hangs() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const auto begin = std::chrono::steady_clock::now();
      loader.reset();
      CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
      hanging.fs.Clear();
    }
  }
}

TEST_CASE("Open does not wait for a first file that hangs", "[deadline]") {
  Hanging hanging(EngineOption::kAuto);
  hanging.options.io = IoMode::kDirect;
  hanging.fs.Set("*1000000.bin openhang\n");
  const auto begin = std::chrono::steady_clock::now();
  auto loader = MustOpen(hanging.options);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
  CHECK(loader->setup().io == "buffered");
  REQUIRE(loader->setup().warnings.size() == 1);
  CHECK(loader->setup().warnings[0].find("1000000.bin") != std::string::npos);
  hanging.fs.Clear();
}

TEST_CASE("a codec function that hangs is named at the deadline and its batch comes when it goes on", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    DataSet data(40, -500);
    LoaderOptions options = data.Options(20);
    options.engine = engine;
    options.deadline_s = 0.5;
    Gate gate;
    gate.id = 7;
    options.codec.function = PassTheGate;
    options.codec.user = &gate;
    auto loader = MustOpen(options);
    const absl::Status status = FirstError(*loader);
    INFO(status.ToString());
    CHECK(absl::IsDeadlineExceeded(status));
    CHECK(status.message().find("codec, with sample 7 (") != std::string::npos);
    CHECK(status.message().find(".bin") != std::string::npos);
    const int64_t step = loader->step();
    gate.Open();
    auto batch = loader->Next();
    REQUIRE_OK(batch);
    CHECK(batch->step() == step);
    CheckBatch(*loader, *batch);
  }
}

TEST_CASE("a loader whose codec function hangs ends and its late end harms nobody", "[deadline]") {
  for (const EngineOption engine : Engines()) {
    DataSet data(40, -500);
    LoaderOptions options = data.Options(20);
    options.engine = engine;
    static Gate* gate = nullptr;  // the function keeps looking at it after this case
    gate = new Gate;
    gate->id = 7;
    options.codec.function = PassTheGate;
    options.codec.user = gate;
    auto loader = MustOpen(options);
    gate->WaitForOne();
    const auto begin = std::chrono::steady_clock::now();
    loader.reset();
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
    gate->Open();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}
