#include "manifest/npy.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "manifest/layout.h"

namespace penstock {
namespace {

constexpr absl::string_view kMagic("\x93NUMPY", 6);
constexpr int kNestingMax = 32;
constexpr size_t kShownMax = 120;  // of a header, in a message

// A product or sum that stays below 2^48, the limit of all lengths here. False: it does not.
bool Multiply(uint64_t a, uint64_t b, uint64_t& product) {
  if (a != 0 && b > layout::kRangeBytesMax / a) return false;
  product = a * b;
  return true;
}
bool Add(uint64_t a, uint64_t b, uint64_t& sum) {
  if (a > layout::kRangeBytesMax || b > layout::kRangeBytesMax - a) return false;
  sum = a + b;
  return true;
}

// The little of Python's literals that numpy.save writes: a dict of strings, True, False, tuples of integers, and lists of tuples for
// structures. Every function returns false where the text is something else, and leaves why_ where it knows better.
class Parser {
 public:
  explicit Parser(absl::string_view text) : text_(text) {}

  bool Dict(NpyHeader& header, std::vector<uint64_t>& shape, bool& fortran) {
    bool has_descr = false;
    bool has_fortran = false;
    bool has_shape = false;
    if (!Take('{')) return false;
    while (!Take('}')) {
      std::string key;
      if (!String(key) || !Take(':')) return false;
      if (key == "descr" && !has_descr) {
        Skip();
        const size_t begin = at_;
        if (!Descr(0, header.item_bytes, &header)) return false;
        header.descr = std::string(text_.substr(begin, at_ - begin));
        if (header.dtype.empty()) header.dtype = header.descr;  // a structure
        has_descr = true;
      } else if (key == "fortran_order" && !has_fortran) {
        if (!Bool(fortran)) return false;
        has_fortran = true;
      } else if (key == "shape" && !has_shape) {
        if (!Shape(shape)) return false;
        has_shape = true;
      } else {
        why_ = absl::StrCat("its key '", EscapeName(key), "' is unknown or there twice");
        return false;
      }
      if (!Take(',')) {
        if (!Take('}')) return false;
        break;
      }
    }
    Skip();
    if (!has_descr || !has_fortran || !has_shape) why_ = "'descr', 'fortran_order' or 'shape' is missing";
    return why_.empty() && at_ == text_.size();
  }

  const std::string& why() const { return why_; }

 private:
  void Skip() {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool Take(char c) {
    Skip();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool String(std::string& value) {
    Skip();
    if (at_ < text_.size() && (text_[at_] == 'u' || text_[at_] == 'b')) ++at_;  // Python 2 wrote u'...'
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) return false;
    const char quote = text_[at_++];
    value.clear();
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      value += text_[at_];
    }
    if (at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  bool Bool(bool& value) {
    Skip();
    for (const auto& [word, meaning] : {std::pair<absl::string_view, bool>{"True", true}, {"False", false}}) {
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      value = meaning;
      return true;
    }
    return false;
  }
  bool Integer(uint64_t& value) {
    Skip();
    const size_t begin = at_;
    while (at_ < text_.size() && absl::ascii_isdigit(static_cast<unsigned char>(text_[at_]))) ++at_;
    if (begin == at_) return false;
    if (!absl::SimpleAtoi(text_.substr(begin, at_ - begin), &value)) {
      why_ = absl::StrCat("its number ", text_.substr(begin, std::min<size_t>(at_ - begin, 40)), " is 2^64 or more");
      return false;
    }
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // a long integer of Python 2
    return true;
  }
  bool Shape(std::vector<uint64_t>& shape) {
    if (!Take('(')) return false;
    while (!Take(')')) {
      uint64_t axis = 0;
      if (!Integer(axis)) return false;
      shape.push_back(axis);
      if (!Take(',')) return Take(')');
    }
    return true;
  }

  // '<f4', or a list of ('name', descr[, shape]). `header`: of the array itself, not of a field.
  bool Descr(int depth, uint64_t& bytes, NpyHeader* header) {
    if (depth > kNestingMax) {
      why_ = "its structure is nested too deep";
      return false;
    }
    Skip();
    if (at_ < text_.size() && text_[at_] == '[') {
      ++at_;
      bytes = 0;
      while (!Take(']')) {
        std::string name;
        if (!Take('(')) return false;
        if (Take('(')) {  // (title, name)
          std::string title;
          if (!String(title) || !Take(',') || !String(name) || !Take(')')) return false;
        } else if (!String(name)) {
          return false;
        }
        uint64_t field = 0;
        if (!Take(',') || !Descr(depth + 1, field, nullptr)) return false;
        if (Take(',')) {
          std::vector<uint64_t> shape;
          Skip();
          if (at_ < text_.size() && text_[at_] == '(') {
            if (!Shape(shape)) return false;
            Take(',');
          } else if (uint64_t axis = 0; at_ < text_.size() && text_[at_] != ')') {
            if (!Integer(axis)) return false;
            shape.push_back(axis);
          }
          for (const uint64_t axis : shape) {
            if (!Multiply(field, axis, field)) return TooLarge();
          }
        }
        if (!Take(')')) return false;
        if (!Add(bytes, field, bytes)) return TooLarge();
        if (!Take(',')) {
          if (!Take(']')) return false;
          break;
        }
      }
      return true;
    }
    std::string type;
    if (!String(type)) return false;
    absl::string_view rest = type;
    const bool big = !rest.empty() && rest[0] == '>';
    if (!rest.empty() && absl::StrContains("<>|=", rest.substr(0, 1))) rest.remove_prefix(1);
    if (rest.empty()) return Unknown(type);
    const char kind = rest[0];
    rest.remove_prefix(1);
    if (kind == 'O') {
      why_ =
          "it holds Python objects (dtype object), which are pickled and have no fixed size. Save it with a numeric dtype: numpy.stack() "
          "the objects, or "
          "array.astype(numpy.float32)";
      return false;
    }
    if (!absl::StrContains("?biufcSaUVMm", absl::string_view(&kind, 1))) return Unknown(type);
    // Behind the size, dates have their unit: M8[ns].
    const size_t bracket = rest.find('[');
    if (bracket != absl::string_view::npos && (kind == 'M' || kind == 'm')) rest = rest.substr(0, bracket);
    uint64_t size = 0;
    if (kind == '?' && rest.empty()) {
      size = 1;
    } else if (!absl::SimpleAtoi(rest, &size)) {
      return Unknown(type);
    }
    if (kind == 'U' && !Multiply(size, 4, size)) return TooLarge();  // UCS-4
    if (size > layout::kRangeBytesMax) return TooLarge();
    bytes = size;
    if (header != nullptr) {
      header->kind = kind == '?' ? 'b' : kind == 'a' ? 'S' : kind;
      header->big_endian = big;
      header->dtype = type;
    }
    return true;
  }
  bool TooLarge() {
    why_ = "its dtype has 2^48 bytes or more";
    return false;
  }
  bool Unknown(absl::string_view type) {
    why_ = absl::StrCat("its dtype '", EscapeName(std::string(type)),
                        "' is not known. Save it with a numeric dtype, or index it with --format raw --record-bytes N --header-bytes H");
    return false;
  }

  absl::string_view text_;
  size_t at_ = 0;
  std::string why_;
};

}  // namespace

bool IsNpy(absl::string_view begin) { return begin.substr(0, kMagic.size()) == kMagic; }

absl::StatusOr<uint64_t> NpyHeaderBytes(absl::string_view begin, const std::string& shown) {
  if (!IsNpy(begin)) {
    return absl::InvalidArgumentError(absl::StrCat(
        shown, " does not begin as a .npy file does. Save it with numpy.save(), or index it with --format raw --record-bytes N"));
  }
  const auto at = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(begin[i])); };
  if (begin.size() < 10) {
    return absl::DataLossError(absl::StrCat(shown, " has ", begin.size(), " bytes: it ends inside its .npy header. Write it again"));
  }
  const uint64_t major = at(6);
  if (major < 1 || major > 3) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, " has the .npy version ", major, ".", at(7), "; versions 1 to 3 are known. Save it with numpy.save()"));
  }
  if (major > 1 && begin.size() < 12) {
    return absl::DataLossError(absl::StrCat(shown, " has ", begin.size(), " bytes: it ends inside its .npy header. Write it again"));
  }
  const uint64_t length = major == 1 ? at(8) | at(9) << 8 : at(8) | at(9) << 8 | at(10) << 16 | at(11) << 24;
  if (length > kNpyHeaderBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, " has a .npy header of ", length, " bytes; the limit is ", kNpyHeaderBytesMax,
                     ". It is damaged, or a structure of too many fields: save the fields as arrays of their own"));
  }
  return length + (major == 1 ? 10 : 12);
}

absl::StatusOr<NpyHeader> ParseNpy(absl::string_view header, uint64_t file_bytes, const std::string& shown, NpyUse use) {
  absl::StatusOr<uint64_t> claimed = NpyHeaderBytes(header, shown);
  if (!claimed.ok()) return claimed.status();
  if (header.size() < *claimed) {
    return absl::DataLossError(absl::StrCat(shown, " ends at byte ", header.size(), ", inside its .npy header of ", *claimed,
                                            " bytes. It was cut short: write it again"));
  }
  const absl::string_view text = header.substr(static_cast<unsigned char>(header[6]) == 1 ? 10 : 12,
                                               *claimed - (static_cast<unsigned char>(header[6]) == 1 ? 10 : 12));
  NpyHeader result;
  result.header_bytes = *claimed;
  std::vector<uint64_t> shape;
  bool fortran = false;
  Parser parser(text);
  if (!parser.Dict(result, shape, fortran)) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, ": ", parser.why().empty() ? "its .npy header is malformed" : parser.why(),
                     " (header: ", EscapeName(std::string(absl::StripAsciiWhitespace(text.substr(0, kShownMax)))), ")"));
  }
  const bool one_sample = use == NpyUse::kSample;
  if (shape.empty() && !one_sample) {
    return absl::InvalidArgumentError(absl::StrCat(
        shown, " is a single number without axes; its first axis is to count the samples. Save array[numpy.newaxis], or more than one"));
  }
  if (fortran) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, " is in Fortran order, so that ", one_sample ? "its numbers lie in another order than its shape says" :
                     "a sample's bytes lie scattered", ". Save numpy.ascontiguousarray(array)"));
  }
  result.sample_count = one_sample ? 1 : shape[0];
  result.record_bytes = result.item_bytes;
  bool small = true;
  for (size_t i = one_sample ? 0 : 1; i < shape.size(); ++i) {
    small = small && Multiply(result.record_bytes, shape[i], result.record_bytes);
    absl::StrAppend(&result.inner_shape, result.inner_shape.empty() ? "" : ",", shape[i]);
    result.shape.push_back(static_cast<int64_t>(std::min(shape[i], layout::kRangeBytesMax)));
  }
  if (result.sample_count == 0) {
    return absl::NotFoundError(absl::StrCat(shown, " holds 0 samples: its first axis is 0. Leave it out of the data set"));
  }
  uint64_t data_bytes = 0;
  if (!small || !Multiply(result.record_bytes, result.sample_count, data_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, " claims ", result.sample_count, " samples of shape (", result.inner_shape, ") with ", result.item_bytes,
                     " bytes each number: 2^48 bytes or more. Its header is damaged, or the array is to be split"));
  }
  if (result.record_bytes == 0 && !one_sample) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, " holds samples of 0 bytes: shape (", result.inner_shape, "), ", result.item_bytes, " bytes each number"));
  }
  const uint64_t expected = result.header_bytes + data_bytes;
  if (file_bytes < expected) {
    return absl::DataLossError(
        absl::StrCat(shown, " has ", file_bytes, " bytes, and its header says ", result.sample_count, " samples of ", result.record_bytes,
                     " bytes behind ", result.header_bytes, " bytes of header: ", expected, ". It was cut short",
                     one_sample ? ""
                                : absl::StrCat(" at sample ", (file_bytes - std::min(file_bytes, result.header_bytes)) / result.record_bytes),
                     ": write it again"));
  }
  if (file_bytes > expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        shown, " has ", file_bytes, " bytes, ", file_bytes - expected, " more than the ", result.sample_count, " samples of ",
        result.record_bytes, " bytes of its header. Perhaps several arrays were saved into it: save each into a file of its own"));
  }
  return result;
}

}  // namespace penstock
