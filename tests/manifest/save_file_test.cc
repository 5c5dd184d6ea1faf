#include "manifest/save_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>

#include <catch2/catch.hpp>

#include "store/temp_folder.h"
#include "support/status.h"

using penstock::SaveFile;
using penstock::testing::ReadFile;
using penstock::testing::TempFolder;

namespace {

int CountFiles(const std::string& folder) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

}  // namespace

TEST_CASE("a saved file replaces the old one only when it is committed", "[manifest]") {
  TempFolder folder;
  folder.Write("m", "old");
  {
    auto file = SaveFile::Create(folder.At("m"));
    REQUIRE_OK(file);
    REQUIRE_OK(file->Write("new", 3));
    CHECK(ReadFile(folder.At("m")) == "old");
    REQUIRE_OK(file->Commit());
  }
  CHECK(ReadFile(folder.At("m")) == "new");
  CHECK(CountFiles(folder.path()) == 1);
}

TEST_CASE("a file that is not committed leaves nothing behind", "[manifest]") {
  TempFolder folder;
  {
    auto file = SaveFile::Create(folder.At("m"));
    REQUIRE_OK(file);
    REQUIRE_OK(file->Write("new", 3));
    CHECK(CountFiles(folder.path()) == 1);
  }
  CHECK(CountFiles(folder.path()) == 0);
}

TEST_CASE("what a killed process left is removed after an hour and not before", "[manifest]") {
  TempFolder folder;
  folder.Write("m.tmp-old", "x");
  folder.Write("m.tmp-new", "x");
  folder.Write("other.tmp-old", "x");
  timespec long_ago[2] = {{1, 0}, {1, 0}};
  for (const char* name : {"m.tmp-old", "other.tmp-old"}) REQUIRE(::utimensat(AT_FDCWD, folder.At(name).c_str(), long_ago, 0) == 0);
  REQUIRE_OK(SaveFile::Create(folder.At("m")));
  CHECK_FALSE(std::filesystem::exists(folder.At("m.tmp-old")));
  CHECK(std::filesystem::exists(folder.At("m.tmp-new")));
  CHECK(std::filesystem::exists(folder.At("other.tmp-old")));
}

TEST_CASE("a full file system fails the save and keeps the old file", "[manifest]") {
  TempFolder folder;
  folder.Write("m", "old");
  auto file = SaveFile::Create(folder.At("m"));
  REQUIRE_OK(file);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{100, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const absl::Status status = file->Write(std::string(1000, 'x').data(), 1000);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK_FALSE(status.ok());
  CHECK(status.message().find(folder.At("m")) != absl::string_view::npos);
  CHECK(ReadFile(folder.At("m")) == "old");
}

TEST_CASE("a folder that is not there is named", "[manifest]") {
  const auto file = SaveFile::Create("/nonexistent/folder/m");
  CHECK(file.status().code() == absl::StatusCode::kNotFound);
  CHECK(file.status().message().find("/nonexistent/folder/m") != absl::string_view::npos);
}
