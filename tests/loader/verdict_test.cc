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
  Judge(report, 1, 64, 0.1, 0);
  CHECK(report.bound == Bound::kConsumer);
}

TEST_CASE("each cause gets its own verdict", "[verdict]") {
  EpochReport report = Waiting();
  report.latency_floor_us = 900;
  Judge(report, 1, 64, 0.1, 9);
  CHECK(report.bound == Bound::kStoreLatency);

  report = Waiting();
  report.latency_floor_us = 50;
  Judge(report, 1, 64, 0.1, 9);
  CHECK(report.bound == Bound::kStoreBandwidth);

  report = Waiting();
  report.open_s = 9;
  Judge(report, 1, 64, 0.1, 9);
  CHECK(report.bound == Bound::kOpen);

  report = Waiting();
  report.codec_s = 9.5;
  Judge(report, 1, 64, 0.5, 1);
  CHECK(report.bound == Bound::kCodec);

  report = Waiting();
  report.copy_s = 8;
  Judge(report, 1, 64, 0.1, 1);
  CHECK(report.bound == Bound::kCopy);

  report = Waiting();
  report.stream_cpu_s = 9;
  Judge(report, 1, 64, 0.9, 1);
  CHECK(report.bound == Bound::kCpu);
}
