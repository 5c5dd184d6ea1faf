#include "base/bytes.h"

#include <cmath>
#include <cstddef>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace penstock {
namespace {

// The length of the UTF-8 sequence at the start of `text`, or 0 where there is none.
size_t Utf8Length(absl::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const size_t length = first < 0x80                      ? 1
                        : (first >= 0xC2 && first < 0xE0) ? 2
                        : (first & 0xF0) == 0xE0          ? 3
                        : (first >= 0xF0 && first < 0xF5) ? 4
                                                          : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", EscapeName(text), "\" is not a size: ", why, "; write for example 4096, 512K, 64MiB or 1.5GiB"));
  };
  absl::string_view rest = absl::StripAsciiWhitespace(text);
  size_t digits = 0;
  while (digits < rest.size() && (absl::ascii_isdigit(static_cast<unsigned char>(rest[digits])) || rest[digits] == '.')) ++digits;
  if (digits == 0) return bad("it does not begin with a digit");
  const absl::string_view number = rest.substr(0, digits);
  absl::string_view unit = absl::StripAsciiWhitespace(rest.substr(digits));
  int shift = 0;
  if (!unit.empty() && unit != "B" && unit != "b") {
    switch (absl::ascii_toupper(static_cast<unsigned char>(unit[0]))) {
      case 'K': shift = 10; break;
      case 'M': shift = 20; break;
      case 'G': shift = 30; break;
      case 'T': shift = 40; break;
      default: return bad("its unit is unknown");
    }
    unit.remove_prefix(1);
    if (!unit.empty() && unit != "iB" && unit != "B" && unit != "ib" && unit != "b") return bad("its unit is unknown");
  }
  int64_t whole = 0;
  if (absl::SimpleAtoi(number, &whole)) {
    if (whole > (std::numeric_limits<int64_t>::max() >> shift)) return bad("it is above 2^63-1 bytes");
    return whole << shift;
  }
  double fraction = 0;
  if (!absl::SimpleAtod(number, &fraction)) return bad("its number cannot be read");
  const double value = std::ldexp(fraction, shift);
  if (!(value < 9.2e18)) return bad("it is above 2^63-1 bytes");
  return static_cast<int64_t>(value);
}

std::string FormatBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::fabs(value) >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return absl::StrCat(bytes, " B");
  return value == std::floor(value) ? absl::StrFormat("%.0f %s", value, kUnits[unit]) : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string EscapeName(absl::string_view name) {
  static constexpr size_t kShownMax = 512;
  std::string out;
  while (!name.empty() && out.size() < kShownMax) {
    const auto c = static_cast<unsigned char>(name[0]);
    const size_t length = c < 0x20 || c == 0x7F || c == '\\' ? 0 : Utf8Length(name);
    if (length == 0) {
      absl::StrAppendFormat(&out, "\\x%02x", c);
      name.remove_prefix(1);
    } else {
      out.append(name.data(), length);
      name.remove_prefix(length);
    }
  }
  if (!name.empty()) out += "...";
  return out;
}

}  // namespace penstock
