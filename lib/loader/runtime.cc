#include "loader/runtime.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fork_guard.h"
#include "transfer/cuda_device.h"

namespace penstock {

absl::StatusOr<std::shared_ptr<const Manifest>> RuntimeCore::OpenManifest(const std::string& root, const std::string& manifest_path,
                                                                          double wait_s) {
  const std::string key = absl::StrCat(root, "\n", manifest_path);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = manifests_.find(key);
    if (found != manifests_.end()) {
      if (std::shared_ptr<const Manifest> shared = found->second.lock()) return shared;
    }
  }
  IndexOptions index;
  index.manifest_path = manifest_path;
  index.keep_stale = true;
  index.wait_s = wait_s;
  absl::StatusOr<std::shared_ptr<const Manifest>> opened = Manifest::Open(root, index);
  if (!opened.ok()) return opened.status();
  std::lock_guard<std::mutex> lock(mutex_);
  manifests_[key] = *opened;
  return opened;
}

absl::StatusOr<std::shared_ptr<const Manifest>> RuntimeCore::Join(const std::vector<std::shared_ptr<const Manifest>>& members) {
  std::vector<const Manifest*> key;
  for (const auto& member : members) key.push_back(member.get());
  std::lock_guard<std::mutex> lock(mutex_);
  // A joined manifest holds its members, so that no other one has the address of one while it is here.
  for (auto it = joined_.begin(); it != joined_.end();) it = it->second.expired() ? joined_.erase(it) : std::next(it);
  std::weak_ptr<const Manifest>& known = joined_[key];
  if (std::shared_ptr<const Manifest> shared = known.lock(); shared != nullptr) return shared;
  absl::StatusOr<std::shared_ptr<const Manifest>> joined = Manifest::Join(members);
  if (joined.ok()) known = *joined;
  return joined;
}

int32_t RuntimeCore::TakeSeat() {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto emptiest = std::min_element(seats_.begin(), seats_.end());
  ++*emptiest;
  return static_cast<int32_t>(emptiest - seats_.begin());
}

void RuntimeCore::LeaveSeat(int32_t seat) {
  std::lock_guard<std::mutex> lock(mutex_);
  --seats_[static_cast<size_t>(seat)];
}

int32_t RuntimeCore::LeaseDepth(int32_t wanted, int32_t at_least) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int32_t part = std::min(wanted, depth_first_ / seats());
  const int32_t left = depth_first_ - depth_leased_ - (options_.queue_depth > 0 ? deeper_leased_ : 0);
  const int32_t granted = std::max(at_least, std::min(part, left));
  depth_leased_ += granted;
  return granted;
}

int32_t RuntimeCore::LeaseDeeper(int32_t have, int32_t wanted) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int32_t part = std::min(wanted, depth_most() - have);
  const int32_t granted = std::max(0, std::min(part, depth_most_ - depth_leased_ - deeper_leased_));
  deeper_leased_ += granted;
  return granted;
}

void RuntimeCore::ReturnDeeper(int32_t depth) {
  std::lock_guard<std::mutex> lock(mutex_);
  deeper_leased_ -= depth;
}

void RuntimeCore::ReturnDepth(int32_t depth) {
  std::lock_guard<std::mutex> lock(mutex_);
  depth_leased_ -= depth;
}

absl::Status RuntimeCore::LeaseMemory(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (options_.memory_bytes > 0 && memory_leased_ + bytes > options_.memory_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the runtime's memory budget of ", options_.memory_bytes, " bytes has ", options_.memory_bytes - memory_leased_,
                     " left, but this loader asks for memory_bytes = ", bytes, "; lower it, or raise RuntimeOptions::memory_bytes"));
  }
  memory_leased_ += bytes;
  return absl::OkStatus();
}

void RuntimeCore::ReturnMemory(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  memory_leased_ -= bytes;
}

std::shared_ptr<OpenFiles> RuntimeCore::FilesOf(const std::shared_ptr<const Manifest>& manifest, bool direct, int64_t files_max) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto it = open_files_.begin(); it != open_files_.end();) it = it->second.expired() ? open_files_.erase(it) : std::next(it);
  // The table holds the manifest, so that no other one has the same address while it is here.
  std::weak_ptr<OpenFiles>& known = open_files_[{manifest.get(), direct}];
  std::shared_ptr<OpenFiles> files = known.lock();
  if (files == nullptr) known = files = std::make_shared<OpenFiles>(files_max, direct, manifest);
  return files;
}

std::shared_ptr<PreadPool> RuntimeCore::Pool(int io_workers) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (pool_ == nullptr) pool_ = std::make_shared<PreadPool>(std::max(io_workers, options_.io_workers));
  // A loader that asks for more than the one that made it gets them.
  if (const int more = io_workers - pool_->worker_max(); more > 0) pool_->AddWorkers(more);
  return pool_;
}

absl::StatusOr<std::shared_ptr<Device>> RuntimeCore::OpenDevice(int ordinal) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::weak_ptr<Device>& known = devices_[ordinal];
  if (std::shared_ptr<Device> shared = known.lock(); shared != nullptr) return shared;
  absl::StatusOr<std::shared_ptr<Device>> opened = open_device_ ? open_device_(ordinal) : OpenCudaDevice(ordinal);
  if (opened.ok()) known = *opened;
  return opened;
}

std::shared_ptr<Runtime> RuntimeCore::MakeRuntime(const RuntimeOptions& options, DeviceOpener open_device, TopologySource topology) {
  return std::shared_ptr<Runtime>(new Runtime(std::make_unique<RuntimeCore>(options, std::move(open_device), std::move(topology))));
}

Runtime::Runtime(std::unique_ptr<RuntimeCore> core) : core_(std::move(core)) {}
Runtime::~Runtime() = default;

std::shared_ptr<Runtime> Runtime::Create(const RuntimeOptions& options) {
  return std::shared_ptr<Runtime>(new Runtime(std::make_unique<RuntimeCore>(options)));
}

std::shared_ptr<Runtime> Runtime::Default() {
  // Never destroyed: a stream whose read hangs may outlive the end of main(). A forked child gets one of its own: the threads of the
  // parent's are not there, and its locks may be held for good.
  struct Own {
    ForkGuard fork_guard;
    std::shared_ptr<Runtime> runtime = Create();
  };
  static std::atomic<Own*> current{new Own};
  Own* own = current.load(std::memory_order_acquire);
  while (own->fork_guard.InForkedChild()) {
    auto mine = std::make_unique<Own>();
    if (current.compare_exchange_strong(own, mine.get(), std::memory_order_acq_rel)) own = mine.release();
  }
  return own->runtime;
}

}  // namespace penstock
