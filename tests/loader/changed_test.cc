// Files that change between index and read, and while they are read, on their way through the loader.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "loader/data_set.h"
#include "ring/engine.h"

using namespace penstock;
using namespace penstock::testing;

namespace fs = std::filesystem;

namespace {

constexpr size_t kBytes = 6000;
constexpr int64_t kFiles = 40;

struct Way {
  EngineOption engine;
  IoMode io;
  std::string text() const {
    return std::string(engine == EngineOption::kUring ? "uring " : "threads ") + (io == IoMode::kDirect ? "direct" : "buffered");
  }
};

std::vector<Way> Ways() {
  std::vector<Way> ways;
  for (const IoMode io : {IoMode::kBuffered, IoMode::kDirect}) {
    ways.push_back({EngineOption::kThreads, io});
    if (ProbeEngine(Engine::kUring).uring.ok()) ways.push_back({EngineOption::kUring, io});
  }
  return ways;
}

// What a path becomes after it was indexed.
struct Change {
  const char* name;
  void (*apply)(const std::string& path);
  const char* error;       // part of the message; nullptr: none without verify=stat
  const char* stat_error;  // likewise with it
};

constexpr const char* kShorter = "shorter than its index says";
constexpr const char* kLonger = "longer than its index says";
constexpr const char* kModified = "the file was modified at";

const Change kChanges[] = {
    {"shorter", [](const std::string& path) { DataSet::Write(path, kBytes - 1); }, kShorter, kShorter},
    {"much shorter", [](const std::string& path) { DataSet::Write(path, 10); }, kShorter, kShorter},
    {"empty", [](const std::string& path) { DataSet::Write(path, 0); }, kShorter, kShorter},
    {"longer", [](const std::string& path) { DataSet::Write(path, kBytes + 1); }, kLonger, kLonger},
    {"replaced by a longer one",
     [](const std::string& path) {
       DataSet::Write(path + ".new", 3 * kBytes);
       fs::rename(path + ".new", path);
     },
     kLonger, kLonger},
    {"replaced by one of the same size",
     [](const std::string& path) {
       std::ofstream(path + ".new") << std::string(kBytes, 'x');
       fs::rename(path + ".new", path);
     },
     nullptr, kModified},
    {"rewritten in place", [](const std::string& path) { std::ofstream(path) << std::string(kBytes, 'x'); }, nullptr, kModified},
    {"gone", [](const std::string& path) { fs::remove(path); }, "No such file", "No such file"},
    {"a folder",
     [](const std::string& path) {
       fs::remove(path);
       fs::create_directory(path);
     },
     "Is a directory", "Is a directory"},
    {"a FIFO",
     [](const std::string& path) {
       fs::remove(path);
       ::mkfifo(path.c_str(), 0600);
     },
     ".bin", ".bin"},
    {"a link to another file of the same size",
     [](const std::string& path) {
       const std::string other = path + ".hidden";
       std::ofstream(other) << std::string(kBytes, 'x');
       fs::remove(path);
       fs::create_symlink(other, path);
     },
     nullptr, kModified},
    {"a link to nowhere",
     [](const std::string& path) {
       fs::remove(path);
       fs::create_symlink("/nonexistent/file", path);
     },
     "No such file", "No such file"},
    {"a link to itself",
     [](const std::string& path) {
       fs::remove(path);
       fs::create_symlink(path, path);
     },
     "symbolic links", "symbolic links"},
};

// The ids in the order of delivery; `other` counts samples whose bytes are not those of the file that was indexed.
std::vector<int64_t> Take(Loader& loader, int64_t& other) {
  std::vector<int64_t> ids;
  other = 0;
  while (true) {
    auto batch = loader.Next();
    if (EpochEnded(batch)) return ids;
    REQUIRE_OK(batch);
    for (int64_t i = 0; i < batch->size(); ++i) {
      const int64_t id = batch->ids()[static_cast<size_t>(i)];
      ids.push_back(id);
      if (batch->valid()[static_cast<size_t>(i)] == 0) continue;
      const auto bytes = batch->sample(i);
      REQUIRE(bytes.size() == kBytes);
      other +=
          std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == DataSet::Content(loader.manifest()->Name(id), kBytes)
              ? 0
              : 1;
    }
  }
}

}  // namespace

TEST_CASE("a file that changed since it was indexed is an error by name and every other sample comes", "[changed]") {
  for (const Change& change : kChanges) {
    for (const Verify verify : {Verify::kNone, Verify::kStat}) {
      DataSet data(kFiles, -static_cast<int>(kBytes), 2);
      IndexOptions index;
      index.stat = verify == Verify::kStat;
      REQUIRE_OK(Manifest::Build(data.root(), index));
      const std::string victim = "class1/1000007.bin";
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a tick of the clock that file systems stamp times with
      change.apply(data.root() + "/" + victim);
      const char* const error = verify == Verify::kStat ? change.stat_error : change.error;
      for (const Way& way : Ways()) {
        INFO(change.name << ", " << way.text() << (verify == Verify::kStat ? ", verify=stat" : ""));
        LoaderOptions options = data.Options(kFiles);
        options.engine = way.engine;
        options.io = way.io;
        options.verify = verify;
        options.next_epoch_prefetch = false;
        {
          auto loader = MustOpen(options);
          CHECK(loader->setup().io == (way.io == IoMode::kDirect ? "direct" : "buffered"));
          const auto batch = loader->Next();
          if (error == nullptr) {
            REQUIRE_OK(batch);
          } else {
            REQUIRE_FALSE(batch.ok());
            INFO(batch.status().ToString());
            const std::string text(batch.status().message());
            CHECK(text.find(victim) != std::string::npos);
            CHECK(text.find(error) != std::string::npos);
            CHECK(text.find("bytes [0, 6000), sample ") != std::string::npos);
            CHECK(loader->step() == 0);
          }
        }
        options.policy = ErrorPolicy::kSkip;
        auto loader = MustOpen(options);
        int64_t other = 0;
        CHECK(Take(*loader, other).size() == kFiles);
        const EpochReport report = loader->report();
        CHECK(report.skipped == (error == nullptr ? 0 : 1));
        CHECK(report.delivered + report.substituted + report.skipped == report.expected);
        CHECK(other == (error == nullptr ? 1 : 0));
      }
    }
  }
}

TEST_CASE("verify=stat without times in the manifest is refused with the cure", "[changed]") {
  DataSet data(20, -1000);
  LoaderOptions options = data.Options(20);
  options.verify = Verify::kStat;
  const auto loader = Loader::Open(options);
  REQUIRE(loader.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(loader.status().message().find("penstock index --stat") != std::string::npos);
}

TEST_CASE("verify=stat lets an unchanged data set through and an update keeps its times", "[changed]") {
  for (const Way& way : Ways()) {
    INFO(way.text());
    DataSet data(200, 9000, 3);
    IndexOptions index;
    index.stat = true;
    REQUIRE_OK(Manifest::Build(data.root(), index));
    DataSet::Write(data.root() + "/class0/1000003.bin", 77);
    REQUIRE_OK(Manifest::Update(data.root()));  // not asked for: the times are kept up
    LoaderOptions options = data.Options(20);
    options.engine = way.engine;
    options.io = way.io;
    options.verify = Verify::kStat;
    options.piece_bytes = 64 << 10;
    auto loader = MustOpen(options);
    CHECK(TakeEpoch(*loader).size() == 200);
    CHECK(loader->report().delivered == 200);
  }
}

TEST_CASE("verify=stat sees through large samples and list files", "[changed]") {
  for (const Way& way : Ways()) {
    INFO(way.text());
    DataSet data(6, -300'000, 1);
    {
      std::ofstream list(data.root() + "/list.txt");
      for (int i = 0; i < 6; ++i) list << "class0/" << 1000000 + i << ".bin\t" << i << "\n";
    }
    IndexOptions index;
    index.stat = true;
    REQUIRE_OK(Manifest::Build(data.root() + "/list.txt", index));
    LoaderOptions options = data.Options(6);
    options.root = data.root() + "/list.txt";
    options.engine = way.engine;
    options.io = way.io;
    options.verify = Verify::kStat;
    options.piece_bytes = 64 << 10;  // each sample in five pieces
    {
      auto loader = MustOpen(options);
      CHECK(TakeEpoch(*loader).size() == 6);
    }
    const std::string victim = data.root() + "/class0/1000003.bin";
    const timeval times[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
    REQUIRE(::utimes(victim.c_str(), times) == 0);
    auto loader = MustOpen(options);
    const auto batch = loader->Next();
    REQUIRE(batch.status().code() == absl::StatusCode::kDataLoss);
    CHECK(batch.status().message().find("1000003.bin") != std::string::npos);
    CHECK(batch.status().message().find("1000000000000000000 ns") != std::string::npos);
  }
}

// Whatever the moment: the sample comes whole, or not at all.
TEST_CASE("a file that is cut off or replaced while it is read is never delivered in part", "[changed]") {
  constexpr size_t kLarge = 3 << 20;
  std::mt19937 random(7);
  for (const Way& way : Ways()) {
    int whole = 0;
    int refused = 0;
    for (int round = 0; round < 24; ++round) {
      DataSet data(1, -static_cast<int>(kLarge), 1);
      const std::string victim = data.root() + "/class0/1000000.bin";
      REQUIRE_OK(Manifest::Build(data.root()));
      LoaderOptions options = data.Options(1);
      options.engine = way.engine;
      options.io = way.io;
      options.read_bytes_max = 4096;
      options.retries = 0;
      options.next_epoch_prefetch = false;
      const auto pause = std::chrono::microseconds(random() % 6000);
      std::thread cutter([&] {
        std::this_thread::sleep_for(pause);
        if (round % 2 == 0) {
          if (::truncate(victim.c_str(), 12345) != 0) return;
        } else {
          DataSet::Write(data.root() + "/.new", 12345);
          fs::rename(data.root() + "/.new", victim);
        }
      });
      auto loader = MustOpen(options);
      const auto batch = loader->Next();
      cutter.join();
      INFO(way.text() << ", after " << pause.count() << " us: " << batch.status().ToString());
      if (batch.ok()) {
        ++whole;
        CheckBatch(*loader, *batch);
      } else {
        ++refused;
        REQUIRE(batch.status().code() == absl::StatusCode::kDataLoss);
        REQUIRE(batch.status().message().find("shorter") != std::string::npos);
      }
    }
    CHECK(whole + refused == 24);
  }
}

// Whatever its size: also where the batch has no room for one byte more between this sample and the next.
TEST_CASE("a longer file is an error for every size and layout and with bytes that are other ones", "[changed]") {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{64}, size_t{512}, size_t{4096}, size_t{12'288}, size_t{131'072}}) {
    for (const bool dense : {false, true}) {
      for (const int64_t open_files : {-1, 0}) {
        for (const size_t more : {size_t{1}, size_t{64}, size_t{4096}, size_t{200'000}}) {
          DataSet data(8, 10, 2);
          for (int i = 0; i < 8; ++i) DataSet::Write(data.root() + absl::StrCat("/class", i % 2, "/", 1000000 + i, ".bin"), bytes);
          REQUIRE_OK(Manifest::Build(data.root()));
          const std::string victim = "class1/1000005.bin";
          std::ofstream(data.root() + "/" + victim) << std::string(bytes + more, 'x');
          for (const Way& way : Ways()) {
            INFO(bytes << " bytes, " << more << " more, dense " << dense << ", open_files " << open_files << ", " << way.text());
            LoaderOptions options = data.Options(8);
            options.engine = way.engine;
            options.io = way.io;
            options.layout = dense ? Layout::kDense : Layout::kRagged;
            options.open_files = open_files;
            options.piece_bytes = 64 << 10;
            options.next_epoch_prefetch = false;
            {
              auto loader = MustOpen(options);
              const auto batch = loader->Next();
              REQUIRE(batch.status().code() == absl::StatusCode::kDataLoss);
              const std::string text(batch.status().message());
              INFO(text);
              CHECK(text.find(victim) != std::string::npos);
              CHECK(text.find(kLonger) != std::string::npos);
            }
            options.policy = ErrorPolicy::kSkip;
            auto loader = MustOpen(options);
            const auto batch = loader->Next();
            REQUIRE_OK(batch);
            CheckBatch(*loader, *batch);
            CHECK(loader->report().skipped == 1);
          }
        }
      }
    }
  }
}

namespace {

// What is no file, in the place of one; it stays as long as what is returned.
struct Impostor {
  const char* name;
  UniqueFd (*put)(const std::string& path, size_t bytes);
};

const Impostor kImpostors[] = {
    {"a FIFO with the file's number of bytes",
     [](const std::string& path, size_t bytes) {
       REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
       UniqueFd writer(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
       REQUIRE(::write(writer.get(), std::string(bytes, 'f').data(), bytes) == static_cast<ssize_t>(bytes));
       return writer;
     }},
    {"a FIFO with a silent writer",
     [](const std::string& path, size_t) {
       REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
       return UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
     }},
    {"a link to /dev/zero",
     [](const std::string& path, size_t) {
       fs::create_symlink("/dev/zero", path);
       return UniqueFd();
     }},
    {"a link to /dev/null",
     [](const std::string& path, size_t) {
       fs::create_symlink("/dev/null", path);
       return UniqueFd();
     }},
    {"a socket",
     [](const std::string& path, size_t) {
       UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
       sockaddr_un address{};
       address.sun_family = AF_UNIX;
       REQUIRE(path.size() < sizeof address.sun_path);
       path.copy(address.sun_path, path.size());
       REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
       return socket;
     }},
    {"a folder",
     [](const std::string& path, size_t) {
       fs::create_directory(path);
       return UniqueFd();
     }},
};

}  // namespace

TEST_CASE("what is no regular file in the place of a sample is an error by name in both engines", "[changed]") {
  for (const Impostor& impostor : kImpostors) {
    for (const size_t bytes : {size_t{4096}, size_t{6000}}) {
      for (const int64_t open_files : {-1, 0}) {
        DataSet data(30, -static_cast<int>(bytes), 2);
        REQUIRE_OK(Manifest::Build(data.root()));
        const std::string victim = "class1/1000007.bin";
        fs::remove(data.root() + "/" + victim);
        for (const Way& way : Ways()) {
          INFO(impostor.name << ", " << bytes << " bytes, open_files " << open_files << ", " << way.text());
          LoaderOptions options = data.Options(30);
          options.engine = way.engine;
          options.io = way.io;
          options.open_files = open_files;
          options.deadline_s = 20;
          options.policy = ErrorPolicy::kSkip;
          const UniqueFd held = impostor.put(data.root() + "/" + victim, bytes);
          {
            auto loader = MustOpen(options);
            auto batch = loader->Next();
            REQUIRE_OK(batch);
            CheckBatch(*loader, *batch);
            const EpochReport report = loader->report();
            REQUIRE(report.skipped == 1);
            REQUIRE(report.ledger.size() == 1);
            INFO(report.ledger[0].reason);
            CHECK(report.ledger[0].reason.find(victim) != std::string::npos);
            CHECK(report.ledger[0].reason.find("no answer") == std::string::npos);
          }
          fs::remove(data.root() + "/" + victim);
        }
      }
    }
  }
}

// No length tells there: a device has a byte wherever one is asked for.
TEST_CASE("a device or a FIFO in the place of a shard of records is an error by name in both engines", "[changed]") {
  for (const Impostor& impostor : kImpostors) {
    for (const int64_t open_files : {-1, 0}) {
      DataSet data(2, -65536, 1);
      IndexOptions index;
      index.format = ShardFormat::kRaw;
      index.record_bytes = 4096;
      REQUIRE_OK(Manifest::Build(data.root(), index));
      const std::string victim = "class0/1000001.bin";
      fs::remove(data.root() + "/" + victim);
      for (const Way& way : Ways()) {
        INFO(impostor.name << ", open_files " << open_files << ", " << way.text());
        LoaderOptions options = data.Options(16);
        options.engine = way.engine;
        options.io = way.io;
        options.open_files = open_files;
        options.deadline_s = 20;
        options.policy = ErrorPolicy::kSkip;
        options.skip_max = options.skip_run_max = 100;
        options.skip_share_max = 1;
        const UniqueFd held = impostor.put(data.root() + "/" + victim, 65536);
        {
          auto loader = MustOpen(options);
          for (int step = 0; step < 2; ++step) REQUIRE_OK(loader->Next());
          const EpochReport report = loader->report();
          CHECK(report.skipped == 16);
          CHECK(report.delivered == 16);
          REQUIRE_FALSE(report.ledger.empty());
          CHECK(report.ledger[0].reason.find(victim) != std::string::npos);
        }
        fs::remove(data.root() + "/" + victim);
      }
    }
  }
}
