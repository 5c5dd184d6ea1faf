// Several GPUs in one process: a loader for each, on one runtime, with devices that are scripted and the map of a machine that has them.
#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/runtime.h"
#include "support/status.h"
#include "topology/machine_map.h"
#include "transfer/scripted_device.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int64_t kMiB = 1 << 20;

// A process with `count` GPUs, each fed by a loader of its own, one rank each.
struct Node {
  explicit Node(int count, RuntimeOptions options = {}, TopologySource topology = {}) {
    for (int index = 0; index < count; ++index) {
      ScriptedDeviceOptions device;
      device.index = index;
      device.pci_bus_id = kGpuIds[static_cast<size_t>(index)];
      devices.push_back(std::make_shared<ScriptedDevice>(device));
    }
    options.loaders = count;
    runtime = RuntimeCore::MakeRuntime(
        options,
        [devices = devices](int ordinal) -> absl::StatusOr<std::shared_ptr<Device>> { return devices[static_cast<size_t>(ordinal)]; },
        topology);
  }

  LoaderOptions Options(const DataSet& data, int device) const {
    LoaderOptions options = data.Options(16);
    options.rank = device;
    options.world_size = static_cast<int32_t>(devices.size());
    options.device = device;
    options.device_bytes = 8 * kMiB;
    options.memory_bytes = 8 * kMiB;
    options.piece_bytes = 64 << 10;
    return options;
  }

  std::vector<std::shared_ptr<ScriptedDevice>> devices;
  std::shared_ptr<Runtime> runtime;
};

// What one loader's consumer saw; Catch2's macros belong to the main thread.
struct Taken {
  std::vector<int64_t> ids;
  int64_t wrong = 0;
  absl::Status end;  // OK: the epoch's end
};

Taken TakeAll(Loader& loader) {
  Taken taken;
  const auto manifest = loader.manifest();
  while (true) {
    absl::StatusOr<Batch> batch = loader.Next();
    if (!batch.ok()) {
      taken.end = batch.status();
      return taken;
    }
    if (batch->end_of_epoch()) return taken;
    for (size_t i = 0; i < static_cast<size_t>(batch->size()); ++i) {
      const int64_t id = batch->ids()[i];
      const auto bytes = static_cast<size_t>(batch->lengths()[i]);
      const std::string text(reinterpret_cast<const char*>(batch->data()) + batch->offsets()[i], bytes);
      taken.wrong +=
          bytes != manifest->StoredBytes(id) || text != DataSet::Content(manifest->Name(id), bytes) || batch->device_ids()[i] != id;
      taken.ids.push_back(id);
    }
  }
}

// One thread per loader, as a process with several GPUs has.
std::vector<Taken> TakeAllAtOnce(const std::vector<std::unique_ptr<Loader>>& loaders) {
  std::vector<Taken> taken(loaders.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < loaders.size(); ++i) threads.emplace_back([&, i] { taken[i] = TakeAll(*loaders[i]); });
  for (std::thread& thread : threads) thread.join();
  return taken;
}

void CheckWhole(const Taken& taken, size_t samples) {
  INFO(taken.end.ToString());
  CHECK(taken.end.ok());
  CHECK(taken.wrong == 0);
  CHECK(taken.ids.size() == samples);
}

}  // namespace

TEST_CASE("loaders of one process feed their devices at the same time, each its own rank's batches", "[device]") {
  const DataSet data(640, 12000);
  Node node(4);
  std::vector<std::unique_ptr<Loader>> loaders;
  for (int device = 0; device < 4; ++device) loaders.push_back(MustOpen(node.Options(data, device), node.runtime));
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::set<int64_t> all;
    for (const Taken& taken : TakeAllAtOnce(loaders)) {
      CheckWhole(taken, 160);
      all.insert(taken.ids.begin(), taken.ids.end());
    }
    CHECK(all.size() == 640);
    for (auto& loader : loaders) REQUIRE_OK(loader->StartEpoch());
  }
  for (const auto& device : node.devices) {
    CHECK(device->allocated_bytes() == 8 * kMiB);  // of each GPU its own ring, and no other's
    CHECK(device->live_streams() == 1);
    CHECK(device->copied_bytes() > 0);
  }
  loaders.clear();
  for (const auto& device : node.devices) {
    for (const std::string& violation : device->violations()) FAIL_CHECK(violation);
    CHECK(device->registered_bytes() == 0);
    CHECK(device->allocated_bytes() == 0);
  }
}

TEST_CASE("each GPU's streams run on cores of their own, near that GPU, and its memory lies on that GPU's node", "[device]") {
  MachineMap map;
  DgxA100(map);
  const TopologySource source = map.Source(kDgxA100Cpus);
  absl::StatusOr<Topology> topology = ReadTopology(source);
  REQUIRE_OK(topology);
  const DataSet data(256, 4000);
  Node node(8, {}, source);
  std::vector<std::unique_ptr<Loader>> loaders;
  std::set<int> cpus;
  size_t streams = 0;
  for (int device = 0; device < 8; ++device) {
    LoaderOptions options = node.Options(data, device);
    options.cpu_share = 0.2;
    loaders.push_back(MustOpen(options, node.runtime));
    const SetupReport setup = loaders.back()->setup();
    CAPTURE(device, setup.cpus);
    CHECK(setup.streams == 3);  // a fifth of 128 cores, by eight
    streams += setup.cpus.size();
    cpus.insert(setup.cpus.begin(), setup.cpus.end());
    const int near = MemoryNodeForGpu(*topology, kGpuIds[static_cast<size_t>(device)]);
    CHECK(setup.numa_node == near);
    const auto& nodes = topology->nodes;
    const auto own = std::find_if(nodes.begin(), nodes.end(), [&](const NumaNode& other) { return other.id == near; });
    // A node has 16 cores, of which each of the eight loaders has its part; the first ones are the nearest.
    REQUIRE(own != nodes.end());
    CHECK(std::count(own->cpus.begin(), own->cpus.end(), setup.cpus[0]) == 1);
  }
  CHECK(cpus.size() == streams);
  for (const Taken& taken : TakeAllAtOnce(loaders)) CheckWhole(taken, 32);
}

TEST_CASE("loaders of one process share cores and reads in flight evenly, whoever opens first", "[device]") {
  const DataSet data(128, 4000);
  RuntimeOptions budget;
  budget.queue_depth = 64;
  Node node(4, budget);
  std::vector<std::unique_ptr<Loader>> loaders;
  for (int device = 0; device < 4; ++device) {
    loaders.push_back(MustOpen(node.Options(data, device), node.runtime));
    CHECK(loaders.back()->setup().queue_depth == 16);
  }
  // One that is closed gives its share back to the next.
  loaders[1].reset();
  loaders[1] = MustOpen(node.Options(data, 1), node.runtime);
  CHECK(loaders[1]->setup().queue_depth == 16);
}

TEST_CASE("a GPU whose context is lost fails its own loader, and the others go on", "[device]") {
  const DataSet data(640, 12000);
  Node node(3);
  node.devices[1]->FailCall("CopyToDevice", 9, absl::InternalError("an illegal memory access was encountered"), /*sticky=*/true);
  std::vector<std::unique_ptr<Loader>> loaders;
  for (int device = 0; device < 3; ++device) loaders.push_back(MustOpen(node.Options(data, device), node.runtime));
  const std::vector<Taken> taken = TakeAllAtOnce(loaders);
  CheckWhole(taken[0], 208);
  CheckWhole(taken[2], 208);
  CHECK(absl::IsInternal(taken[1].end));
  CHECK(taken[1].wrong == 0);
  REQUIRE_OK(loaders[0]->StartEpoch());
  CheckWhole(TakeAll(*loaders[0]), 208);
  CHECK(loaders[1]->Next().status() == taken[1].end);  // the same error, at once
}

TEST_CASE("a GPU that hangs holds up nobody but its own loader, whose error says so at the deadline", "[device]") {
  const DataSet data(640, 12000);
  Node node(3);
  node.devices[2]->set_automatic(false);  // nothing given to it is ever done
  std::vector<std::unique_ptr<Loader>> loaders;
  for (int device = 0; device < 3; ++device) {
    LoaderOptions options = node.Options(data, device);
    if (device == 2) options.deadline_s = 0.5;
    loaders.push_back(MustOpen(options, node.runtime));
  }
  const std::vector<Taken> taken = TakeAllAtOnce(loaders);
  CheckWhole(taken[0], 208);
  CheckWhole(taken[1], 208);
  CHECK(absl::IsDeadlineExceeded(taken[2].end));
  CHECK(std::string(taken[2].end.message()).find(kGpuIds[2]) != std::string::npos);
  loaders.clear();
  node.devices[2]->set_automatic(true);
  for (const auto& device : node.devices) {
    for (const std::string& violation : device->violations()) FAIL_CHECK(violation);
  }
}

TEST_CASE("a device that cannot be opened fails its own loader and takes nothing from the others", "[device]") {
  const DataSet data(256, 4000);
  RuntimeOptions budget;
  budget.memory_bytes = 16 * kMiB;
  Node node(2, budget);
  node.devices[1]->FailCall("Malloc", 1, absl::ResourceExhaustedError("out of memory"));
  std::vector<std::unique_ptr<Loader>> loaders;
  loaders.push_back(MustOpen(node.Options(data, 0), node.runtime));
  CHECK(absl::IsResourceExhausted(Loader::Open(node.Options(data, 1), node.runtime).status()));
  loaders.push_back(MustOpen(node.Options(data, 1), node.runtime));  // its share of memory, cores and depth came back
  for (const Taken& taken : TakeAllAtOnce(loaders)) CheckWhole(taken, 128);
}
