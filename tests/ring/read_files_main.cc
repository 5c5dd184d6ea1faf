// read_files ENGINE FOLDER COUNT [DEPTH]: reads COUNT files three times through a ring and compares every byte; the victim of the
// system call faults that inject_test.cc injects. Makes the files when they are missing. Prints the ring's counters.
// Exit status: 0 all right; 1 wrong bytes or lost requests; 3 requests failed, each by its own error; 4 no ring.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/io_error.h"
#include "ring/engine.h"
#include "ring/scripted_ring.h"

namespace penstock {
namespace {

constexpr uint64_t kBytes = 20000;

class Files final : public ObjectStore {
 public:
  Files(std::string folder, uint32_t count) : folder_(std::move(folder)) {
    for (uint32_t i = 0; i < count; ++i) {
      names_.push_back(absl::StrCat(folder_, "/f", i));
      if (::access(names_[i].c_str(), R_OK) == 0) continue;
      std::ofstream file(names_[i], std::ios::binary);
      for (uint64_t k = 0; k < kBytes; ++k) file.put(static_cast<char>(ScriptedRing::ByteAt(i, k)));
    }
  }
  absl::StatusOr<OpenTarget> Target(uint32_t object, std::string&) const override { return OpenTarget{AT_FDCWD, names_[object].c_str()}; }
  std::string Name(uint32_t object) const override { return names_[object]; }

 private:
  const std::string folder_;
  std::vector<std::string> names_;
};

int Run(Engine engine, const std::string& folder, uint32_t count, size_t depth) {
  const Files files(folder, count);
  auto ring = MakeRing(engine, files, {.capacity = depth, .read_bytes_max = 8192, .io_worker_max = 2});
  if (!ring.ok()) {
    std::printf("no ring: %s\n", ring.status().ToString().c_str());
    return 4;
  }
  std::vector<std::vector<std::byte>> memory(depth, std::vector<std::byte>(kBytes + 1));
  std::vector<size_t> free;
  for (size_t i = 0; i < depth; ++i) free.push_back(i);
  std::vector<uint32_t> of(depth);
  std::map<int, int> errors;
  uint32_t begun = 0, ended = 0;
  const int64_t deadline_ns = MonotonicNs() + 60 * kNsPerSecond;
  while (ended < 3 * count) {
    while (begun < 3 * count && !free.empty()) {
      const size_t place = free.back();
      if (!(*ring)->Enqueue({.object = begun % count,
                             .length_bytes = kBytes + 1,
                             .need_bytes = kBytes,
                             .destination = memory[place].data(),
                             .cookie = place}))
        break;
      of[place] = begun++ % count;
      free.pop_back();
    }
    if (const absl::Status status = (*ring)->Submit(); !status.ok()) std::printf("submit: %s\n", status.ToString().c_str());
    if (const absl::Status status = (*ring)->Wait(deadline_ns); !status.ok()) std::printf("wait: %s\n", status.ToString().c_str());
    Completion done[32];
    const size_t reaped = (*ring)->Reap(absl::MakeSpan(done));
    if (reaped == 0 && MonotonicNs() > deadline_ns) {
      std::printf("lost: %u begun, %u ended\n", begun, ended);
      std::fflush(stdout);
      ::_exit(1);
    }
    for (size_t i = 0; i < reaped; ++i) {
      const size_t place = done[i].cookie;
      if (done[i].error_number != 0) {
        ++errors[done[i].error_number];
      } else {
        bool right = done[i].bytes == static_cast<int64_t>(kBytes);
        for (uint64_t k = 0; right && k < kBytes; ++k) right = memory[place][k] == ScriptedRing::ByteAt(of[place], k);
        if (!right) {
          std::printf("file %u: wrong bytes (%lld)\n", of[place], static_cast<long long>(done[i].bytes));
          std::fflush(stdout);
          ::_exit(1);
        }
      }
      std::fill(memory[place].begin(), memory[place].end(), std::byte{0});
      free.push_back(place);
      ++ended;
    }
  }
  const RingCounters counters = (*ring)->counters();
  std::printf("%s: requests %lld chunks %lld retries %lld busy %lld\n", (*ring)->name(), static_cast<long long>(counters.requests),
              static_cast<long long>(counters.chunks), static_cast<long long>(counters.retries), static_cast<long long>(counters.busy));
  for (const auto& [error_number, times] : errors) std::printf("%d times %s\n", times, ErrnoText(error_number).c_str());
  return errors.empty() ? 0 : 3;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: read_files auto|uring|threads FOLDER COUNT [DEPTH]\n");
    return 2;
  }
  const std::string engine = argv[1];
  return penstock::Run(engine == "uring"     ? penstock::Engine::kUring
                       : engine == "threads" ? penstock::Engine::kThreads
                                             : penstock::Engine::kAuto,
                       argv[2], static_cast<uint32_t>(std::atoi(argv[3])), argc > 4 ? static_cast<size_t>(std::atoi(argv[4])) : 32);
}
