// `penstock doctor` under a restriction and without it: the advice is there only where it is needed.
#include <fcntl.h>
#include <sched.h>

#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "loader/data_set.h"
#include "support/fault_fs.h"
#include "support/skip.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

struct Seen {
  std::string level;
  std::string seen;
  std::string advice;
};

// The finding about `subject` from a run of `before... penstock doctor --json root`.
Seen Doctor(const std::string& subject, std::vector<std::string> before = {}, const std::string& program = PENSTOCK_CLI,
    const std::string& root = "") {
  before.insert(before.end(), {program, "doctor", "--json"});
  if (!root.empty()) before.push_back(root);
  const Outcome outcome = Run(before);
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  const nlohmann::json report = nlohmann::json::parse(outcome.out);
  for (const auto& finding : report["findings"]) {
    if (finding["subject"] == subject) return {finding["level"], finding["seen"], finding["advice"]};
  }
  return {};
}

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

int AllowedCpus() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

TEST_CASE("doctor says how to allow io_uring where a seccomp filter forbids it, and only there", "[cli]") {
  for (const char* error : {"EPERM", "ENOSYS"}) {
    const Seen without = Doctor("engine", {PENSTOCK_WITHOUT_URING, error});
    CHECK(without.level == "PROBLEM");
    CHECK(Has(without.seen, "threads: "));
    CHECK(Has(without.seen, "seccomp"));
    CHECK(Has(without.advice, "io_uring_setup"));
  }
  const Seen with = Doctor("engine");
  if (!Has(with.seen, "uring: ")) SkipTest("io_uring does not work here: " + with.seen);
  CHECK(with.level == "ok");
  CHECK(with.advice.empty());
}

TEST_CASE("doctor says what 64 KiB of locked memory means to a user without CAP_IPC_LOCK, and only then", "[cli]") {
  if (::geteuid() != 0) SkipTest("only root can become another user and raise a limit");
  TempFolder folder;
  const std::string program = folder.path() + "/penstock";  // the build folder may be closed to others
  std::filesystem::copy_file(PENSTOCK_CLI, program);
  const std::vector<std::string> nobody = {"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all",
      "--bounding-set=-all"};
  std::vector<std::string> little = {"prlimit", "--memlock=65536:65536"};
  little.insert(little.end(), nobody.begin(), nobody.end());
  std::vector<std::string> plenty = {"prlimit", "--memlock=unlimited:unlimited"};
  plenty.insert(plenty.end(), nobody.begin(), nobody.end());
  const Seen restricted = Doctor("locked memory", little, program);
  CHECK(restricted.level == "PROBLEM");
  CHECK(Has(restricted.seen, "64 KiB"));
  CHECK(Has(restricted.advice, "ulimit -l"));
  if (Run({"prlimit", "--memlock=unlimited:unlimited", "true"}).status == 0) {
    const Seen free = Doctor("locked memory", plenty, program);
    CHECK(free.level == "ok");
    CHECK(free.advice.empty());
  }
  // With the capability the same limit means nothing.
  const Seen exempt = Doctor("locked memory", {"prlimit", "--memlock=65536:65536"});
  CHECK(exempt.level == "ok");
  CHECK(exempt.advice.empty());
}

TEST_CASE("doctor says that an affinity mask hides cores, and only then", "[cli]") {
  if (AllowedCpus() < 2) SkipTest("one CPU only");
  const Seen bound = Doctor("cores", {"taskset", "-c", "0"});
  CHECK(bound.level == "note");
  CHECK(bound.seen.rfind("1 of ", 0) == 0);
  CHECK(Has(bound.advice, "cpuset"));
  const Seen all = Doctor("cores");
  if (AllowedCpus() != ::sysconf(_SC_NPROCESSORS_ONLN)) SkipTest("this test itself may not use all cores");
  CHECK(all.level == "ok");
  CHECK(all.advice.empty());
}

TEST_CASE("doctor says that a cpuset hides cores", "[cli]") {
  if (AllowedCpus() < 2) SkipTest("one CPU only");
  const std::string name = "/penstock-test-" + std::to_string(::getpid());
  std::string folder = "/sys/fs/cgroup/cpuset" + name;
  bool v1 = true;
  if (::mkdir(folder.c_str(), 0755) != 0) {
    std::ofstream("/sys/fs/cgroup/cgroup.subtree_control") << "+cpuset" << std::flush;
    folder = "/sys/fs/cgroup" + name;
    v1 = false;
    if (::mkdir(folder.c_str(), 0755) != 0) SkipTest("no cpuset cgroup can be made here");
  }
  std::ofstream cpus(folder + "/cpuset.cpus");
  cpus << "0" << std::flush;
  if (v1) std::ofstream(folder + "/cpuset.mems") << "0" << std::flush;
  if (!cpus.good()) {
    ::rmdir(folder.c_str());
    SkipTest("the cgroup " + folder + " takes no cpuset");
  }
  const Seen bound = Doctor("cores", {"sh", "-c", "echo $$ > " + folder + "/cgroup.procs && exec \"$@\"", "sh"});
  for (int tries = 0; tries < 400 && ::rmdir(folder.c_str()) != 0; ++tries) ::usleep(5000);
  CHECK(bound.level == "note");
  CHECK(bound.seen.rfind("1 of ", 0) == 0);
  CHECK(Has(bound.advice, "cpuset"));
}

TEST_CASE("doctor says that 64 open files are too few, and only then", "[cli]") {
  const Seen few = Doctor("open files", {"prlimit", "--nofile=64:64"});
  CHECK(few.level == "PROBLEM");
  CHECK(Has(few.seen, "RLIMIT_NOFILE 64"));
  CHECK(Has(few.advice, "ulimit -n"));
  const Seen many = Doctor("open files", {"prlimit", "--nofile=1024"});
  CHECK(many.level == "ok");
  CHECK(many.advice.empty());
}

TEST_CASE("doctor says of a FUSE mount that each read is a round trip and holds a thread, and not of this machine's own disk", "[cli]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 4, -4096, 2);
  const Seen fuse = Doctor("file system", {}, PENSTOCK_CLI, fs.mounted());
  CHECK(fuse.level == "note");
  CHECK(Has(fuse.seen, "fuse at "));
  CHECK(Has(fuse.advice, "io_workers"));
  const Seen at_once = Doctor("reads at once", {}, PENSTOCK_CLI, fs.mounted());
  CHECK(at_once.level == "note");
  CHECK(Has(at_once.advice, "io_workers"));
  const Seen local = Doctor("file system", {}, PENSTOCK_CLI, fs.backing());
  CHECK(local.level == "ok");
  CHECK(local.advice.empty());
}

TEST_CASE("doctor tries direct reads on a file of the data set", "[cli]") {
  DataSet data(4, -8192);
  const Seen direct = Doctor("direct reads", {}, PENSTOCK_CLI, data.root());
  REQUIRE(!direct.seen.empty());
  const int fd = ::open((data.root() + "/class0/1000000.bin").c_str(), O_RDONLY | O_DIRECT);
  CHECK((direct.level == "ok") == (fd >= 0));
  if (fd >= 0) ::close(fd);
}

TEST_CASE("doctor sets the data set's size against the memory available", "[cli]") {
  DataSet data(4, -4096);
  const Seen not_indexed = Doctor("data set", {}, PENSTOCK_CLI, data.root());
  CHECK(not_indexed.level == "note");
  CHECK(Has(not_indexed.advice, "penstock index"));

  REQUIRE(Penstock({"index", data.root()}).status == 0);
  const Seen small = Doctor("data set", {}, PENSTOCK_CLI, data.root());
  CHECK(small.level == "ok");
  CHECK(Has(small.seen, "4 samples, 16 KiB: 0 % of the "));
  CHECK(small.advice.empty());

  if (::truncate((data.root() + "/class0/1000000.bin").c_str(), int64_t{8} << 40) != 0) SkipTest("this file system has no files of 8 TiB");
  REQUIRE(Penstock({"index", "--update", data.root()}).status == 0);
  const Seen large = Doctor("data set", {}, PENSTOCK_CLI, data.root());
  CHECK(large.level == "note");
  CHECK(Has(large.seen, "cannot hold it"));
  CHECK(Has(large.advice, "more memory"));
}
