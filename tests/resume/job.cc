// A training job as far as the proof of resume needs one (resume_test.py drives it): it takes batches, writes down which ids it got, saves
// the state, and is killed. Over the public headers only.
//
//   job index ROOT MANIFEST RECORD_BYTES     index the packed file that the job reads
//   job run FOLDER INCARNATION [option=value ...]
//
// `run` takes the loader's options by name, and these of its own:
//   ranks=N          ranks of the world; without `only` all of them are loaders of this one process
//   only=R           this process is rank R alone; the others are processes like it, which meet in the file `counters`
//   restore=FILE     go on from this state
//   refuse=FILE      what a kill left of a state that was being written: must be refused unless it is whole
//   save_every=K     steps between two saved states
//   save_parts=K     a state is written in so many parts, with a pause after each, so that a kill hits in the middle
//   pace_ns, hold_ns  step k is not taken before k * pace_ns after the first, and none after hold_ns: then it waits to be killed. When the
//                    loaders are open and the first step begins, a line on stdout has the time of CLOCK_MONOTONIC
//   until=EPOCH:POSITION  ends with 0 once the state is there
// Exit status: 0 ended, 1 something is wrong (said on stderr).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "penstock/loader.h"
#include "penstock/manifest.h"
#include "penstock/order.h"

using penstock::Batch;
using penstock::Loader;
using penstock::LoaderOptions;
using penstock::State;

namespace {

// One batch in the log: this, and `count` ids behind it. resume_test.py reads it.
struct Record {
  uint32_t magic = 0x62617463;
  int32_t rank = 0;
  int32_t world = 0;
  int32_t count = 0;
  int64_t epoch = 0;
  int64_t step = 0;         // in the epoch, from the run's origin
  int64_t after_epoch = 0;  // where the state stands behind this batch
  int64_t after_position = 0;
  uint64_t state_hash = 0;  // of the state's text, which must be the same on every rank
};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "job: %s\n", what.c_str());
  std::exit(1);
}

int64_t NowNs() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void SleepUntil(int64_t ns) {
  const timespec until{ns / 1'000'000'000, ns % 1'000'000'000};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

uint64_t HashOf(const std::string& text) {
  uint64_t hash = 14695981039346656037u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) Die("cannot read " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteAll(int fd, const char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t written = ::write(fd, bytes, count);
    if (written < 0) Die(std::string("write: ") + std::strerror(errno));
    bytes += written;
    count -= static_cast<size_t>(written);
  }
}

struct Job {
  std::string folder, incarnation, restore, refuse;
  int32_t ranks = 1;
  int32_t only = -1;
  int64_t save_every = 1, save_parts = 1, pace_ns = 0, hold_ns = INT64_MAX, until_epoch = 0, until_position = 0;
  LoaderOptions options;
};

// How far each rank of the world is. A state says that every rank was handed its part of the step, so none is saved before that is so;
// in a real job the all-reduce of the gradients sees to it.
class Counters {
 public:
  explicit Counters(const Job& job) : ranks_(job.ranks) {
    if (job.only < 0) return;
    const std::string path = job.folder + "/counters." + job.incarnation;
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) Die("cannot open " + path);
    void* const map = ::mmap(nullptr, sizeof(int64_t) * static_cast<size_t>(ranks_), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) Die("mmap");
    ::close(fd);
    counts_ = static_cast<std::atomic<int64_t>*>(map);
  }

  void Reached(int32_t rank, int64_t count) {
    if (counts_ == nullptr) return;
    counts_[rank].store(count);
    for (int32_t other = 0; other < ranks_; ++other) {
      while (counts_[other].load() < count) SleepUntil(NowNs() + 50'000);
    }
  }

 private:
  int32_t ranks_;
  std::atomic<int64_t>* counts_ = nullptr;  // null: all ranks are in this process, and take turns
};

// Written beside it and renamed over it. Without fsync: a process is killed here, not a machine, and what it wrote stays in the page cache.
void SaveState(const Job& job, int32_t rank, const std::string& text) {
  const std::string path = job.folder + "/state." + job.incarnation + "." + std::to_string(rank);
  const std::string part = path + ".part";
  const int fd = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) Die("cannot create " + part);
  const size_t piece = text.size() / static_cast<size_t>(job.save_parts) + 1;
  for (size_t done = 0; done < text.size(); done += piece) {
    WriteAll(fd, text.data() + done, std::min(piece, text.size() - done));
    if (job.save_parts > 1) SleepUntil(NowNs() + 50'000);
  }
  ::close(fd);
  if (::rename(part.c_str(), path.c_str()) != 0) Die("rename " + part);
}

// What lies in `refuse` must not be taken for a state unless it is all of one.
void CheckRefused(const Job& job) {
  const std::string text = ReadText(job.refuse);
  const absl::StatusOr<State> state = State::FromJson(text);
  if (state.ok() && state->ToJson() == text) return;  // killed between the last byte and the rename
  if (state.ok()) Die("a part of a state was taken for one: " + text);
  if (text.empty()) return;  // the option's "none": who reads a file must look whether it is empty
  LoaderOptions options = job.options;
  options.rank = 0;
  options.world_size = 1;
  options.state = text;
  const absl::StatusOr<std::unique_ptr<Loader>> loader = Loader::Open(options);
  if (loader.ok() || loader.status().message() != state.status().message()) Die("a loader opened with a part of a state: " + text);
}

class Rank {
 public:
  Rank(const Job& job, int32_t rank) : job_(job), rank_(rank) {
    LoaderOptions options = job.options;
    options.rank = rank;
    options.world_size = job.ranks;
    if (!job.restore.empty()) {
      options.state = ReadText(job.restore);
      if (options.state.empty()) Die("an empty file instead of a state");
    }
    absl::StatusOr<std::unique_ptr<Loader>> loader = Loader::Open(options);
    if (!loader.ok()) Die("rank " + std::to_string(rank) + ": " + loader.status().ToString());
    loader_ = *std::move(loader);
    manifest_ = loader_->manifest();
    const std::string log = job.folder + "/log." + job.incarnation + "." + std::to_string(job.only < 0 ? 0 : rank);
    log_ = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log_ < 0) Die("cannot open " + log);
  }

  // Takes the next batch and writes it down, in one write. False at an epoch's end, which is the same step on every rank.
  bool Step() {
    absl::StatusOr<Batch> batch = loader_->Next();
    if (batch.ok() && batch->end_of_epoch()) {
      if (const absl::Status status = loader_->StartEpoch(); !status.ok()) Die(status.ToString());
      Look();
      return false;
    }
    if (!batch.ok()) Die("rank " + std::to_string(rank_) + ": " + batch.status().ToString());
    for (int64_t i = 0; i < batch->size(); ++i) {
      int64_t inside = -1;
      const auto bytes = batch->sample(i);
      if (bytes.size() >= sizeof inside) std::memcpy(&inside, bytes.data(), sizeof inside);
      // A record begins with its number in its own data set.
      const int64_t id = batch->ids()[static_cast<size_t>(i)];
      if (inside != id - manifest_->FirstIdOf(manifest_->MemberOf(id))) Die("a sample's bytes are not its own");
    }
    Look();
    Record record;
    record.rank = rank_;
    record.world = job_.ranks;
    record.count = static_cast<int32_t>(batch->size());
    record.epoch = batch->epoch();
    record.step = batch->step();
    record.after_epoch = epoch_;
    record.after_position = position_;
    record.state_hash = HashOf(state_);
    std::string bytes(reinterpret_cast<const char*>(&record), sizeof record);
    bytes.append(reinterpret_cast<const char*>(batch->ids().data()), sizeof(int64_t) * batch->ids().size());
    WriteAll(log_, bytes.data(), bytes.size());
    return true;
  }

  bool Reached() const { return epoch_ > job_.until_epoch || (epoch_ == job_.until_epoch && position_ >= job_.until_position); }
  void Save() const { SaveState(job_, rank_, state_); }

 private:
  void Look() {
    state_ = loader_->state();
    const absl::StatusOr<State> state = State::FromJson(state_);
    if (!state.ok()) Die(state.status().ToString());
    epoch_ = state->epoch;
    position_ = state->position;
  }

  const Job& job_;
  const int32_t rank_;
  std::unique_ptr<Loader> loader_;
  std::shared_ptr<const penstock::Manifest> manifest_;
  int log_ = -1;
  std::string state_;
  int64_t epoch_ = 0;
  int64_t position_ = 0;
};

int Run(const Job& job) {
  if (!job.refuse.empty()) CheckRefused(job);
  std::vector<std::unique_ptr<Rank>> ranks;
  for (int32_t rank = 0; rank < job.ranks; ++rank) {
    if (job.only < 0 || job.only == rank) ranks.push_back(std::make_unique<Rank>(job, rank));
  }
  Counters counters(job);
  counters.Reached(job.only, 0);
  const int64_t begin_ns = NowNs();
  std::printf("%ld\n", begin_ns);
  std::fflush(stdout);
  for (int64_t step = 1;; ++step) {
    SleepUntil(begin_ns + step * job.pace_ns);
    while (NowNs() - begin_ns > job.hold_ns) ::pause();
    bool taken = false;
    for (const auto& rank : ranks) taken = rank->Step();
    counters.Reached(job.only, step);
    const bool reached = ranks.front()->Reached();
    if (reached || (taken && step % job.save_every == 0)) {
      for (const auto& rank : ranks) rank->Save();
    }
    if (reached) return 0;
  }
}

bool SetOwn(Job& job, const std::string& name, const std::string& value) {
  const std::pair<const char*, std::string*> texts[] = {{"restore", &job.restore}, {"refuse", &job.refuse}};
  for (const auto& [known, text] : texts) {
    if (name == known) return *text = value, true;
  }
  if (name == "until") {
    return std::sscanf(value.c_str(), "%ld:%ld", &job.until_epoch, &job.until_position) == 2;
  }
  const std::pair<const char*, int64_t*> numbers[] = {
      {"save_every", &job.save_every}, {"save_parts", &job.save_parts}, {"pace_ns", &job.pace_ns}, {"hold_ns", &job.hold_ns}};
  for (const auto& [known, number] : numbers) {
    if (name == known) return *number = std::stoll(value), true;
  }
  const std::pair<const char*, int32_t*> ranks[] = {{"ranks", &job.ranks}, {"only", &job.only}};
  for (const auto& [known, number] : ranks) {
    if (name == known) return *number = std::stoi(value), true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 4 && words[0] == "index") {
    penstock::IndexOptions index;
    index.format = penstock::ShardFormat::kRaw;
    index.manifest_path = words[2];
    index.record_bytes = std::stoll(words[3]);
    const auto built = penstock::Manifest::Build(words[1], index);
    if (!built.ok()) Die(built.status().ToString());
    return 0;
  }
  if (words.size() < 3 || words[0] != "run") Die("see the top of job.cc");
  Job job;
  job.folder = words[1];
  job.incarnation = words[2];
  for (size_t i = 3; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    if (equals == std::string::npos) Die("not option=value: " + words[i]);
    const std::string name = words[i].substr(0, equals);
    const std::string value = words[i].substr(equals + 1);
    if (SetOwn(job, name, value)) continue;
    const absl::Status status = penstock::SetOption(job.options, name, value);
    if (!status.ok()) Die(status.ToString());
  }
  return Run(job);
}
