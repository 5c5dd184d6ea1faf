// Reads a data set of two files (5 and 3 bytes) through an installed penstock; 0 if all of it arrived.
#include <cstdint>
#include <cstdio>

#include "penstock/loader.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  penstock::LoaderOptions options;
  options.root = argv[1];
  options.batch_size = 2;
  options.memory_bytes = 64 << 20;
  auto loader = penstock::Loader::Open(options);
  if (!loader.ok()) {
    std::fprintf(stderr, "%s\n", loader.status().ToString().c_str());
    return 1;
  }
  auto batch = (*loader)->Next();
  if (!batch.ok()) {
    std::fprintf(stderr, "%s\n", batch.status().ToString().c_str());
    return 1;
  }
  int64_t total_bytes = 0;
  for (int64_t i = 0; i < batch->size(); ++i) total_bytes += static_cast<int64_t>(batch->sample(i).size());
  std::printf("%lld samples, %lld bytes\n", static_cast<long long>(batch->size()), static_cast<long long>(total_bytes));
  return batch->size() == 2 && total_bytes == 8 ? 0 : 1;
}
