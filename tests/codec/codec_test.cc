#include "codec/codec.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "base/crc32c.h"
#include "support/status.h"

extern "C" penstock_codec_function penstock_test_function(void);  // signature.c

namespace penstock {
namespace {

using Bytes = std::vector<std::byte>;

Bytes ToBytes(const std::string& text) {
  const auto* const data = reinterpret_cast<const std::byte*>(text.data());
  return Bytes(data, data + text.size());
}

std::string ToText(const Bytes& bytes, size_t length) { return std::string(reinterpret_cast<const char*>(bytes.data()), length); }

std::shared_ptr<const Codec> Make(const CodecOptions& options) {
  absl::StatusOr<std::shared_ptr<const Codec>> codec = MakeCodec(options);
  REQUIRE_OK(codec);
  return *codec;
}

bool Contains(const absl::Status& status, const std::string& text) { return std::string(status.message()).find(text) != std::string::npos; }

const std::string kCheckText = "123456789";          // RFC 3720's check value
constexpr uint32_t kCheckCrc = 0xE3069283;

// Writes every stored byte twice.
int Twice(void*, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t delivered_capacity, size_t* delivered_bytes,
          char*, size_t) {
  *delivered_bytes = 2 * stored_bytes;
  if (*delivered_bytes > delivered_capacity) return -ENOSPC;
  for (size_t i = 0; i < stored_bytes; ++i) {
    const char byte = static_cast<const char*>(stored)[i];
    static_cast<char*>(delivered)[2 * i] = byte;
    static_cast<char*>(delivered)[2 * i + 1] = byte;
  }
  return 0;
}

TEST_CASE("without options the codec is the identity", "[codec]") {
  const auto codec = Make({});
  CHECK(codec->identity());
  CHECK(codec->in_place());
  CHECK(codec->DeliveredBound(17, 17) == 17);
  Bytes place = ToBytes("abc");
  CHECK(*codec->Decode({.id = 1}, place, absl::MakeSpan(place)) == 3);
  Bytes other(3);
  CHECK(*codec->Decode({.id = 1}, place, absl::MakeSpan(other)) == 3);
  CHECK(other == place);
  Bytes small(2);
  CHECK(codec->Decode({.id = 1}, place, absl::MakeSpan(small)).status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(*codec->Decode({.id = 1}, {}, {}) == 0);
}

TEST_CASE("bytes with the right checksum pass where they lie", "[codec]") {
  const auto codec = Make({.verify_crc = true});
  CHECK_FALSE(codec->identity());
  CHECK(codec->in_place());
  Bytes place = ToBytes(kCheckText);
  const RangeCrc range{place.size(), true, kCheckCrc};
  CHECK(*codec->Decode({.id = 1, .name = "a", .ranges = absl::MakeConstSpan(&range, 1)}, place, absl::MakeSpan(place)) == 9);
  CHECK(ToText(place, 9) == kCheckText);
}

TEST_CASE("a changed byte is DataLoss naming the sample and both checksums", "[codec]") {
  const auto codec = Make({.verify_crc = true});
  const RangeCrc range{9, true, kCheckCrc};
  for (size_t changed = 0; changed < 9; ++changed) {
    Bytes place = ToBytes(kCheckText);
    place[changed] ^= std::byte{1};
    const absl::Status status =
        codec->Decode({.id = 42, .name = "cats/7.pgm", .ranges = absl::MakeConstSpan(&range, 1)}, place, absl::MakeSpan(place)).status();
    CHECK(status.code() == absl::StatusCode::kDataLoss);
    CHECK(Contains(status, "sample 42 (cats/7.pgm)"));
    CHECK(Contains(status, "e3069283"));
    char found[16];
    std::snprintf(found, sizeof(found), "%08x", Crc32c(place.data(), place.size()));
    CHECK(Contains(status, found));
  }
}

TEST_CASE("each range of a sample has its own checksum", "[codec]") {
  const auto codec = Make({.verify_crc = true});
  Bytes place = ToBytes(kCheckText + "x" + kCheckText);
  std::vector<RangeCrc> ranges = {{9, true, kCheckCrc}, {1, true, Crc32c("x", 1)}, {9, true, kCheckCrc}};
  CHECK(*codec->Decode({.id = 1, .name = "a", .ranges = ranges}, place, absl::MakeSpan(place)) == 19);
  place[12] ^= std::byte{4};
  const absl::Status status = codec->Decode({.id = 1, .name = "a", .ranges = ranges}, place, absl::MakeSpan(place)).status();
  CHECK(status.code() == absl::StatusCode::kDataLoss);
  CHECK(Contains(status, "range 2 of 3"));
}

TEST_CASE("checksums that cover more or less than the sample are DataLoss", "[codec]") {
  const Bytes stored = ToBytes(kCheckText);
  const RangeCrc longer{10, true, kCheckCrc};
  CHECK(VerifyCrc({.id = 1, .ranges = absl::MakeConstSpan(&longer, 1)}, stored).code() == absl::StatusCode::kDataLoss);
  const RangeCrc shorter{8, true, Crc32c(stored.data(), 8)};
  CHECK(VerifyCrc({.id = 1, .ranges = absl::MakeConstSpan(&shorter, 1)}, stored).code() == absl::StatusCode::kDataLoss);
  const RangeCrc huge{std::numeric_limits<uint64_t>::max(), true, kCheckCrc};
  CHECK(VerifyCrc({.id = 1, .ranges = absl::MakeConstSpan(&huge, 1)}, stored).code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("a manifest without checksums cannot be verified", "[codec]") {
  const Bytes stored = ToBytes(kCheckText);
  const RangeCrc unknown{9, false, 0};
  CHECK(VerifyCrc({.id = 1, .ranges = absl::MakeConstSpan(&unknown, 1)}, stored).code() == absl::StatusCode::kFailedPrecondition);
  CHECK(VerifyCrc({.id = 1}, stored).code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("a user's function delivers what it writes", "[codec]") {
  const auto codec = Make({.function = Twice, .expansion_max = 2});
  CHECK_FALSE(codec->identity());
  CHECK_FALSE(codec->in_place());
  const Bytes stored = ToBytes("abc");
  Bytes delivered(codec->DeliveredBound(3, 3));
  REQUIRE(*codec->Decode({.id = 1}, stored, absl::MakeSpan(delivered)) == 6);
  CHECK(ToText(delivered, 6) == "aabbcc");
}

TEST_CASE("a function written in C is a codec", "[codec]") {
  int calls = 0;
  const auto codec = Make({.function = penstock_test_function(), .user = &calls});
  const Bytes stored = ToBytes("abc");
  Bytes delivered(codec->DeliveredBound(3, 3));
  REQUIRE(*codec->Decode({.id = 1}, stored, absl::MakeSpan(delivered)) == 3);
  CHECK(ToText(delivered, 3) == "cba");
  CHECK(calls == 1);
  CHECK(Contains(codec->Decode({.id = -1}, stored, absl::MakeSpan(delivered)).status(), "returned -1 for 3 stored bytes: id"));
}

TEST_CASE("the bound of a user's function is the smaller of what is set or the manifest's", "[codec]") {
  CHECK(Make({.function = Twice})->DeliveredBound(100, 70) == 70);
  CHECK(Make({.function = Twice, .delivered_bytes_max_per_sample = 90})->DeliveredBound(100, 70) == 90);
  CHECK(Make({.function = Twice, .expansion_max = 1.5})->DeliveredBound(101, 70) == 152);
  CHECK(Make({.function = Twice, .expansion_max = 0.25})->DeliveredBound(101, 70) == 26);
  CHECK(Make({.function = Twice, .delivered_bytes_max_per_sample = 90, .expansion_max = 2})->DeliveredBound(100, 70) == 90);
  CHECK(Make({.function = Twice, .delivered_bytes_max_per_sample = 90, .expansion_max = 2})->DeliveredBound(10, 70) == 20);
  CHECK(Make({.function = Twice, .expansion_max = 1e300})->DeliveredBound(1 << 30, 70) == uint64_t{1} << 62);
}

TEST_CASE("a user's function that needs more room fails with the numbers and the cure", "[codec]") {
  const auto codec = Make({.function = Twice, .delivered_bytes_max_per_sample = 4});
  const Bytes stored = ToBytes("abc");
  Bytes delivered(4);
  const absl::Status status = codec->Decode({.id = 9, .name = "n"}, stored, absl::MakeSpan(delivered)).status();
  CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Contains(status, "sample 9 (n)"));
  CHECK(Contains(status, "needs 6 bytes where it was given 4"));
  CHECK(Contains(status, "delivered_bytes_max_per_sample"));
}

TEST_CASE("a user's function that says it wrote more than fits is an error", "[codec]") {
  const auto codec = Make({.function = [](void*, int64_t, const void*, size_t, void*, size_t capacity, size_t* delivered_bytes, char*,
                                      size_t) {
    *delivered_bytes = capacity + 1;
    return 0;
  }});
  Bytes delivered(4);
  const absl::Status status = codec->Decode({.id = 9}, ToBytes("abc"), absl::MakeSpan(delivered)).status();
  CHECK(status.code() == absl::StatusCode::kInternal);
  CHECK(Contains(status, "says that it wrote 5 bytes where it was given 4"));
}

TEST_CASE("what a user's function returns and says is in the error", "[codec]") {
  for (int result : {-22, -1, 1, 77}) {
    CodecOptions options{.function = [](void* user, int64_t id, const void*, size_t, void*, size_t, size_t*, char* message,
                                       size_t capacity) {
                           std::snprintf(message, capacity, "no header in %d", static_cast<int>(id));
                           return *static_cast<int*>(user);
                         }};
    options.user = &result;
    Bytes delivered(4);
    const absl::Status status = Make(options)->Decode({.id = 9, .name = "dir/n"}, ToBytes("abc"), absl::MakeSpan(delivered)).status();
    CHECK(status.code() == absl::StatusCode::kDataLoss);
    CHECK(Contains(status, "sample 9 (dir/n)"));
    CHECK(Contains(status, "returned " + std::to_string(result) + " for 3 stored bytes: no header in 9"));
  }
}

TEST_CASE("a message that fills its room without a zero is cut not overrun", "[codec]") {
  const auto codec = Make({.function = [](void*, int64_t, const void*, size_t, void*, size_t, size_t*, char* message, size_t capacity) {
    std::memset(message, 'm', capacity);
    return -1;
  }});
  Bytes delivered(4);
  const absl::Status status = codec->Decode({.id = 9}, ToBytes("abc"), absl::MakeSpan(delivered)).status();
  CHECK(Contains(status, std::string(400, 'm')));
  CHECK(status.message().size() < 700);
}

TEST_CASE("an exception of a user's function is an error of that sample", "[codec]") {
  const auto standard = Make({.function = [](void*, int64_t, const void*, size_t, void*, size_t, size_t*, char*, size_t) -> int {
    throw std::runtime_error("bad header");
  }});
  Bytes delivered(4);
  absl::Status status = standard->Decode({.id = 9}, ToBytes("abc"), absl::MakeSpan(delivered)).status();
  CHECK(status.code() == absl::StatusCode::kDataLoss);
  CHECK(Contains(status, "sample 9"));
  CHECK(Contains(status, "bad header"));
  const auto odd = Make({.function = [](void*, int64_t, const void*, size_t, void*, size_t, size_t*, char*, size_t) -> int { throw 5; }});
  status = odd->Decode({.id = 9}, ToBytes("abc"), absl::MakeSpan(delivered)).status();
  CHECK(status.code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("checksums are compared before the user's function sees the bytes", "[codec]") {
  int calls = 0;
  CodecOptions options{.function = [](void* user, int64_t, const void*, size_t stored_bytes, void*, size_t, size_t* delivered_bytes,
                                     char*, size_t) {
    ++*static_cast<int*>(user);
    *delivered_bytes = stored_bytes;
    return 0;
  }};
  options.user = &calls;
  options.verify_crc = true;
  const auto codec = Make(options);
  Bytes stored = ToBytes(kCheckText);
  Bytes delivered(9);
  const RangeCrc range{9, true, kCheckCrc};
  const SampleContext sample{.id = 1, .name = "a", .ranges = absl::MakeConstSpan(&range, 1)};
  REQUIRE_OK(codec->Decode(sample, stored, absl::MakeSpan(delivered)));
  CHECK(calls == 1);
  stored[0] ^= std::byte{1};
  CHECK(codec->Decode(sample, stored, absl::MakeSpan(delivered)).status().code() == absl::StatusCode::kDataLoss);
  CHECK(calls == 1);
}

TEST_CASE("codec options that make no sense are refused", "[codec]") {
  const auto code = [](const CodecOptions& options) { return MakeCodec(options).status().code(); };
  CHECK(code({.function = Twice, .delivered_bytes_max_per_sample = -1}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({.function = Twice, .expansion_max = -1}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({.function = Twice, .expansion_max = std::nan("")}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({.function = Twice, .expansion_max = std::numeric_limits<double>::infinity()}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({.delivered_bytes_max_per_sample = 10}) == absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace penstock
