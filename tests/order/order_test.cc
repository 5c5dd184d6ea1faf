#include "penstock/order.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "order/permutation.h"
#include "support/status.h"

using penstock::Order;
using penstock::OrderOptions;
using penstock::Permutation;

namespace {

// The order written down as it is defined, with the whole sequence in memory: blocks are permuted and concatenated, the sequence is cut
// into V chunks, each is shuffled inside windows of w, and position p takes sample p div V of chunk p mod V.
std::vector<int64_t> Reference(int64_t n, const OrderOptions& options, int64_t epoch) {
  const int64_t b = options.block_samples, w = options.window_samples, v = options.virtual_streams;
  const Permutation blocks(penstock::BlockKey(options.seed, epoch), (n + b - 1) / b);
  std::vector<int64_t> sequence;
  for (int64_t place = 0; place < blocks.size(); ++place) {
    const int64_t block = blocks.Apply(place);
    for (int64_t id = block * b; id < std::min(n, (block + 1) * b); ++id) sequence.push_back(id);
  }
  std::vector<std::vector<int64_t>> chunks;
  auto next = sequence.begin();
  for (int64_t chunk = 0; chunk < v; ++chunk) {
    const int64_t length = n / v + (chunk < n % v ? 1 : 0);
    chunks.emplace_back(next, next + length);
    next += length;
    if (b == 1) continue;
    const std::vector<int64_t> before = chunks.back();
    for (int64_t start = 0; start < length; start += w) {
      const Permutation window(penstock::WindowKey(options.seed, epoch, chunk, start / w), std::min(w, length - start));
      for (int64_t i = 0; i < window.size(); ++i) {
        chunks.back()[static_cast<size_t>(start + i)] = before[static_cast<size_t>(start + window.Apply(i))];
      }
    }
  }
  std::vector<int64_t> ids;
  for (int64_t p = 0; p < n; ++p) ids.push_back(chunks[static_cast<size_t>(p % v)][static_cast<size_t>(p / v)]);
  return ids;
}

std::vector<int64_t> Positions(int64_t n) {
  std::vector<int64_t> positions(static_cast<size_t>(n));
  std::iota(positions.begin(), positions.end(), 0);
  return positions;
}

std::vector<int64_t> AllIds(const Order& order, int64_t epoch) {
  std::vector<int64_t> ids(static_cast<size_t>(order.size()));
  order.IdsAt(epoch, Positions(order.size()), absl::MakeSpan(ids));
  return ids;
}

bool IsPermutation(std::vector<int64_t> ids) {
  std::sort(ids.begin(), ids.end());
  return ids == Positions(static_cast<int64_t>(ids.size()));
}

// Everything that must hold for an epoch of an order. Returns what does not.
std::string Broken(int64_t n, const OrderOptions& options, int64_t epoch) {
  const Order order = *Order::Create(n, options);
  const std::vector<int64_t> ids = AllIds(order, epoch);
  if (!IsPermutation(ids)) return "an id is missing";
  if (ids != Reference(n, options, epoch)) return "not the order of the definition";
  for (int64_t p = 0; p < n; ++p) {
    if (order.IdAt(epoch, p) != ids[static_cast<size_t>(p)]) return "IdAt differs from IdsAt";
    if (order.PositionOf(epoch, ids[static_cast<size_t>(p)]) != p) return "PositionOf is not the inverse";
  }
  return "";
}

}  // namespace

TEST_CASE("every small order is the one of the definition and has an inverse", "[order]") {
  for (int64_t n = 1; n <= 26; ++n) {
    for (int64_t b = 1; b <= 6; ++b) {
      for (int64_t factor = 1; factor <= 4; ++factor) {
        for (int64_t v = 1; v <= n + 3; ++v) {
          const OrderOptions options{
              .block_samples = b, .window_samples = b * factor, .virtual_streams = v, .seed = static_cast<uint64_t>(n * 7 + v)};
          const std::string broken = Broken(n, options, n % 3);
          if (broken.empty()) continue;
          FAIL("N " << n << ", b " << b << ", w " << b * factor << ", V " << v << ": " << broken);
        }
      }
    }
  }
}

TEST_CASE("orders with windows of all sizes are the ones of the definition and have an inverse", "[order]") {
  // Windows shuffled in place (64 and less), with tables, and with the cipher; blocks likewise.
  const std::vector<OrderOptions> cases = {{.block_samples = 8, .window_samples = 64, .virtual_streams = 3, .seed = 1},
                                           {.block_samples = 13, .window_samples = 65, .virtual_streams = 16, .seed = 2},
                                           {.block_samples = 1, .window_samples = 4096, .virtual_streams = 5, .seed = 3},
                                           {.block_samples = 2, .window_samples = 4096, .virtual_streams = 7, .seed = 4},
                                           {.block_samples = 5, .window_samples = 65535, .virtual_streams = 2, .seed = 5},
                                           {.block_samples = 64, .window_samples = 65536, .virtual_streams = 2, .seed = 6},
                                           {.block_samples = 1000, .window_samples = 1'000'000, .virtual_streams = 1, .seed = 7},
                                           {.block_samples = 300'000, .window_samples = 300'000, .virtual_streams = 1, .seed = 8},
                                           {.block_samples = 1, .window_samples = 1, .virtual_streams = 150'000, .seed = 9}};
  for (const OrderOptions& options : cases) {
    INFO("b " << options.block_samples << ", w " << options.window_samples << ", V " << options.virtual_streams);
    CHECK(Broken(143'261, options, 1) == "");
  }
}

TEST_CASE("an order of 2^40 samples is injective and has an inverse wherever it is looked at", "[order]") {
  const int64_t n = (int64_t{1} << 40) + 12'345;
  for (const OrderOptions& options :
       {OrderOptions{.seed = 1}, OrderOptions{.block_samples = 7, .window_samples = 7 << 17, .virtual_streams = 512, .seed = 2},
        OrderOptions{.block_samples = 1 << 20, .window_samples = 1 << 26, .virtual_streams = 1000, .seed = 3},
        OrderOptions{.virtual_streams = (int64_t{1} << 41), .seed = 4}}) {
    const Order order = *Order::Create(n, options);
    std::set<int64_t> ids;
    int64_t looked_at = 0;
    for (int64_t p = 0; p < n; p += n / 20'011 + p % 977) {
      const int64_t id = order.IdAt(3, p);
      REQUIRE(id >= 0);
      REQUIRE(id < n);
      REQUIRE(order.PositionOf(3, id) == p);
      ids.insert(id);
      ++looked_at;
    }
    for (int64_t p = n - 1000; p < n; ++p) REQUIRE(order.PositionOf(3, order.IdAt(3, p)) == p);
    for (int64_t id : {int64_t{0}, n / 2, n - 1}) REQUIRE(order.IdAt(3, order.PositionOf(3, id)) == id);
    CHECK(static_cast<int64_t>(ids.size()) == looked_at);
    CHECK(looked_at > 10'000);
  }
}

TEST_CASE("the largest parameters do not overflow", "[order]") {
  const int64_t most = penstock::kOrderMax;
  for (const OrderOptions& options :
       {OrderOptions{}, OrderOptions{.block_samples = most, .window_samples = most}, OrderOptions{.virtual_streams = most},
        OrderOptions{.block_samples = most / 2 - 1, .window_samples = most / 2 - 1, .virtual_streams = 3}}) {
    for (const int64_t n : {most, most - 1}) {
      const Order order = *Order::Create(n, options);
      for (const int64_t p : {int64_t{0}, int64_t{1}, n / 3, n / 2, n - 2, n - 1}) {
        REQUIRE(order.PositionOf(0, order.IdAt(0, p)) == p);
        REQUIRE(order.IdAt(0, order.PositionOf(0, p)) == p);
      }
    }
  }
}

TEST_CASE("neighbours stay together as the block size says", "[order]") {
  const Order order = *Order::Create(1003, {.block_samples = 10, .window_samples = 10});
  // Windows are as long as blocks, but the short block moves the borders behind it; so a window has ids of at most two blocks.
  const std::vector<int64_t> ids = AllIds(order, 0);
  for (size_t start = 0; start < ids.size(); start += 10) {
    std::set<int64_t> blocks;
    for (size_t i = start; i < std::min(ids.size(), start + 10); ++i) blocks.insert(ids[i] / 10);
    REQUIRE(blocks.size() <= 3);  // the short block itself may lie between two others
  }
}

TEST_CASE("epochs and seeds give different orders and the same ones give the same", "[order]") {
  const std::vector<int64_t> ids = AllIds(*Order::Create(1000, {.seed = 1}), 0);
  CHECK(AllIds(*Order::Create(1000, {.seed = 1}), 0) == ids);
  CHECK(AllIds(*Order::Create(1000, {.seed = 1}), 1) != ids);
  CHECK(AllIds(*Order::Create(1000, {.seed = 2}), 0) != ids);
  CHECK(AllIds(*Order::Create(1000, {.seed = 0}), 1) != ids);
}

TEST_CASE("without shuffle the id is the position", "[order]") {
  const Order order = *Order::Create(1000, {.block_samples = 3, .window_samples = 6, .virtual_streams = 4, .shuffle = false});
  CHECK(AllIds(order, 0) == Positions(1000));
  CHECK(AllIds(order, 5) == Positions(1000));
  CHECK(order.IdAt(5, 17) == 17);
  CHECK(order.PositionOf(5, 17) == 17);
}

TEST_CASE("bad parameters of an order are refused with the cure", "[order]") {
  const auto refused = [](int64_t n, const OrderOptions& options, const char* cure) {
    const absl::Status status = Order::Create(n, options).status();
    INFO(status.ToString());
    return status.code() == absl::StatusCode::kInvalidArgument && status.message().find(cure) != absl::string_view::npos;
  };
  CHECK(refused(0, {}, "empty"));
  CHECK(refused(-1, {}, "empty"));
  CHECK(refused(penstock::kOrderMax + 1, {}, "2^56"));
  CHECK(refused(10, {.block_samples = 0}, "block_samples is 0"));
  CHECK(refused(10, {.window_samples = -4}, "window_samples is -4"));
  CHECK(refused(10, {.virtual_streams = 0}, "virtual_streams is 0"));
  CHECK(refused(10, {.block_samples = 8, .window_samples = 20}, "set it to 24"));
  CHECK(refused(10, {.block_samples = 8}, "set it to 8"));
}

TEST_CASE("a list of ids is its own order in every epoch", "[order]") {
  const std::vector<int64_t> ids = {5, 2, 2, 9, 0};
  const auto order = Order::FromIds(ids, 10);
  REQUIRE_OK(order);
  CHECK(order->size() == 5);
  CHECK(AllIds(*order, 0) == ids);
  CHECK(AllIds(*order, 7) == ids);
  CHECK(order->IdAt(7, 3) == 9);
  CHECK(order->PositionOf(0, 9) == -1);
}

TEST_CASE("the hash of the ids tells lists apart and does not change", "[order]") {
  const auto hash = [](std::vector<int64_t> ids) { return Order::FromIds(std::move(ids), 10)->ids_hash(); };
  CHECK(hash({1, 2, 3}) == hash({1, 2, 3}));
  CHECK(hash({1, 2, 3}) != hash({1, 3, 2}));
  CHECK(hash({1, 2, 3}) != hash({1, 2, 3, 3}));
  CHECK(Order::Create(10, {})->ids_hash() == 0);
  CHECK(Order::Create(10, {})->ids_hash_text().empty());
  CHECK(Order::FromIds({5, 2, 2, 9, 0}, 10)->ids_hash_text() == "87e9539d1ec7c083");
}

TEST_CASE("a list of ids that is empty or leaves the data set is refused with the place", "[order]") {
  CHECK(Order::FromIds({}, 10).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Order::FromIds({0, -1}, 10).status().message().find("ids[1] is -1") != absl::string_view::npos);
  CHECK(Order::FromIds({10}, 10).status().message().find("from 0 to 9") != absl::string_view::npos);
}

TEST_CASE("many threads get the same ids from shared and separate orders in any epoch", "[order]") {
  const std::vector<OrderOptions> cases = {{.seed = 1}, {.block_samples = 4, .window_samples = 400, .virtual_streams = 9, .seed = 2}};
  for (const OrderOptions& options : cases) {
    constexpr int64_t kSamples = 5000;
    constexpr int64_t kEpochs = 9;  // more than are kept
    std::vector<std::vector<int64_t>> expected;
    for (int64_t epoch = 0; epoch < kEpochs; ++epoch) expected.push_back(Reference(kSamples, options, epoch));
    const Order shared = *Order::Create(kSamples, options);
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        const Order copy = shared;
        for (int64_t turn = 0; turn < 3 * kEpochs; ++turn) {
          const int64_t epoch = (turn * (thread + 1)) % kEpochs;
          const Order own = *Order::Create(kSamples, options);
          const std::vector<int64_t>& ids = expected[static_cast<size_t>(epoch)];
          wrong[static_cast<size_t>(thread)] += AllIds(copy, epoch) != ids;
          for (int64_t p = thread; p < kSamples; p += 61) {
            wrong[static_cast<size_t>(thread)] += own.IdAt(epoch, p) != ids[static_cast<size_t>(p)];
            wrong[static_cast<size_t>(thread)] += copy.PositionOf(epoch, ids[static_cast<size_t>(p)]) != p;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(4, 0));
  }
}
