#include "manifest/class_list.h"

#include <dirent.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "base/io_error.h"
#include "base/log.h"
#include "manifest/layout.h"
#include "manifest/open.h"
#include "manifest/save_file.h"

namespace penstock {
namespace {

constexpr int kSiblingsMax = 64;
constexpr int64_t kTextBytesMax = int64_t{64} << 20;

std::vector<std::string> ClassesOf(const Manifest& manifest) {
  std::vector<std::string> names;
  for (int64_t label = 0; label < manifest.class_count(); ++label) names.push_back(manifest.class_name(static_cast<int32_t>(label)));
  return names;
}

// The saved manifest of a data set, from the first place that has one; null: none.
std::shared_ptr<const Manifest> SavedOf(const std::string& root) {
  const absl::StatusOr<DataSet> data_set = FindDataSet(root, TreeRule::kAuto);
  if (!data_set.ok()) return nullptr;
  for (const std::string& place : ManifestPlaces(*data_set, "")) {
    absl::StatusOr<std::shared_ptr<const Manifest>> manifest =
        ManifestOpener::FromPath(place, data_set->root, ManifestCheck::kHeader, data_set->trust());
    if (manifest.ok()) return *std::move(manifest);
  }
  return nullptr;
}

absl::StatusOr<std::vector<std::string>> FromPath(const std::string& path) {
  const std::string shown = absl::StrCat("classes=@", EscapeName(path));
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return IoError(errno, absl::StrCat(shown, ": stat"));
  std::shared_ptr<const Manifest> manifest;
  if (S_ISDIR(info.st_mode)) {
    manifest = SavedOf(path);
    if (manifest == nullptr) {
      return absl::NotFoundError(absl::StrCat(shown, ": the data set has no saved manifest. Index it first (penstock index), or give its manifest"));
    }
  } else {
    if (!S_ISREG(info.st_mode) || info.st_size > kTextBytesMax) {
      OpenSavedOptions options;
      options.check_root = false;
      absl::StatusOr<std::shared_ptr<const Manifest>> opened = Manifest::OpenSaved(path, options);
      if (!opened.ok()) return opened.status();
      manifest = *std::move(opened);
    } else {
      std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "re"), &std::fclose);
      if (file == nullptr) return IoError(errno, absl::StrCat(shown, ": open"));
      std::string text(static_cast<size_t>(info.st_size), '\0');
      text.resize(std::fread(text.data(), 1, text.size(), file.get()));
      const absl::string_view magic(reinterpret_cast<const char*>(layout::kMagic), sizeof layout::kMagic);
      if (!absl::StartsWith(text, magic)) {
        std::vector<std::string> names;
        for (absl::string_view line : absl::StrSplit(text, '\n')) {
          if (absl::EndsWith(line, "\r")) line.remove_suffix(1);
          if (!absl::StripAsciiWhitespace(line).empty()) names.emplace_back(line);
        }
        return names;
      }
      OpenSavedOptions options;
      options.check_root = false;
      absl::StatusOr<std::shared_ptr<const Manifest>> opened = Manifest::OpenSaved(path, options);
      if (!opened.ok()) return opened.status();
      manifest = *std::move(opened);
    }
  }
  std::vector<std::string> names = ClassesOf(*manifest);
  if (names.empty()) return absl::InvalidArgumentError(absl::StrCat(shown, ": the data set has no class folders"));
  return names;
}

}  // namespace

absl::StatusOr<std::string> ResolveClasses(const std::string& text) {
  if (text.empty() || text == kNumericClasses) return text;
  std::vector<std::string> names;
  if (text[0] == '@') {
    absl::StatusOr<std::vector<std::string>> read = FromPath(text.substr(1));
    if (!read.ok()) return read.status();
    names = *std::move(read);
  } else {
    // A list with line feeds may end with one.
    const bool lines = absl::StrContains(text, '\n');
    for (const absl::string_view name : absl::StrSplit(absl::StripSuffix(text, "\n"), lines ? '\n' : ',')) names.emplace_back(name);
  }
  std::unordered_set<std::string> seen;
  for (const std::string& name : names) {
    const absl::string_view why = name.empty()                   ? "is empty"
                                  : absl::StrContains(name, '/') ? "has a slash"
                                  : !seen.insert(name).second    ? "is there twice"
                                                                 : "";
    if (!why.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("classes: the name \"", EscapeName(name), "\" ", why, ". Give each class folder's name once, in the order of the labels"));
    }
  }
  if (names.empty()) return absl::InvalidArgumentError(absl::StrCat("classes: ", EscapeName(text), " gives no name"));
  return absl::StrCat(absl::StrJoin(names, "\n"), "\n");
}

std::vector<std::string> ClassNames(const std::string& resolved) {
  std::vector<std::string> names;
  if (resolved != kNumericClasses) names = absl::StrSplit(resolved, '\n', absl::SkipEmpty());
  return names;
}

void WarnOfOtherNumbers(const DataSet& data_set, const Manifest& manifest) {
  if (manifest.class_count() == 0 || !data_set.list_name.empty()) return;
  std::unordered_map<std::string, int64_t> labels;
  for (const std::string& name : ClassesOf(manifest)) labels.emplace(name, static_cast<int64_t>(labels.size()));
  const std::string parent = ParentFolder(data_set.root);
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(parent.c_str()), &::closedir);
  if (folder == nullptr) return;
  int looked_at = 0;
  while (const dirent* entry = ::readdir(folder.get())) {
    if (entry->d_name[0] == '.' || (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN)) continue;
    const std::string sibling = absl::StrCat(parent == "/" ? "" : parent, "/", entry->d_name);
    if (sibling == data_set.root) continue;
    if (++looked_at > kSiblingsMax) return;
    const std::shared_ptr<const Manifest> other = SavedOf(sibling);
    if (other == nullptr) continue;
    for (int64_t label = 0; label < other->class_count(); ++label) {
      const std::string name = other->class_name(static_cast<int32_t>(label));
      const auto found = labels.find(name);
      if (found == labels.end() || found->second == label) continue;
      Log(LogLevel::kWarning, absl::StrCat("data set ", data_set.shown(), ": its class ", EscapeName(name), " has the label ", found->second,
                                           ", and in ", EscapeName(sibling), " the label ", label,
                                           ". Where both belong to one job, index this one with classes=@", EscapeName(sibling),
                                           " (--classes @...)"));
      return;
    }
  }
}

}  // namespace penstock
