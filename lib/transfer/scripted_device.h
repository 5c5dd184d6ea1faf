// A Device without a GPU, for tests: what a GPU may do at any time it does when the test says so. Its device memory is host memory full of
// 0xA5 that changes only when a copy completes, and a copy reads its source only then, so that memory used again too early shows as
// wrong bytes.
#ifndef PENSTOCK_TRANSFER_SCRIPTED_DEVICE_H_
#define PENSTOCK_TRANSFER_SCRIPTED_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "transfer/device.h"

namespace penstock {

struct ScriptedDeviceOptions {
  int index = 0;
  std::string pci_bus_id = "0000:1b:00.0";
  bool automatic = true;           // work is done when it is given (unless it waits for an event, or is held); else by Complete*()
  bool require_registered = true;  // copying from host memory that is not registered is a violation (the driver would stage it)
  bool log_calls = true;
  int64_t memory_bytes_max = int64_t{1} << 34;  // Malloc beyond it is ResourceExhausted
};

// One call as the device saw it. Fields that the call does not have are zero.
struct ScriptedCall {
  std::string name;  // "Malloc", "Free", "HostRegister", ..., as in Device
  const void* target = nullptr;  // device memory, host address
  const void* source = nullptr;
  size_t bytes = 0;
  CudaStream cuda_stream = nullptr;
  CudaEvent event = nullptr;
};

// Thread-safe. Synchronize() completes the stream's work itself, since nobody else would; if that is held it returns DeadlineExceeded.
class ScriptedDevice final : public Device {
 public:
  explicit ScriptedDevice(ScriptedDeviceOptions options = {});
  ~ScriptedDevice() override;

  int index() const override { return options_.index; }
  std::string pci_bus_id() const override { return options_.pci_bus_id; }
  absl::StatusOr<std::byte*> Malloc(size_t bytes) override;
  void Free(std::byte* device_memory) override;
  absl::Status HostRegister(void* address, size_t bytes) override;
  void HostUnregister(void* address) override;
  absl::StatusOr<CudaStream> CreateStream() override;
  void DestroyStream(CudaStream cuda_stream) override;
  absl::StatusOr<CudaEvent> CreateEvent() override;
  void DestroyEvent(CudaEvent event) override;
  absl::Status CopyToDevice(std::byte* device_memory, const std::byte* host, size_t bytes, CudaStream cuda_stream) override;
  absl::Status Transform(const PixelJob& job, CudaStream cuda_stream) override;
  absl::Status Record(CudaEvent event, CudaStream cuda_stream) override;
  absl::StatusOr<bool> Done(CudaEvent event) override;
  absl::Status MakeWait(CudaStream cuda_stream, CudaEvent event) override;
  absl::Status Synchronize(CudaStream cuda_stream) override;
  absl::Status sticky() const override;

  // Steering. Work is a copy, a record or a wait given to a stream; each stream does its own in order.
  void set_automatic(bool automatic);  // true: what is given already is done too
  bool CompleteNext();                 // the oldest piece of work, of all streams, that can go on; false: none
  void CompleteAll();                  // all that can go on
  void CompleteUntil(CudaEvent event); // the work of the event's stream, up to the event's record
  void Hold(CudaStream cuda_stream);   // nothing given to this stream is done any more: an event that never completes
  void Unhold(CudaStream cuda_stream);

  // The `nth` (1: the next) call of that name returns `status`. Sticky: so does every later call of any name, and no work is done any more.
  void FailCall(absl::string_view name, int64_t nth, absl::Status status, bool sticky = false);
  // A lost context, seen by the next call of any name: somebody else's kernel.
  void LoseContext(absl::Status status);

  // What happened.
  std::vector<ScriptedCall> calls() const;
  int64_t CallCount(absl::string_view name) const;
  std::vector<std::string> violations() const;  // use of freed, unregistered, destroyed or pending things; empty when all is right
  int64_t pending_work() const;
  int64_t allocated_bytes() const;
  int64_t registered_bytes() const;
  int64_t live_streams() const;
  int64_t live_events() const;
  int64_t copied_bytes() const;  // by completed copies

 private:
  enum class Kind { kCopy, kTransform, kRecord, kWait };
  struct Work {
    Kind kind;
    uint64_t number;  // in the order given, over all streams
    std::byte* target = nullptr;
    const std::byte* source = nullptr;
    size_t bytes = 0;
    CudaEvent event = nullptr;
    uint64_t recording = 0;  // of the event
    PixelJob job;
  };
  struct Stream {
    std::vector<Work> work;  // front first
    bool held = false;
  };
  struct Memory {
    std::unique_ptr<std::byte[], void (*)(void*)> bytes;  // 256-byte aligned, as from cudaMalloc
    size_t size;
  };
  struct Event {
    uint64_t recordings = 0;  // given
    uint64_t reached = 0;     // the last recording that was reached
    CudaStream cuda_stream = nullptr;
  };
  struct Failure {
    std::string name;
    int64_t countdown;
    absl::Status status;
    bool sticky;
  };

  // All private functions are called with mutex_ held.
  absl::Status Enter(ScriptedCall call);
  void Violation(std::string text);
  bool KnownStream(CudaStream cuda_stream, absl::string_view call);
  bool KnownEvent(CudaEvent event, absl::string_view call);
  bool CanGoOn(const Stream& stream) const;
  void DoFront(Stream& stream);
  bool DoOldest();
  void Give(CudaStream cuda_stream, Work work);
  bool InDeviceMemory(const std::byte* memory, size_t bytes) const;
  bool InRegistered(const std::byte* memory, size_t bytes) const;

  const ScriptedDeviceOptions options_;
  mutable std::mutex mutex_;
  bool automatic_;
  absl::Status sticky_;
  std::vector<Failure> failures_;
  std::vector<ScriptedCall> calls_;
  std::map<std::string, int64_t, std::less<>> call_counts_;
  std::vector<std::string> violations_;
  std::map<std::byte*, Memory> memory_;
  std::vector<Memory> freed_memory_;  // kept and full of 0xDD, so that late use is found, not a crash
  std::map<std::byte*, size_t> registered_;
  std::map<CudaStream, Stream> streams_;  // nullptr, the legacy default stream, is always there
  std::map<CudaEvent, Event> events_;
  std::vector<std::unique_ptr<char>> handles_;  // give streams and events their addresses, never used twice
  uint64_t work_given_ = 0;
  int64_t allocated_bytes_ = 0;
  int64_t copied_bytes_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSFER_SCRIPTED_DEVICE_H_
