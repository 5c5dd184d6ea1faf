// Which data are the loaders compared on? Makes a folder of sample files: 100 class folders, sizes fixed or lognormal, contents a
// function of seed and file number (baselines/content.h). Beside the folder DIR it leaves DIR.stamp, by which a second call knows
// that all is there, and DIR.list ("bytes TAB name" a line), from which the baselines take names and sizes without touching the
// files' metadata, as penstock takes them from its saved manifest. Bound by the file system's file creation, then by the drive.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numbers>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "baselines/args.h"
#include "baselines/content.h"

namespace penstock::bench {
namespace {

constexpr char kUsage[] =
    "make_files DIR [--count N] [--bytes SIZE | --lognormal-median SIZE [--sigma S]] [--classes N] [--seed N] [--threads N]\n"
    "  --count N               files (1000)\n"
    "  --bytes SIZE            size of each file (4096)\n"
    "  --lognormal-median SIZE sizes of a lognormal distribution with this median instead, cut at 64 times the median\n"
    "  --sigma S               its sigma (0.6; the mean is median * exp(sigma^2 / 2))\n"
    "  --classes N             class folders (100)\n"
    "  --seed N                of contents and sizes (1); the baselines' --data-seed\n"
    "  --threads N             writers (4)\n";

struct Recipe {
  int64_t count = 0;
  int64_t classes = 0;
  int64_t bytes = 0;
  int64_t median_bytes = 0;  // 0: all files have `bytes` bytes
  double sigma = 0;
  uint64_t seed = 0;

  std::string Text() const {
    return absl::StrFormat("penstock make_files 1: count %d, classes %d, bytes %d, lognormal median %d, sigma %g, seed %d\n", count,
                           classes, bytes, median_bytes, sigma, seed);
  }
  // Own arithmetic rather than std::lognormal_distribution, whose values the standard leaves open: the same seed gives the same
  // data set with every compiler (Box-Muller).
  int64_t SizeOf(int64_t file) const {
    if (median_bytes == 0) return bytes;
    const auto uniform = [&](uint64_t draw) {
      return static_cast<double>((Mix64(Mix64(~seed) + 2 * static_cast<uint64_t>(file) + draw) >> 11) + 1) * 0x1p-53;
    };
    const double normal = std::sqrt(-2.0 * std::log(uniform(0))) * std::cos(2.0 * std::numbers::pi * uniform(1));
    const double size = static_cast<double>(median_bytes) * std::exp(sigma * normal);
    return static_cast<int64_t>(std::min(size, 64.0 * static_cast<double>(median_bytes)));
  }
  int64_t FirstOf(int64_t class_index) const { return class_index * count / classes; }
};

std::string ClassName(int64_t class_index) { return absl::StrFormat("class_%04d", class_index); }
// The baselines read the file number back from the name.
std::string FileName(int64_t file) { return absl::StrFormat("%08d.bin", file); }

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void WriteDurably(const std::string& path, const std::string& text) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid()) Die("open %s: %s", path.c_str(), std::strerror(errno));
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(fd.get(), text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) Die("write %s: %s", path.c_str(), std::strerror(errno));
    done += static_cast<size_t>(written);
  }
  if (::fsync(fd.get()) != 0) Die("fsync %s: %s", path.c_str(), std::strerror(errno));
}

bool IsEmptyFolder(const std::string& path) {
  DIR* folder = ::opendir(path.c_str());
  if (folder == nullptr) Die("opendir %s: %s", path.c_str(), std::strerror(errno));
  bool empty = true;
  while (const dirent* entry = ::readdir(folder)) {
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) empty = false;
  }
  ::closedir(folder);
  return empty;
}

void WriteClass(const Recipe& recipe, int root_fd, int64_t class_index, std::vector<char>& buffer) {
  const std::string name = ClassName(class_index);
  if (::mkdirat(root_fd, name.c_str(), 0755) != 0 && errno != EEXIST) Die("mkdir %s: %s", name.c_str(), std::strerror(errno));
  UniqueFd folder(::openat(root_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) Die("open %s: %s", name.c_str(), std::strerror(errno));
  for (int64_t file = recipe.FirstOf(class_index); file < recipe.FirstOf(class_index + 1); ++file) {
    const int64_t bytes = recipe.SizeOf(file);
    if (buffer.size() < static_cast<size_t>(bytes)) buffer.resize(static_cast<size_t>(bytes));
    FillContent(recipe.seed, static_cast<uint64_t>(file), buffer.data(), bytes);
    const std::string file_name = FileName(file);
    UniqueFd fd(::openat(folder.get(), file_name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd.valid()) Die("open %s/%s: %s", name.c_str(), file_name.c_str(), std::strerror(errno));
    for (int64_t done = 0; done < bytes;) {
      const ssize_t written = ::write(fd.get(), buffer.data() + done, static_cast<size_t>(bytes - done));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) Die("write %s/%s: %s", name.c_str(), file_name.c_str(), std::strerror(errno));
      done += written;
    }
  }
}

void WriteAll(const Recipe& recipe, int root_fd, int64_t thread_count) {
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> finished{0};
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < thread_count; ++i) {
    threads.emplace_back([&] {
      std::vector<char> buffer;
      for (int64_t class_index; (class_index = next.fetch_add(1)) < recipe.classes;) {
        WriteClass(recipe, root_fd, class_index, buffer);
        const int64_t done = finished.fetch_add(1) + 1;
        if (::isatty(STDERR_FILENO)) std::fprintf(stderr, "\r%ld of %ld folders", long(done), long(recipe.classes));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (::isatty(STDERR_FILENO)) std::fputc('\n', stderr);
}

int Main(int argc, char** argv) {
  Args args(argc, argv, kUsage);
  Recipe recipe;
  recipe.count = args.Int("--count", 1000, 1, 99'999'999);
  recipe.classes = args.Int("--classes", 100, 1, 9999);
  recipe.median_bytes = args.Bytes("--lognormal-median", 0);
  recipe.sigma = args.Double("--sigma", 0.6);
  if (recipe.median_bytes == 0) recipe.sigma = 0;
  recipe.bytes = recipe.median_bytes == 0 ? args.Bytes("--bytes", 4096) : 0;
  recipe.seed = static_cast<uint64_t>(args.Int("--seed", 1, 0, INT64_MAX));
  const int64_t thread_count = args.Int("--threads", 4, 1, 256);
  std::string root = args.Finish();
  while (root.size() > 1 && root.back() == '/') root.pop_back();

  const std::string stamp = root + ".stamp";
  const std::string begun = "begun: " + recipe.Text();
  const std::string complete = "complete: " + recipe.Text();
  const std::string found = ReadWhole(stamp);
  if (found == complete && ::access(root.c_str(), R_OK) == 0) {
    std::printf("%s is complete (%s)\n", root.c_str(), stamp.c_str());
    return 0;
  }
  if (::mkdir(root.c_str(), 0755) != 0 && errno != EEXIST) Die("mkdir %s: %s", root.c_str(), std::strerror(errno));
  // Only an unfinished set of the same recipe is written over: other files would stay between ours, and be somebody's.
  if (found != begun && !IsEmptyFolder(root)) {
    Die("%s is not empty and %s does not say that it was begun with these options: remove both, or choose another folder", root.c_str(),
        stamp.c_str());
  }
  WriteDurably(stamp, begun);
  const int64_t start_ns = MonotonicNs();
  UniqueFd root_fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root_fd.valid()) Die("open %s: %s", root.c_str(), std::strerror(errno));
  WriteAll(recipe, root_fd.get(), thread_count);

  std::string list;
  int64_t total_bytes = 0;
  for (int64_t class_index = 0; class_index < recipe.classes; ++class_index) {
    for (int64_t file = recipe.FirstOf(class_index); file < recipe.FirstOf(class_index + 1); ++file) {
      total_bytes += recipe.SizeOf(file);
      absl::StrAppend(&list, recipe.SizeOf(file), "\t", ClassName(class_index), "/", FileName(file), "\n");
    }
  }
  WriteDurably(root + ".list", list);
  // Dirty pages would be written back during somebody's measurement.
  if (::syncfs(root_fd.get()) != 0) Die("syncfs %s: %s", root.c_str(), std::strerror(errno));
  WriteDurably(stamp, complete);
  std::printf("%s: %ld files, %ld bytes in %.1f s\n", root.c_str(), long(recipe.count), long(total_bytes),
              static_cast<double>(MonotonicNs() - start_ns) / 1e9);
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Main(argc, argv); }
