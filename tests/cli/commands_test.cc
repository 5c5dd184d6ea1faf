// What scripts and people rely on: exit statuses, what goes to stdout and what to stderr, and that an interrupted program leaves nothing
// broken.
#include <fcntl.h>
#include <pty.h>
#include <string.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "loader/data_set.h"
#include "penstock/loader.h"
#include "support/fault_fs.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// What a program says on a terminal that is its stdout and its stderr.
std::string OnTerminal(std::vector<std::string> words) {
  int terminal = -1;
  const pid_t pid = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  if (pid < 0) SkipTest("no pseudo-terminal");
  if (pid == 0) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  std::string text;
  char buffer[4096];
  for (ssize_t count; (count = ::read(terminal, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(count));
  ::close(terminal);
  ::waitpid(pid, nullptr, 0);
  return text;
}

// Sends SIGINT and waits. -1: the program did not end.
int Interrupt(Program& program) {
  ::kill(program.pid(), SIGINT);
  for (int waited_ms = 0; waited_ms < 20000; waited_ms += 10) {
    if (program.ended()) return program.Wait().status;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return -1;
}

// `plan` with these arguments prints the ids of the loader's next batch.
void CheckPlanOfNext(Loader& loader, std::vector<std::string> arguments) {
  const absl::StatusOr<Batch> batch = loader.Next();
  REQUIRE_OK(batch);
  std::string ids;
  for (const int64_t id : batch->ids()) ids += std::to_string(id) + "\n";
  arguments.insert(arguments.begin(), "plan");
  const Outcome outcome = Penstock(arguments);
  INFO(outcome.err);
  CHECK(outcome.status == 0);
  CHECK(outcome.out == ids);
}

}  // namespace

TEST_CASE("help is printed on stdout and is a success", "[cli]") {
  for (const char* command : {"", "index", "bench", "plan", "doctor", "ledger"}) {
    const Outcome outcome = *command == '\0' ? Penstock({"--help"}) : Penstock({command, "--help"});
    CAPTURE(command);
    CHECK(outcome.status == 0);
    CHECK(Has(outcome.out, "Usage"));
    CHECK(outcome.err.empty());
  }
}

TEST_CASE("wrong usage ends with 2 and says so on stderr", "[cli]") {
  DataSet data(4);
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"no-such-command"},
      {"bench"},
      {"bench", data.root(), "--no-such-option"},
      {"bench", data.root(), "--epochs", "0"},
      {"bench", data.root(), "--set", "no_such_option=1"},
      {"bench", data.root(), "--set", "batch_size=many"},
      {"index", data.root(), "--rule", "no-such-rule"},
      {"plan", "--samples", "10", "--rank", "3", "--world", "2"},
      {"plan"},
      {"ledger"},
      {"ledger", data.root()},
  };
  for (const auto& arguments : wrong) {
    const Outcome outcome = Penstock(arguments);
    CAPTURE(arguments);
    CHECK(outcome.status == 2);
    CHECK(outcome.out.empty());
    CHECK(!outcome.err.empty());
  }
}

TEST_CASE("work that fails ends with 1 and says why on stderr", "[cli]") {
  for (const char* command : {"index", "bench", "plan"}) {
    const Outcome outcome = Penstock({command, "/no/such/folder"});
    CAPTURE(command);
    CHECK(outcome.status == 1);
    CHECK(outcome.out.empty());
    CHECK(outcome.err.rfind("penstock: ", 0) == 0);
    CHECK(Has(outcome.err, "/no/such/folder"));
  }
}

TEST_CASE("bench ends with 1 and names the file where a read fails, whatever the errno", "[cli]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 20, 4000, 2);
  const TempFolder folder;
  const std::string manifest = folder.path() + "/manifest";
  REQUIRE(Penstock({"index", fs.mounted(), "--manifest", manifest}).status == 0);
  for (const int error : {EFBIG, EOVERFLOW, ERANGE, ECHRNG, EIO}) {
    fs.Set("* direct\n*1000004.bin errno " + std::to_string(error) + "\n");
    const Outcome outcome = Penstock({"bench", fs.mounted(), "--set", "manifest_path=" + manifest, "--batch", "4"});
    INFO(outcome.err);
    CHECK(outcome.status == 1);
    CHECK(Has(outcome.err, "1000004.bin"));
    CHECK(Has(outcome.err, ::strerrorname_np(error)));
  }
}

TEST_CASE("bench prints one JSON object and nothing else on stdout", "[cli]") {
  DataSet data(50);
  const Outcome outcome = Penstock({"bench", data.root(), "--json", "--epochs", "2", "--batch", "8"});  // it also indexes
  REQUIRE(outcome.status == 0);
  const nlohmann::json json = nlohmann::json::parse(outcome.out);
  for (const char* number : {"epoch", "wall_s", "samples", "bytes", "samples_per_s", "mb_per_s", "cpu_s", "cpu_s_per_gb", "next_p50_us",
      "next_p99_us", "first_batch_s", "wait_share",
                             "skipped", "substituted", "open_latency_us", "read_latency_us", "latency_floor_us", "bandwidth_mb_per_s",
                             "open_s", "peak_rss_bytes", "streams", "queue_depth"}) {
    CAPTURE(number);
    CHECK(json[number].is_number());
  }
  for (const char* text : {"bound", "verdict", "engine", "io", "pages"}) {
    CAPTURE(text);
    CHECK(json[text].is_string());
  }
  REQUIRE(json["epochs"].size() == 2);
  CHECK(json["epochs"][0]["epoch"] == 0);
  CHECK(json["epoch"] == 1);
  CHECK(json["samples"] == 50);
  CHECK(json["verdict"].get<std::string>().rfind(json["bound"].get<std::string>() + ": ", 0) == 0);
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(data.root())) {
    if (entry.is_regular_file() && !Has(entry.path().string(), ".penstock")) bytes += static_cast<int64_t>(entry.file_size());
  }
  CHECK(json["bytes"] == bytes);
}

TEST_CASE("progress of an indexing is a bar on a terminal and plain lines in a log", "[cli]") {
  DataSet data(50);
  const Outcome logged = Penstock({"index", data.root()});
  CHECK(logged.status == 0);
  CHECK(!Has(logged.err, "\r"));
  CHECK(!Has(logged.err, "\033"));
  CHECK(Has(logged.err, "scanning: "));
  CHECK(Has(logged.out, "50 samples, 3 classes"));
  const std::string shown = OnTerminal({PENSTOCK_CLI, "index", data.root()});
  CHECK(Has(shown, "\033[K"));
  // A terminal's own line ends are \r\n: a lone \r is ours.
  bool rewritten = false;
  for (size_t at = shown.find('\r'); at != std::string::npos; at = shown.find('\r', at + 1)) rewritten = rewritten ||
      (at + 1 < shown.size() && shown[at + 1] != '\n' && shown[at + 1] != '\r');
  CHECK(rewritten);
}

TEST_CASE("plan prints the ids that a loader delivers, also for a state and another world size", "[cli]") {
  DataSet data(101);
  LoaderOptions options = data.Options(4);
  options.seed = 17;
  options.world_size = 3;
  options.rank = 1;
  const auto compare = [&](LoaderOptions loader_options, std::vector<std::string> arguments, int64_t steps) {
    auto loader = MustOpen(loader_options);
    for (int64_t step = 0; step < steps; ++step) {
      std::vector<std::string> all = {data.root(),
                                      "--batch",
                                      std::to_string(loader_options.batch_size),
                                      "--world",
                                      std::to_string(loader_options.world_size),
                                      "--rank",
                                      std::to_string(loader_options.rank),
                                      "--step",
                                      std::to_string(step)};
      all.insert(all.end(), arguments.begin(), arguments.end());
      CheckPlanOfNext(*loader, all);
    }
    return loader->state();
  };
  const std::string state = compare(options, {"--seed", "17"}, 3);
  options.state = state;
  options.world_size = 2;
  options.rank = 1;
  options.batch_size = 5;
  compare(options, {"--state", state}, 3);
}

TEST_CASE("plan of disk-blocks prints the ids that a loader delivers, where no block is given too", "[cli]") {
  DataSet data(300);
  IndexOptions index;
  index.place = PlaceOrder::kInode;
  REQUIRE_OK(Manifest::Build(data.root(), index));
  LoaderOptions options = data.Options(10);
  options.seed = 5;
  REQUIRE_OK(SetOption(options, "shuffle", "disk-blocks"));
  auto loader = MustOpen(options);
  CheckPlanOfNext(*loader, {data.root(), "--batch", "10", "--step", "0", "--disk-blocks", "--seed", "5"});
  CheckPlanOfNext(*loader, {data.root(), "--batch", "10", "--step", "1", "--disk-blocks", "--seed", "5"});
  const std::string state = loader->state();
  CheckPlanOfNext(*loader, {data.root(), "--batch", "10", "--step", "0", "--state", state});
  // Options that are the same as the state's go with it, also for a loader; others are refused, in every language.
  CHECK(Penstock({"plan", data.root(), "--state", state, "--disk-blocks", "--seed", "5"}).status == 0);
  const Outcome differs = Penstock({"plan", data.root(), "--state", state, "--seed", "0"});
  CHECK(differs.status != 0);
  CHECK(Has(differs.err, "seed = 0 (the state: 5)"));
  options.state = state;
  MustOpen(options);
  const Outcome bench = Penstock({"bench", data.root(), "--set", "state=" + state, "--set", "seed=5", "--set", "shuffle=true"});
  CHECK(bench.status != 0);
  CHECK(Has(bench.err, "shuffle = true (the state: disk-blocks)"));
  CHECK(Penstock({"plan", data.root(), "--disk-blocks", "--no-shuffle"}).status == 2);
  const Outcome unknown = Penstock({"plan", "--samples", "100", "--disk-blocks"});
  CHECK(unknown.status != 0);
  CHECK(Has(unknown.err, "penstock index --place inode"));
}

TEST_CASE("bench and plan of a mixture", "[cli]") {
  DataSet a(40, -100);
  DataSet b(30, -60);
  const std::string mixture = "[{\"root\": \"" + a.root() + "\", \"weight\": 8}, {\"root\": \"" + b.root() + "\", \"weight\": 2}]";
  LoaderOptions options = OptionsOf("", 10);
  REQUIRE_OK(SetOption(options, "mixture", mixture));
  options.mixture_period = 10;
  options.epoch_samples = 35;
  options.seed = 3;
  options.tail = Tail::kPad;
  auto loader = MustOpen(options);
  const auto compare = [&](int64_t step, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--mixture", mixture, "--batch", "10", "--step", std::to_string(step)});
    CheckPlanOfNext(*loader, arguments);
  };
  for (int64_t step = 0; step < 4; ++step)
    compare(step, {"--seed", "3", "--mixture-period", "10", "--epoch-samples", "35", "--tail", "pad"});
  // The state has the weights of the moment.
  REQUIRE_OK(loader->StartEpoch());
  REQUIRE_OK(loader->Skip(1));
  REQUIRE_OK(loader->SetWeights({1, 1}));
  const std::string state = loader->state();
  for (int64_t step = 0; step < 2; ++step) compare(step, {"--state", state});
  CHECK(Penstock({"plan", a.root(), "--mixture", mixture}).status == 2);
  CHECK(Penstock({"plan", "--mixture", "[]"}).status == 2);
  CHECK(Penstock({"plan", "--mixture", mixture, "--epoch-samples", "35", "--epoch", "3000000000000000", "--step", "0"}).status == 2);
  CHECK(Penstock({"plan", "--mixture", "x"}).status == 2);

  const Outcome outcome = Penstock({"bench", "--set", "mixture=" + mixture, "--batch", "7", "--json"});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const nlohmann::json json = nlohmann::json::parse(outcome.out);
  CHECK(json["samples"] == 70);
  CHECK(json["member_samples"][0].get<int64_t>() + json["member_samples"][1].get<int64_t>() == 70);
  const Outcome text = Penstock({"bench", "--set", "mixture=" + mixture, "--batch", "7"});
  CHECK(Has(text.out, b.root() + ": 30 samples, 200 of 1000 positions"));
}

TEST_CASE("plan refuses a state of another data set", "[cli]") {
  DataSet data(30);
  DataSet other(31);
  auto loader = MustOpen(other.Options(4));
  const Outcome outcome = Penstock({"plan", data.root(), "--state", loader->state(), "--step", "0"});
  CHECK(outcome.status != 0);
  CHECK(outcome.out.empty());
  CHECK(!outcome.err.empty());
}

TEST_CASE("index --update counts what was added, removed and changed", "[cli]") {
  DataSet data(30, -100);
  // What was written in the clock tick of the scan counts as changed, since it could have changed after it.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  REQUIRE(Penstock({"index", data.root()}).status == 0);
  DataSet::Write(data.root() + "/class0/new1.bin", 10);
  DataSet::Write(data.root() + "/class2/new2.bin", 10);
  DataSet::Write(data.root() + "/class1/1000001.bin", 999);
  std::filesystem::remove(data.root() + "/class0/1000000.bin");
  const Outcome outcome = Penstock({"index", "--update", data.root()});
  CHECK(outcome.status == 0);
  CHECK(Has(outcome.out, "31 samples"));
  CHECK(Has(outcome.out, "added 2, removed 1, changed 1\n"));
}

TEST_CASE("an indexing that is interrupted ends at once, and leaves neither half a manifest nor a lease in the way", "[cli]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 20, -4096, 2);
  TempFolder folder;
  const std::string manifest = folder.path() + "/manifest";
  fs.Set("*1000004.bin hang\n");  // --crc reads it, for ever
  Program program({PENSTOCK_CLI, "index", "--crc", "--manifest", manifest, fs.mounted()});
  for (int tries = 0; tries < 2000 && !Has(program.err(), "checksums"); ++tries) ::usleep(5000);
  REQUIRE(Has(program.err(), "checksums"));
  CHECK(Interrupt(program) == 130);
  CHECK(!std::filesystem::exists(manifest));
  fs.Clear();
  const Outcome again = Penstock({"index", "--crc", "--manifest", manifest, fs.mounted()});
  INFO(again.err);
  CHECK(again.status == 0);
  CHECK(Has(again.out, "20 samples"));
  REQUIRE_OK(Manifest::OpenSaved(manifest));
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++files;
  CHECK(files == 1);
}

TEST_CASE("an update that is interrupted leaves the manifest that was there", "[cli]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 20, -4096, 2);
  TempFolder folder;
  const std::string manifest = folder.path() + "/manifest";
  REQUIRE(Penstock({"index", "--crc", "--manifest", manifest, fs.mounted()}).status == 0);
  const std::string before = ReadFile(manifest);
  DataSet::Write(fs.backing() + "/class0/new.bin", 10);
  fs.Set("*new.bin hang\n");
  Program program({PENSTOCK_CLI, "index", "--update", "--crc", "--manifest", manifest, fs.mounted()});
  for (int tries = 0; tries < 2000 && !Has(program.err(), "checksums"); ++tries) ::usleep(5000);
  REQUIRE(Has(program.err(), "checksums"));
  CHECK(Interrupt(program) == 130);
  CHECK(ReadFile(manifest) == before);
}

TEST_CASE("a bench that is interrupted while a read hangs ends", "[cli]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 20, -4096, 2);
  TempFolder folder;
  const std::string manifest = folder.path() + "/manifest";
  REQUIRE(Penstock({"index", "--manifest", manifest, fs.mounted()}).status == 0);
  const std::string before = ReadFile(manifest);
  fs.Set("*1000004.bin hang\n");
  Program program({PENSTOCK_CLI, "bench", fs.mounted(), "--batch", "20", "--set", "manifest_path=" + manifest});
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // the read is in the kernel now
  REQUIRE(!program.ended());
  CHECK(Interrupt(program) == 130);
  CHECK(ReadFile(manifest) == before);
}

TEST_CASE("ledger merges the files of the ranks, as text and as JSON", "[cli]") {
  const TempFolder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder.path() + "/" + name) << text;
    return folder.path() + "/" + name;
  };
  const std::string run = R"("fingerprint":"00112233445566778899aabbccddeeff","penstock_ledger":1,"position":0,"rank":)";
  const std::string first = write("l.0", "{\"epoch\":0," + run + "0,\"world_size\":2}\n" +
                                             R"({"epoch":0,"id":5,"position":8,"reason":"open five: gone","substitute":-1})" + "\n" +
                                             R"({"epoch":0,"id":6)");
  const std::string second = write("l.1", "{\"epoch\":0," + run + "1,\"world_size\":2}\n" +
                                              R"({"epoch":0,"id":7,"position":3,"reason":"read seven: EIO","substitute":9})" + "\n");
  const Outcome text = Penstock({"ledger", first, second});
  CHECK(text.status == 0);
  CHECK(Has(text.out, "0\t3\t7\t9\tread seven: EIO\n0\t8\t5\tnothing\topen five: gone\n"));
  CHECK(Has(text.out, "skipped 1, substituted 1"));
  CHECK(Has(text.err, "cut off"));
  const Outcome json = Penstock({"ledger", "--json", second, first});
  CHECK(json.status == 0);
  const auto merged = nlohmann::json::parse(json.out);
  CHECK(merged["ranks"] == nlohmann::json({0, 1}));
  CHECK(merged["entries"].size() == 2);
  CHECK(merged["entries"][0]["id"] == 7);
  CHECK(merged["skipped"] == 1);
  CHECK(merged["cut_lines"] == 1);
  CHECK(Penstock({"ledger", first, folder.path() + "/none"}).status == 1);
  CHECK(Penstock({"ledger", write("broken", "{\"epoch\":0," + run + "0,\"world_size\":2}\nrubbish\n")}).status == 1);
}

TEST_CASE("plan --scale says what a run costs, without data and with a data set's own sizes", "[cli]") {
  const Outcome made_up = Penstock({"plan", "--samples", "100000", "--world", "3", "--batch", "10", "--scale", "--open", "--sizes",
                                    "fixed:1000"});
  CHECK(made_up.status == 0);
  CHECK(Has(made_up.out, "3333 steps of 30 samples"));
  // Samples of one size are shared out evenly.
  CHECK(Has(made_up.out, "1.0000; within a step 1.000 (median), 1.000 (worst)"));
  CHECK(Has(made_up.out, "a loader opened from it"));
  DataSet data(40);
  const Outcome own = Penstock({"plan", data.root(), "--world", "2", "--batch", "5", "--scale"});
  CHECK(own.status == 0);
  CHECK(Has(own.out, "40 samples"));
  CHECK(Has(own.out, "bytes a sample"));
  CHECK(Penstock({"plan", "--samples", "100", "--batch", "10", "--scale", "--sizes", "lognormal:big"}).status == 2);
}

TEST_CASE("bench, doctor and their JSON say which rank this is, and where that comes from", "[cli]") {
  TempFolder folder;
  DataSet::Fill(folder.path() + "/data", 20, 100, 2);
  const std::vector<std::string> flux = {"env", "-u", "RANK", "-u", "WORLD_SIZE", "-u", "LOCAL_RANK", "FLUX_TASK_RANK=1", "FLUX_JOB_SIZE=2",
                                         "FLUX_TASK_LOCAL_ID=1", "FLUX_JOB_NNODES=1"};
  const auto run = [](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.push_back(PENSTOCK_CLI);
    words.insert(words.end(), more.begin(), more.end());
    return Run(words);
  };
  const std::string why = "rank 1 of 2 (from Flux; local rank 1 of 2)";
  const std::vector<std::string> bench = {"bench", folder.path() + "/data", "--batch", "5", "--set", "memory_bytes=8MiB"};
  const Outcome text = run(flux, bench);
  REQUIRE(text.status == 0);
  CHECK(text.out.find("\n" + why + "\n") != std::string::npos);
  CHECK(text.err.rfind("penstock: " + folder.path() + "/data: " + why + "\n", 0) == 0);
  std::vector<std::string> json = bench;
  json.push_back("--json");
  const Outcome in_json = run(flux, json);
  REQUIRE(in_json.status == 0);
  const auto report = nlohmann::json::parse(in_json.out);
  CHECK(report["rank"] == 1);
  CHECK(report["world_size"] == 2);
  CHECK(report["rank_why"] == why);
  CHECK(report["samples"] == 10);
  CHECK(run(flux, {"doctor"}).out.find(why) != std::string::npos);
  // LOCAL_RANK alone: nothing is read, and doctor says so before.
  const std::vector<std::string> lost = {"env", "-u", "RANK", "-u", "WORLD_SIZE", "LOCAL_RANK=1"};
  const Outcome refused = run(lost, bench);
  CHECK(refused.status == 2);
  CHECK(refused.err.find("LOCAL_RANK = 1 is set without RANK and WORLD_SIZE") != std::string::npos);
  CHECK(refused.err.find("give rank and world_size") != std::string::npos);
  CHECK(run(lost, {"doctor"}).out.find("PROBLEM  rank ") != std::string::npos);
}

namespace {

// A memory cgroup of this test's own below the one that it is in; empty where it cannot be made.
class MemoryCgroup {
 public:
  explicit MemoryCgroup(int64_t limit_bytes) {
    std::ifstream lines("/proc/self/cgroup");
    for (std::string line; std::getline(lines, line);) {
      const size_t first = line.find(':');
      const size_t second = line.find(':', first + 1);
      if (second == std::string::npos) continue;
      const std::string controllers = line.substr(first + 1, second - first - 1);
      const std::string path = line.substr(second + 1);
      if (controllers == "memory") Make("/sys/fs/cgroup/memory" + path, "memory.limit_in_bytes", limit_bytes);
      if (line.rfind("0::", 0) == 0 && path_.empty()) Make("/sys/fs/cgroup" + path, "memory.max", limit_bytes);
    }
  }
  ~MemoryCgroup() {
    // The kernel takes a moment to let go of a process that has ended.
    for (int i = 0; !path_.empty() && i < 100 && ::rmdir(path_.c_str()) != 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const std::string& path() const { return path_; }

 private:
  void Make(const std::string& parent, const std::string& file, int64_t limit_bytes) {
    const std::string path = parent + "/penstock-test-" + std::to_string(::getpid());
    if (::mkdir(path.c_str(), 0755) != 0) return;
    std::ofstream(path + "/" + file) << limit_bytes;
    std::ofstream(path + "/memory.swap.max") << 0;
    std::ifstream again(path + "/" + file);
    int64_t seen = 0;
    again >> seen;
    if (seen == limit_bytes) {
      path_ = path;
    } else {
      ::rmdir(path.c_str());
    }
  }
  std::string path_;
};

}  // namespace

TEST_CASE("bench with its defaults stays alive in a cgroup of little memory, and doctor names that cgroup", "[cli]") {
  const MemoryCgroup cgroup(300 << 20);
  if (cgroup.path().empty()) SkipTest("no memory cgroup can be made here (not root, or /sys/fs/cgroup is not writable)");
  TempFolder folder;
  // More than the limit, in batches that the consumer lets go of: the arena is used up to its cap.
  const std::string data = folder.path() + "/data";
  DataSet::Fill(data, 640, -(1 << 20), 1);
  const auto inside = [&](const std::string& arguments) {
    return Run({"sh", "-c", "echo $$ > " + cgroup.path() + "/cgroup.procs && exec " PENSTOCK_CLI " " + arguments});
  };
  const Outcome bench = inside("bench " + data + " --batch 4 --json --set prefetch_batches=1000");
  INFO(bench.err);
  REQUIRE(bench.status == 0);
  const auto report = nlohmann::json::parse(bench.out);
  CHECK(report["arena_bytes"].get<int64_t>() <= 75 << 20);
  CHECK(report["samples"] == 640);
  CHECK(Has(report["memory_why"].get<std::string>(), cgroup.path()));
  const Outcome doctor = inside("doctor");
  CHECK(Has(doctor.out, "what the limit of 300 MiB of the memory cgroup " + cgroup.path() + " leaves"));
}

TEST_CASE("a standard output that is full is an error of every command, of --json and of --help", "[cli]") {
  TempFolder folder;
  const std::string data = folder.path() + "/data";
  DataSet::Fill(data, 20, 100, 2);
  REQUIRE(Penstock({"index", data}).status == 0);
  const std::string ledger = folder.path() + "/ledger.0";
  std::ofstream(ledger) << R"({"epoch":0,"fingerprint":"00","penstock_ledger":1,"position":0,"rank":0,"world_size":1})" << "\n";
  for (const std::string& words :
       {std::string("--help"), std::string("--version"), "index " + data, "bench " + data + " --batch 5", "bench " + data + " --batch 5 --json",
        "plan " + data + " --batch 5 --step 0", std::string("plan --samples 1000 --scale"), std::string("doctor"), std::string("doctor --json"),
        std::string("options"), std::string("options --markdown"), std::string("options --json"), std::string("bench --help"),
        "ledger " + ledger, "ledger --json " + ledger}) {
    INFO(words);
    const Outcome fine = Run({"sh", "-c", PENSTOCK_CLI " " + words});
    INFO(fine.err);
    REQUIRE(fine.status == 0);
    const Outcome full = Run({"sh", "-c", PENSTOCK_CLI " " + words + " > /dev/full"});
    CHECK(full.status == 1);
    CHECK(Has(full.err, "write to the standard output: "));
  }
}

TEST_CASE("a FIFO is no ledger: it is refused at once", "[cli]") {
  TempFolder folder;
  const std::string fifo = folder.path() + "/ledger.0";
  REQUIRE(::mkfifo(fifo.c_str(), 0644) == 0);
  const Outcome merged = Run({"timeout", "20", PENSTOCK_CLI, "ledger", fifo});
  CHECK(merged.status == 2);
  CHECK(Has(merged.err, fifo + ": not a regular file"));
  DataSet::Fill(folder.path() + "/data", 20, 100, 2);
  const Outcome bench =
      Run({"timeout", "20", PENSTOCK_CLI, "bench", folder.path() + "/data", "--set", "ledger_path=" + folder.path() + "/ledger"});
  CHECK(bench.status == 2);
  CHECK(Has(bench.err, fifo + ": not a regular file"));
}
