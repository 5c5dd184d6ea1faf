#include "manifest/name_filter.h"

#include <fnmatch.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace penstock {
namespace {

// What file systems, desktops, archivers and tools make of their own. lib/manifest/README.md publishes the list.
constexpr absl::string_view kNoDataFolders[] = {"lost+found",   "__MACOSX",    "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information",
                                                "__pycache__"};
constexpr absl::string_view kNoDataFiles[] = {"Thumbs.db", "ehthumbs.db", "desktop.ini"};
constexpr absl::string_view kNoDataEndings[] = {"~", ".part", ".partial", ".tmp", ".crdownload"};

absl::string_view LastName(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == absl::string_view::npos ? path : path.substr(slash + 1);
}

std::vector<std::string> Parts(absl::string_view text) {
  std::vector<std::string> parts;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const absl::string_view stripped = absl::StripAsciiWhitespace(part);
    if (!stripped.empty()) parts.emplace_back(stripped);
  }
  return parts;
}

// A pattern with a slash is compared with the path, else with the last name.
bool MatchesAny(const std::vector<std::string>& patterns, absl::string_view path) {
  if (patterns.empty()) return false;
  const std::string whole(path);
  const std::string last(LastName(path));
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return ::fnmatch(pattern.c_str(), pattern.find('/') == std::string::npos ? last.c_str() : whole.c_str(), 0) == 0;
  });
}

}  // namespace

NameFilter::NameFilter(const IndexOptions& options)
    : include_(Parts(options.include)), exclude_(Parts(options.exclude)), extensions_(Parts(options.extensions)) {
  for (std::string& extension : extensions_) {
    absl::AsciiStrToLower(&extension);
    if (extension[0] != '.') extension = absl::StrCat(".", extension);
  }
}

NameFilter::Verdict NameFilter::OfFolder(absl::string_view path) const {
  if (MatchesAny(exclude_, path)) return Verdict::kExcluded;
  const bool no_data = std::find(std::begin(kNoDataFolders), std::end(kNoDataFolders), LastName(path)) != std::end(kNoDataFolders);
  if (!no_data) return Verdict::kTake;
  // Named in so many letters it is meant.
  const std::string inside = absl::StrCat(path, "/");
  const bool named = std::any_of(include_.begin(), include_.end(), [&](const std::string& pattern) { return absl::StartsWith(pattern, inside); });
  return named ? Verdict::kTake : Verdict::kNoData;
}

NameFilter::Verdict NameFilter::OfFile(absl::string_view path) const {
  if (MatchesAny(exclude_, path)) return Verdict::kExcluded;
  const absl::string_view last = LastName(path);
  if (!extensions_.empty() && std::none_of(extensions_.begin(), extensions_.end(), [&](const std::string& extension) {
        return absl::EndsWithIgnoreCase(last, extension);
      })) {
    return Verdict::kExcluded;
  }
  if (!include_.empty()) return MatchesAny(include_, path) ? Verdict::kTake : Verdict::kExcluded;
  const bool no_data =
      std::any_of(std::begin(kNoDataFiles), std::end(kNoDataFiles), [&](absl::string_view name) { return absl::EqualsIgnoreCase(last, name); }) ||
      std::any_of(std::begin(kNoDataEndings), std::end(kNoDataEndings), [&](absl::string_view end) { return absl::EndsWith(last, end); });
  return no_data ? Verdict::kNoData : Verdict::kTake;
}

}  // namespace penstock
