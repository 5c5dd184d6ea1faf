#include "base/bytes.h"

#include <catch2/catch.hpp>

using penstock::EscapeName;
using penstock::FormatBytes;
using penstock::ParseBytes;

TEST_CASE("sizes are read in the forms that people write", "[base]") {
  CHECK(*ParseBytes("0") == 0);
  CHECK(*ParseBytes("4096") == 4096);
  CHECK(*ParseBytes("512K") == 512 << 10);
  CHECK(*ParseBytes(" 64 MiB ") == 64 << 20);
  CHECK(*ParseBytes("1.5GiB") == (int64_t{3} << 29));
  CHECK(*ParseBytes("2tb") == (int64_t{2} << 40));
}

TEST_CASE("what is not a size is refused with the cure", "[base]") {
  for (const char* text : {"", "MiB", "-1", "1X", "1MiBx", "99999999999T", "1..5G"}) {
    const auto parsed = ParseBytes(text);
    INFO(text);
    CHECK(parsed.status().code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("sizes are shown in the largest unit that fits", "[base]") {
  CHECK(FormatBytes(0) == "0 B");
  CHECK(FormatBytes(1023) == "1023 B");
  CHECK(FormatBytes(1536) == "1.5 KiB");
  CHECK(FormatBytes(int64_t{1} << 40) == "1 TiB");
}

TEST_CASE("odd names are escaped, UTF-8 is not", "[base]") {
  CHECK(EscapeName("a b.jpg") == "a b.jpg");
  CHECK(EscapeName("a\nb\\c") == "a\\x0ab\\x5cc");
  CHECK(EscapeName("\xE4\xB8\xAD\xFF") == "\xE4\xB8\xAD\\xff");
  CHECK(EscapeName(std::string(2000, 'x')).size() == 512 + 3);
}
