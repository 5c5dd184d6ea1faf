// What the loaders of a process share.
#ifndef PENSTOCK_LOADER_RUNTIME_H_
#define PENSTOCK_LOADER_RUNTIME_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fork_guard.h"
#include "penstock/loader.h"
#include "penstock/topology.h"
#include "ring/engine.h"
#include "ring/open_files.h"
#include "transfer/device.h"

namespace penstock {

class RuntimeCore {
 public:
  using DeviceOpener = std::function<absl::StatusOr<std::shared_ptr<Device>>(int ordinal)>;

  explicit RuntimeCore(const RuntimeOptions& options, DeviceOpener open_device = nullptr, TopologySource topology = {})
      : options_(options), open_device_(std::move(open_device)), topology_(std::move(topology)), seats_(SeatsOf(options), 0) {}

  // A runtime whose devices are not CUDA's but a test's, and whose machine is perhaps another one.
  static std::shared_ptr<Runtime> MakeRuntime(const RuntimeOptions& options, DeviceOpener open_device, TopologySource topology = {});

  // Loaders that read at the same time have a seat each, which says which part of the cores is theirs. Those beyond `loaders` share seats.
  int32_t seats() const { return static_cast<int32_t>(SeatsOf(options_)); }
  int32_t TakeSeat();
  void LeaveSeat(int32_t seat);
  const TopologySource& topology() const { return topology_; }

  // A runtime from before a fork: its locks may be held for good by threads that are not in this process.
  bool InForkedChild() const { return fork_guard_.InForkedChild(); }

  // The device of that CUDA ordinal, shared by all loaders that feed it: it is lost for all of them at once.
  absl::StatusOr<std::shared_ptr<Device>> OpenDevice(int ordinal);

  // The manifest of `root`, shared by all loaders that have it open. `wait_s`: for another process that indexes it.
  absl::StatusOr<std::shared_ptr<const Manifest>> OpenManifest(const std::string& root, const std::string& manifest_path, double wait_s);

  // They as one (Manifest::Join), shared by all loaders of the same mixture: so are the files that it keeps open.
  absl::StatusOr<std::shared_ptr<const Manifest>> Join(const std::vector<std::shared_ptr<const Manifest>>& members);

  // Takes up to `wanted` reads in flight out of the process's budget, and no more than one loader's part of it, so that who opens later
  // finds its own; at least `at_least`: a loader beyond the budget still works, at depth 1.
  int32_t LeaseDepth(int32_t wanted, int32_t at_least);
  void ReturnDepth(int32_t depth);
  // For a loader that has `have` and finds that its store gives more where more is asked for: up to `wanted` further ones. They come out
  // of a budget of their own, so that a loader that opens later finds its first reads all the same; where the budget was set by the user,
  // out of the one that there is.
  int32_t LeaseDeeper(int32_t have, int32_t wanted);
  void ReturnDeeper(int32_t depth);
  // What one loader may have at most.
  bool depth_was_set() const { return options_.queue_depth > 0; }
  int32_t depth_most() const { return depth_most_ / seats(); }

  // Takes memory out of the process's budget.
  //
  // Errors: ResourceExhausted  with what is left and what holds the rest.
  absl::Status LeaseMemory(int64_t bytes);
  // What one loader may have at most of that budget; 0: there is none.
  int64_t memory_most() const { return options_.memory_bytes / seats(); }
  void ReturnMemory(int64_t bytes);

  // The files of `manifest` that are kept open, shared by all loaders that read it alike. The first of them says how many.
  std::shared_ptr<OpenFiles> FilesOf(const std::shared_ptr<const Manifest>& manifest, bool direct, int64_t files_max);

  // The pread pool, made when the first loader needs it.
  std::shared_ptr<PreadPool> Pool(int io_workers);

 private:
  static size_t SeatsOf(const RuntimeOptions& options) { return static_cast<size_t>(std::max(1, options.loaders)); }

  static constexpr int32_t kDepthDefault = 256;       // nr_requests of most block devices
  // Where each read waits for a server, and for a thread of ours meanwhile. 20 ms a read are then 51,200 reads a second; beyond that
  // threads cost more than they bring.
  static constexpr int32_t kDeeperDefault = 1024;

  const RuntimeOptions options_;
  const int32_t depth_first_ = options_.queue_depth > 0 ? options_.queue_depth : kDepthDefault;
  const int32_t depth_most_ = options_.queue_depth > 0 ? options_.queue_depth : kDeeperDefault;
  const DeviceOpener open_device_;
  const TopologySource topology_;
  const ForkGuard fork_guard_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const Manifest>> manifests_;
  std::map<std::vector<const Manifest*>, std::weak_ptr<const Manifest>> joined_;
  std::map<int, std::weak_ptr<Device>> devices_;
  std::map<std::pair<const Manifest*, bool>, std::weak_ptr<OpenFiles>> open_files_;
  std::shared_ptr<PreadPool> pool_;
  std::vector<int32_t> seats_;  // loaders on each
  int32_t depth_leased_ = 0;
  int32_t deeper_leased_ = 0;
  int64_t memory_leased_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_RUNTIME_H_
