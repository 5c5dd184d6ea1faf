#include "transfer/scripted_device.h"

#include <cstring>
#include <memory>
#include <vector>

#include <catch2/catch.hpp>

#include "support/status.h"

namespace penstock {
namespace {

// A device with 1 KiB of device memory, 1 KiB of registered host memory full of 7s, and a stream.
struct Rig {
  explicit Rig(bool automatic) : device(ScriptedDeviceOptions{.automatic = automatic}), host(1024, std::byte{7}) {
    memory = *device.Malloc(1024);
    REQUIRE_OK(device.HostRegister(host.data(), host.size()));
    cuda_stream = *device.CreateStream();
    event = *device.CreateEvent();
  }
  ScriptedDevice device;
  std::vector<std::byte> host;
  std::byte* memory;
  CudaStream cuda_stream;
  CudaEvent event;
};

TEST_CASE("scripted device memory changes only when the copy completes", "[transfer]") {
  Rig rig(/*automatic=*/false);
  REQUIRE_OK(rig.device.CopyToDevice(rig.memory, rig.host.data(), 1024, rig.cuda_stream));
  REQUIRE_OK(rig.device.Record(rig.event, rig.cuda_stream));
  CHECK(rig.memory[0] == std::byte{0xA5});
  CHECK_FALSE(*rig.device.Done(rig.event));
  rig.host[5] = std::byte{9};  // read at completion: reuse of the source in between is seen
  rig.device.CompleteUntil(rig.event);
  CHECK(*rig.device.Done(rig.event));
  CHECK(rig.memory[4] == std::byte{7});
  CHECK(rig.memory[5] == std::byte{9});
}

TEST_CASE("an automatic scripted device copies at once", "[transfer]") {
  Rig rig(/*automatic=*/true);
  REQUIRE_OK(rig.device.CopyToDevice(rig.memory, rig.host.data(), 1024, rig.cuda_stream));
  CHECK(rig.memory[1023] == std::byte{7});
  CHECK(rig.device.copied_bytes() == 1024);
}

TEST_CASE("a scripted stream waits for the event of another stream", "[transfer]") {
  Rig rig(/*automatic=*/false);
  const CudaStream consumer = *rig.device.CreateStream();
  const CudaEvent used = *rig.device.CreateEvent();
  REQUIRE_OK(rig.device.CopyToDevice(rig.memory, rig.host.data(), 8, rig.cuda_stream));
  REQUIRE_OK(rig.device.Record(rig.event, rig.cuda_stream));
  REQUIRE_OK(rig.device.MakeWait(consumer, rig.event));
  REQUIRE_OK(rig.device.Record(used, consumer));
  rig.device.CompleteUntil(used);
  CHECK_FALSE(*rig.device.Done(used));
  rig.device.CompleteAll();
  CHECK(*rig.device.Done(used));
}

TEST_CASE("a held scripted stream keeps its events pending and lets others go on", "[transfer]") {
  Rig rig(/*automatic=*/true);
  const CudaStream other = *rig.device.CreateStream();
  const CudaEvent other_event = *rig.device.CreateEvent();
  rig.device.Hold(rig.cuda_stream);
  REQUIRE_OK(rig.device.Record(rig.event, rig.cuda_stream));
  REQUIRE_OK(rig.device.Record(other_event, other));
  CHECK_FALSE(*rig.device.Done(rig.event));
  CHECK(*rig.device.Done(other_event));
  CHECK(rig.device.Synchronize(rig.cuda_stream).code() == absl::StatusCode::kDeadlineExceeded);
  rig.device.Unhold(rig.cuda_stream);
  CHECK(*rig.device.Done(rig.event));
}

TEST_CASE("the nth call of a scripted device fails as told and only that one", "[transfer]") {
  Rig rig(/*automatic=*/true);
  rig.device.FailCall("Malloc", 2, absl::ResourceExhaustedError("no more"));
  CHECK(rig.device.Malloc(8).ok());
  CHECK(rig.device.Malloc(8).status().message() == "no more");
  CHECK(rig.device.Malloc(8).ok());
  CHECK(rig.device.sticky().ok());
}

TEST_CASE("after a sticky error every call of a scripted device gives that error", "[transfer]") {
  Rig rig(/*automatic=*/true);
  rig.device.FailCall("Record", 1, absl::InternalError("700"), /*sticky=*/true);
  CHECK(rig.device.Record(rig.event, rig.cuda_stream).message() == "700");
  CHECK(rig.device.Malloc(8).status().message() == "700");
  CHECK(rig.device.Done(rig.event).status().message() == "700");
  CHECK(rig.device.sticky().message() == "700");
  rig.device.Free(rig.memory);
  CHECK(rig.device.allocated_bytes() == 1024);
}

TEST_CASE("a scripted device logs calls in order", "[transfer]") {
  Rig rig(/*automatic=*/true);
  REQUIRE_OK(rig.device.CopyToDevice(rig.memory + 4, rig.host.data(), 16, rig.cuda_stream));
  REQUIRE_OK(rig.device.Record(rig.event, rig.cuda_stream));
  const std::vector<ScriptedCall> calls = rig.device.calls();
  REQUIRE(calls.size() == 6);
  CHECK(calls[0].name == "Malloc");
  CHECK(calls[1].name == "HostRegister");
  CHECK(calls[4].name == "CopyToDevice");
  CHECK(calls[4].target == rig.memory + 4);
  CHECK(calls[4].bytes == 16);
  CHECK(calls[5].name == "Record");
  CHECK(calls[5].event == rig.event);
}

TEST_CASE("wrong use of a scripted device is refused and noted", "[transfer]") {
  Rig rig(/*automatic=*/false);
  std::vector<std::byte> pageable(64);
  CHECK_FALSE(rig.device.CopyToDevice(rig.memory, pageable.data(), 64, rig.cuda_stream).ok());
  CHECK(rig.device.violations().size() == 1);
  CHECK_FALSE(rig.device.CopyToDevice(rig.memory + 1000, rig.host.data(), 64, rig.cuda_stream).ok());
  CHECK(rig.device.violations().size() == 2);
  REQUIRE_OK(rig.device.CopyToDevice(rig.memory, rig.host.data(), 64, rig.cuda_stream));
  rig.device.HostUnregister(rig.host.data());
  CHECK(rig.device.violations().size() == 3);
  rig.device.Free(rig.memory);
  CHECK(rig.device.violations().size() == 4);
  rig.device.Free(rig.memory);
  CHECK(rig.device.violations().size() == 5);
  rig.device.DestroyStream(rig.cuda_stream);
  CHECK(rig.device.violations().size() == 6);
  rig.device.DestroyEvent(rig.event);
  CHECK_FALSE(rig.device.Done(rig.event).ok());
  CHECK(rig.device.violations().size() == 7);
}

TEST_CASE("a copy may cross chunks of memory that were registered side by side", "[transfer]") {
  ScriptedDevice device;
  std::byte* const memory = *device.Malloc(1024);
  std::vector<std::byte> host(1024, std::byte{3});
  REQUIRE_OK(device.HostRegister(host.data(), 512));
  CHECK_FALSE(device.CopyToDevice(memory, host.data() + 256, 512, nullptr).ok());
  REQUIRE_OK(device.HostRegister(host.data() + 512, 512));
  REQUIRE_OK(device.CopyToDevice(memory, host.data() + 256, 512, nullptr));
  CHECK(memory[511] == std::byte{3});
  CHECK(device.HostRegister(host.data() + 100, 8).code() == absl::StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace penstock
