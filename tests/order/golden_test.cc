// The order, frozen. A run that is restored by a later release must read the same samples: if one of these values changes, that is a new
// kOrderVersion, and the old order must stay in the library.
#include <algorithm>
#include <vector>

#include <catch2/catch.hpp>

#include "base/crc32c.h"
#include "penstock/order.h"

using penstock::Order;
using penstock::OrderOptions;

namespace {

struct Golden {
  int64_t sample_count;
  OrderOptions options;
  int64_t epoch;
  std::vector<int64_t> first_ids;  // at the positions 0 to 5
  uint32_t crc;                    // CRC-32C of the ids at 10,000 positions as little-endian 64-bit integers
};

// All positions of a small order; of a large one those at even distances.
uint32_t Checksum(const Order& order, int64_t epoch) {
  const int64_t step = std::max<int64_t>(1, order.size() / 10'000);
  uint32_t crc = 0;
  for (int64_t p = 0; p < order.size(); p += step) {
    const int64_t id = order.IdAt(epoch, p);
    crc = penstock::Crc32c(&id, sizeof id, crc);
  }
  return crc;
}

const std::vector<Golden> kGolden = {
    {1, {}, 0, {0}, 0x8c28b28au},
    {2, {}, 1, {0, 1}, 0x0b4ce7cdu},
    {10, {}, 0, {9, 7, 3, 6, 2, 5}, 0x12a35320u},
    {10, {.seed = 1}, 0, {0, 5, 3, 2, 6, 1}, 0x9356fea9u},
    {10, {}, 1, {4, 6, 3, 1, 9, 8}, 0x2c7875fbu},
    {1000, {.seed = 42}, 3, {944, 29, 6, 888, 905, 298}, 0x0f957e5fu},
    {65535, {.seed = 1}, 2, {8253, 29186, 50243, 31244, 57116, 39765}, 0xb188b511u},
    {65536, {}, 0, {37456, 59145, 51354, 3092, 4941, 27167}, 0x867a4be3u},
    {65537, {}, 0, {50868, 28903, 40000, 34976, 13786, 27713}, 0xce536e2au},
    {70000, {.seed = 18446744073709551615u}, 9, {20464, 65073, 59270, 65795, 29279, 45916}, 0x31b9fdd2u},
    {1281167, {}, 0, {175066, 641977, 439919, 772378, 903953, 43888}, 0x22ed5b8eu},
    {1281167, {}, 1, {300830, 873129, 398562, 871017, 1233727, 1020515}, 0xd99217f1u},
    {1281167, {.seed = 7}, 90, {38686, 1068802, 1074060, 553475, 1109358, 626387}, 0xf872715eu},
    {1281167, {.virtual_streams = 512, .seed = 7}, 0, {289498, 81531, 12115, 229469, 89764, 46527}, 0xed41e0bbu},
    {1000000000, {.seed = 3}, 1, {604373673, 221104695, 552482959, 172859966, 744790431, 505163450}, 0x22be2e8fu},
    {1099511627776, {.seed = 1}, 1, {263289905091, 281173801818, 286715173243, 405774658898, 653069206995, 442851849792}, 0x10f4f517u},
    {1099511627777, {.seed = 1}, 1, {118474043660, 513586231996, 757491717027, 139849107295, 896068942488, 773037907632}, 0x4cefabcbu},
    {103, {.block_samples = 8, .window_samples = 8, .seed = 5}, 0, {30, 28, 29, 24, 31, 27}, 0x21f5dc88u},
    {103, {.block_samples = 8, .window_samples = 16, .virtual_streams = 3, .seed = 5}, 1, {83, 64, 3, 82, 65, 102}, 0x3dd4e2a6u},
    {11, {.block_samples = 3, .window_samples = 6, .virtual_streams = 13, .seed = 6}, 0, {3, 4, 5, 0, 1, 2}, 0x479a93bau},
    {11, {.block_samples = 2, .window_samples = 4, .virtual_streams = 5, .seed = 1}, 0, {5, 2, 3, 8, 9, 4}, 0xffbdc130u},
    {10000, {.block_samples = 16, .window_samples = 1024, .virtual_streams = 8, .seed = 6},
     2, {9902, 1500, 6824, 1944, 7187, 6895}, 0xa3eae2dcu},
    {1281167, {.block_samples = 64, .window_samples = 4096, .virtual_streams = 64, .seed = 7},
     3, {298455, 903891, 388752, 156340, 301032, 1203794}, 0x4894b0bfu},
    {1281167, {.block_samples = 2, .window_samples = 131072, .virtual_streams = 4, .seed = 8},
     0, {260776, 1256752, 391392, 338284, 230330, 11029}, 0x962ce7b1u},
    {1099511640121, {.block_samples = 1024, .window_samples = 1048576, .virtual_streams = 512, .seed = 9},
     4, {253001296932, 278636753643, 63827936386, 209876682159, 950390411349, 60982365114}, 0x8c3ba9fcu},
    {72057594037927936, {.seed = 1},
     9223372036854775806, {72004264723294195, 62560385924108722, 15894313827724105, 54182686780417698, 35282709945361754, 8034858345742927},
     0xead1184bu},
};

}  // namespace

TEST_CASE("the order is the one of version 1", "[order]") {
  REQUIRE(penstock::kOrderVersion == 1);
  for (const Golden& golden : kGolden) {
    const Order order = *Order::Create(golden.sample_count, golden.options);
    std::vector<int64_t> first_ids;
    for (int64_t p = 0; p < std::min<int64_t>(6, order.size()); ++p) first_ids.push_back(order.IdAt(golden.epoch, p));
    INFO("N " << golden.sample_count << ", b " << golden.options.block_samples << ", w " << golden.options.window_samples << ", V "
              << golden.options.virtual_streams << ", seed " << golden.options.seed << ", epoch " << golden.epoch);
    CHECK(first_ids == golden.first_ids);
    CHECK(Checksum(order, golden.epoch) == golden.crc);
  }
}
