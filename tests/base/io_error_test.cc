#include "base/io_error.h"

#include <cerrno>

#include <catch2/catch.hpp>

using penstock::IoError;

TEST_CASE("EIO is lost data, which Abseil's table does not know", "[base]") {
  CHECK(IoError(EIO, "read of a.bin").code() == absl::StatusCode::kDataLoss);
  CHECK(IoError(ENOENT, "open of a.bin").code() == absl::StatusCode::kNotFound);
  CHECK(IoError(EMFILE, "open of a.bin").code() == absl::StatusCode::kResourceExhausted);
}

TEST_CASE("an I/O error names what was done, the cause and the cure", "[base]") {
  const std::string text(IoError(EMFILE, "open of a.bin").message());
  CHECK(text.find("open of a.bin: ") == 0);
  CHECK(text.find("EMFILE") != std::string::npos);
  CHECK(text.find("ulimit -n") != std::string::npos);
}
