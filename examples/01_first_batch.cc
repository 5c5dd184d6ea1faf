// Prints the size and label of the samples in the first batch of a folder.
//   here:           cmake -S . -B build/examples && cmake --build build/examples --target 01_first_batch
//                   build/examples/examples/01_first_batch DIR
//   in a project:   find_package(penstock REQUIRED)   target_link_libraries(your_program PRIVATE penstock::penstock)
#include <cstdio>

#include "penstock/loader.h"

int main(int argc, char** argv) {
  penstock::LoaderOptions options;
  options.root = argc > 1 ? argv[1] : ".";
  options.batch_size = 8;
  auto loader = penstock::Loader::Open(options);
  if (!loader.ok()) return std::fprintf(stderr, "%s\n", loader.status().ToString().c_str()), 1;

  auto batch = (*loader)->Next();
  if (!batch.ok()) return std::fprintf(stderr, "%s\n", batch.status().ToString().c_str()), 1;
  for (int64_t i = 0; i < batch->size(); ++i) {
    std::printf("sample %lld: %zu bytes, label %d\n", static_cast<long long>(batch->ids()[i]), batch->sample(i).size(), batch->labels()[i]);
  }
  batch->Release();
}
