// One rank of a job that a launcher started (launchers_test.py): it finds out by itself which one, reads one epoch, and writes down what it
// read. Over the public headers only.
//
//   rank ROOT OUT       writes OUT/rank.<rank>: "rank world_size local_rank local_world_size source", the number of steps, and an id a line
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "penstock/loader.h"
#include "penstock/topology.h"

namespace {

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "rank: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) Die(absl::InvalidArgumentError("usage: rank ROOT OUT"));
  // As the loader does it, which is told nothing.
  const auto info = penstock::DiscoverRank(-1, -1, [](const char* name) { return static_cast<const char*>(std::getenv(name)); });
  if (!info.ok()) Die(info.status());
  penstock::LoaderOptions options;
  options.root = argv[1];
  options.batch_size = 16;
  options.tail = penstock::Tail::kPartial;
  options.memory_bytes = 8 << 20;
  options.streams = 1;
  auto loader = penstock::Loader::Open(options);
  if (!loader.ok()) Die(loader.status());
  const int64_t steps = (*loader)->steps();
  int64_t taken = 0;
  std::vector<int64_t> ids;
  while (true) {
    auto batch = (*loader)->Next();
    if (!batch.ok()) Die(batch.status());
    if (batch->end_of_epoch()) break;
    ids.insert(ids.end(), batch->ids().begin(), batch->ids().end());
    ++taken;
  }
  if (taken != steps)
    Die(absl::InternalError("the epoch had " + std::to_string(taken) + " steps, and steps() said " + std::to_string(steps)));
  std::ofstream out(std::string(argv[2]) + "/rank." + std::to_string(info->rank));
  out << info->rank << " " << info->world_size << " " << info->local_rank << " " << info->local_world_size << " " << info->source << "\n"
      << steps << "\n";
  for (const int64_t id : ids) out << id << "\n";
  return out.flush() ? 0 : 1;
}
