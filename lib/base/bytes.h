// Sizes as people write them: "64MiB", "512K", "1.5 GiB".
#ifndef PENSTOCK_BASE_BYTES_H_
#define PENSTOCK_BASE_BYTES_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace penstock {

// Parses a count of bytes: digits, an optional fraction, and K, M, G or T with an optional "iB" or "B" (all powers of 1024).
//
// Errors: InvalidArgument  anything else, a negative size, or more than 2^63-1 bytes.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// 1536 -> "1.5 KiB".
std::string FormatBytes(int64_t bytes);

// A file name for a message: control characters, backslashes and bytes that are not UTF-8 as \xNN, cut after 512 bytes.
std::string EscapeName(absl::string_view name);

}  // namespace penstock

#endif  // PENSTOCK_BASE_BYTES_H_
