#include "loader/verdict.h"

#include <catch2/catch.hpp>

using namespace penstock;

namespace {

EpochReport Waiting() {
  EpochReport report;
  report.batches = 100;
  report.wall_s = 10;
  report.wait_s = 9;
  report.stream_cpu_s = 1;
  report.open_s = 0.1;
  report.transfer_s = 8;
  report.read_latency_us = 1000;
  return report;
}

}  // namespace

TEST_CASE("a consumer that never waits is the bound itself", "[verdict]") {
  EpochReport report = Waiting();
  report.wait_s = 0.05;
  report.idle_s = 9;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.1, .blocked_s = 0});
  CHECK(report.bound == Bound::kConsumer);
}

TEST_CASE("one busy codec thread that holds up many streams is named codec, though these sleep for longer in all", "[verdict]") {
  EpochReport report = Waiting();
  report.codec_s = 9.5;
  Judge(report, {.streams = 8, .queue_depth = 64, .codec_threads = 1, .process_cpu_share = 0.2, .blocked_s = 24});
  CHECK(report.bound == Bound::kCodec);
}

TEST_CASE("threads of the pread pool that want the CPU all the time of their reads are bound by it", "[verdict]") {
  EpochReport report = Waiting();
  Judge(report, {.queue_depth = 64, .io_workers = 16, .process_cpu_share = 0.5, .blocked_s = 9, .worker_cpu_share = 0.9});
  CHECK(report.bound == Bound::kCpu);
  Judge(report, {.queue_depth = 64, .io_workers = 16, .process_cpu_share = 0.5, .blocked_s = 9, .worker_cpu_share = 0.1});
  CHECK(report.bound != Bound::kCpu);
}

TEST_CASE("where more reads in flight were tried their figure is named, and not the option as a cure", "[verdict]") {
  EpochReport report = Waiting();
  report.latency_floor_us = 900;
  JudgeFigures figures{.queue_depth = 64, .io_workers = 32, .process_cpu_share = 0.1, .blocked_s = 9};
  figures.tuned = "64: 128 brought 1.00 times the reads a second";
  Judge(report, figures);
  CHECK(report.bound == Bound::kStoreLatency);
  CHECK(report.verdict.find("More reads in flight were tried (64: 128 brought 1.00 times") != std::string::npos);
  CHECK(report.verdict.find("Raise") == std::string::npos);
  report.open_s = 9;
  Judge(report, figures);
  CHECK(report.bound == Bound::kOpen);
  CHECK(report.verdict.find("far away: more reads in flight were tried (") != std::string::npos);
}

TEST_CASE("the copy's verdict names its seconds and its cure", "[verdict]") {
  EpochReport report = Waiting();
  report.copy_s = 8;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.1, .blocked_s = 1});
  CHECK(report.bound == Bound::kCopy);
  CHECK(report.verdict.find("8.0 s") != std::string::npos);
  CHECK(report.verdict.find("pinned") != std::string::npos);
}

TEST_CASE("each cause gets its own verdict", "[verdict]") {
  EpochReport report = Waiting();
  report.latency_floor_us = 900;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.1, .blocked_s = 9});
  CHECK(report.bound == Bound::kStoreLatency);

  report = Waiting();
  report.latency_floor_us = 50;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.1, .blocked_s = 9});
  CHECK(report.bound == Bound::kStoreBandwidth);

  report = Waiting();
  report.open_s = 9;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.1, .blocked_s = 9});
  CHECK(report.bound == Bound::kOpen);

  report = Waiting();
  report.codec_s = 9.5;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.5, .blocked_s = 1});
  CHECK(report.bound == Bound::kCodec);

  report = Waiting();
  report.copy_s = 8;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.1, .blocked_s = 1});
  CHECK(report.bound == Bound::kCopy);

  report = Waiting();
  report.stream_cpu_s = 9;
  Judge(report, {.queue_depth = 64, .process_cpu_share = 0.9, .blocked_s = 1});
  CHECK(report.bound == Bound::kCpu);
}

TEST_CASE("reads from the page cache are no latency of a store, whatever their times look like", "[verdict]") {
  EpochReport report = Waiting();
  report.latency_floor_us = 900;
  JudgeFigures figures{.queue_depth = 64, .process_cpu_share = 0.1, .blocked_s = 9};
  figures.memory_share = 0.98;
  Judge(report, figures);
  CHECK(report.bound == Bound::kCpu);
  CHECK(report.verdict.find("98 % of the reads found their bytes in the page cache") != std::string::npos);
  CHECK(report.verdict.find("bring the store nearer") == std::string::npos);
  report.latency_floor_us = 10;
  Judge(report, figures);
  CHECK(report.verdict.find("Use a faster store") == std::string::npos);
  figures.memory_share = 0.2;
  report.latency_floor_us = 900;
  Judge(report, figures);
  CHECK(report.bound == Bound::kStoreLatency);
}
