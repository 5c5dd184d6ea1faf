// `penstock plan --scale`: what a run of any size costs, without its data.
#ifndef PENSTOCK_CLI_SCALE_H_
#define PENSTOCK_CLI_SCALE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "penstock/manifest.h"
#include "penstock/options.h"
#include "penstock/order.h"

namespace penstock::cli {

struct ScaleArguments {
  std::string sizes = "lognormal:110000:0.5";  // without a manifest: how many bytes a sample has
  int64_t plan_steps = 20;                     // that are planned, spread over the epoch
  bool open = false;                           // also a loader, which takes an index of as many records: 18 s for 10^9
};

// Plans steps of all ranks and prints memory, times and the balance of bytes between ranks. `manifest` may be null. The exit status.
int RunScale(const ScaleArguments& arguments, const Manifest* manifest, const Order& order, const LoaderOptions& options,
             const StepPlan& steps);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLI_SCALE_H_
