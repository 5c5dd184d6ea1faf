// "Why is my GPU waiting", asked of a real loader: each bound is provoked, and the verdict must name it, with its figure and its cure.
//
// No time is asserted. What is provoked is large against the noise of a busy machine (20 ms, where a read takes 0.1 ms); and since a
// machine may be so busy that the CPU bounds everything for a while, a provocation counts as answered when one of three runs names it.
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "loader/data_set.h"
#include "support/child.h"
#include "support/fault_fs.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

LoaderOptions OptionsOf(const std::string& root, const std::string& manifest, int64_t batch_size) {
  LoaderOptions options = testing::OptionsOf(root, batch_size);
  options.manifest_path = manifest;
  options.tail = Tail::kPartial;
  options.memory_bytes = 128 << 20;
  options.streams = 1;
  options.pin_cpus = false;  // others use this machine too
  options.prefetch_batches = 8;
  options.next_epoch_prefetch = false;
  return options;
}

LoaderOptions OptionsOf(const FaultFs& fs, int64_t batch_size) {
  return OptionsOf(fs.mounted(), fs.backing() + "/../manifest", batch_size);
}

EpochReport ReadOnce(const LoaderOptions& options, std::chrono::milliseconds step = std::chrono::milliseconds(0)) {
  // The pool of threads is the runtime's, and not smaller than the runtime says.
  RuntimeOptions runtime;
  runtime.io_workers = options.io_workers;
  auto loader = MustOpen(options, Runtime::Create(runtime));
  while (true) {
    const absl::StatusOr<Batch> batch = loader->Next();
    if (EpochEnded(batch)) break;
    REQUIRE_OK(batch);
    if (step.count() > 0) std::this_thread::sleep_for(step);
  }
  return loader->report();
}

// The first epoch that `bound` bounds, or the last of three. Index() comes before the faults: it is not what is looked at.
EpochReport Read(const LoaderOptions& options, Bound bound, std::chrono::milliseconds step = std::chrono::milliseconds(0)) {
  EpochReport report = ReadOnce(options, step);
  for (int again = 0; again < 2 && report.bound != bound; ++again) report = ReadOnce(options, step);
  return report;
}

bool Says(const EpochReport& report, const std::string& words) { return report.verdict.find(words) != std::string::npos; }

std::string Figures(const EpochReport& report) {
  return absl::StrCat(report.verdict, "\n  wall ", report.wall_s, " s, wait ", report.wait_s, " s, open ", report.open_latency_us,
                      " us, read ", report.read_latency_us, " us, floor ", report.latency_floor_us, " us, idle ", report.idle_s,
                      " s, streams' CPU ", report.stream_cpu_s, " s, codec ", report.codec_s, " s");
}

}  // namespace

TEST_CASE("a store that answers late is named store latency, and the queue depth as its cure", "[bound]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 240, -4096, 3);
  LoaderOptions options = OptionsOf(fs, 24);
  options.queue_depth = 8;
  Index(options);
  fs.Set("* direct\n* delay 20000\n");
  const EpochReport report = Read(options, Bound::kStoreLatency);
  INFO(Figures(report));
  CHECK(report.bound == Bound::kStoreLatency);
  CHECK(report.read_latency_us >= 20000);
  CHECK(Says(report, "store latency"));
  CHECK(Says(report, " us"));
  CHECK(Says(report, "Raise queue_depth (now 8)"));
}

// Neither threads nor io_uring's workers, which read where a file system cannot answer at once, are more than io_workers.
TEST_CASE("a store that answers late behind full io_workers is store latency too, and io_workers is the cure", "[bound]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 240, -4096, 3);
  LoaderOptions options = OptionsOf(fs, 24);
  options.queue_depth = 64;
  options.io_workers = 8;
  Index(options);
  fs.Set("* direct\n* delay 20000\n");
  const EpochReport report = Read(options, Bound::kStoreLatency);
  INFO(Figures(report));
  CHECK(report.bound == Bound::kStoreLatency);
  CHECK(Says(report, "io_workers (now 8)"));
}

TEST_CASE("a store that gives few bytes a second is named store bandwidth, with its rate", "[bound]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 80, -(256 << 10), 2);
  LoaderOptions options = OptionsOf(fs, 8);
  Index(options);
  fs.Set("* direct\n* bandwidth 20000000\n");
  for (const int depth : {8, 64}) {
    options.queue_depth = depth;
    const EpochReport report = Read(options, Bound::kStoreBandwidth);
    INFO(Figures(report));
    CAPTURE(depth);
    CHECK(report.bound == Bound::kStoreBandwidth);
    CHECK(Says(report, "MB/s"));
    CHECK(Says(report, "faster store"));
    // The rate is named as it is, not to the percent.
    CHECK(report.bandwidth_mb_per_s > 10);
    CHECK(report.bandwidth_mb_per_s < 40);
  }
}

TEST_CASE("cold metadata is named open", "[bound]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 240, -4096, 3);
  LoaderOptions options = OptionsOf(fs, 24);
  options.io_workers = 16;  // else more are tried
  Index(options);
  fs.Set("* direct\n* opendelay 20000\n");
  const EpochReport report = Read(options, Bound::kOpen);
  INFO(Figures(report));
  CHECK(report.bound == Bound::kOpen);
  CHECK(report.open_latency_us >= 20000);
  CHECK(Says(report, "opening a file took"));
  CHECK(Says(report, "io_workers"));
  CHECK(Says(report, "pack them"));
}

TEST_CASE("a trainer that takes long over its step is named consumer", "[bound]") {
  DataSet data(600, -4096);
  LoaderOptions options = OptionsOf(data.root(), data.root() + ".manifest", 20);
  Index(options);
  const EpochReport report = Read(options, Bound::kConsumer, std::chrono::milliseconds(50));
  std::filesystem::remove(options.manifest_path);
  INFO(Figures(report));
  CHECK(report.bound == Bound::kConsumer);
  CHECK(Says(report, "consumer"));
  CHECK(Says(report, "%"));
}

TEST_CASE("a function that takes long over its samples is named codec", "[bound]") {
  DataSet data(400, -4096);
  LoaderOptions options = OptionsOf(data.root(), data.root() + ".manifest", 20);
  Index(options);
  options.piece_bytes = 64 << 10;
  options.codec.function = [](void*, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t, size_t* delivered_bytes,
      char*, size_t) {
    ::usleep(5000);
    std::memcpy(delivered, stored, stored_bytes);
    *delivered_bytes = stored_bytes;
    return 0;
  };
  const EpochReport report = Read(options, Bound::kCodec);
  std::filesystem::remove(options.manifest_path);
  INFO(Figures(report));
  CHECK(report.bound == Bound::kCodec);
  CHECK(Says(report, "codec's threads"));
  CHECK(Says(report, "Raise cpu_share"));
}

TEST_CASE("many small files in the page cache, read by one stream, are bound by the CPU", "[bound]") {
  DataSet data(20000, -1024, 20);
  LoaderOptions options = OptionsOf(data.root(), data.root() + ".manifest", 256);
  Index(options);
  ReadOnce(options);  // now they are in the page cache
  const EpochReport report = Read(options, Bound::kCpu);
  std::filesystem::remove(options.manifest_path);
  INFO(Figures(report));
  CHECK(report.bound == Bound::kCpu);
  CHECK(Says(report, "cores"));
  CHECK(Says(report, "pack small files"));
}

namespace {

// A cgroup (v1: blkio) whose processes get so many bytes a second from the device of `path`. Skips the test where there can be none.
class DeviceLimit {
 public:
  DeviceLimit(const std::string& path, int64_t bytes_per_s) {
    struct stat where {};
    REQUIRE(::stat(path.c_str(), &where) == 0);
    const std::string device = std::to_string(major(where.st_dev)) + ":" + std::to_string(minor(where.st_dev));
    if (::access(("/sys/dev/block/" + device).c_str(), F_OK) != 0) SkipTest(path + " is not on a block device");
    const std::string name = "/penstock-test-" + std::to_string(::getpid());
    for (const bool v1 : {true, false}) {
      const std::string mount = v1 ? "/sys/fs/cgroup/blkio" : "/sys/fs/cgroup";
      if (::access((mount + "/cgroup.procs").c_str(), W_OK) != 0) continue;
      if (!v1) std::ofstream(mount + "/cgroup.subtree_control") << "+io";
      folder_ = mount + name;
      if (::mkdir(folder_.c_str(), 0755) != 0) continue;
      std::ofstream limit(folder_ + (v1 ? "/blkio.throttle.read_bps_device" : "/io.max"));
      limit << device << (v1 ? " " : " rbps=") << bytes_per_s << std::flush;
      if (limit.good()) return;
      ::rmdir(folder_.c_str());
    }
    folder_.clear();
    SkipTest("no cgroup can be made that limits a block device (blkio of v1, io of v2)");
  }
  ~DeviceLimit() {
    for (int tries = 0; tries < 400 && ::rmdir(folder_.c_str()) != 0; ++tries) ::usleep(5000);
  }
  // For the calling process and its threads.
  void Enter() const { std::ofstream(folder_ + "/cgroup.procs") << ::getpid() << std::flush; }

 private:
  std::string folder_;
};

}  // namespace

TEST_CASE("a block device with a limit on its bytes a second is named store bandwidth", "[bound]") {
  DataSet data(160, -(256 << 10), 2);
  LoaderOptions options = OptionsOf(data.root(), data.root() + ".manifest", 16);
  Index(options);
  options.io = IoMode::kDirect;
  ::sync();  // a direct read writes back what is dirty in its file first
  DeviceLimit limit(data.root(), 20'000'000);
  const std::string said = InChild([&]() -> std::string {
    limit.Enter();
    {
      auto loader = MustOpen(options, Runtime::Create());  // the default one's threads may be the parent's
      if (loader->setup().io != "direct") return "SKIP " + loader->setup().io_why;
    }
    const EpochReport report = Read(options, Bound::kStoreBandwidth);
    return std::string(BoundName(report.bound)) + ": " + report.verdict;
  });
  std::filesystem::remove(options.manifest_path);
  if (said.rfind("SKIP", 0) == 0) SkipTest("no direct reads in " + data.root() + ": " + said);
  INFO(said);
  CHECK(said.rfind("store bandwidth: ", 0) == 0);
  CHECK(said.find("MB/s") != std::string::npos);
}
