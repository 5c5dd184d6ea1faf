// The search for a depth, fed by a store that is written down here: so many reads a second at so many in flight.
#include "loader/depth_tuner.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <random>

#include <catch2/catch.hpp>

#include "base/clock.h"

using namespace penstock;

namespace {

// Reads that take `latency_s` each, of which `cap` a second are served at most; and streams and a consumer as a loader has them.
struct ScriptedStore {
  double latency_s = 0.01;
  double cap = 1e9;             // reads a second
  double consumer = 1e9;        // reads a second that are wanted
  double ahead_most = 2000;     // read and not taken
  double noise = 0;             // of the rate in each 100 ms: its standard deviation, as a share
  double drift = 0;             // of the rate over 20 s, likewise
  double cores_per_read = 0;
  bool answers = true;
};

class Machine {
 public:
  Machine(ScriptedStore store, const DepthBounds& bounds, unsigned seed = 1) : store(store), tuner(bounds), random_(seed) {}

  // Lets time pass, in steps of 10 ms, and the tuner look every 100 ms. `each` after each look.
  void Run(double seconds, const std::function<void()>& each = nullptr) {
    const double dt = 0.01;
    const auto steps = static_cast<int64_t>(std::lround(seconds / dt));
    for (int64_t i = 0; i < steps; ++i) {
      now_s_ += dt;
      if (count_ % 10 == 0) factor_ = std::max(0.1, 1 + store.noise * normal_(random_) + store.drift * std::sin(now_s_ * 2 * M_PI / 20));
      // The streams ask for more as far as depth and what is not taken yet allow.
      const double room = std::max(0.0, store.ahead_most - ahead_ - in_flight_);
      const double wanted = std::max(0.0, tuner.depth() - in_flight_);
      const double asked = std::min(room, wanted);
      if (asked > 0) reads_.push_back({now_s_ + store.latency_s / factor_ - dt / 2, asked});
      in_flight_ += asked;
      if (wanted > room) figures_.starved_s += dt;
      // What is due comes, no more than the store serves.
      double served = store.answers ? store.cap * factor_ * dt : 0;
      while (served > 0 && !reads_.empty() && reads_.front().due_s <= now_s_) {
        const double come = std::min(served, reads_.front().count);
        served -= come;
        in_flight_ -= come;
        figures_.requests += come;
        figures_.bytes += come * 4096;
        figures_.cpu_s += come * store.cores_per_read;
        ahead_ += come;
        reads_.front().count -= come;
        if (reads_.front().count <= 1e-9) reads_.pop_front();
      }
      const double taken = std::min(ahead_, store.consumer * dt);
      if (taken < store.consumer * dt) figures_.waited_s += dt * (1 - taken / (store.consumer * dt));
      ahead_ -= taken;
      if (++count_ % 10 != 0) continue;
      figures_.now_ns = static_cast<int64_t>(now_s_ * 1e9);
      if (tuner.Look(figures_)) ++changes;
      if (tuner.depth() != tuner.kept()) elsewhere_s += 0.1;
      if (each) each();
    }
  }

  DepthFigures& figures() { return figures_; }

  ScriptedStore store;
  DepthTuner tuner;
  int64_t changes = 0;
  double elsewhere_s = 0;

 private:
  struct Reads {
    double due_s = 0;
    double count = 0;
  };
  std::mt19937 random_;
  std::normal_distribution<double> normal_{0, 1};
  double now_s_ = 100;
  int64_t count_ = 0;
  double factor_ = 1;
  double in_flight_ = 0;
  double ahead_ = 0;
  std::deque<Reads> reads_;
  DepthFigures figures_;
};

DepthBounds Bounds(int32_t first = 32, int32_t most = 1024) {
  DepthBounds bounds;
  bounds.first = first;
  bounds.most = most;
  return bounds;
}

}  // namespace

TEST_CASE("a store that answers late is given more, as much as may be", "[depth]") {
  Machine machine({.latency_s = 0.02}, Bounds());
  machine.Run(60);
  CHECK(machine.tuner.kept() == 1024);
  CHECK(machine.tuner.why().find("32 -> 1024: 3") != std::string::npos);  // 32 times in truth
  // And it stays there: what a few fewer would bring is looked at rarely.
  const int64_t changes = machine.changes;
  machine.elsewhere_s = 0;
  machine.Run(3600);
  CHECK(machine.tuner.kept() == 1024);
  CHECK(machine.elsewhere_s < 36);
  CHECK(machine.changes - changes < 100);
}

TEST_CASE("a store that serves so many reads a second is given what it takes to have them, and hardly more", "[depth]") {
  for (const double noise : {0.0, 0.1, 0.2}) {
    for (const unsigned seed : {1U, 2U, 3U}) {
      // 100 in flight are enough.
      Machine machine({.latency_s = 0.01, .cap = 10'000, .noise = noise}, Bounds(), seed);
      machine.Run(120);
      CAPTURE(noise, seed, machine.tuner.why());
      CHECK(machine.tuner.kept() >= 64);
      CHECK(machine.tuner.kept() <= 256);
    }
  }
}

TEST_CASE("where depth brings nothing it is tried, given up, and tried again ever more rarely", "[depth]") {
  Machine machine({.latency_s = 0.002, .cap = 1000}, Bounds());
  machine.Run(60);
  CHECK(machine.tuner.kept() == 32);
  CHECK(machine.tuner.most_tried() == 64);
  CHECK(machine.tuner.trials() >= 3);
  CHECK(machine.tuner.why() == "32: 64 brought 1.00 times the reads a second");
  const int64_t trials = machine.tuner.trials();
  machine.elsewhere_s = 0;
  machine.Run(3600);
  CHECK(machine.tuner.kept() == 32);
  CHECK(machine.tuner.trials() - trials <= 20);
  CHECK(machine.elsewhere_s < 0.01 * 3600);
}

TEST_CASE("noise does not raise the depth for long", "[depth]") {
  double deeper = 0;
  double all = 0;
  for (unsigned seed = 1; seed <= 10; ++seed) {
    Machine machine({.latency_s = 0.002, .cap = 2000, .noise = 0.3, .drift = 0.3}, Bounds(), seed);
    machine.Run(3600, [&] {
      deeper += machine.tuner.kept() > 32 ? 1 : 0;
      all += 1;
    });
    CAPTURE(seed, machine.tuner.why());
    CHECK(machine.tuner.kept() <= 128);
  }
  CHECK(deeper < 0.2 * all);
}

TEST_CASE("a store that becomes slower or faster is seen, and the depth goes with it", "[depth]") {
  Machine machine({.latency_s = 0.02, .cap = 1500, .noise = 0.05}, Bounds());
  machine.Run(300);
  CHECK(machine.tuner.kept() <= 64);  // 30 are enough
  machine.store.latency_s = 0.16;     // 240 are
  machine.Run(120);
  CHECK(machine.tuner.kept() >= 128);
  CHECK(machine.tuner.kept() <= 512);
  machine.store.latency_s = 0.02;
  machine.Run(3600);
  CHECK(machine.tuner.kept() <= 64);
}

TEST_CASE("a consumer that is slower than the store is no reason for more", "[depth]") {
  Machine machine({.latency_s = 0.01, .consumer = 1000}, Bounds());  // 32 in flight bring 3,200
  machine.Run(600);
  CHECK(machine.tuner.kept() == 32);
  CHECK(machine.tuner.trials() <= 1);  // before the first batches are full
}

TEST_CASE("a consumer that wants a little more than the first depth brings is served", "[depth]") {
  for (const double wanted : {1.3, 1.6, 3.0}) {
    Machine machine({.latency_s = 0.01, .consumer = wanted * 3200, .noise = 0.05}, Bounds());
    machine.Run(120);
    CAPTURE(wanted, machine.tuner.why());
    CHECK(machine.tuner.kept() >= 64);
    CHECK(machine.tuner.kept() <= 256);
  }
}

TEST_CASE("a store that stops to answer, or makes reads wait for each other, is given less at once", "[depth]") {
  Machine machine({.latency_s = 0.02}, Bounds());
  machine.Run(60);
  REQUIRE(machine.tuner.kept() == 1024);
  machine.store.answers = false;
  machine.Run(30);
  CHECK(machine.tuner.kept() == 32);
  CHECK(machine.tuner.depth() == 32);
  CHECK(machine.tuner.why().find("nothing came") != std::string::npos);
  machine.store.answers = true;
  machine.Run(900);
  CHECK(machine.tuner.kept() == 1024);
  machine.store.cap = 50;  // 1,024 in flight would wait for 20 s
  machine.Run(120);
  CHECK(machine.tuner.kept() <= 64);
}

TEST_CASE("what more reads would take of the CPU beyond its share is left", "[depth]") {
  DepthBounds bounds = Bounds();
  bounds.cores_max = 0.5;
  Machine machine({.latency_s = 0.01, .cores_per_read = 50e-6}, bounds);
  machine.Run(120);
  // 0.16 cores of the first 32; 128 take 0.64, 256 would take 1.28.
  CHECK(machine.tuner.kept() == 128);
  CHECK(machine.tuner.why().find("cpu_share") != std::string::npos);
}

TEST_CASE("a budget that has no more is the end of the search", "[depth]") {
  Machine machine({.latency_s = 0.02}, Bounds());
  machine.Run(120, [&] { machine.tuner.Bound(100); });
  CHECK(machine.tuner.kept() == 100);
  CHECK(machine.tuner.why().find("budget") != std::string::npos);
}

TEST_CASE("figures that say nothing of the store are not used, and hold nothing up", "[depth]") {
  Machine machine({.latency_s = 0.02}, Bounds());
  // Epochs of 1.5 s, with half a second between them in which nothing is read.
  for (int epoch = 0; epoch < 60; ++epoch) {
    machine.figures().steady = true;
    machine.Run(1.5);
    machine.figures().steady = false;
    machine.Run(0.5);
  }
  CHECK(machine.tuner.kept() == 1024);
  Machine never({.latency_s = 0.02}, Bounds());
  never.figures().steady = false;
  never.Run(60);
  CHECK(never.tuner.trials() == 0);
}

TEST_CASE("there are never fewer than at first", "[depth]") {
  Machine machine({.latency_s = 0.02}, Bounds(48, 80));
  machine.Run(60);
  REQUIRE(machine.tuner.kept() == 80);
  machine.store.cap = 500;  // 10 are enough
  int32_t least = 80;
  machine.Run(600, [&] { least = std::min(least, machine.tuner.depth()); });
  CHECK(machine.tuner.kept() == 48);
  CHECK(least == 48);
}

TEST_CASE("where there is no room there is no trial", "[depth]") {
  Machine machine({.latency_s = 0.02}, Bounds(32, 32));
  machine.Run(60);
  CHECK(machine.tuner.trials() == 0);
  CHECK(machine.tuner.depth() == 32);
}
