#include "base/option_rows.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"

namespace penstock {
namespace {

// The number of single-letter changes between two names, for "did you mean".
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

template <typename T>
absl::Status InRange(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, T value, T& out) {
  if (!(static_cast<double>(value) >= bounds.least && static_cast<double>(value) <= bounds.most)) {
    return BadOption(info, text, absl::StrFormat("not in [%.15g, %.15g]", bounds.least, bounds.most));
  }
  out = value;
  return absl::OkStatus();
}

template <typename T>
absl::Status ParseInteger(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, T& out) {
  if (absl::string_view(info.type) == "bytes" && !(bounds.least < 0 && text == "-1")) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(text);
    if (!bytes.ok()) return BadOption(info, text, bytes.status().message());
    return InRange(info, bounds, text, static_cast<T>(*bytes), out);
  }
  T number = 0;
  if (!absl::SimpleAtoi(text, &number)) return BadOption(info, text, "not an integer in range");
  return InRange(info, bounds, text, number, out);
}

}  // namespace

absl::Status BadOption(const OptionInfo& info, absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("option ", info.name, " = \"", EscapeName(text), "\": ", why, " (", info.type, ": ", info.help, ")"));
}

absl::Status UnknownOption(absl::string_view name, absl::Span<const OptionInfo> known) {
  // A name far beyond any of the table is not compared letter by letter.
  const absl::string_view begin = name.substr(0, 100);
  const auto nearest = std::min_element(known.begin(), known.end(), [&](const OptionInfo& a, const OptionInfo& b) {
    return Distance(begin, a.name) < Distance(begin, b.name);
  });
  return absl::InvalidArgumentError(absl::StrCat("there is no option \"", EscapeName(name), "\"; did you mean ", nearest->name, "?"));
}

absl::Status ParseOption(const OptionInfo&, const OptionBounds&, absl::string_view text, std::string& value) {
  value = std::string(text);
  return absl::OkStatus();
}

absl::Status ParseOption(const OptionInfo& info, const OptionBounds&, absl::string_view text, bool& value) {
  bool parsed = false;
  if (!absl::SimpleAtob(text, &parsed)) return BadOption(info, text, "neither true nor false");
  value = parsed;
  return absl::OkStatus();
}

absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, double& value) {
  double number = 0;
  if (!absl::SimpleAtod(text, &number)) return BadOption(info, text, "not a number");
  return InRange(info, bounds, text, number, value);
}

absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, int32_t& value) {
  return ParseInteger(info, bounds, text, value);
}
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, int64_t& value) {
  return ParseInteger(info, bounds, text, value);
}
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, uint64_t& value) {
  return ParseInteger(info, bounds, text, value);
}

absl::Status ParseOptionWord(const OptionInfo& info, absl::string_view text, size_t& word) {
  const std::vector<absl::string_view> known = absl::StrSplit(info.type, '|');
  const auto found = std::find(known.begin(), known.end(), text);
  if (found == known.end()) return BadOption(info, text, "not one of the words");
  word = static_cast<size_t>(found - known.begin());
  return absl::OkStatus();
}

std::string FormatOption(const std::string& value) { return value; }
std::string FormatOption(bool value) { return value ? "true" : "false"; }
std::string FormatOption(double value) { return absl::StrFormat("%.15g", value); }
std::string FormatOption(int32_t value) { return absl::StrCat(value); }
std::string FormatOption(int64_t value) { return absl::StrCat(value); }
std::string FormatOption(uint64_t value) { return absl::StrCat(value); }

std::string FormatOptionWord(const OptionInfo& info, size_t word) {
  const std::vector<std::string> known = absl::StrSplit(info.type, '|');
  return word < known.size() ? known[word] : std::string();
}

}  // namespace penstock
