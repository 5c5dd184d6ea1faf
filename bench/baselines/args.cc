#include "args.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"

namespace penstock::bench {

void Die(const char* format, ...) {
  va_list list;
  va_start(list, format);
  std::fputs("error: ", stderr);
  std::vfprintf(stderr, format, list);
  std::fputc('\n', stderr);
  va_end(list);
  // Other threads may be running: no destructors, no atexit handlers.
  std::_Exit(1);
}

Args::Args(int count, char** values, const char* usage) : usage_(usage) {
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(values[i], "--help") == 0 || std::strcmp(values[i], "-h") == 0) {
      std::fputs(usage_, stdout);
      std::exit(0);
    }
    given_.push_back({values[i]});
  }
}

void Args::Refuse(const std::string& why) const {
  std::fputs(usage_, stderr);
  Die("%s", why.c_str());
}

bool Args::Has(const char* name) const {
  for (const Given& given : given_) {
    if (given.text == name || absl::StartsWith(given.text, absl::StrCat(name, "="))) return true;
  }
  return false;
}

bool Args::Flag(const char* name) {
  bool found = false;
  for (Given& given : given_) {
    if (given.text == name) found = given.used = true;
  }
  return found;
}

const char* Args::Value(const char* name) {
  const size_t length = std::strlen(name);
  const char* value = nullptr;
  for (size_t i = 0; i < given_.size(); ++i) {
    Given& given = given_[i];
    if (given.text == name) {
      if (i + 1 == given_.size()) Refuse(absl::StrCat(name, " wants a value"));
      given.used = given_[i + 1].used = true;
      value = given_[i + 1].text.c_str();
    } else if (absl::StartsWith(given.text, absl::StrCat(name, "="))) {
      given.used = true;
      value = given.text.c_str() + length + 1;
    }
  }
  return value;
}

int64_t Args::Int(const char* name, int64_t fallback, int64_t least, int64_t most) {
  const char* value = Value(name);
  int64_t number = fallback;
  if (value != nullptr && (!absl::SimpleAtoi(value, &number) || number < least || number > most)) {
    Refuse(absl::StrCat(name, " ", value, ": wanted a whole number from ", least, " to ", most));
  }
  return number;
}

int64_t Args::Bytes(const char* name, int64_t fallback) {
  const char* value = Value(name);
  if (value == nullptr) return fallback;
  const absl::StatusOr<int64_t> bytes = ParseBytes(value);
  if (!bytes.ok()) Refuse(absl::StrCat(name, ": ", bytes.status().message()));
  return *bytes;
}

double Args::Double(const char* name, double fallback) {
  const char* value = Value(name);
  double number = fallback;
  if (value != nullptr && !absl::SimpleAtod(value, &number)) Refuse(absl::StrCat(name, " ", value, ": wanted a number"));
  return number;
}

std::string Args::Text(const char* name, const std::string& fallback, const std::vector<std::string>& choices) {
  const char* value = Value(name);
  const std::string text = value == nullptr ? fallback : value;
  if (choices.empty()) return text;
  for (const std::string& choice : choices) {
    if (choice == text) return text;
  }
  Refuse(absl::StrCat(name, " ", text, ": wanted one of ", absl::StrJoin(choices, ", ")));
}

std::string Args::Finish() {
  std::string positional;
  for (const Given& given : given_) {
    if (given.used) continue;
    if (absl::StartsWith(given.text, "-")) Refuse(absl::StrCat("unknown option ", given.text));
    if (!positional.empty()) Refuse(absl::StrCat("a second folder: ", given.text));
    positional = given.text;
  }
  if (positional.empty()) Refuse("no folder given");
  return positional;
}

}  // namespace penstock::bench
