#include "transfer/device_ring.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "support/status.h"
#include "transfer/scripted_device.h"

namespace penstock {
namespace {

std::unique_ptr<DeviceRing> Ring(const std::shared_ptr<ScriptedDevice>& device, int64_t bytes) {
  absl::StatusOr<std::unique_ptr<DeviceRing>> ring = DeviceRing::Create(device, bytes);
  REQUIRE_OK(ring);
  return std::move(*ring);
}

DeviceBuffer Take(DeviceRing& ring, int64_t bytes) {
  absl::StatusOr<DeviceBuffer> buffer = ring.Allocate(bytes);
  REQUIRE_OK(buffer);
  return *buffer;
}

TEST_CASE("a batch larger than the device ring is refused with both sizes", "[transfer]") {
  auto ring = Ring(std::make_shared<ScriptedDevice>(), 1024);
  const absl::Status status = ring->Allocate(1025).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()).find("1025 bytes") != std::string::npos);
  CHECK(std::string(status.message()).find("1024 bytes") != std::string::npos);
  CHECK(std::string(status.message()).find("device_bytes to at least 1280") != std::string::npos);
  CHECK(ring->CheckFits(1024).ok());
  CHECK_FALSE(ring->CheckFits(-1).ok());
}

TEST_CASE("a full device ring hands out nothing until a buffer is freed", "[transfer]") {
  auto ring = Ring(std::make_shared<ScriptedDevice>(), 1024);
  const DeviceBuffer first = Take(*ring, 512);
  const DeviceBuffer second = Take(*ring, 512);
  REQUIRE(first.valid());
  REQUIRE(second.valid());
  CHECK_FALSE(Take(*ring, 1).valid());
  ring->Free(first);
  const DeviceBuffer third = Take(*ring, 512);
  CHECK(third.data == first.data);
  ring->Free(second);
  ring->Free(third);
}

TEST_CASE("device memory freed out of order is used again in ring order", "[transfer]") {
  auto ring = Ring(std::make_shared<ScriptedDevice>(), 1024);
  const DeviceBuffer first = Take(*ring, 512);
  const DeviceBuffer second = Take(*ring, 512);
  ring->Free(second);
  CHECK_FALSE(Take(*ring, 256).valid());
  CHECK(ring->used_bytes() == 1024);
  ring->Free(first);
  CHECK(ring->used_bytes() == 0);
}

TEST_CASE("a batch that does not fit before the end of the ring starts at its beginning", "[transfer]") {
  auto ring = Ring(std::make_shared<ScriptedDevice>(), 1024);
  const DeviceBuffer first = Take(*ring, 512);
  const DeviceBuffer second = Take(*ring, 256);
  ring->Free(first);
  const DeviceBuffer third = Take(*ring, 512);
  CHECK(third.data == first.data);
  CHECK(ring->used_bytes() == 1024);  // with the hole of 256 bytes at the end
  ring->Free(second);
  const DeviceBuffer fourth = Take(*ring, 512);
  CHECK(fourth.data == first.data + 512);
  ring->Free(third);
  ring->Free(fourth);
}

TEST_CASE("an empty batch has a place of its own", "[transfer]") {
  auto ring = Ring(std::make_shared<ScriptedDevice>(), 1024);
  const DeviceBuffer empty = Take(*ring, 0);
  const DeviceBuffer next = Take(*ring, 1);
  CHECK(empty.valid());
  CHECK(empty.bytes == 0);
  CHECK(empty.data != next.data);
  ring->Free(empty);
  ring->Free(next);
}

TEST_CASE("a device without enough memory refuses the ring", "[transfer]") {
  auto device = std::make_shared<ScriptedDevice>(ScriptedDeviceOptions{.memory_bytes_max = 4096});
  CHECK(DeviceRing::Create(device, 8192).status().code() == absl::StatusCode::kResourceExhausted);
  CHECK(DeviceRing::Create(device, 255).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(DeviceRing::Create(device, -1).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("a ring whose buffers are all back gives its memory to the device", "[transfer]") {
  auto device = std::make_shared<ScriptedDevice>();
  auto ring = Ring(device, 4096);
  ring->Free(Take(*ring, 100));
  CHECK(device->allocated_bytes() == 4096);
  ring.reset();
  CHECK(device->allocated_bytes() == 0);
}

TEST_CASE("a ring with a batch still lent leaves its memory allocated", "[transfer]") {
  auto device = std::make_shared<ScriptedDevice>();
  auto ring = Ring(device, 4096);
  REQUIRE(Take(*ring, 100).valid());
  ring.reset();
  CHECK(device->allocated_bytes() == 4096);
  CHECK(device->CallCount("Free") == 0);
}

// The model: an array that says which units of 256 bytes are in use, which are those of every buffer from the oldest live one on. A buffer
// must be had exactly if it fits behind the newest one, or at the beginning when nothing is in use between the newest one and the end.
TEST_CASE("random use of the device ring agrees with a model", "[transfer]") {
  struct Taken {
    uint64_t number;
    int64_t first, last;  // units
  };
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const int64_t units = 1 + random() % 24;
    auto device = std::make_shared<ScriptedDevice>(ScriptedDeviceOptions{.log_calls = false});
    auto ring = Ring(device, units * 256);
    const DeviceBuffer origin = Take(*ring, 0);
    const std::byte* const base = origin.data;
    ring->Free(origin);
    std::vector<Taken> taken;       // all buffers ever handed out
    std::vector<DeviceBuffer> out;  // by age
    int refused = 0;
    for (int step = 0; step < 1000; ++step) {
      if (random() % 5 < 2 && !out.empty()) {
        const size_t victim = random() % out.size();
        ring->Free(out[victim]);
        out.erase(out.begin() + static_cast<std::ptrdiff_t>(victim));
        REQUIRE(ring->buffers_out() == static_cast<int64_t>(out.size()));
        continue;
      }
      const int64_t bytes = random() % 3 == 0 ? random() % static_cast<uint32_t>(units * 256 + 1) : random() % 1024 % (units * 256 + 1);
      const int64_t needed = std::max<int64_t>(1, (bytes + 255) / 256);
      std::vector<bool> used(static_cast<size_t>(units), false);
      for (const Taken& buffer : taken) {
        if (out.empty() || buffer.number < out.front().number) continue;
        for (int64_t unit = buffer.first; unit < buffer.last; ++unit) used[static_cast<size_t>(unit)] = true;
      }
      const auto free_from = [&](int64_t unit) {
        int64_t count = 0;
        while (unit + count < units && !used[static_cast<size_t>(unit + count)]) ++count;
        return count;
      };
      const int64_t newest_end = out.empty() ? 0 : taken.back().last;
      const bool end_is_free = free_from(newest_end) == units - newest_end;
      const bool fits = out.empty() || free_from(newest_end) >= needed || (end_is_free && free_from(0) >= needed);
      const DeviceBuffer buffer = Take(*ring, bytes);
      REQUIRE(buffer.valid() == fits);
      if (!fits) {
        ++refused;
        continue;
      }
      REQUIRE(buffer.bytes == bytes);
      REQUIRE((buffer.data - base) % 256 == 0);
      const int64_t first = (buffer.data - base) / 256;
      REQUIRE(first >= 0);
      REQUIRE(first + needed <= units);
      REQUIRE(free_from(first) >= needed);
      taken.push_back({buffer.number, first, first + needed});
      out.push_back(buffer);
    }
    REQUIRE(taken.size() > 100);
    REQUIRE(refused > 100);
    for (const DeviceBuffer& buffer : out) ring->Free(buffer);
    CHECK(ring->used_bytes() == 0);
  }
}

}  // namespace
}  // namespace penstock
