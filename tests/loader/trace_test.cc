// The stages of a batch as a profiler sees them, with a profiler of our own (nvtx_tool.cc).
#include "base/trace.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/runtime.h"
#include "support/status.h"
#include "transfer/scripted_device.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Before the first loader of the process: NVTX looks for its tool once.
class Profiler {
 public:
  Profiler() {
    ::setenv("NVTX_INJECTION64_PATH", PENSTOCK_NVTX_TOOL, 1);
    void* const library = ::dlopen(PENSTOCK_NVTX_TOOL, RTLD_NOW);
    REQUIRE(library != nullptr);
    count_ = reinterpret_cast<long (*)(const char*)>(::dlsym(library, "NvtxToolCount"));
    REQUIRE(count_ != nullptr);
  }
  long Count(const char* name) const { return count_(name); }

 private:
  long (*count_)(const char*) = nullptr;
};

}  // namespace

TEST_CASE("a profiler sees every stage of a batch, begun and ended on one thread", "[trace]") {
  const Profiler profiler;
  const DataSet data(160, 20000);
  auto device = std::make_shared<ScriptedDevice>();
  auto runtime = RuntimeCore::MakeRuntime({}, [device](int) -> absl::StatusOr<std::shared_ptr<Device>> { return device; });
  LoaderOptions options = data.Options(16);
  options.device = 0;
  options.device_bytes = 16 << 20;
  options.memory_bytes = 32 << 20;
  options.piece_bytes = 64 << 10;
  options.codec.function = [](void*, int64_t, const void* stored, size_t bytes, void* delivered, size_t, size_t* delivered_bytes, char*,
                              size_t) -> int {
    std::memcpy(delivered, stored, bytes);
    *delivered_bytes = bytes;
    return 0;
  };
  auto loader = MustOpen(options, runtime);
  int batches = 0;
  while (true) {
    const absl::StatusOr<Batch> batch = loader->Next();
    REQUIRE(batch.ok());
    if (batch->end_of_epoch()) break;
    ++batches;
  }
  CHECK(batches == 10);
  loader.reset();
  CHECK(profiler.Count("next") == 11);  // and the call that found the epoch's end
  CHECK(profiler.Count("plan") >= 10);
  CHECK(profiler.Count("copy") >= 20);  // pieces and columns
  for (const char* stage : {"claim", "read", "codec"}) {
    CAPTURE(stage);
    CHECK(profiler.Count(stage) >= 10);
  }
  CHECK(profiler.Count("wrong") == 0);
  CHECK(profiler.Count("unbalanced") == 0);
  CHECK(profiler.Count("open") == 0);
  CHECK(profiler.Count("penstock stream 0") == 1);
}

TEST_CASE("without a profiler ranges do nothing", "[trace]") {
  ::unsetenv("NVTX_INJECTION64_PATH");
  StartTrace();
  CHECK_FALSE(trace_internal::on.load());
  const TraceRange range(TraceStage::kNext);
  NameTraceThread("stream", 0);
}
