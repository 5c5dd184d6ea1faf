// Batches into device memory, on a scripted device: whose memory it is, when it is used again, and what is reported when the device fails.
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/runtime.h"
#include "memory/arena.h"
#include "penstock/log.h"
#include "support/child.h"
#include "support/fault_fs.h"
#include "support/skip.h"
#include "transfer/cuda_device.h"
#include "transfer/scripted_device.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

constexpr int64_t kMiB = 1 << 20;

// One runtime whose devices are scripted; ordinal 0 is `device`.
struct Machine {
  explicit Machine(ScriptedDeviceOptions options = {}) : device(std::make_shared<ScriptedDevice>(options)) {
    runtime = RuntimeCore::MakeRuntime({}, [device = device](int) -> absl::StatusOr<std::shared_ptr<Device>> { return device; });
  }
  std::shared_ptr<ScriptedDevice> device;
  std::shared_ptr<Runtime> runtime;
};

LoaderOptions DeviceOptions(const DataSet& data, int64_t batch_size = 16) {
  LoaderOptions options = data.Options(batch_size);
  options.device = 0;
  options.device_bytes = 16 * kMiB;
  options.memory_bytes = 16 * kMiB;
  options.piece_bytes = 64 << 10;  // several pieces to a batch
  return options;
}

// The scripted device's memory is host memory that only completed copies change.
std::vector<int64_t> CheckDeviceBatch(const Loader& loader, const Batch& batch) {
  REQUIRE(batch.on_device());
  const auto manifest = loader.manifest();
  const auto size = static_cast<size_t>(batch.size());
  for (size_t i = 0; i < size; ++i) {
    REQUIRE(batch.device_ids()[i] == batch.ids()[i]);
    REQUIRE(batch.device_offsets()[i] == batch.offsets()[i]);
    REQUIRE(batch.device_lengths()[i] == batch.lengths()[i]);
    REQUIRE(batch.device_labels()[i] == batch.labels()[i]);
    REQUIRE(batch.device_valid()[i] == batch.valid()[i]);
    CHECK(batch.sample(static_cast<int64_t>(i)).empty());
    if (batch.valid()[i] == 0) {
      CHECK(batch.lengths()[i] == 0);
      continue;
    }
    const int64_t id = batch.ids()[i];
    REQUIRE(batch.lengths()[i] == static_cast<int64_t>(manifest->StoredBytes(id)));
    const std::string text(reinterpret_cast<const char*>(batch.data()) + batch.offsets()[i], static_cast<size_t>(batch.lengths()[i]));
    INFO(manifest->Name(id));
    REQUIRE((text == DataSet::Content(manifest->Name(id), text.size())));
  }
  return {batch.ids().begin(), batch.ids().end()};
}

std::vector<int64_t> TakeDeviceEpoch(Loader& loader) {
  std::vector<int64_t> ids;
  while (true) {
    absl::StatusOr<Batch> batch = loader.Next();
    if (EpochEnded(batch)) return ids;
    REQUIRE_OK(batch);
    for (const int64_t id : CheckDeviceBatch(loader, *batch)) ids.push_back(id);
  }
}

void RequireNoViolations(const ScriptedDevice& device) {
  for (const std::string& violation : device.violations()) FAIL_CHECK(violation);
}

// Completes the device's work a piece at a time and late, on its own thread, as a busy GPU would.
class LateGpu {
 public:
  explicit LateGpu(ScriptedDevice& device) : thread_([this, &device] {
    while (!stop_.load()) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      device.CompleteNext();
    }
    device.set_automatic(true);
  }) {}
  ~LateGpu() { End(); }
  void End() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Next() in a thread of its own, for a case where it waits.
class Taking {
 public:
  explicit Taking(Loader& loader) : thread_([this, &loader] {
    result_ = loader.Next();
    done_.store(true);
  }) {}
  ~Taking() {
    if (thread_.joinable()) thread_.join();
  }
  bool StillWaitsAfter(std::chrono::milliseconds time) {
    std::this_thread::sleep_for(time);
    return !done_.load();
  }
  absl::StatusOr<Batch> Result() {
    thread_.join();
    return std::move(result_);
  }

 private:
  absl::StatusOr<Batch> result_ = absl::UnknownError("not taken");
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace

TEST_CASE("a batch's bytes and columns arrive in device memory, epoch after epoch", "[device]") {
  const DataSet data(150, 20000);
  Machine machine;
  LoaderOptions options = DeviceOptions(data);
  options.tail = Tail::kPartial;
  auto host = data.Options();
  host.tail = Tail::kPartial;
  const auto host_loader = MustOpen(host);
  auto loader = MustOpen(options, machine.runtime);
  CHECK(loader->setup().device == "CUDA device 0 (0000:1b:00.0)");
  CHECK(loader->setup().pinning == "cudaHostRegister");
  for (int epoch = 0; epoch < 3; ++epoch) {
    if (epoch > 0) {
      REQUIRE_OK(loader->StartEpoch());
      REQUIRE_OK(host_loader->StartEpoch());
    }
    CHECK(TakeDeviceEpoch(*loader) == TakeEpoch(*host_loader));
    CHECK(loader->report().delivered == 150);
  }
  CHECK(machine.device->CallCount("CopyToDevice") > 3 * 10 * 2);  // pieces and columns, not whole batches
  loader.reset();
  RequireNoViolations(*machine.device);
  CHECK(machine.device->registered_bytes() == 0);
  CHECK(machine.device->allocated_bytes() == 0);
  CHECK(machine.device->live_events() == 0);
  CHECK(machine.device->live_streams() == 0);
}

TEST_CASE("memory whose copy is late is not read into before the copy has read it", "[device]") {
  const DataSet data(200, 20000);
  Machine machine({.automatic = false});
  LoaderOptions options = DeviceOptions(data);
  options.memory_bytes = 6 * kMiB;  // two pieces and the columns: each is used again and again
  LateGpu gpu(*machine.device);
  auto loader = MustOpen(options, machine.runtime);
  std::set<int64_t> ids;
  for (const int64_t id : TakeDeviceEpoch(*loader)) ids.insert(id);
  CHECK(ids.size() == 192);
  gpu.End();
  loader.reset();
  RequireNoViolations(*machine.device);
}

TEST_CASE("a batch is handed out only when its last copy has ended", "[device]") {
  const DataSet data(64, 20000);
  Machine machine({.automatic = false});
  auto loader = MustOpen(DeviceOptions(data), machine.runtime);
  Taking taking(*loader);
  CHECK(taking.StillWaitsAfter(std::chrono::milliseconds(200)));
  LateGpu gpu(*machine.device);
  absl::StatusOr<Batch> batch = taking.Result();
  REQUIRE_OK(batch);
  CheckDeviceBatch(*loader, *batch);
  CHECK(loader->report().copy_s > 0.1);  // it was for the copies alone that Next() waited
}

TEST_CASE("device memory is used again only when the consumer's streams are done with it", "[device]") {
  const DataSet data(400, -26000);
  Machine machine;
  LoaderOptions options = DeviceOptions(data);
  options.device_bytes = kMiB;  // two batches of 16 * 26000 bytes
  options.prefetch_batches = 4;
  auto loader = MustOpen(options, machine.runtime);
  const CudaStream first = *machine.device->CreateStream();
  const CudaStream second = *machine.device->CreateStream();
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  REQUIRE_OK(batch->WaitOn(first));
  REQUIRE_OK(batch->RecordUse(first));
  machine.device->Hold(second);
  const std::byte* const place = batch->data();
  const std::string before(reinterpret_cast<const char*>(place), 26000);
  REQUIRE_OK(batch->Release(second));
  CHECK_FALSE(static_cast<bool>(*batch));
  REQUIRE_OK(loader->Next());  // released at once
  {
    Taking taking(*loader);
    CHECK(taking.StillWaitsAfter(std::chrono::milliseconds(200)));
    CHECK((before == std::string(reinterpret_cast<const char*>(place), 26000)));  // still what the consumer reads
    machine.device->Unhold(second);
    REQUIRE_OK(taking.Result());
  }
  for (int i = 0; i < 20; ++i) REQUIRE_OK(loader->Next());
  machine.device->DestroyStream(first);
  machine.device->DestroyStream(second);
  loader.reset();
  RequireNoViolations(*machine.device);
}

TEST_CASE("when all device memory is lent Next() names the batches, and goes on after a release", "[device]") {
  const DataSet data(400, -26000);
  Machine machine;
  LoaderOptions options = DeviceOptions(data);
  options.device_bytes = kMiB;
  auto loader = MustOpen(options, machine.runtime);
  std::vector<Batch> held;
  absl::StatusOr<Batch> batch = loader->Next();
  while (batch.ok()) {
    held.push_back(*std::move(batch));
    batch = loader->Next();
  }
  CHECK(held.size() == 2);
  REQUIRE(absl::IsResourceExhausted(batch.status()));
  CHECK(batch.status().message().find("device_bytes") != std::string::npos);
  CHECK(batch.status().message().find("epoch 0 step 1 (ids ") != std::string::npos);
  held.erase(held.begin());
  batch = loader->Next();
  REQUIRE_OK(batch);
  CHECK(batch->step() == 2);
  CheckDeviceBatch(*loader, *batch);
}

TEST_CASE("a lost context fails Next() once and for all, and nothing that the device may read is unpinned", "[device]") {
  const DataSet data(200, 20000);
  Machine machine;
  machine.device->FailCall("CopyToDevice", 7, absl::InternalError("an illegal memory access was encountered"), /*sticky=*/true);
  auto loader = MustOpen(DeviceOptions(data), machine.runtime);
  absl::Status status;
  for (int i = 0; i < 12 && status.ok(); ++i) status = loader->Next().status();
  REQUIRE(absl::IsInternal(status));
  CHECK(status.message().find("illegal memory access") != std::string::npos);
  const int64_t calls = machine.device->CallCount("CopyToDevice");
  CHECK(loader->Next().status() == status);
  CHECK(machine.device->CallCount("CopyToDevice") <= calls + 2);  // streams that were at it
  CHECK(loader->step() < 12);
  loader.reset();
  RequireNoViolations(*machine.device);
}

TEST_CASE("a copy that never ends is an error at the deadline and keeps its memory for good", "[device]") {
  const DataSet data(200, 20000);
  Machine machine({.automatic = false});
  LoaderOptions options = DeviceOptions(data);
  options.deadline_s = 0.3;
  auto loader = MustOpen(options, machine.runtime);
  const absl::Status status = loader->Next().status();
  REQUIRE(absl::IsDeadlineExceeded(status));
  CHECK(status.message().find("the copy of a piece of") != std::string::npos);
  CHECK(status.message().find("Xid") != std::string::npos);
  CHECK(loader->step() == 0);
  const int64_t quarantined = QuarantinedBytes();
  loader.reset();
  CHECK(QuarantinedBytes() > quarantined);
  CHECK(machine.device->registered_bytes() > 0);
  // Now it ends after all: it reads memory that is still there, and still pinned.
  machine.device->set_automatic(true);
  RequireNoViolations(*machine.device);
}

TEST_CASE("a skipped sample shows in the device's columns too", "[device]") {
  const DataSet data(60, -3000);
  Machine machine;
  LoaderOptions options = DeviceOptions(data, 20);
  options.policy = ErrorPolicy::kSkip;
  options.retries = 0;
  REQUIRE_OK(Manifest::Build(data.root(), {}));
  std::filesystem::remove(data.root() + "/class1/1000004.bin");
  auto loader = MustOpen(options, machine.runtime);
  TakeDeviceEpoch(*loader);
  CHECK(loader->report().skipped == 1);
  CHECK(loader->report().delivered == 59);
}

TEST_CASE("a batch that is read again gets the device memory of those behind it", "[device]") {
  const DataSet data(120, -24000);
  Machine machine;
  LoaderOptions options = DeviceOptions(data, 20);
  options.policy = ErrorPolicy::kSubstitute;
  options.retries = 0;
  options.device_bytes = kMiB;  // two batches
  options.prefetch_batches = 4;
  REQUIRE_OK(Manifest::Build(data.root(), {}));
  for (const char* name : {"/class1/1000004.bin", "/class2/1000005.bin", "/class0/1000006.bin", "/class1/1000100.bin"}) {
    std::filesystem::remove(data.root() + name);
  }
  auto loader = MustOpen(options, machine.runtime);
  CHECK(TakeDeviceEpoch(*loader).size() == 120);
  CHECK(loader->report().substituted == 4);
  loader.reset();
  RequireNoViolations(*machine.device);
}

TEST_CASE("what cannot fit the device or the host memory is refused at Open with the bytes needed", "[device]") {
  const DataSet data(100, -100000);
  Machine machine;
  LoaderOptions options = DeviceOptions(data, 100);
  options.device_bytes = 4 * kMiB;
  absl::Status status = Loader::Open(options, machine.runtime).status();
  REQUIRE(absl::IsResourceExhausted(status));
  CHECK(status.message().find("device_bytes must be at least") != std::string::npos);
  options.device_bytes = 64 * kMiB;
  options.piece_bytes = 4 * kMiB;
  options.memory_bytes = 8 * kMiB;
  status = Loader::Open(options, machine.runtime).status();
  REQUIRE(absl::IsResourceExhausted(status));
  CHECK(status.message().find("memory_bytes must be at least") != std::string::npos);
  options.device_bytes = int64_t{1} << 40;
  options.memory_bytes = 64 * kMiB;
  status = Loader::Open(options, machine.runtime).status();
  REQUIRE(absl::IsResourceExhausted(status));  // the device's own memory
  REQUIRE(machine.device->allocated_bytes() == 0);
}

TEST_CASE("host memory that cannot be pinned is a warning, not an error", "[device]") {
  const DataSet data(100);
  Machine machine({.require_registered = false});
  machine.device->FailCall("HostRegister", 1, absl::ResourceExhaustedError("out of memory"));
  std::vector<std::string> warnings;
  std::mutex mutex;
  SetLogSink([&](LogLevel level, absl::string_view text) {
    std::lock_guard<std::mutex> lock(mutex);
    if (level == LogLevel::kWarning) warnings.emplace_back(text);
  });
  auto loader = MustOpen(DeviceOptions(data), machine.runtime);
  CHECK(TakeDeviceEpoch(*loader).size() == 96);
  CHECK(loader->setup().pinning.rfind("failed: ", 0) == 0);
  loader.reset();
  SetLogSink(nullptr);
  CHECK(warnings.size() == 1);
}

TEST_CASE("a codec's bytes go to the device, its scratch memory does not", "[device]") {
  const DataSet data(100, 15000);
  Machine machine;
  LoaderOptions options = DeviceOptions(data);
  // Delivers each byte twice.
  options.codec.function = [](void*, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t capacity,
                              size_t* delivered_bytes, char*, size_t) -> int {
    *delivered_bytes = 2 * stored_bytes;
    if (capacity < 2 * stored_bytes) return 1;
    for (size_t i = 0; i < stored_bytes; ++i) {
      static_cast<char*>(delivered)[2 * i] = static_cast<char*>(delivered)[2 * i + 1] = static_cast<const char*>(stored)[i];
    }
    return 0;
  };
  options.codec.expansion_max = 2;
  auto loader = MustOpen(options, machine.runtime);
  int64_t samples = 0;
  while (true) {
    absl::StatusOr<Batch> batch = loader->Next();
    if (EpochEnded(batch)) break;
    REQUIRE_OK(batch);
    for (size_t i = 0; i < static_cast<size_t>(batch->size()); ++i, ++samples) {
      const std::string name = loader->manifest()->Name(batch->ids()[i]);
      const std::string content = DataSet::Content(name, static_cast<size_t>(loader->manifest()->StoredBytes(batch->ids()[i])));
      REQUIRE(batch->lengths()[i] == static_cast<int64_t>(2 * content.size()));
      REQUIRE(batch->device_lengths()[i] == batch->lengths()[i]);
      const char* const bytes = reinterpret_cast<const char*>(batch->data()) + batch->offsets()[i];
      bool right = true;
      for (size_t k = 0; k < content.size(); ++k) right = right && bytes[2 * k] == content[k] && bytes[2 * k + 1] == content[k];
      REQUIRE(right);
    }
  }
  CHECK(samples == 96);
  loader.reset();
  RequireNoViolations(*machine.device);
}

TEST_CASE("an error on one GPU neither hangs nor fails the loader of another", "[device]") {
  const DataSet data(640, 20000);  // more batches than are made ahead
  ScriptedDeviceOptions other_options;
  other_options.index = 1;
  other_options.pci_bus_id = "0000:9d:00.0";
  const auto bad = std::make_shared<ScriptedDevice>();
  const auto good = std::make_shared<ScriptedDevice>(other_options);
  const auto runtime = RuntimeCore::MakeRuntime({}, [&](int ordinal) -> absl::StatusOr<std::shared_ptr<Device>> {
    if (ordinal > 1) return absl::InvalidArgumentError("no such device");
    return ordinal == 0 ? bad : good;
  });
  LoaderOptions options = DeviceOptions(data);
  options.world_size = 2;
  auto first = MustOpen(options, runtime);
  options.rank = options.device = 1;
  auto second = MustOpen(options, runtime);
  options.device = 2;
  CHECK(absl::IsInvalidArgument(Loader::Open(options, runtime).status()));
  REQUIRE_OK(first->Next());
  bad->LoseContext(absl::InternalError("uncorrectable ECC error"));
  absl::Status status;
  for (int i = 0; i < 20 && status.ok(); ++i) status = first->Next().status();
  CHECK(absl::IsInternal(status));
  CHECK(TakeDeviceEpoch(*second).size() == 320);
  first.reset();
  second.reset();
  RequireNoViolations(*good);
}

TEST_CASE("a batch outlives its loader, and the work recorded on it is awaited before its memory goes", "[device]") {
  const DataSet data(64, 20000);
  Machine machine;
  auto loader = MustOpen(DeviceOptions(data), machine.runtime);
  const CudaStream stream = *machine.device->CreateStream();
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  loader.reset();
  CHECK(machine.device->allocated_bytes() > 0);
  machine.device->Hold(stream);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    machine.device->Unhold(stream);
  });
  REQUIRE_OK(batch->Release(stream));
  later.join();
  CHECK(machine.device->allocated_bytes() == 0);
  machine.device->DestroyStream(stream);
  RequireNoViolations(*machine.device);
}

TEST_CASE("a forked child does not touch the device through a batch", "[device]") {
  const DataSet data(64, 20000);
  Machine machine;
  auto loader = MustOpen(DeviceOptions(data), machine.runtime);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  const std::string result = InChild([&]() -> std::string {
    if (!absl::IsFailedPrecondition(batch->WaitOn(nullptr))) return "WaitOn";
    if (!absl::IsFailedPrecondition(batch->Release(nullptr))) return "Release";
    return "";
  });
  CHECK(result.empty());
  CheckDeviceBatch(*loader, *batch);
}

TEST_CASE("a jump to another epoch gives the device memory of what was read ahead back", "[device]") {
  const DataSet data(320, -26000);
  Machine machine({.automatic = false});
  LoaderOptions options = DeviceOptions(data);
  options.device_bytes = kMiB;
  LateGpu gpu(*machine.device);
  auto loader = MustOpen(options, machine.runtime);
  for (int64_t epoch = 1; epoch < 8; ++epoch) {
    REQUIRE_OK(loader->Next());
    REQUIRE_OK(loader->StartEpoch(epoch));
  }
  CHECK(TakeDeviceEpoch(*loader).size() == 320);
  gpu.End();
  loader.reset();
  RequireNoViolations(*machine.device);
  CHECK(machine.device->allocated_bytes() == 0);
}

TEST_CASE("a hung read holds its piece, and the batch is read again into another", "[device][faults]") {
  FaultFs fs;
  DataSet::Fill(fs.backing(), 40, -8000, 2);
  LoaderOptions options = OptionsOf(fs.mounted(), 20);
  options.manifest_path = fs.backing() + "/../manifest";
  Index(options);
  fs.Set("*1000004.bin hanghard 0 8000\n");
  Machine machine;
  options.device = 0;
  options.device_bytes = 16 * kMiB;
  options.memory_bytes = 32 * kMiB;
  options.piece_bytes = 64 << 10;
  options.streams = 2;
  options.queue_depth = 16;
  options.retries = 0;
  options.policy = ErrorPolicy::kSkip;
  options.deadline_s = 0.5;
  options.next_epoch_prefetch = false;
  auto loader = MustOpen(options, machine.runtime);
  for (int step = 0; step < 2; ++step) {
    absl::StatusOr<Batch> batch = loader->Next();
    REQUIRE_OK(batch);
    CheckDeviceBatch(*loader, *batch);
  }
  CHECK(loader->report().skipped == 1);
  CHECK(loader->setup().quarantined_bytes == 2 * kMiB);  // the piece's granule, not the batch
  fs.Clear();
  for (int i = 0; i < 200 && loader->setup().quarantined_bytes > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(loader->setup().quarantined_bytes == 0);
  loader.reset();
  RequireNoViolations(*machine.device);
}

TEST_CASE("a device that is not there is refused with the reason", "[device]") {
  if (CudaDeviceCount() > 0) SkipTest("this machine has a GPU");
  const DataSet data(20);
  LoaderOptions options = DeviceOptions(data);
  const absl::Status status = Loader::Open(options).status();
  CHECK_FALSE(status.ok());
  CHECK(status.message().find("option device = 0: ") == 0);
}
