// An option table: rows of name, type and help over the members of an options struct, and how text becomes their values.
#ifndef PENSTOCK_BASE_OPTION_ROWS_H_
#define PENSTOCK_BASE_OPTION_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "penstock/option_table.h"

namespace penstock {

// What a row takes, beside its type.
struct OptionBounds {
  double least = 0;
  double most = 0;
};

// Text to a value of the row's type. Errors: InvalidArgument, with the option, the value and what it takes.
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, std::string& value);
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, bool& value);
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, double& value);
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, int32_t& value);
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, int64_t& value);
absl::Status ParseOption(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, uint64_t& value);
// A word of the row's type, by its place there.
absl::Status ParseOptionWord(const OptionInfo& info, absl::string_view text, size_t& word);
absl::Status BadOption(const OptionInfo& info, absl::string_view text, absl::string_view why);

std::string FormatOption(const std::string& value);
std::string FormatOption(bool value);
std::string FormatOption(double value);
std::string FormatOption(int32_t value);
std::string FormatOption(int64_t value);
std::string FormatOption(uint64_t value);
std::string FormatOptionWord(const OptionInfo& info, size_t word);

// There is no such name; the nearest of `known` is named.
absl::Status UnknownOption(absl::string_view name, absl::Span<const OptionInfo> known);

// An enum whose values are 0, 1, 2... in the order of the words.
template <typename Options, typename E>
struct OptionWords {
  E Options::*member;
};

// What is no plain member: functions that set and get it.
template <typename Options>
struct OptionFunctions {
  absl::Status (*set)(const OptionInfo& info, const OptionBounds& bounds, absl::string_view text, Options& options);
  std::string (*get)(const Options& options);
};

// The table of one options struct; Enums are those of its words. Lives as long as the process.
template <typename Options, typename... Enums>
class OptionRows {
 public:
  using Member = std::variant<OptionFunctions<Options>, std::string Options::*, int32_t Options::*, int64_t Options::*, uint64_t Options::*,
                              double Options::*, bool Options::*, OptionWords<Options, Enums>...>;
  struct Row {
    OptionInfo info;
    Member member;
    double least;
    double most;
  };

  explicit OptionRows(std::vector<Row> rows) : rows_(std::move(rows)) {
    for (const Row& row : rows_) infos_.push_back(row.info);
  }

  absl::Span<const OptionInfo> infos() const { return infos_; }

  const Row* Find(absl::string_view name) const {
    for (const Row& row : rows_) {
      if (name == row.info.name) return &row;
    }
    return nullptr;
  }

  absl::Status Set(Options& options, absl::string_view name, absl::string_view text) const {
    const Row* row = Find(name);
    if (row == nullptr) return UnknownOption(name, infos_);
    return std::visit(Setter{row->info, {row->least, row->most}, options, text}, row->member);
  }

  // Empty for an unknown name.
  std::string Get(const Options& options, absl::string_view name) const {
    const Row* row = Find(name);
    return row == nullptr ? std::string() : std::visit(Getter{row->info, options}, row->member);
  }

 private:
  struct Setter {
    const OptionInfo& info;
    OptionBounds bounds;
    Options& options;
    absl::string_view text;

    absl::Status operator()(const OptionFunctions<Options>& functions) { return functions.set(info, bounds, text, options); }
    template <typename Value>
    absl::Status operator()(Value Options::*member) {
      return ParseOption(info, bounds, text, options.*member);
    }
    template <typename E>
    absl::Status operator()(OptionWords<Options, E> words) {
      size_t word = 0;
      absl::Status status = ParseOptionWord(info, text, word);
      if (status.ok()) options.*(words.member) = static_cast<E>(word);
      return status;
    }
  };
  struct Getter {
    const OptionInfo& info;
    const Options& options;

    std::string operator()(const OptionFunctions<Options>& functions) { return functions.get(options); }
    template <typename Value>
    std::string operator()(Value Options::*member) {
      return FormatOption(options.*member);
    }
    template <typename E>
    std::string operator()(OptionWords<Options, E> words) {
      return FormatOptionWord(info, static_cast<size_t>(options.*(words.member)));
    }
  };

  std::vector<Row> rows_;
  std::vector<OptionInfo> infos_;
};

}  // namespace penstock

#endif  // PENSTOCK_BASE_OPTION_ROWS_H_
