#include "manifest/place.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <climits>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/io_error.h"
#include "base/log.h"
#include "manifest/save_file.h"

namespace penstock {
namespace {

// The folder below which caches lie, or "".
std::string CacheFolder() {
  // An empty or relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification).
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && xdg[0] == '/') return absl::StrCat(xdg, "/penstock");
  if (const char* home = std::getenv("HOME"); home != nullptr && home[0] == '/') return absl::StrCat(home, "/.cache/penstock");
  return "";
}

// Whoever owns the cache could hand us the names of any files; ours has mode 0700.
bool IsOwnOrAbsent(const std::string& cache) {
  struct stat info;
  if (::stat(cache.c_str(), &info) != 0 || info.st_uid == ::geteuid()) return true;
  Log(LogLevel::kWarning, absl::StrCat("the cache folder ", EscapeName(cache), " belongs to user ", info.st_uid, ", not to ", ::geteuid(),
                                       ", and is not used. Set XDG_CACHE_HOME to a folder of your own"));
  return false;
}

absl::Status MakeFolders(const std::string& folder, mode_t mode) {
  if (::mkdir(folder.c_str(), mode) == 0 || errno == EEXIST) return absl::OkStatus();
  if (errno == ENOENT && folder.size() > 1) {
    const absl::Status status = MakeFolders(ParentFolder(folder), mode);
    if (!status.ok()) return status;
    if (::mkdir(folder.c_str(), mode) == 0 || errno == EEXIST) return absl::OkStatus();
  }
  return SaveError(errno, absl::StrCat("mkdir of ", EscapeName(folder)));
}

// A hidden file beside the data set: no folder of it is touched, no tool takes it for a class or a sample, and all nodes that have the data
// have it. Empty where there is no such place.
std::string BesideDataSet(const std::string& root, const DataSet& data_set) {
  if (!data_set.list_name.empty()) return absl::StrCat(root == "/" ? "" : root, "/.", data_set.list_name, ".penstock");
  if (root == "/") return "";
  const absl::string_view suffix = data_set.rule == TreeRule::kFlat ? ".penstock-flat" : ".penstock";
  // Beside a mount point lies another file system, of this node or container alone: then a hidden file inside.
  const std::string parent = ParentFolder(root);
  struct stat of_root;
  struct stat of_parent;
  if (::stat(root.c_str(), &of_root) == 0 && ::stat(parent.c_str(), &of_parent) == 0 && of_root.st_dev != of_parent.st_dev) {
    return absl::StrCat(root, "/", suffix);
  }
  return absl::StrCat(parent == "/" ? "" : parent, "/.", root.substr(root.rfind('/') + 1), suffix);
}

}  // namespace

std::string AbsolutePath(absl::string_view path) {
  std::string absolute(path);
  if (absolute.empty() || absolute[0] != '/') {
    char working[PATH_MAX];
    // Where the working directory is gone, the relative path fails at its first use and says so.
    if (::getcwd(working, sizeof working) != nullptr) absolute = absl::StrCat(working, "/", path);
  }
  while (absolute.size() > 1 && absolute.back() == '/') absolute.pop_back();
  return absolute;
}

SplitName SplitAtLastSlash(absl::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return {absl::string_view(), path};
  return {path.substr(0, slash == 0 ? 1 : slash), path.substr(slash + 1)};
}

std::string DataSet::shown() const { return EscapeName(list_name.empty() ? root : absl::StrCat(root == "/" ? "" : root, "/", list_name)); }

Trust DataSet::trust() const {
  return Trust::OfDataSet(root, list_name.empty() ? "" : absl::StrCat(root == "/" ? "" : root, "/", list_name));
}

absl::StatusOr<DataSet> FindDataSet(absl::string_view path, TreeRule rule) {
  if (path.empty()) return absl::InvalidArgumentError("the data set's path is empty; give a folder or a list file");
  if (path.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("the data set's path \"", EscapeName(path), "\" has a NUL byte"));
  }
  DataSet data_set{AbsolutePath(path), "", rule};
  struct stat info;
  if (::stat(data_set.root.c_str(), &info) != 0) {
    const int error_number = errno;
    const absl::string_view cure = error_number == ENOENT ? ". Check the path, and that its file system is mounted on this node" : "";
    return absl::Status(ErrnoToCode(error_number),
                        absl::StrCat("data set ", EscapeName(data_set.root), ": stat: ", ErrnoText(error_number), cure));
  }
  if (S_ISDIR(info.st_mode)) {
    if (rule != TreeRule::kList) return data_set;
    return absl::InvalidArgumentError(absl::StrCat(
        "data set ", data_set.shown(), " is a folder, and the rule says list file. Give the list file's path, or the rule auto"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("data set ", data_set.shown(), " is neither a folder nor a file. Give a folder or a list file"));
  }
  if (rule != TreeRule::kList && rule != TreeRule::kAuto) {
    return absl::InvalidArgumentError(
        absl::StrCat("data set ", data_set.shown(), " is a file, and the rule says folder. Give a folder, or the rule list or auto"));
  }
  data_set.rule = TreeRule::kList;
  data_set.list_name = data_set.root.substr(data_set.root.rfind('/') + 1);
  data_set.root = ParentFolder(data_set.root);
  return data_set;
}

std::vector<std::string> ManifestPlaces(const DataSet& data_set, const std::string& manifest_path) {
  if (!manifest_path.empty()) return {AbsolutePath(manifest_path)};
  // Rules that give different samples have files of their own, so that two jobs do not rebuild each other's manifest for ever.
  const std::string name = !data_set.list_name.empty()             ? absl::StrCat(data_set.list_name, ".manifest")
                           : data_set.rule == TreeRule::kFlat      ? "manifest-flat"
                                                                   : "manifest";
  // The folder as it is, by whatever link or path it was named. A list's paths are relative to the folder in which it was named.
  char real[PATH_MAX];
  const std::string root = ::realpath(data_set.root.c_str(), real) != nullptr ? std::string(real) : data_set.root;
  std::vector<std::string> places;
  if (std::string beside = BesideDataSet(root, data_set); !beside.empty()) places.push_back(std::move(beside));
  if (const std::string cache = CacheFolder(); !cache.empty() && IsOwnOrAbsent(cache)) {
    places.push_back(absl::StrFormat("%s/%016x/%s", cache, XXH3_64bits(root.data(), root.size()), name));
  }
  return places;
}

absl::Status PreparePlace(const std::string& manifest_path) {
  const std::string folder = ParentFolder(manifest_path);
  const std::string cache = CacheFolder();
  const bool in_cache = !cache.empty() && absl::StartsWith(folder, absl::StrCat(cache, "/"));
  return MakeFolders(folder, in_cache ? 0700 : 0755);
}

bool IsUnwritable(const absl::Status& status) {
  // EACCES and EPERM; EROFS, for which Abseil has FailedPrecondition.
  return status.code() == absl::StatusCode::kPermissionDenied || status.code() == absl::StatusCode::kFailedPrecondition;
}

}  // namespace penstock
