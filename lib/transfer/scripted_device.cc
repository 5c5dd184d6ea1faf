#include "transfer/scripted_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/align.h"

namespace penstock {
namespace {

constexpr int kNeverWritten = 0xA5;
constexpr int kFreed = 0xDD;
constexpr size_t kAlignmentBytes = 256;

}  // namespace

ScriptedDevice::ScriptedDevice(ScriptedDeviceOptions options) : options_(std::move(options)), automatic_(options_.automatic) {
  streams_[nullptr];
}

ScriptedDevice::~ScriptedDevice() = default;

absl::Status ScriptedDevice::Enter(ScriptedCall call) {
  const std::string name = call.name;
  ++call_counts_[name];
  if (options_.log_calls) calls_.push_back(std::move(call));
  if (!sticky_.ok()) return sticky_;
  for (auto failure = failures_.begin(); failure != failures_.end(); ++failure) {
    if (!failure->name.empty() && failure->name != name) continue;
    if (--failure->countdown > 0) continue;
    const absl::Status status = failure->status;
    if (failure->sticky) sticky_ = status;
    failures_.erase(failure);
    return status;
  }
  return absl::OkStatus();
}

void ScriptedDevice::Violation(std::string text) { violations_.push_back(std::move(text)); }

bool ScriptedDevice::KnownStream(CudaStream cuda_stream, absl::string_view call) {
  if (streams_.count(cuda_stream) != 0) return true;
  Violation(absl::StrCat(call, ": no such stream, or it was destroyed"));
  return false;
}

bool ScriptedDevice::KnownEvent(CudaEvent event, absl::string_view call) {
  if (events_.count(event) != 0) return true;
  Violation(absl::StrCat(call, ": no such event, or it was destroyed"));
  return false;
}

bool ScriptedDevice::InDeviceMemory(const std::byte* memory, size_t bytes) const {
  for (const auto& [start, allocation] : memory_) {
    if (std::greater_equal<>()(memory, start) && std::less_equal<>()(memory + bytes, start + allocation.size)) return true;
  }
  return false;
}

bool ScriptedDevice::InRegistered(const std::byte* memory, size_t bytes) const {
  // An arena is registered in chunks that lie side by side, and one copy may cross their border.
  const std::byte* covered = memory;
  const std::byte* const end = memory + bytes;
  for (const auto& [start, length] : registered_) {  // by address
    if (std::less_equal<>()(start, covered) && std::less<>()(covered, start + length)) covered = start + length;
    if (std::greater_equal<>()(covered, end)) return true;
  }
  return bytes == 0;
}

bool ScriptedDevice::CanGoOn(const Stream& stream) const {
  if (!sticky_.ok() || stream.held || stream.work.empty()) return false;
  const Work& front = stream.work.front();
  if (front.kind != Kind::kWait) return true;
  const auto event = events_.find(front.event);
  return event == events_.end() || event->second.reached >= front.recording;
}

void ScriptedDevice::DoFront(Stream& stream) {
  const Work work = stream.work.front();
  stream.work.erase(stream.work.begin());
  switch (work.kind) {
    case Kind::kCopy:
      if (!InDeviceMemory(work.target, work.bytes)) {
        Violation(absl::StrCat("a copy of ", work.bytes, " bytes completed into device memory that was freed"));
      } else if (options_.require_registered && !InRegistered(work.source, work.bytes)) {
        Violation(absl::StrCat("a copy of ", work.bytes, " bytes completed from host memory that was unregistered"));
      } else {
        std::memcpy(work.target, work.source, work.bytes);
        copied_bytes_ += static_cast<int64_t>(work.bytes);
      }
      break;
    case Kind::kTransform:
      if (!InDeviceMemory(work.target, work.bytes)) {
        Violation(absl::StrCat("a transform wrote ", work.bytes, " bytes into device memory that was freed"));
      } else if (!InDeviceMemory(work.job.data, 1)) {
        Violation("a transform read device memory that was freed");
      } else {
        TransformOnHost(work.job);
      }
      break;
    case Kind::kRecord: {
      const auto event = events_.find(work.event);  // may be destroyed meanwhile: allowed (cudaEventDestroy)
      if (event != events_.end()) event->second.reached = std::max(event->second.reached, work.recording);
      break;
    }
    case Kind::kWait:
      break;
  }
}

bool ScriptedDevice::DoOldest() {
  Stream* oldest = nullptr;
  for (auto& [handle, stream] : streams_) {
    if (CanGoOn(stream) && (oldest == nullptr || stream.work.front().number < oldest->work.front().number)) oldest = &stream;
  }
  if (oldest == nullptr) return false;
  DoFront(*oldest);
  return true;
}

void ScriptedDevice::Give(CudaStream cuda_stream, Work work) {
  work.number = ++work_given_;
  streams_[cuda_stream].work.push_back(work);
  while (automatic_ && DoOldest()) {
  }
}

absl::StatusOr<std::byte*> ScriptedDevice::Malloc(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "Malloc", .bytes = bytes});
  if (!status.ok()) return status;
  if (static_cast<int64_t>(bytes) > options_.memory_bytes_max - allocated_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("scripted device: Malloc of ", bytes, " bytes: ", allocated_bytes_, " of ",
                                                     options_.memory_bytes_max, " are in use"));
  }
  if (bytes == 0) return nullptr;  // cudaMalloc gives success and no memory
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(kAlignmentBytes, AlignUp(bytes, kAlignmentBytes)));
  if (memory == nullptr) return absl::ResourceExhaustedError(absl::StrCat("scripted device: Malloc of ", bytes, " bytes"));
  std::memset(memory, kNeverWritten, bytes);
  memory_.emplace(memory, Memory{{memory, std::free}, bytes});
  allocated_bytes_ += static_cast<int64_t>(bytes);
  return memory;
}

void ScriptedDevice::Free(std::byte* device_memory) {
  if (device_memory == nullptr) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if (!Enter({.name = "Free", .target = device_memory}).ok()) return;
  const auto found = memory_.find(device_memory);
  if (found == memory_.end()) {
    Violation("Free: not device memory, or freed before");
    return;
  }
  for (const auto& [handle, stream] : streams_) {
    for (const Work& work : stream.work) {
      if (work.kind == Kind::kCopy && std::greater_equal<>()(work.target, device_memory) &&
          std::less<>()(work.target, device_memory + found->second.size)) {
        Violation(absl::StrCat("Free: a copy of ", work.bytes, " bytes into this memory is pending"));
      }
    }
  }
  allocated_bytes_ -= static_cast<int64_t>(found->second.size);
  std::memset(device_memory, kFreed, found->second.size);
  freed_memory_.push_back(std::move(found->second));
  memory_.erase(found);
}

absl::Status ScriptedDevice::HostRegister(void* address, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "HostRegister", .target = address, .bytes = bytes});
  if (!status.ok()) return status;
  std::byte* const start = static_cast<std::byte*>(address);
  for (const auto& [other, length] : registered_) {
    if (std::less<>()(start, other + length) && std::less<>()(other, start + bytes)) {
      return absl::AlreadyExistsError("scripted device: HostRegister: part of this memory is registered already");
    }
  }
  registered_[start] = bytes;
  return absl::OkStatus();
}

void ScriptedDevice::HostUnregister(void* address) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!Enter({.name = "HostUnregister", .target = address}).ok()) return;
  const auto found = registered_.find(static_cast<std::byte*>(address));
  if (found == registered_.end()) {
    Violation("HostUnregister: not registered, or unregistered before");
    return;
  }
  for (const auto& [handle, stream] : streams_) {
    for (const Work& work : stream.work) {
      if (work.kind == Kind::kCopy && std::less<>()(work.source, found->first + found->second) &&
          std::less<>()(static_cast<const std::byte*>(found->first), work.source + work.bytes)) {
        Violation(absl::StrCat("HostUnregister: a copy of ", work.bytes, " bytes from this memory is pending"));
      }
    }
  }
  registered_.erase(found);
}

absl::StatusOr<CudaStream> ScriptedDevice::CreateStream() {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "CreateStream"});
  if (!status.ok()) return status;
  handles_.push_back(std::make_unique<char>());
  const CudaStream cuda_stream = reinterpret_cast<CudaStream>(handles_.back().get());
  streams_[cuda_stream];
  return cuda_stream;
}

void ScriptedDevice::DestroyStream(CudaStream cuda_stream) {
  if (cuda_stream == nullptr) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if (!Enter({.name = "DestroyStream", .cuda_stream = cuda_stream}).ok()) return;
  if (!KnownStream(cuda_stream, "DestroyStream")) return;
  if (!streams_[cuda_stream].work.empty()) Violation("DestroyStream: work is pending");
  streams_.erase(cuda_stream);
}

absl::StatusOr<CudaEvent> ScriptedDevice::CreateEvent() {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "CreateEvent"});
  if (!status.ok()) return status;
  handles_.push_back(std::make_unique<char>());
  const CudaEvent event = reinterpret_cast<CudaEvent>(handles_.back().get());
  events_[event];
  return event;
}

void ScriptedDevice::DestroyEvent(CudaEvent event) {
  if (event == nullptr) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if (!Enter({.name = "DestroyEvent", .event = event}).ok()) return;
  if (KnownEvent(event, "DestroyEvent")) events_.erase(event);
}

absl::Status ScriptedDevice::CopyToDevice(std::byte* device_memory, const std::byte* host, size_t bytes, CudaStream cuda_stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status =
      Enter({.name = "CopyToDevice", .target = device_memory, .source = host, .bytes = bytes, .cuda_stream = cuda_stream});
  if (!status.ok()) return status;
  const auto refuse = [this](std::string text) {
    Violation(text);
    return absl::InvalidArgumentError(absl::StrCat("scripted device: ", text));
  };
  if (!KnownStream(cuda_stream, "CopyToDevice")) return absl::InvalidArgumentError("scripted device: CopyToDevice: no such stream");
  if (!InDeviceMemory(device_memory, bytes)) return refuse(absl::StrCat("CopyToDevice: ", bytes, " bytes outside of device memory"));
  if (options_.require_registered && !InRegistered(host, bytes)) {
    return refuse(absl::StrCat("CopyToDevice: ", bytes, " bytes of host memory that is not registered"));
  }
  Give(cuda_stream, {.kind = Kind::kCopy, .number = 0, .target = device_memory, .source = host, .bytes = bytes});
  return absl::OkStatus();
}

absl::Status ScriptedDevice::Transform(const PixelJob& job, CudaStream cuda_stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto bytes = static_cast<size_t>(job.samples * job.pixels * job.channels * ElementBytes(job.element));
  absl::Status status = Enter({.name = "Transform", .target = job.output, .source = job.data, .bytes = bytes, .cuda_stream = cuda_stream});
  if (!status.ok()) return status;
  if (!KnownStream(cuda_stream, "Transform")) return absl::InvalidArgumentError("scripted device: Transform: no such stream");
  if (!InDeviceMemory(job.output, bytes)) {
    Violation(absl::StrCat("Transform: ", bytes, " bytes outside of device memory"));
    return absl::InvalidArgumentError(violations_.back());
  }
  Give(cuda_stream, {.kind = Kind::kTransform, .number = 0, .target = job.output, .bytes = bytes, .job = job});
  return absl::OkStatus();
}

absl::Status ScriptedDevice::Record(CudaEvent event, CudaStream cuda_stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "Record", .cuda_stream = cuda_stream, .event = event});
  if (!status.ok()) return status;
  if (!KnownStream(cuda_stream, "Record") || !KnownEvent(event, "Record")) {
    return absl::InvalidArgumentError("scripted device: Record: no such stream or event");
  }
  Event& known = events_[event];
  known.cuda_stream = cuda_stream;
  Give(cuda_stream, {.kind = Kind::kRecord, .number = 0, .event = event, .recording = ++known.recordings});
  return absl::OkStatus();
}

absl::StatusOr<bool> ScriptedDevice::Done(CudaEvent event) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "Done", .event = event});
  if (!status.ok()) return status;
  if (!KnownEvent(event, "Done")) return absl::InvalidArgumentError("scripted device: Done: no such event");
  return events_[event].reached == events_[event].recordings;  // an event never recorded is done (cudaEventQuery)
}

absl::Status ScriptedDevice::MakeWait(CudaStream cuda_stream, CudaEvent event) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "MakeWait", .cuda_stream = cuda_stream, .event = event});
  if (!status.ok()) return status;
  if (!KnownStream(cuda_stream, "MakeWait") || !KnownEvent(event, "MakeWait")) {
    return absl::InvalidArgumentError("scripted device: MakeWait: no such stream or event");
  }
  // The recording that counts is the latest one at the time of this call (cudaStreamWaitEvent).
  Give(cuda_stream, {.kind = Kind::kWait, .number = 0, .event = event, .recording = events_[event].recordings});
  return absl::OkStatus();
}

absl::Status ScriptedDevice::Synchronize(CudaStream cuda_stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = Enter({.name = "Synchronize", .cuda_stream = cuda_stream});
  if (!status.ok()) return status;
  if (!KnownStream(cuda_stream, "Synchronize")) return absl::InvalidArgumentError("scripted device: Synchronize: no such stream");
  const Stream& stream = streams_[cuda_stream];
  while (!stream.work.empty()) {
    if (!DoOldest()) return absl::DeadlineExceededError("scripted device: Synchronize would never return: the stream's work is held");
  }
  return absl::OkStatus();
}

absl::Status ScriptedDevice::sticky() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return sticky_;
}

void ScriptedDevice::set_automatic(bool automatic) {
  std::lock_guard<std::mutex> lock(mutex_);
  automatic_ = automatic;
  while (automatic_ && DoOldest()) {
  }
}

bool ScriptedDevice::CompleteNext() {
  std::lock_guard<std::mutex> lock(mutex_);
  return DoOldest();
}

void ScriptedDevice::CompleteAll() {
  std::lock_guard<std::mutex> lock(mutex_);
  while (DoOldest()) {
  }
}

void ScriptedDevice::CompleteUntil(CudaEvent event) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto known = events_.find(event);
  if (known == events_.end() || streams_.count(known->second.cuda_stream) == 0) return;
  Stream& stream = streams_[known->second.cuda_stream];
  while (known->second.reached < known->second.recordings && CanGoOn(stream)) DoFront(stream);
}

void ScriptedDevice::Hold(CudaStream cuda_stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (KnownStream(cuda_stream, "Hold")) streams_[cuda_stream].held = true;
}

void ScriptedDevice::Unhold(CudaStream cuda_stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!KnownStream(cuda_stream, "Unhold")) return;
  streams_[cuda_stream].held = false;
  while (automatic_ && DoOldest()) {
  }
}

void ScriptedDevice::FailCall(absl::string_view name, int64_t nth, absl::Status status, bool sticky) {
  std::lock_guard<std::mutex> lock(mutex_);
  failures_.push_back({std::string(name), nth, std::move(status), sticky});
}

void ScriptedDevice::LoseContext(absl::Status status) { FailCall("", 1, std::move(status), true); }

std::vector<ScriptedCall> ScriptedDevice::calls() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return calls_;
}

int64_t ScriptedDevice::CallCount(absl::string_view name) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = call_counts_.find(name);
  return found == call_counts_.end() ? 0 : found->second;
}

std::vector<std::string> ScriptedDevice::violations() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return violations_;
}

int64_t ScriptedDevice::pending_work() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t pending = 0;
  for (const auto& [handle, stream] : streams_) pending += static_cast<int64_t>(stream.work.size());
  return pending;
}

int64_t ScriptedDevice::allocated_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return allocated_bytes_;
}

int64_t ScriptedDevice::registered_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t bytes = 0;
  for (const auto& [start, length] : registered_) bytes += static_cast<int64_t>(length);
  return bytes;
}

int64_t ScriptedDevice::live_streams() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(streams_.size()) - 1;
}

int64_t ScriptedDevice::live_events() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(events_.size());
}

int64_t ScriptedDevice::copied_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return copied_bytes_;
}

}  // namespace penstock
