#include "base/crc32c.h"

#include <string>

#include <catch2/catch.hpp>

using penstock::Crc32c;

// The check value and the vectors of RFC 3720, B.4.
TEST_CASE("CRC-32C agrees with the published vectors", "[base]") {
  CHECK(Crc32c("123456789", 9) == 0xE3069283u);
  CHECK(Crc32c(std::string(32, '\0').data(), 32) == 0x8A9136AAu);
  CHECK(Crc32c(std::string(32, '\xFF').data(), 32) == 0x62A8AB43u);
  CHECK(Crc32c("", 0) == 0u);
}

TEST_CASE("a CRC-32C taken in parts equals the whole", "[base]") {
  const std::string text = "one I/O stream per core";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    CHECK(Crc32c(text.data() + cut, text.size() - cut, Crc32c(text.data(), cut)) == Crc32c(text.data(), text.size()));
  }
}
