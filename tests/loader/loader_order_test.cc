// The order of a loader without the loader.
#include "penstock/loader_order.h"

#include <array>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "loader/data_set.h"
#include "support/status.h"

using namespace penstock;
using namespace penstock::testing;

TEST_CASE("an option of the order that differs from the state is refused with both values", "[loader]") {
  State state;
  state.fingerprint = std::string(32, '0');
  state.seed = 17;
  state.block_samples = 4;
  state.window_samples = 8;
  state.virtual_streams = 3;
  state.tail = Tail::kPad;
  LoaderOptions options;
  options.state = state.ToJson();
  {
    // What was not given is the state's.
    LoaderOptions filled = options;
    REQUIRE_OK(OrderOfLoader(filled, nullptr, 50));
    CHECK(GetOption(filled, "seed") == "17");
    CHECK(GetOption(filled, "block_samples") == "4");
    CHECK(GetOption(filled, "window_samples") == "8");
    CHECK(GetOption(filled, "virtual_streams") == "3");
    CHECK(GetOption(filled, "tail") == "pad");
    CHECK(GetOption(filled, "shuffle") == "true");
  }
  // Also the default, where it is given; an option that is the same as the state's is none that differs.
  const std::vector<std::array<const char*, 3>> cases = {{"seed", "0", "17"},           {"seed", "18", "17"},  {"shuffle", "false", "true"},
                                                         {"block_samples", "1", "4"},   {"tail", "drop", "pad"}, {"window_samples", "4", "8"},
                                                         {"virtual_streams", "1", "3"}, {"shuffle", "disk-blocks", "true"}};
  LoaderOptions same = options;
  for (const auto& [name, given, kept] : cases) {
    INFO(name << " = " << given);
    LoaderOptions other = options;
    REQUIRE_OK(SetOption(other, name, given));
    const absl::Status status = OrderOfLoader(other, nullptr, 50).status();
    INFO(status);
    CHECK(absl::IsInvalidArgument(status));
    CHECK(absl::StrContains(status.message(), absl::StrCat(name, " = ", given, " (the state: ", kept, ")")));
    REQUIRE_OK(SetOption(same, name, kept));
  }
  CHECK(OrderOfLoader(same, nullptr, 50).ok());
  // All of them are named at once.
  LoaderOptions both = options;
  both.seed = 1;
  both.tail = Tail::kDrop;
  const std::string message(OrderOfLoader(both, nullptr, 50).status().message());
  CHECK(absl::StrContains(message, "seed = 1 (the state: 17), tail = drop (the state: pad)"));
}

TEST_CASE("the order of a loader is had without one, and a state's options count", "[loader]") {
  DataSet data(101);
  LoaderOptions options = data.Options(4);
  options.seed = 17;
  options.virtual_streams = 3;
  auto loader = MustOpen(options);
  REQUIRE_OK(loader->Next());
  const std::string state = loader->state();

  const absl::StatusOr<LoaderOrder> from_start = OrderOfLoader(options, loader->manifest().get());
  REQUIRE_OK(from_start);
  CHECK(from_start->epoch == 0);
  CHECK(from_start->position == 0);

  LoaderOptions going_on = data.Options(4);
  going_on.state = state;
  const absl::StatusOr<LoaderOrder> from_state = OrderOfLoader(going_on, loader->manifest().get());
  REQUIRE_OK(from_state);
  CHECK(going_on.seed == 17);
  CHECK(going_on.virtual_streams == 3);
  CHECK(from_state->position == 4);
  const absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  for (int64_t i = 0; i < 4; ++i) {
    CHECK(batch->ids()[static_cast<size_t>(i)] == from_state->order.IdAt(0, 4 + i));
    CHECK(batch->ids()[static_cast<size_t>(i)] == from_start->order.IdAt(0, 4 + i));
  }
}

TEST_CASE("an order without a manifest takes a state's data set on trust, and its size not", "[loader]") {
  DataSet data(50);
  LoaderOptions options = data.Options(5);
  auto loader = MustOpen(options);
  for (int step = 0; step < 9; ++step) REQUIRE_OK(loader->Next());
  options.state = loader->state();
  LoaderOptions other = options;
  CHECK(OrderOfLoader(other, nullptr, 50)->position == 45);
  CHECK(OrderOfLoader(other, nullptr, 45).status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(OrderOfLoader(other, nullptr, 0).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("what has no order is refused", "[loader]") {
  DataSet data(50);
  auto loader = MustOpen(data.Options(5));
  LoaderOptions mixture;
  mixture.mixture = {{"a", 1, ""}, {"b", 1, ""}};
  CHECK(OrderOfLoader(mixture, nullptr, 50).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(OrderOfLoader(mixture, loader->manifest().get()).status().code() == absl::StatusCode::kInvalidArgument);
  mixture.mixture.pop_back();
  CHECK(OrderOfLoader(mixture, loader->manifest().get()).ok());
  LoaderOptions two_orders = mixture;
  two_orders.ids = {1, 2};
  CHECK(OrderOfLoader(two_orders, loader->manifest().get()).status().code() == absl::StatusCode::kInvalidArgument);
  two_orders = mixture;
  two_orders.disk_blocks = true;
  CHECK(OrderOfLoader(two_orders, loader->manifest().get()).status().code() == absl::StatusCode::kInvalidArgument);
  LoaderOptions disk_blocks;
  disk_blocks.disk_blocks = true;
  CHECK(OrderOfLoader(disk_blocks, nullptr, 50).status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(OrderOfLoader(disk_blocks, loader->manifest().get()).status().code() == absl::StatusCode::kFailedPrecondition);
  disk_blocks.shuffle = false;
  CHECK(OrderOfLoader(disk_blocks, loader->manifest().get()).status().code() == absl::StatusCode::kInvalidArgument);
}
