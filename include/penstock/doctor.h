// What bounds this machine for a loader, and what to change: the text behind `penstock doctor`.
#ifndef PENSTOCK_DOCTOR_H_
#define PENSTOCK_DOCTOR_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "penstock/export.h"
#include "penstock/topology.h"

namespace penstock {

enum class FindingLevel { kGood, kNote, kProblem };

/// One thing that was looked at.
struct Finding {
  FindingLevel level = FindingLevel::kGood;
  std::string subject;  // "engine", "locked memory", "open files", "cores", "NUMA binding", "GPU", "direct reads", "data set"...
  std::string seen;     // what there is
  std::string advice;   // what to change; empty where nothing is to be changed
};

struct DoctorReport {
  std::vector<Finding> findings;
  std::string topology;  // the map of cores, nodes and GPUs
};

/// Looks at the engine (by trying it), kernel, limits, memory, cores, NUMA binding, GPUs and, where `root` is not empty, at a data set:
/// its file system, what that allows (by trying it on one file), and its size against the memory available. `source` is where cores, nodes
/// and GPUs are read from.
///
/// Errors:   none: what cannot be read is a finding.
/// Threads:  any.
PENSTOCK_EXPORT DoctorReport Examine(absl::string_view root = {}, const TopologySource& source = {});

}  // namespace penstock

#endif  // PENSTOCK_DOCTOR_H_
