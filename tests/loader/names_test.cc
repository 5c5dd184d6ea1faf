// Odd names and odd files, from the index to the batch.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "ring/engine.h"
#include "support/child.h"
#include "support/log_capture.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace fs = std::filesystem;

namespace {

const std::vector<std::string>& OddNames() {
  static const auto* names = new std::vector<std::string>{
      "a\nb",  "a\tb",     "\x01\x02",        " leading",   "trailing ", "-rf",  "--help", "back\\slash",
      "new\r", "quote\"'", "$(x)`y`", "\xE4\xB8\xAD", "\xFF\xFE",  "%s%n", "a..b",   std::string(255, 'l')};
  return *names;
}

std::set<std::string> NamesTaken(Loader& loader) {
  std::set<std::string> names;
  for (const int64_t id : TakeEpoch(loader)) CHECK(names.insert(loader.manifest()->Name(id)).second);
  return names;
}

}  // namespace

TEST_CASE("files and folders of odd names are delivered under both engines", "[names]") {
  DataSet data(0, 0, 0);
  std::set<std::string> expected;
  size_t bytes = 100;
  for (const std::string& folder : OddNames()) {
    fs::create_directory(data.root() + "/" + folder);
    for (const std::string& name : OddNames()) {
      DataSet::Write(data.root() + "/" + folder + "/" + name, bytes += 3);
      expected.insert(folder + "/" + name);
    }
  }
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = data.Options(7);
    options.tail = Tail::kPartial;
    options.engine = engine;
    auto loader = MustOpen(options);
    CHECK(NamesTaken(*loader) == expected);
  }
  // In a message they are escaped: a log has its lines, a terminal its state.
  fs::remove(data.root() + "/a\nb/a\nb");
  auto loader = MustOpen(data.Options(static_cast<int64_t>(expected.size())));
  const auto batch = loader->Next();
  REQUIRE(batch.status().code() == absl::StatusCode::kNotFound);
  CHECK(batch.status().message().find("a\\x0ab/a\\x0ab") != std::string::npos);
  CHECK(batch.status().message().find('\n') == std::string::npos);
}

TEST_CASE("a list of odd names is delivered", "[names]") {
  DataSet data(0, 0, 0);
  std::set<std::string> expected;
  std::ofstream list(data.root() + "/the list");
  size_t bytes = 100;
  int label = 0;
  for (const std::string& name : OddNames()) {
    if (name.find('\n') != std::string::npos || name.back() == '\r') continue;  // a list has no way to write these
    DataSet::Write(data.root() + "/" + name, bytes += 3);
    list << name << "\t" << label++ << "\n";
    expected.insert(name);
  }
  list.close();
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = data.Options(3);
    options.root = data.root() + "/the list";
    options.tail = Tail::kPartial;
    options.engine = engine;
    auto loader = MustOpen(options);
    CHECK(NamesTaken(*loader) == expected);
  }
}

TEST_CASE("links and cycles and what is no file and empty files come or stay away as promised", "[names]") {
  LogCapture log;
  DataSet data(0, 0, 0);
  const std::string root = data.root();
  fs::create_directories(root + "/a/deep/er");
  fs::create_directory(root + "/b");
  DataSet::Write(root + "/a/1.bin", 10);
  DataSet::Write(root + "/a/empty.bin", 0);
  DataSet::Write(root + "/a/deep/er/2.bin", 5000);
  DataSet::Write(root + "/b/3.bin", 70000);
  DataSet::Write(root + "/b/.hidden", 5);
  fs::create_directory(root + "/b/sub");
  fs::create_symlink(root + "/b/3.bin", root + "/b/sub/3.bin");     // a file again, of the same last name
  fs::create_symlink("..", root + "/a/deep/up");                    // back to the folder above
  fs::create_symlink(".", root + "/b/self");
  fs::create_symlink("/nonexistent", root + "/b/nowhere");
  fs::create_symlink("loop", root + "/b/loop");
  REQUIRE(::mkfifo((root + "/b/fifo").c_str(), 0600) == 0);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (root + "/b/socket").c_str(), sizeof address.sun_path - 1);
  REQUIRE(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  const std::set<std::string> expected = {"a/1.bin", "a/empty.bin", "a/deep/er/2.bin", "b/3.bin", "b/sub/3.bin"};
  for (const EngineOption engine : Engines()) {
    for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
      LoaderOptions options = data.Options(2);
      options.tail = Tail::kPartial;
      options.engine = engine;
      options.io = io;
      auto loader = MustOpen(options);
      CHECK(NamesTaken(*loader) == expected);
      CHECK(loader->report().delivered == 5);
    }
  }
  ::close(socket);
  CHECK(log.CountOf("lead back") == 1);
  CHECK(log.CountOf("links to nowhere") == 1);
}

TEST_CASE("a data set of empty files is delivered", "[names]") {
  DataSet data(30, -1, 2);
  for (const auto& entry : fs::recursive_directory_iterator(data.root())) {
    if (entry.is_regular_file()) fs::resize_file(entry.path(), 0);
  }
  for (const EngineOption engine : Engines()) {
    LoaderOptions options = data.Options(10);
    options.engine = engine;
    auto loader = MustOpen(options);
    for (int epoch = 0; epoch < 3; ++epoch) {
      if (epoch > 0) REQUIRE_OK(loader->StartEpoch());
      CHECK(TakeEpoch(*loader).size() == 30);
    }
  }
}

TEST_CASE("a folder that may not be listed fails Open by name and a file that may not be read fails by its own", "[names]") {
  if (::geteuid() != 0) SkipTest("becoming another user needs root");
  DataSet data(40, -500, 2);
  REQUIRE(::chmod(data.root().c_str(), 0755) == 0);
  fs::create_directory(data.root() + "/class1/locked");
  DataSet::Write(data.root() + "/class1/locked/x.bin", 500);
  REQUIRE(::chmod((data.root() + "/class1/locked").c_str(), 0700) == 0);
  const auto as_nobody = [&](const std::function<std::string()>& body) {
    return InChild([&]() -> std::string {
      if (::setgid(65534) != 0 || ::setuid(65534) != 0) return "setuid";
      LogCapture log;
      return body();
    });
  };
  const std::string refused = as_nobody([&] { return Loader::Open(data.Options(20)).status().ToString(); });
  CHECK(refused.find("PERMISSION_DENIED") != std::string::npos);
  CHECK(refused.find("class1/locked") != std::string::npos);

  REQUIRE_OK(Manifest::Build(data.root()));  // root sees all
  REQUIRE(::chmod((data.root() + "/class0/1000004.bin").c_str(), 0) == 0);
  for (const EngineOption engine : Engines()) {
    const std::string result = as_nobody([&]() -> std::string {
      LoaderOptions options = data.Options(41);
      options.engine = engine;
      options.policy = ErrorPolicy::kSkip;
      auto loader = Loader::Open(options);
      if (!loader.ok()) return loader.status().ToString();
      auto batch = (*loader)->Next();
      if (!batch.ok()) return batch.status().ToString();
      const EpochReport report = (*loader)->report();
      std::set<std::string> reasons;
      for (const LedgerEntry& entry : report.ledger) {
        reasons.insert(entry.reason.find("Permission denied") == std::string::npos            ? entry.reason
                       : entry.reason.find("class0/1000004.bin") != std::string::npos          ? "file"
                       : entry.reason.find("class1/locked/x.bin") != std::string::npos ? "folder"
                                                                                               : entry.reason);
      }
      std::string text;
      for (const std::string& reason : reasons) text += reason + " ";
      return text + std::to_string(report.delivered);
    });
    CHECK(result == "file folder 39");
  }
}
