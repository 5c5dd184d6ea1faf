// Some reads, timed: what the gap between neighbours and the choice between direct and buffered are measured with.
#ifndef PENSTOCK_LOADER_PROBE_H_
#define PENSTOCK_LOADER_PROBE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "ring/engine.h"
#include "store/object_store.h"

namespace penstock {

class Probe {
 public:
  // `depth` reads in flight of at most `bytes_max` each.
  static absl::StatusOr<std::unique_ptr<Probe>> Make(const std::shared_ptr<const ObjectStore>& objects, Engine engine,
                                                     const std::shared_ptr<PreadPool>& pool, const RingOptions& options, size_t depth,
                                                     uint64_t bytes_max);
  ~Probe();
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  // What each of up to `count` reads costs in ns; 0: they failed, or fewer than `enough` came in time. `next` fills in what is read (not
  // where to); false: there is no such read, and the cost is 0.
  double CostNs(int count, int enough, int64_t patience_ns, const std::function<bool(Request&)>& next);

  // Ends the probe. A read that hangs keeps ring and memory.
  static void End(std::unique_ptr<Probe> probe);

 private:
  Probe() = default;

  std::shared_ptr<const ObjectStore> objects_;
  std::unique_ptr<Ring> ring_;
  std::byte* memory_ = nullptr;
  size_t memory_bytes_ = 0;
  size_t depth_ = 0;
  uint64_t bytes_max_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_PROBE_H_
