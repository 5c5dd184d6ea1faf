#include "base/io_error.h"

#include <cerrno>

#include <catch2/catch.hpp>

#include <set>
#include <string>

using penstock::ErrnoToCode;
using penstock::IoError;
using penstock::IoOperation;

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

TEST_CASE("no errno of a store has a code by which the loader says something of its own", "[base]") {
  const std::set<absl::StatusCode> of_a_store = {
      absl::StatusCode::kNotFound, absl::StatusCode::kPermissionDenied, absl::StatusCode::kResourceExhausted,
      absl::StatusCode::kDataLoss, absl::StatusCode::kUnavailable,      absl::StatusCode::kAlreadyExists,
      absl::StatusCode::kUnknown,  absl::StatusCode::kUnimplemented,
  };
  for (int error_number = 1; error_number <= 133; ++error_number) {
    INFO(penstock::ErrnoText(error_number) << ": " << absl::StatusCodeToString(ErrnoToCode(error_number)));
    CHECK(of_a_store.count(ErrnoToCode(error_number)) == 1);
    CHECK(of_a_store.count(IoError(error_number, "read of a.bin", IoOperation::kSample).code()) == 1);
  }
  CHECK(ErrnoToCode(EOVERFLOW) == absl::StatusCode::kDataLoss);
  CHECK(ErrnoToCode(ERANGE) == absl::StatusCode::kDataLoss);
  CHECK(ErrnoToCode(EFBIG) == absl::StatusCode::kResourceExhausted);
  CHECK(ErrnoToCode(ETIMEDOUT) == absl::StatusCode::kUnavailable);
  CHECK(ErrnoToCode(ECANCELED) == absl::StatusCode::kUnavailable);
  CHECK(ErrnoToCode(ESTALE) == absl::StatusCode::kUnavailable);
}

TEST_CASE("a cure is one for the operation that failed", "[base]") {
  for (int error_number = 1; error_number <= 133; ++error_number) {
    const std::string made(IoError(error_number, "mkdir of a").message());
    const std::string written(IoError(error_number, "write of a", IoOperation::kWrite).message());
    INFO(made << " | " << written);
    for (const std::string& text : {made, written}) {
      CHECK(text.find("index again") == std::string::npos);
      CHECK(text.find("was indexed") == std::string::npos);
      CHECK(text.find("read permission") == std::string::npos);
    }
  }
  CHECK(IoError(ENOENT, "open of a", IoOperation::kSample).message().find("penstock index --update") != std::string::npos);
  CHECK(IoError(ENOENT, "open of a", IoOperation::kWrite).message().find("Make the folder") != std::string::npos);
  CHECK(IoError(EACCES, "open of a", IoOperation::kWrite).message().find("write permission") != std::string::npos);
}

TEST_CASE("a call that a filter hides has a cause", "[base]") {
  CHECK(IoError(ENOSYS, "scan: statx of a").message().find("seccomp") != std::string::npos);
}
