// The parts of gpu_bench. Each adds its rows to the report; `gpu` false: there is none, and rows that need one say so.
#ifndef PENSTOCK_BENCH_GPU_PARTS_H_
#define PENSTOCK_BENCH_GPU_PARTS_H_

#include <string>

#include "gpu/report.h"

namespace penstock::bench {

// The question whose best row is the copy engine's rate, to which the pipeline is compared.
inline constexpr const char* kCopyEngine = "copy engine, 16 copies enqueued behind a kernel (nvbandwidth's way)";

// What the copy engine does: by piece size, kind of memory, number of CUDA streams, and with the batched call; what registering costs.
void MeasureCopies(Report& report, bool gpu);

// io_uring READ_FIXED into memory that is registered with CUDA too. `folder` is where its file is made.
void MeasureReadFixed(Report& report, bool gpu, const std::string& folder);

struct Profile {
  std::string name;
  std::string root;         // made by make_files
  int64_t batch_size = 0;
  double step_s = 0;        // of the simulated training
};

// The loader from warm files into the GPU, as fast as it goes, and beside a training step. `seconds` for each row.
void MeasurePipeline(Report& report, bool gpu, const Profile& profile, double seconds);

// Every byte of `gb_wanted` GB (or as many as `seconds_max` allow) checked on the GPU.
void MeasureChecked(Report& report, bool gpu, const Profile& profile, double gb_wanted, double seconds_max);

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_GPU_PARTS_H_
