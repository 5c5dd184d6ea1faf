#include "file_list.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "args.h"
#include "base/clock.h"

namespace penstock::bench {
namespace {

// Collects files as (relative path, bytes) and turns them into a FileList.
class Collector {
 public:
  Collector(const std::string& root, FileList& list) : root_(root), list_(list) {}

  void Add(absl::string_view path, int64_t bytes) {
    const size_t slash = path.rfind('/');
    const absl::string_view folder = slash == absl::string_view::npos ? "." : path.substr(0, slash);
    const absl::string_view name = slash == absl::string_view::npos ? path : path.substr(slash + 1);
    if (list_.names.size() > UINT32_MAX - name.size() - 1) Die("%s: more than 4 GiB of names", root_.c_str());
    list_.files.push_back({FolderIndex(folder), static_cast<uint32_t>(list_.names.size()), bytes});
    list_.names.append(name.data(), name.size());
    list_.names.push_back('\0');
  }

 private:
  uint32_t FolderIndex(absl::string_view folder) {
    const auto [at, is_new] = folder_index_.try_emplace(std::string(folder), static_cast<uint32_t>(list_.folders.size()));
    if (is_new) {
      const std::string path = absl::StrCat(root_, "/", folder);
      // O_PATH: opening relative to it is all that is wanted.
      UniqueFd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (!fd.valid()) Die("open %s: %s", path.c_str(), std::strerror(errno));
      list_.folders.push_back(std::move(fd));
    }
    return at->second;
  }

  const std::string& root_;
  FileList& list_;
  std::unordered_map<std::string, uint32_t> folder_index_;
};

// Regular files below `prefix` ("" or "a/b/"), in the order of their names; hidden ones are left out.
void Walk(int folder_fd, const std::string& prefix, Collector& collector, std::string* listing) {
  DIR* folder = ::fdopendir(folder_fd);
  if (folder == nullptr) Die("opendir %s: %s", prefix.c_str(), std::strerror(errno));
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string path = prefix + name;
    struct stat info;
    if (::fstatat(folder_fd, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) Die("stat %s: %s", path.c_str(), std::strerror(errno));
    if (S_ISREG(info.st_mode)) {
      collector.Add(path, info.st_size);
      if (listing == nullptr) continue;
      if (name.find('\n') != std::string::npos) Die("%s: a name with a line feed does not fit in a list file", path.c_str());
      absl::StrAppend(listing, int64_t{info.st_size}, "\t", path, "\n");
    } else if (S_ISDIR(info.st_mode)) {
      const int sub_fd = ::openat(folder_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (sub_fd < 0) Die("open %s: %s", path.c_str(), std::strerror(errno));
      Walk(sub_fd, path + "/", collector, listing);
    }
  }
  ::closedir(folder);
}

bool ReadListFile(const std::string& path, Collector& collector) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  absl::string_view rest = text;
  for (int64_t line_number = 1; !rest.empty(); ++line_number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const absl::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const size_t tab = line.find('\t');
    int64_t bytes = -1;
    if (tab == absl::string_view::npos || !absl::SimpleAtoi(line.substr(0, tab), &bytes) || bytes < 0) {
      Die("%s line %ld: wanted bytes, a tab and a name", path.c_str(), long(line_number));
    }
    collector.Add(line.substr(tab + 1), bytes);
  }
  return true;
}

}  // namespace

FileList LoadFileList(const std::string& root, const std::string& list_path) {
  const int64_t start_ns = MonotonicNs();
  FileList list;
  Collector collector(root, list);
  const std::string path = list_path.empty() ? root + ".list" : list_path;
  if (ReadListFile(path, collector)) {
    list.from = path;
  } else {
    const int root_fd = ::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0) Die("open %s: %s", root.c_str(), std::strerror(errno));
    std::string listing;
    Walk(root_fd, "", collector, list_path.empty() ? nullptr : &listing);
    list.from = "walk";
    if (!list_path.empty()) {
      std::ofstream file(path, std::ios::binary);
      file << listing;
      if (!file.flush()) Die("cannot write %s", path.c_str());
    }
  }
  if (list.files.empty()) Die("%s: no files", root.c_str());
  if (list.files.size() > UINT32_MAX) Die("%s: more than 2^32 files", root.c_str());
  list.seconds = static_cast<double>(MonotonicNs() - start_ns) / 1e9;
  return list;
}

}  // namespace penstock::bench
