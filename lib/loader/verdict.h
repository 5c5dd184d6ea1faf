// "Why is my GPU waiting": one line from an epoch's figures.
#ifndef PENSTOCK_LOADER_VERDICT_H_
#define PENSTOCK_LOADER_VERDICT_H_

#include <string>

#include "penstock/stats.h"

namespace penstock {

// What the verdict needs beside the report.
struct JudgeFigures {
  int streams = 1;
  int queue_depth = 0;           // reads in flight, all streams
  int io_workers = 0;            // > 0: each read takes one of so many threads (of a ring), and these are what bounds the reads in flight
  std::string tuned;             // what more reads in flight have brought, where that was tried
  int codec_threads = 0;
  double process_cpu_share = 0;  // CPU time that the process used, as a share of all its allowed cores
  double blocked_s = 0;          // the streams slept with requests in flight, summed
  double stream_demand_s = -1;   // CPU time that the streams' threads wanted: used, or waited for behind others; -1: not known
  double memory_share = 0;       // of the requests: their bytes were in the page cache
  double worker_cpu_share = 0;   // of the pread pool's time at requests: CPU time that its threads wanted
};

// Fills `bound` and `verdict` from the other fields.
void Judge(EpochReport& report, const JudgeFigures& figures);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_VERDICT_H_
