// The ledger in a file: what a rank writes, what a kill leaves, and what the ranks' files say together.
#include "loader/ledger_file.h"

#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "loader/data_set.h"
#include "penstock/ledger.h"
#include "support/log_capture.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

const std::string kFingerprint(32, 'a');

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-ledger-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary | std::ios::app) << text;
    return Path(name);
  }

 private:
  std::string path_;
};

LedgerFile MustOpen(const std::string& path, int32_t rank, int32_t world_size, int64_t position = 0,
                    int64_t bytes_max = LedgerFile::kBytesMax) {
  absl::StatusOr<LedgerFile> file = LedgerFile::Open(path, {kFingerprint, rank, world_size, 0, position}, bytes_max);
  REQUIRE_OK(file);
  return *std::move(file);
}

LedgerEntry Entry(int64_t position, int64_t id, int64_t substitute = -1, const std::string& reason = "gone") {
  return {0, position, id, substitute, reason};
}

MergedLedger MustMerge(const std::vector<std::string>& paths) {
  absl::StatusOr<MergedLedger> merged = MergeLedgers(paths);
  REQUIRE_OK(merged);
  return *std::move(merged);
}

void CheckRefused(const std::vector<std::string>& paths, absl::StatusCode code, const std::string& words) {
  const absl::Status status = MergeLedgers(paths).status();
  INFO(status.ToString());
  CHECK(status.code() == code);
  CHECK(absl::StrContains(status.message(), words));
}

// Batches of 5 in the order of the ids, with a ledger in `folder`; the file of sample `id` is gone since it was indexed.
LoaderOptions SkippingWithout(const DataSet& data, const Folder& folder, int64_t id) {
  LoaderOptions options = data.Options(5);
  options.shuffle = false;
  options.policy = ErrorPolicy::kSkip;
  options.ledger_path = folder.Path("ledger");
  Index(options);
  const auto manifest = Manifest::Open(data.root());
  REQUIRE_OK(manifest);
  std::filesystem::remove(data.root() + "/" + (*manifest)->Name(id));
  return options;
}

}  // namespace

TEST_CASE("the ledgers of the ranks are merged in the order of the positions", "[ledger]") {
  const Folder folder;
  const std::string paths[] = {folder.Path("a.0"), folder.Path("a.1")};
  REQUIRE_OK(MustOpen(paths[0], 0, 2).Append({Entry(2, 70), Entry(6, 71, 9)}));
  REQUIRE_OK(MustOpen(paths[1], 1, 2).Append({Entry(1, 72, 8, "line\nbreak \xff"), {1, 0, 73, -1, ""}}));
  const MergedLedger merged = MustMerge({paths[1], paths[0]});
  CHECK(merged.fingerprint == kFingerprint);
  CHECK(merged.ranks == std::vector<int32_t>{0, 1});
  REQUIRE(merged.entries.size() == 4);
  CHECK(merged.entries[0].id == 72);
  CHECK(merged.entries[0].substitute == 8);
  CHECK(absl::StartsWith(merged.entries[0].reason, "line\nbreak "));
  CHECK(merged.entries[1].id == 70);
  CHECK(merged.entries[2].id == 71);
  CHECK(merged.entries[3].epoch == 1);
  CHECK(merged.skipped == 2);
  CHECK(merged.substituted == 2);
  CHECK(merged.repeated == 0);
  CHECK(!merged.capped);
}

TEST_CASE("what a run that went on from a state wrote again is counted once, as it was the last time", "[ledger]") {
  const Folder folder;
  const std::string path = folder.Path("l.0");
  REQUIRE_OK(MustOpen(path, 0, 1).Append({Entry(3, 30), Entry(9, 90)}));
  // The world has grown: position 9 is rank 1's now.
  REQUIRE_OK(MustOpen(path, 0, 2, 8).Append({}));
  REQUIRE_OK(MustOpen(folder.Path("l.1"), 1, 2, 8).Append({Entry(9, 90, 5)}));
  const MergedLedger merged = MustMerge({path, folder.Path("l.1")});
  REQUIRE(merged.entries.size() == 2);
  CHECK(merged.entries[1].substitute == 5);
  CHECK(merged.repeated == 1);
  CHECK(merged.skipped == 1);
  CHECK(merged.substituted == 1);
}

TEST_CASE("two samples that failed at one position are two entries", "[ledger]") {
  const Folder folder;
  REQUIRE_OK(MustOpen(folder.Path("l"), 0, 1).Append({Entry(3, 30, 31), Entry(3, 31, 32)}));
  CHECK(MustMerge({folder.Path("l")}).entries.size() == 2);
}

TEST_CASE("a line that a kill cut off is left out and the next run begins a new one", "[ledger]") {
  const Folder folder;
  const std::string path = folder.Path("l");
  REQUIRE_OK(MustOpen(path, 0, 1).Append({Entry(1, 10)}));
  const std::string whole = "{\"epoch\":0,\"id\":20,\"position\":2,\"reason\":\"}\",\"substitute\":-1}";
  for (size_t length = 1; length < whole.size(); ++length) {
    folder.Write("l", whole.substr(0, length));
    REQUIRE(MustMerge({path}).cut_lines == static_cast<int64_t>(length));
    static_cast<void>(MustOpen(path, 0, 1, 1));
  }
  const MergedLedger merged = MustMerge({path});
  CHECK(merged.entries.size() == 1);
  CHECK(merged.cut_lines == static_cast<int64_t>(whole.size()) - 1);
}

TEST_CASE("a ledger that is damaged in the middle is refused by file and line", "[ledger]") {
  const Folder folder;
  REQUIRE_OK(MustOpen(folder.Path("l"), 0, 1).Append({Entry(1, 10)}));
  folder.Write("l", "{\"epoch\":0,\"id\"\n");
  REQUIRE(MergeLedgers({folder.Path("l")}).ok());
  folder.Write("l", "{\"epoch\":0,\"id\":3,\"position\":4,\"reason\":\"\",\"substitute\":-1}\n");
  CheckRefused({folder.Path("l")}, absl::StatusCode::kDataLoss, "/l line 3");
  for (const char* line : {"rubbish", "[]", "{\"epoch\":-1,\"id\":3,\"position\":4,\"reason\":\"\",\"substitute\":-1}", "{\"epoch\":0}",
                           "{\"epoch\":0,\"id\":3,\"position\":99999999999999999999,\"reason\":\"\",\"substitute\":-1}"}) {
    std::filesystem::remove(folder.Path("m"));
    static_cast<void>(MustOpen(folder.Path("m"), 0, 1));
    folder.Write("m", absl::StrCat(line, "\n"));
    CheckRefused({folder.Path("m")}, absl::StatusCode::kDataLoss, "/m line 2");
  }
}

TEST_CASE("what is no ledger, or one of another data set or a newer penstock, is refused", "[ledger]") {
  const Folder folder;
  CheckRefused({}, absl::StatusCode::kInvalidArgument, "no ledgers");
  CheckRefused({folder.Path("none")}, absl::StatusCode::kNotFound, "none");
  CheckRefused({folder.Path("")}, absl::StatusCode::kInvalidArgument, "folder");
  CheckRefused({folder.Write("empty", "")}, absl::StatusCode::kInvalidArgument, "not a ledger");
  CheckRefused({folder.Write("text", "hello\n")}, absl::StatusCode::kInvalidArgument, "not a ledger");
  CheckRefused({folder.Write("state", "{\"epoch\":1}\n")}, absl::StatusCode::kInvalidArgument, "not a ledger");
  static_cast<void>(MustOpen(folder.Path("a"), 0, 1));
  const std::string other = folder.Path("b");
  REQUIRE_OK(LedgerFile::Open(other, {std::string(32, 'b'), 0, 1, 0, 0}));
  CheckRefused({folder.Path("a"), other}, absl::StatusCode::kFailedPrecondition, std::string(32, 'b'));
  CheckRefused({folder.Write("new", "{\"epoch\":0,\"penstock_ledger\":2}\n")}, absl::StatusCode::kFailedPrecondition, "format 2");
}

TEST_CASE("loaders write what the policy did into the ledgers of their ranks, and go on from a state in the same", "[ledger]") {
  const DataSet data(60, -100);
  const Folder folder;
  LoaderOptions options = data.Options(5);
  options.shuffle = false;
  options.ledger_path = folder.Path("ledger");
  Index(options);
  const auto manifest = Manifest::Open(data.root());
  REQUIRE_OK(manifest);
  for (const int64_t id : {3, 10, 41}) std::filesystem::remove(data.root() + "/" + (*manifest)->Name(id));
  std::string state;
  for (const bool again : {false, true}) {
    for (int32_t rank = 0; rank < 2; ++rank) {
      options.rank = rank;
      options.world_size = 2;
      options.policy = again ? ErrorPolicy::kSubstitute : ErrorPolicy::kSkip;
      options.state = state;
      const auto loader = MustOpen(options);
      for (int step = 0; step < (again ? 5 : 2); ++step) REQUIRE_OK(loader->Next());
      if (!again && rank == 1) {
        // What is taken after this state is taken again.
        const auto first = MustOpen([&] {
          LoaderOptions plain = options;
          plain.ledger_path.clear();
          return plain;
        }());
        REQUIRE_OK(first->Next());
        state = first->state();
      }
    }
  }
  const MergedLedger merged = MustMerge({folder.Path("ledger.0"), folder.Path("ledger.1")});
  CHECK(merged.fingerprint == (*manifest)->fingerprint());
  CHECK(merged.ranks == std::vector<int32_t>{0, 1});
  REQUIRE(merged.entries.size() >= 3);
  CHECK(merged.entries[0].position == 3);
  CHECK(merged.entries[0].substitute == -1);
  CHECK(merged.entries[1].position == 10);
  CHECK(merged.entries[1].id == 10);
  CHECK(merged.entries[1].substitute >= 0);
  CHECK(merged.entries.back().position == 41);
  CHECK(absl::StrContains(merged.entries.back().reason, ".bin"));
  CHECK(merged.repeated == 1);
}

TEST_CASE("a batch that was not handed out is not in the ledger", "[ledger]") {
  const DataSet data(60, -100);
  const Folder folder;
  const LoaderOptions options = SkippingWithout(data, folder, 12);
  const auto loader = MustOpen(options);
  REQUIRE_OK(loader->Next());
  REQUIRE_OK(loader->Next());
  CHECK(MustMerge({folder.Path("ledger.0")}).entries.empty());
  REQUIRE_OK(loader->Next());
  CHECK(MustMerge({folder.Path("ledger.0")}).entries.size() == 1);
}

TEST_CASE("a ledger that cannot be opened is named", "[ledger]") {
  const DataSet data(60, -100);
  LoaderOptions options = data.Options(5);
  options.ledger_path = data.root() + "/no/such/folder/ledger";
  const absl::Status status = Loader::Open(options).status();
  CHECK(absl::IsNotFound(status));
  CHECK(absl::StrContains(status.message(), "folder/ledger.0"));
}

TEST_CASE("a ledger that cannot be written any more is a warning and the run goes on", "[ledger]") {
  const DataSet data(60, -100);
  const Folder folder;
  const LoaderOptions options = SkippingWithout(data, folder, 2);
  LogCapture log;
  const auto loader = MustOpen(options);
  // As a full disk: the file may not grow.
  rlimit before;
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  rlimit small = before;
  small.rlim_cur = std::filesystem::file_size(folder.Path("ledger.0"));
  auto* const handler = ::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  ::signal(SIGXFSZ, handler);
  REQUIRE_OK(batch);
  CHECK(loader->report().skipped == 1);
  CHECK(log.CountOf("missing in the ledger") == 1);
}

TEST_CASE("a full ledger says so once and stays as it is", "[ledger]") {
  const Folder folder;
  const std::string path = folder.Path("l");
  LedgerFile file = MustOpen(path, 0, 1, 0, 400);
  for (int i = 0; i < 20; ++i) REQUIRE_OK(file.Append({Entry(i, i)}));
  const auto bytes = std::filesystem::file_size(path);
  CHECK(bytes < 450);
  const MergedLedger merged = MustMerge({path});
  CHECK(merged.capped);
  CHECK(merged.entries.size() > 1);
  CHECK(merged.entries.size() < 6);
}
