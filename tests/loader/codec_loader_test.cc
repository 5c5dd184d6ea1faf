// A user's function on its way through the loader.
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <thread>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "ring/engine.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

struct Seen {
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  std::atomic<int> on_streams{0};
  std::atomic<int64_t> calls{0};
};

// What becomes of a sample follows from its id.
enum Fate { kSame, kDouble, kHalf, kNothing, kFates };

extern "C" int ByFate(void* user, int64_t id, const void* stored, size_t stored_bytes, void* delivered, size_t capacity,
                      size_t* delivered_bytes, char*, size_t) {
  auto& seen = *static_cast<Seen*>(user);
  const int running = seen.running.fetch_add(1) + 1;
  int most = seen.most.load();
  while (most < running && !seen.most.compare_exchange_weak(most, running)) {
  }
  char name[16] = "";
  ::pthread_getname_np(::pthread_self(), name, sizeof name);
  if (std::strncmp(name, "penstock", 8) == 0) seen.on_streams.fetch_add(1);
  seen.calls.fetch_add(1);
  std::this_thread::yield();
  const auto* in = static_cast<const char*>(stored);
  auto* out = static_cast<char*>(delivered);
  size_t bytes = 0;
  switch (static_cast<Fate>(id % kFates)) {
    case kSame: bytes = stored_bytes; break;
    case kDouble: bytes = 2 * stored_bytes; break;
    case kHalf: bytes = stored_bytes / 2; break;
    default: break;
  }
  int result = 1;
  if (bytes <= capacity) {
    for (size_t i = 0; i < bytes; ++i) out[i] = in[i % stored_bytes];
    *delivered_bytes = bytes;
    result = 0;
  }
  seen.running.fetch_sub(1);
  return result;
}

enum Failure { kReturns, kThrows, kWantsMore, kSaysItWroteMore };

extern "C" int FailsOn5(void* user, int64_t id, const void* stored, size_t stored_bytes, void* delivered, size_t capacity,
                        size_t* delivered_bytes, char* message, size_t message_capacity) {
  if (id == 5) {
    switch (*static_cast<Failure*>(user)) {
      case kReturns: std::snprintf(message, message_capacity, "no image"); return 9;
      case kThrows: throw std::runtime_error("thrown by the user");
      case kWantsMore: *delivered_bytes = capacity + 1; return 1;
      case kSaysItWroteMore: *delivered_bytes = capacity + 1; return 0;
    }
  }
  std::memcpy(delivered, stored, stored_bytes);
  *delivered_bytes = stored_bytes;
  return 0;
}

}  // namespace

TEST_CASE("a function that grows and shrinks samples runs on compute threads only and its lengths are final", "[codec]") {
  for (const EngineOption engine : Engines()) {
    for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
      for (const double share : {0.001, 1.0}) {
        DataSet data(400, 9000);
        Seen seen;
        LoaderOptions options = data.Options(40);
        options.engine = engine;
        options.io = io;
        options.streams = 4;
        options.cpu_share = share;
        options.piece_bytes = 64 << 10;
        options.codec.function = ByFate;
        options.codec.user = &seen;
        options.codec.expansion_max = 2;
        auto loader = MustOpen(options);
        int64_t samples = 0;
        while (true) {
          auto batch = loader->Next();
          if (EpochEnded(batch)) break;
          REQUIRE_OK(batch);
          std::vector<std::pair<int64_t, int64_t>> places;
          for (int64_t i = 0; i < batch->size(); ++i, ++samples) {
            const int64_t id = batch->ids()[static_cast<size_t>(i)];
            const std::string stored = DataSet::Content(loader->manifest()->Name(id), loader->manifest()->StoredBytes(id));
            const std::string expected = id % kFates == kSame     ? stored
                                         : id % kFates == kDouble ? stored + stored
                                         : id % kFates == kHalf   ? stored.substr(0, stored.size() / 2)
                                                                  : "";
            const auto bytes = batch->sample(i);
            REQUIRE(bytes.size() == expected.size());
            REQUIRE((std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == expected));
            const int64_t offset = batch->offsets()[static_cast<size_t>(i)];
            REQUIRE(offset % 64 == 0);
            REQUIRE(offset + static_cast<int64_t>(bytes.size()) <= batch->bytes());
            if (!bytes.empty()) places.emplace_back(offset, offset + static_cast<int64_t>(bytes.size()));
          }
          std::sort(places.begin(), places.end());
          for (size_t i = 1; i < places.size(); ++i) REQUIRE(places[i - 1].second <= places[i].first);
        }
        CHECK(samples == 400);
        CHECK(loader->report().delivered == 400);
        CHECK(loader->report().codec_s > 0);
        loader.reset();
        CHECK(seen.on_streams.load() == 0);
        cpu_set_t cpus;
        REQUIRE(::sched_getaffinity(0, sizeof cpus, &cpus) == 0);
        CHECK(seen.most.load() <= std::max(1, static_cast<int>(share * CPU_COUNT(&cpus) + 0.5)));
        CHECK(seen.calls.load() >= 400);
      }
    }
  }
}

TEST_CASE("whatever a function does wrong with one sample is that sample's error and the policy's affair", "[codec]") {
  const std::pair<Failure, const char*> failures[] = {
      {kReturns, "no image"}, {kThrows, "thrown by the user"}, {kWantsMore, "expansion_max"}};
  for (const auto& [failure, part] : failures) {
    DataSet data(32, -500);
    LoaderOptions options = data.Options(32);
    options.codec.function = FailsOn5;
    Failure what = failure;
    options.codec.user = &what;
    INFO(part);
    {
      auto loader = MustOpen(options);
      const auto batch = loader->Next();
      REQUIRE_FALSE(batch.ok());
      CHECK(batch.status().message().find(part) != std::string::npos);
      CHECK(batch.status().message().find("sample 5 (") != std::string::npos);
      CHECK(loader->step() == 0);
    }
    options.policy = ErrorPolicy::kSkip;
    {
      auto loader = MustOpen(options);
      auto batch = loader->Next();
      REQUIRE_OK(batch);
      CheckBatch(*loader, *batch);
      const EpochReport report = loader->report();
      CHECK(report.skipped == 1);
      CHECK(report.delivered == 31);
      REQUIRE(report.ledger.size() == 1);
      CHECK(report.ledger[0].reason.find(part) != std::string::npos);
    }
    options.policy = ErrorPolicy::kSubstitute;
    auto loader = MustOpen(options);
    auto batch = loader->Next();
    REQUIRE_OK(batch);
    CheckBatch(*loader, *batch);
    CHECK(loader->report().substituted == 1);
  }
}

TEST_CASE("a function that says it wrote past its place fails the batch under every policy", "[codec]") {
  for (const ErrorPolicy policy : {ErrorPolicy::kFail, ErrorPolicy::kSkip, ErrorPolicy::kSubstitute}) {
    DataSet data(32, -500);
    LoaderOptions options = data.Options(32);
    options.codec.function = FailsOn5;
    Failure what = kSaysItWroteMore;
    options.codec.user = &what;
    options.policy = policy;
    auto loader = MustOpen(options);
    const auto batch = loader->Next();
    CHECK(batch.status().code() == absl::StatusCode::kInternal);
    CHECK(batch.status().message().find("must never write more") != std::string::npos);
    CHECK(loader->step() == 0);
  }
}
