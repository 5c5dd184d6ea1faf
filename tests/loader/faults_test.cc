// Reads that fail, hang and come back late, on a real mounted file system with faults.
#include <string.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "support/fault_fs.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

LoaderOptions OptionsFor(const FaultFs& fs, int64_t batch_size) {
  LoaderOptions options = OptionsOf(fs.mounted(), batch_size);
  options.manifest_path = fs.backing() + "/../manifest";
  options.streams = 2;
  options.queue_depth = 16;
  options.retries = 0;
  options.next_epoch_prefetch = false;
  return options;
}

// What an epoch came to where one of its samples fails with every try.
struct Taken {
  int64_t samples = 0;
  int64_t errors = 0;
  absl::Status error;  // the first
};

// Takes the epoch batch by batch, one sample each; a batch that fails is passed over.
Taken TakePastErrors(Loader& loader) {
  Taken taken;
  while (true) {
    const absl::StatusOr<Batch> batch = loader.Next();
    if (EpochEnded(batch)) return taken;
    if (batch.ok()) {
      ++taken.samples;
      continue;
    }
    if (taken.errors++ == 0) taken.error = batch.status();
    if (taken.errors > 1 || !loader.Skip(1).ok()) return taken;
  }
}

}  // namespace

TEST_CASE("no errno of a read or an open ends an epoch", "[faults]") {
  for (const EngineOption engine : {EngineOption::kUring, EngineOption::kThreads}) {
    FaultFs fs;
    DataSet::Fill(fs.backing(), 6, -8000, 2);
    LoaderOptions options = OptionsFor(fs, 1);
    options.shuffle = false;
    options.engine = engine;
    options.open_files = 0;
    options.deadline_s = 20;
    Index(options);
    const auto manifest = Manifest::OpenSaved(options.manifest_path);
    REQUIRE_OK(manifest);
    const std::string victim = (*manifest)->Name(2);
    for (const bool open : {false, true}) {
      for (int error = 1; error < 134; ++error) {
        // The kernel itself acts on ENOSYS of FUSE (the request is not sent again) and on EINTR and ERESTART's kin (the call is made again).
        if (::strerrorname_np(error) == nullptr || error == ENOSYS || error == EINTR || error == EAGAIN || error == ERESTART) continue;
        // Linux 6.18's io_uring asks a FUSE server that answers EOPNOTSUPP to a read again and again, until the deadline.
        if (!open && engine == EngineOption::kUring && error == EOPNOTSUPP) continue;
        fs.Set("* direct\n" + victim + (open ? " openerr " : " errno ") + std::to_string(error) + "\n");
        auto loader = Loader::Open(options);
        if (engine == EngineOption::kUring && absl::IsUnavailable(loader.status())) break;
        REQUIRE_OK(loader);
        const Taken taken = TakePastErrors(**loader);
        INFO((open ? "open " : "read ") << ::strerrorname_np(error) << ": " << taken.error.ToString());
        CHECK(taken.samples == 5);
        CHECK(taken.errors == 1);
        CHECK(taken.error.message().find(victim) != std::string::npos);
        CHECK(taken.error.message().find(::strerrorname_np(error)) != std::string::npos);
        CHECK((*loader)->report().taken == 6);
      }
    }
  }
}

TEST_CASE("EIO in one file fails or skips that sample and no other", "[faults]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 60, -8000, 2);
  LoaderOptions options = OptionsFor(fs, 60);
  Index(options);
  fs.Set("*1000004.bin eio 0 8000\n");
  {
    auto loader = MustOpen(options);
    const auto batch = loader->Next();
    REQUIRE(batch.status().code() == absl::StatusCode::kDataLoss);
    CHECK(batch.status().message().find("1000004.bin") != std::string::npos);
  }
  options.policy = ErrorPolicy::kSkip;
  auto loader = MustOpen(options);
  auto batch = loader->Next();
  REQUIRE_OK(batch);
  CheckBatch(*loader, *batch);
  CHECK(loader->report().skipped == 1);
}

TEST_CASE("a loader with a read that hangs ends and nothing is written into memory that is used again", "[faults]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 40, -8000, 2);
  LoaderOptions options = OptionsFor(fs, 20);
  Index(options);
  fs.Set("*1000004.bin hanghard 0 8000\n");
  auto loader = MustOpen(options);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the read is in the kernel now
  const auto begin = std::chrono::steady_clock::now();
  loader.reset();
  // Not a timing test: the bound is the promise, and a loader that waited for the read would never return.
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
  // Memory that comes back to the process is filled with a pattern; a late write would show in it.
  std::vector<std::vector<unsigned char>> canaries;
  for (int i = 0; i < 16; ++i) canaries.emplace_back(4 << 20, 0xEE);
  fs.Clear();
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  for (const auto& canary : canaries) {
    bool untouched = true;
    for (const unsigned char byte : canary) untouched = untouched && byte == 0xEE;
    CHECK(untouched);
  }
}

TEST_CASE("a hung read is given up at the deadline and its sample skipped in other memory", "[faults]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 40, -8000, 2);
  LoaderOptions options = OptionsFor(fs, 20);
  Index(options);
  fs.Set("*1000004.bin hanghard 0 8000\n");
  options.policy = ErrorPolicy::kSkip;
  options.deadline_s = 0.5;
  auto loader = MustOpen(options);
  for (int step = 0; step < 2; ++step) {
    absl::StatusOr<Batch> batch = loader->Next();
    for (int tries = 0; !batch.ok() && tries < 20; ++tries) batch = loader->Next();
    REQUIRE_OK(batch);
    CheckBatch(*loader, *batch);
  }
  CHECK(loader->report().skipped == 1);
  CHECK(loader->setup().quarantined_bytes > 0);
  fs.Clear();
  for (int i = 0; i < 200 && loader->setup().quarantined_bytes > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(loader->setup().quarantined_bytes == 0);  // the kernel let go, and the memory came back
}
