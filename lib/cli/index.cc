#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "penstock/manifest.h"

namespace penstock::cli {
namespace {

struct IndexArguments {
  std::string root;
  std::string manifest;
  std::string rule = "auto";
  int threads = 0;
  bool update = false;
  bool crc = false;
  bool stat = false;
  std::string place = "none";
  std::string format = "auto";
  int64_t record_bytes = 0;
  int64_t header_bytes = 0;
  std::string labels;
  std::string include, exclude, extensions, classes;
  std::string unknown_classes = "refuse";
};

// One line that is rewritten on a terminal; a line every ten seconds in a log.
class ProgressLine {
 public:
  void Show(const IndexProgress& progress) {
    static constexpr const char* kPhases[] = {"waiting for another indexer", "scanning", "checksums", "saving"};
    const double now = progress.seconds;
    const bool new_phase = progress.phase != phase_;
    if (!terminal_ && !new_phase && now - shown_ < 10) return;
    if (terminal_ && !new_phase && now - shown_ < 0.1) return;
    phase_ = progress.phase;
    shown_ = now;
    const char* bar_end = terminal_ ? "\r" : "\n";
    if (progress.files_total > 0) {
      const int filled = static_cast<int>(30 * progress.files / progress.files_total);
      std::fprintf(stderr, "%s [%s%s] %lld of %lld files%s", kPhases[static_cast<int>(progress.phase)],
                   std::string(static_cast<size_t>(filled), '#').c_str(), std::string(static_cast<size_t>(30 - filled), ' ').c_str(),
                   static_cast<long long>(progress.files), static_cast<long long>(progress.files_total), bar_end);
    } else {
      std::fprintf(stderr, "%s: %lld files in %lld folders, %.1f s %s%s", kPhases[static_cast<int>(progress.phase)],
                   static_cast<long long>(progress.files), static_cast<long long>(progress.folders), progress.seconds,
                   progress.note.c_str(), bar_end);
    }
    std::fflush(stderr);
    used_ = true;
  }
  ~ProgressLine() {
    if (terminal_ && used_) std::fprintf(stderr, "\033[K");
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool used_ = false;
  double shown_ = -100;
  IndexProgress::Phase phase_ = IndexProgress::Phase::kSaving;
};

int RunIndex(const IndexArguments& arguments) {
  IndexOptions options;
  options.manifest_path = arguments.manifest;
  options.threads = arguments.threads;
  options.crc = arguments.crc;
  options.stat = arguments.stat;
  options.place = arguments.place == "inode" ? PlaceOrder::kInode : arguments.place == "extent" ? PlaceOrder::kExtent : PlaceOrder::kNone;
  options.format = arguments.format == "npy"     ? ShardFormat::kNpy
                   : arguments.format == "raw"   ? ShardFormat::kRaw
                   : arguments.format == "npy-files" ? ShardFormat::kNpyFiles
                   : arguments.format == "files" ? ShardFormat::kFiles
                                                 : ShardFormat::kAuto;
  options.record_bytes = arguments.record_bytes;
  options.header_bytes = arguments.header_bytes;
  options.labels = arguments.labels;
  options.include = arguments.include;
  options.exclude = arguments.exclude;
  options.extensions = arguments.extensions;
  options.classes = arguments.classes;
  if (arguments.unknown_classes == "leave-out") options.unknown_classes = UnknownClasses::kLeaveOut;
  options.rule = arguments.rule == "classes" ? TreeRule::kClasses
                 : arguments.rule == "flat"  ? TreeRule::kFlat
                 : arguments.rule == "list"  ? TreeRule::kList
                                             : TreeRule::kAuto;
  absl::StatusOr<IndexResult> result = absl::UnknownError("");
  {
    ProgressLine line;
    options.progress = [&](const IndexProgress& progress) { line.Show(progress); };
    result = arguments.update ? Manifest::Update(arguments.root, options) : Manifest::Build(arguments.root, options);
  }
  if (!result.ok()) return Fail(result.status());
  const Manifest& manifest = *result->manifest;
  std::printf("%s: %lld samples, %lld classes, %.1f MB, largest %llu bytes\nmanifest %s (%.1f MB), fingerprint %s\n",
              manifest.root().c_str(), static_cast<long long>(manifest.sample_count()), static_cast<long long>(manifest.class_count()),
              1e-6 * static_cast<double>(manifest.total_bytes()), static_cast<unsigned long long>(manifest.max_delivered_bytes()),
              manifest.path().c_str(), 1e-6 * static_cast<double>(manifest.file_bytes()), manifest.fingerprint().c_str());
  const IndexCounts& counts = result->counts;
  if (arguments.update) {
    std::printf("added %lld, removed %lld, changed %lld\n", static_cast<long long>(counts.added), static_cast<long long>(counts.removed),
                static_cast<long long>(counts.changed));
  }
  if (!counts.examples.empty()) {
    const struct {
      int64_t count;
      const char* what;
    } left_out[] = {{counts.hidden, "hidden"},
                    {counts.no_data, "no data by their names"},
                    {counts.excluded, "excluded"},
                    {counts.non_regular, "non-regular"},
                    {counts.broken_links, "broken links"},
                    {counts.cycles, "cycles"},
                    {counts.repeated_folders, "further names of folders"},
                    {counts.vanished, "vanished"},
                    {counts.no_shards, "of another format"},
                    {counts.unlabeled, "without a class"},
                    {counts.unknown_classes, "unknown classes"},
                    {counts.empty_lines, "empty lines"},
                    {counts.comment_lines, "comments"}};
    std::string text;
    for (const auto& [count, what] : left_out) {
      if (count > 0) absl::StrAppendFormat(&text, "%s%d %s", text.empty() ? "" : ", ", count, what);
    }
    if (!text.empty()) std::printf("left out: %s: %s\n", text.c_str(), counts.examples.c_str());
  }
  return 0;
}

}  // namespace

Command AddIndex(CLI::App& app) {
  auto arguments = std::make_shared<IndexArguments>();
  CLI::App* command = app.add_subcommand("index", "List a data set once and save what was found");
  command->add_option("root", arguments->root, "folder of class folders, flat folder, list file (path[TAB label] a line), or a shard")
      ->required();
  command->add_option("--manifest", arguments->manifest, "where to save it; default: the hidden file .NAME.penstock beside the data set NAME");
  command->add_option("--rule", arguments->rule, "how to read the tree")
      ->check(CLI::IsMember({"auto", "classes", "flat", "list"}))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "threads that list; 0: by cores and file system")->capture_default_str();
  command->add_flag("--update", arguments->update, "the tree has grown: say what was added, removed and changed");
  command->add_flag("--crc", arguments->crc, "read all bytes, and keep a CRC-32C of each sample");
  command->add_flag("--stat", arguments->stat, "keep each file's time of modification, for loaders with verify=stat");
  command
      ->add_option(
          "--place", arguments->place,
          "save the order in which files lie on the drive, for shuffle=disk-blocks: by inode, or by first extent (opens every file)")
      ->check(CLI::IsMember({"none", "inode", "extent"}))
      ->capture_default_str();
  command
      ->add_option("--format", arguments->format,
                   "what a file holds: one sample (files; npy-files: an array without its header), or many along the first axis (npy) or one "
                   "behind the other (raw)")
      ->check(CLI::IsMember({"auto", "files", "npy", "raw", "npy-files"}))
      ->capture_default_str();
  command->add_option("--record-bytes", arguments->record_bytes, "raw: bytes of each sample")->check(CLI::PositiveNumber);
  command->add_option("--header-bytes", arguments->header_bytes, "raw: bytes of each file before its first sample")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--include", arguments->include, "globs of the files that are samples, with commas between them");
  command->add_option("--exclude", arguments->exclude, "globs of files and folders that are left out, with commas between them");
  command->add_option("--extensions", arguments->extensions, "endings of the files that are samples: jpg,png");
  command->add_option("--classes", arguments->classes,
                      "which number each class folder has: names with commas between them, @PATH (as another data set, its manifest, or a file "
                      "of names), or numeric");
  command->add_option("--unknown-classes", arguments->unknown_classes, "what becomes of class folders that --classes does not have")
      ->check(CLI::IsMember({"refuse", "leave-out"}))
      ->capture_default_str();
  command->add_option(
      "--labels", arguments->labels,
      "npy, raw: labels of all samples: .npy, .txt (a number a line), or little-endian integers; default: labels.npy in the folder");
  return [arguments] { return RunIndex(*arguments); };
}

}  // namespace penstock::cli
