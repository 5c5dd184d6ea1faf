#include <filesystem>

#include <catch2/catch.hpp>

#include "loader/data_set.h"

using namespace penstock;
using namespace penstock::testing;

TEST_CASE("from the second epoch on no file is opened where all may stay open, and the reports say so", "[loader]") {
  DataSet data(300, 6000);
  for (const EngineOption engine : {EngineOption::kAuto, EngineOption::kThreads}) {
    for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
      LoaderOptions options = data.Options(30);
      options.engine = engine;
      options.io = io;
      options.next_epoch_prefetch = false;
      auto loader = MustOpen(options);
      CHECK(TakeEpoch(*loader).size() == 300);
      CHECK(loader->report().kept_open == 0);
      for (int epoch = 1; epoch < 3; ++epoch) {
        REQUIRE_OK(loader->StartEpoch());
        CHECK(TakeEpoch(*loader).size() == 300);
        CHECK(loader->report().kept_open == loader->report().requests);
      }
      const SetupReport setup = loader->setup();
      CHECK(setup.open_files >= 299);  // files without bytes are not opened at all
      CHECK(setup.open_files <= setup.open_files_max);
      CHECK(setup.open_files_max == 300);
      CHECK(setup.open_files_why.find("RLIMIT_NOFILE") != std::string::npos);
    }
  }
}

TEST_CASE("no file stays open with open_files = 0", "[loader]") {
  DataSet data(60);
  LoaderOptions options = data.Options(20);
  options.open_files = 0;
  auto loader = MustOpen(options);
  TakeEpoch(*loader);
  REQUIRE_OK(loader->StartEpoch());
  TakeEpoch(*loader);
  CHECK(loader->report().kept_open == 0);
  CHECK(loader->setup().open_files == 0);
}

// The retry that follows a short read opens the file by its name.
TEST_CASE("a file replaced after its kept one was truncated is delivered anew", "[loader]") {
  DataSet data(20, -4000);
  LoaderOptions options = data.Options(20);
  options.next_epoch_prefetch = false;
  auto loader = MustOpen(options);
  TakeEpoch(*loader);
  const std::string path = data.root() + "/class0/1000000.bin";
  const std::string copy = data.root() + "/copy";
  std::filesystem::copy_file(path, copy);
  std::filesystem::resize_file(path, 10);
  std::filesystem::rename(copy, path);
  REQUIRE_OK(loader->StartEpoch());
  CHECK(TakeEpoch(*loader).size() == 20);
}
