// A function on a thread of its own: waited for, not waited for, left behind.
#include "base/aside.h"

#include <chrono>
#include <future>
#include <memory>

#include <catch2/catch.hpp>

#include "base/clock.h"

using namespace penstock;

TEST_CASE("a result that comes is had, by whoever waits and by whoever asks later", "[aside]") {
  Aside<int> seven([] { return 7; });
  const int* const result = seven.Within(60 * kNsPerSecond);
  REQUIRE(result != nullptr);
  CHECK(*result == 7);
  CHECK(seven.done());
  CHECK(seven.Within(0) == result);
}

TEST_CASE("a function that hangs is not waited for, and may end after who asked is gone", "[aside]") {
  auto gate = std::make_shared<std::promise<void>>();
  auto ended = std::make_shared<std::promise<void>>();
  {
    Aside<int> hung([gate, ended] {
      gate->get_future().wait();
      ended->set_value();
      return 1;
    });
    CHECK(hung.Within(kNsPerMs) == nullptr);
    CHECK_FALSE(hung.done());
  }
  gate->set_value();
  CHECK(ended->get_future().wait_for(std::chrono::seconds(60)) == std::future_status::ready);
}
