// A small data set in a temporary folder, whose content is known.
#ifndef PENSTOCK_TESTS_LOADER_DATA_SET_H_
#define PENSTOCK_TESTS_LOADER_DATA_SET_H_

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "penstock/loader.h"
#include "ring/engine.h"
#include "support/status.h"

namespace penstock::testing {

// What works here.
inline std::vector<EngineOption> Engines() {
  std::vector<EngineOption> engines = {EngineOption::kThreads};
  if (ProbeEngine(Engine::kUring).uring.ok()) engines.push_back(EngineOption::kUring);
  return engines;
}

// A loader that is alone.
inline LoaderOptions OptionsOf(const std::string& root, int64_t batch_size) {
  LoaderOptions options;
  options.root = root;
  options.batch_size = batch_size;
  options.rank = 0;
  options.world_size = 1;
  options.memory_bytes = 64 << 20;
  return options;
}

// Indexes what the options name, where they look for it.
inline void Index(const LoaderOptions& options) {
  IndexOptions index;
  index.manifest_path = options.manifest_path;
  REQUIRE_OK(Manifest::Build(options.root, index));
}

class DataSet {
 public:
  // Files of 0 .. `bytes_max` bytes in `classes` folders; with bytes_max < 0 all have -bytes_max bytes.
  explicit DataSet(int count, int bytes_max = 5000, int classes = 3) {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-loader-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    above_ = pattern;
    std::filesystem::permissions(above_, std::filesystem::perms(0755));
    root_ = above_ + "/set";  // in a folder of its own, for what is kept beside it
    std::filesystem::create_directory(root_);
    Fill(root_, count, bytes_max, classes);
  }
  ~DataSet() {
    std::error_code ignored;
    std::filesystem::remove_all(above_, ignored);
  }

  static void Fill(const std::string& root, int count, int bytes_max, int classes) {
    for (int c = 0; c < classes; ++c) std::filesystem::create_directories(root + "/class" + std::to_string(c));
    for (int i = 0; i < count; ++i) {
      const int bytes = bytes_max < 0 ? -bytes_max : (i * 7919) % (bytes_max + 1);
      Write(root + "/class" + std::to_string(i % classes) + "/" + std::to_string(1000000 + i) + ".bin", static_cast<size_t>(bytes));
    }
  }
  // The content follows from the file's own name, so that a sample in the wrong place shows.
  static std::string Content(const std::string& name, size_t bytes) {
    uint32_t state = 2166136261u;
    for (const char c : std::filesystem::path(name).filename().string()) state = (state ^ static_cast<unsigned char>(c)) * 16777619u;
    std::string text(bytes, '\0');
    for (char& c : text) {
      state = state * 1664525u + 1013904223u;
      c = static_cast<char>(state >> 24);
    }
    return text;
  }
  static void Write(const std::string& path, size_t bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    const std::string text = Content(path, bytes);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
  }

  const std::string& root() const { return root_; }
  LoaderOptions Options(int64_t batch_size = 16) const {
    LoaderOptions options = OptionsOf(root_, batch_size);
    options.cpu_share = 1;
    return options;
  }

 private:
  std::string above_;
  std::string root_;
};

// Checks every valid sample of the batch against its file's name and returns the ids.
inline std::vector<int64_t> CheckBatch(const Loader& loader, const Batch& batch) {
  const auto manifest = loader.manifest();
  for (int64_t i = 0; i < batch.size(); ++i) {
    if (batch.valid()[static_cast<size_t>(i)] == 0) {
      CHECK(batch.lengths()[static_cast<size_t>(i)] == 0);
      continue;
    }
    const int64_t id = batch.ids()[static_cast<size_t>(i)];
    const auto bytes = batch.sample(i);
    REQUIRE(bytes.size() == manifest->StoredBytes(id));
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    INFO(manifest->Name(id));
    REQUIRE((text == DataSet::Content(manifest->Name(id), bytes.size())));
    REQUIRE(batch.labels()[static_cast<size_t>(i)] == manifest->Label(id));
  }
  return {batch.ids().begin(), batch.ids().end()};
}

// Whether Next() said that the epoch has no batch left.
inline bool EpochEnded(const absl::StatusOr<Batch>& batch) { return batch.ok() && batch->end_of_epoch(); }

// Takes batches until one fails; OK where the epoch ended without an error.
inline absl::Status FirstError(Loader& loader) {
  while (true) {
    const absl::StatusOr<Batch> batch = loader.Next();
    if (!batch.ok() || batch->end_of_epoch()) return batch.status();
  }
}

// Takes the rest of the epoch; every id in the order of delivery.
inline std::vector<int64_t> TakeEpoch(Loader& loader) {
  std::vector<int64_t> ids;
  while (true) {
    absl::StatusOr<Batch> batch = loader.Next();
    if (EpochEnded(batch)) return ids;
    REQUIRE_OK(batch);
    for (const int64_t id : CheckBatch(loader, *batch)) ids.push_back(id);
  }
}

inline std::unique_ptr<Loader> MustOpen(const LoaderOptions& options, std::shared_ptr<Runtime> runtime = nullptr) {
  absl::StatusOr<std::unique_ptr<Loader>> loader = Loader::Open(options, std::move(runtime));
  REQUIRE_OK(loader);
  return *std::move(loader);
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_LOADER_DATA_SET_H_
