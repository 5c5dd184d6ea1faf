// Files that somebody cuts off or writes over while a loader uses them: an error that names the file, or no difference, and never the end of
// the process.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "support/child.h"
#include "support/status.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// A manifest of files, made so large by the name of a class that it is not kept in memory.
std::string LargeManifest(const DataSet& data, int files, int64_t bytes) {
  ManifestBuilder builder(data.root());
  for (int o = 0; o < files; ++o) {
    const auto object = builder.AddObject("class0/" + std::to_string(1000000 + o) + ".bin", static_cast<uint64_t>(bytes));
    REQUIRE_OK(object);
    REQUIRE_OK(builder.AddSample(0, {Range{*object, 0, static_cast<uint64_t>(bytes), static_cast<uint64_t>(bytes), 0}}));
  }
  builder.SetClassNames({std::string(size_t{65} << 20, 'c')});
  std::filesystem::create_directories(data.root() + "/.kept");
  const std::string path = data.root() + "/.kept/large.manifest";
  REQUIRE_OK(builder.Write(path));
  return path;
}

}  // namespace

TEST_CASE("a manifest in use that is cut off or written over is an error that names it", "[loader]") {
  const std::string how = GENERATE("truncate", "overwrite", "rename");
  DataSet data(200, -2000, 1);
  const std::string path = LargeManifest(data, 200, 2000);
  const std::string result = InChild([&]() -> std::string {
    LoaderOptions options = data.Options(10);
    options.manifest_path = path;
    options.prefetch_batches = 1;
    auto opened = Loader::Open(options);
    if (!opened.ok()) return std::string(opened.status().message());
    Loader& loader = **opened;
    if (!loader.Next().ok()) return "no first batch";
    if (how == "truncate") {
      if (::truncate(path.c_str(), 0) != 0) return "not cut";
    } else if (how == "overwrite") {
      // As `cp other manifest` does.
      const int fd = ::open(path.c_str(), O_WRONLY);
      if (::pwrite(fd, "x", 1, 1 << 20) != 1) return "not written";
      ::close(fd);
    } else {
      std::filesystem::copy_file(path, path + ".new");
      std::filesystem::rename(path + ".new", path);
    }
    for (int step = 1; step < 20; ++step) {
      const auto batch = loader.Next();
      if (batch.ok()) continue;
      if (batch.status().code() != absl::StatusCode::kDataLoss) return std::string(batch.status().message());
      const bool named = batch.status().message().find(path) != absl::string_view::npos;
      const bool again = loader.Next().status().code() == absl::StatusCode::kDataLoss;
      return named && again ? "named" : "not named: " + std::string(batch.status().message());
    }
    return "all batches";
  });
  CHECK(result == (how == "rename" ? "all batches" : "named"));
}

TEST_CASE("a manifest that is kept in memory serves on after it was cut off", "[loader]") {
  DataSet data(200, -2000, 1);
  const std::string result = InChild([&]() -> std::string {
    LoaderOptions options = data.Options(10);
    options.manifest_path = data.root() + "/.kept/manifest";
    options.prefetch_batches = 1;
    auto opened = Loader::Open(options);
    if (!opened.ok()) return std::string(opened.status().message());
    if (::truncate(options.manifest_path.c_str(), 0) != 0) return "not cut";
    for (int step = 0; step < 20; ++step) {
      const auto batch = (*opened)->Next();
      if (!batch.ok()) return std::string(batch.status().message());
      for (int64_t i = 0; i < batch->size(); ++i) {
        const auto bytes = batch->sample(i);
        const std::string name = (*opened)->manifest()->Name(batch->ids()[static_cast<size_t>(i)]);
        if (std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) != DataSet::Content(name, 2000)) return "wrong " + name;
      }
    }
    return "all batches";
  });
  CHECK(result == "all batches");
}

TEST_CASE("a shard that is cut off in mid-epoch is an error that names it", "[loader]") {
  DataSet data(1, -10, 1);
  const std::string shard = data.root() + "/shard.bin";
  for (const EngineOption engine : Engines()) {
    std::ofstream(shard) << std::string(size_t{4} << 20, 's');
    const std::string result = InChild([&]() -> std::string {
      IndexOptions index;
      index.format = ShardFormat::kRaw;
      index.record_bytes = 4096;
      if (!Manifest::Build(shard, index).ok()) return "not indexed";
      LoaderOptions options = OptionsOf(shard, 16);
      options.prefetch_batches = 1;
      options.engine = engine;
      auto opened = Loader::Open(options);
      if (!opened.ok()) return opened.status().ToString();
      if (!(*opened)->Next().ok()) return "no first batch";
      if (::truncate(shard.c_str(), 0) != 0) return "not cut";
      for (int step = 1; step < 64; ++step) {
        const auto batch = (*opened)->Next();
        if (batch.ok()) continue;
        const bool named = batch.status().message().find(shard) != absl::string_view::npos;
        return batch.status().code() == absl::StatusCode::kDataLoss && named ? "named" : batch.status().ToString();
      }
      return "all batches";
    });
    CHECK(result == "named");
  }
}
