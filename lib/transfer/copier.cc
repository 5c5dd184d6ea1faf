#include "transfer/copier.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"

namespace penstock {
namespace {

std::string Seconds(int64_t ns) { return absl::StrCat(ns / kNsPerSecond, ".", ns % kNsPerSecond / (kNsPerSecond / 10), " s"); }

}  // namespace

absl::StatusOr<std::unique_ptr<Copier>> Copier::Create(std::shared_ptr<Device> device, CopierOptions options) {
  absl::StatusOr<CudaStream> cuda_stream = device->CreateStream();
  if (!cuda_stream.ok()) return cuda_stream.status();
  std::unique_ptr<Copier> copier(new Copier(std::move(device), options, *cuda_stream));
  for (int32_t i = 0; i < std::max(options.events, 1); ++i) {
    absl::StatusOr<CudaEvent> event = copier->device_->CreateEvent();
    if (!event.ok()) return event.status();
    copier->free_events_.push_back(*event);
  }
  return copier;
}

Copier::Copier(std::shared_ptr<Device> device, CopierOptions options, CudaStream cuda_stream)
    : device_(std::move(device)), options_(options), cuda_stream_(cuda_stream) {}

Copier::~Copier() {
  if (!pending_.empty()) {
    Log(LogLevel::kWarning,
        absl::StrCat("CUDA device ", device_->index(), ": ", pending_.size(), " copies (", stats_.pending_bytes,
                     " bytes) never completed; their CUDA stream, events and host memory stay until the process ends"));
    return;
  }
  for (CudaEvent event : free_events_) device_->DestroyEvent(event);
  device_->DestroyStream(cuda_stream_);
}

CudaEvent Copier::TakeFreeEvent() {
  if (free_events_.empty()) return nullptr;
  const CudaEvent event = free_events_.back();
  free_events_.pop_back();
  return event;
}

absl::StatusOr<CudaEvent> Copier::AcquireEvent() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // The last one is left to the copies, which cannot do with none at all.
    if (free_events_.size() > 1) return TakeFreeEvent();
  }
  return device_->CreateEvent();
}

void Copier::ReleaseEvent(CudaEvent event) {
  std::lock_guard<std::mutex> lock(mutex_);
  free_events_.push_back(event);
}

absl::StatusOr<CopyTicket> Copier::Copy(std::byte* device_memory, const std::byte* source, size_t bytes, uint64_t cookie, int64_t now_ns) {
  // Copy and record under one lock: the order of pending_ is the order of the CUDA stream, and an event stands for all before it.
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = device_->CopyToDevice(device_memory, source, bytes, cuda_stream_);
  if (!status.ok()) return status;
  CudaEvent event = TakeFreeEvent();
  if (event != nullptr && !device_->Record(event, cuda_stream_).ok()) {
    // The copy is on its way whatever became of its event. A later one will do, and Poll meets the error if it lasts.
    free_events_.push_back(event);
    event = nullptr;
  }
  ++stats_.copies;
  stats_.bytes += static_cast<int64_t>(bytes);
  stats_.pending_bytes += static_cast<int64_t>(bytes);
  pending_.push_back({static_cast<uint64_t>(stats_.copies), cookie, bytes, now_ns, event, false});
  pending_count_.fetch_add(1, std::memory_order_release);
  return CopyTicket{static_cast<uint64_t>(stats_.copies)};
}

absl::StatusOr<size_t> Copier::Poll(std::vector<uint64_t>& finished_cookies, int64_t now_ns) {
  if (pending_count_.load(std::memory_order_acquire) == 0) return size_t{0};
  std::lock_guard<std::mutex> lock(mutex_);
  return PollLocked(finished_cookies, now_ns);
}

absl::StatusOr<size_t> Copier::PollLocked(std::vector<uint64_t>& finished_cookies, int64_t now_ns) {
  size_t finished_count = 0;
  while (true) {
    // The next event, and with it how many copies it stands for.
    size_t covered = 0;
    while (covered < pending_.size() && pending_[covered].event == nullptr) ++covered;
    if (covered == pending_.size()) {
      if (covered == 0) return finished_count;
      // None of the copies left has an event, since the pool was empty or recording failed: now the last one gets one.
      const CudaEvent event = TakeFreeEvent();
      if (event == nullptr) break;
      absl::Status status = device_->Record(event, cuda_stream_);
      if (!status.ok()) {
        free_events_.push_back(event);
        return status;
      }
      pending_.back().event = event;
      --covered;
    }
    absl::StatusOr<bool> done = device_->Done(pending_[covered].event);
    if (!done.ok()) return done.status();
    if (!*done) break;
    free_events_.push_back(pending_[covered].event);
    for (size_t i = 0; i <= covered; ++i) {
      const Pending& copy = pending_.front();
      finished_cookies.push_back(copy.cookie);
      stats_.completed_sequence = copy.sequence;
      stats_.pending_bytes -= static_cast<int64_t>(copy.bytes);
      pending_.pop_front();
    }
    finished_count += covered + 1;
    pending_count_.fetch_sub(static_cast<int64_t>(covered + 1), std::memory_order_release);
  }

  Pending& oldest = pending_.front();
  const int64_t age_ns = now_ns - oldest.since_ns;
  if (age_ns < std::min(options_.report_after_ns, options_.deadline_ns)) return finished_count;
  const std::string text =
      absl::StrCat("CUDA device ", device_->index(), " (", device_->pci_bus_id(), "): the copy of a piece of ", oldest.bytes,
                   " bytes to the GPU is pending for ", Seconds(age_ns), ", ", pending_.size(), " copies (", stats_.pending_bytes,
                   " bytes) wait behind it and with it");
  if (age_ns >= options_.deadline_ns) {
    return absl::DeadlineExceededError(absl::StrCat(text, "; deadline_s is ", Seconds(options_.deadline_ns),
                                                    ". The GPU hangs or its copy engine waits for other work: see the kernel log for Xid "
                                                    "messages. The piece is not used again"));
  }
  if (!oldest.reported) {
    oldest.reported = true;
    Log(LogLevel::kWarning, text);
  }
  return finished_count;
}

absl::Status Copier::Drain(std::vector<uint64_t>& finished_cookies, int64_t wait_ns) {
  const int64_t until_ns = MonotonicNs() + wait_ns;
  int64_t sleep_ns = 20'000;  // a 4 MiB piece takes 75 us on PCIe 5
  while (true) {
    absl::StatusOr<size_t> finished = Poll(finished_cookies);
    if (!finished.ok()) return finished.status();
    const CopierStats now = stats();
    if (now.pending == 0) return absl::OkStatus();
    if (MonotonicNs() >= until_ns) {
      return absl::DeadlineExceededError(absl::StrCat("CUDA device ", device_->index(), ": after ", Seconds(wait_ns), " ", now.pending,
                                                      " copies (", now.pending_bytes, " bytes) to the GPU are still pending, the oldest ",
                                                      "for ", Seconds(OldestPendingNs())));
    }
    SleepNs(sleep_ns);
    sleep_ns = std::min<int64_t>(sleep_ns * 2, kNsPerMs);
  }
}

int64_t Copier::OldestPendingNs(int64_t now_ns) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return pending_.empty() ? 0 : std::max<int64_t>(now_ns - pending_.front().since_ns, 0);
}

CopierStats Copier::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  CopierStats stats = stats_;
  stats.pending = static_cast<int64_t>(pending_.size());
  return stats;
}

absl::Status BatchEvents::RecordReady() {
  absl::StatusOr<CudaEvent> event = ready_ != nullptr ? ready_ : copier_->AcquireEvent();
  if (!event.ok()) return event.status();
  absl::Status status = copier_->device_->Record(*event, copier_->cuda_stream_);
  // An event that was never recorded counts as done: without this the batch would look ready.
  ready_ = status.ok() ? *event : nullptr;
  if (!status.ok()) copier_->ReleaseEvent(*event);
  return status;
}

absl::StatusOr<bool> BatchEvents::Ready() {
  if (ready_ == nullptr) return absl::FailedPreconditionError("the batch's copies were not all given to the device yet");
  return copier_->device_->Done(ready_);
}

absl::Status BatchEvents::WaitOn(CudaStream consumer) {
  if (ready_ == nullptr) return absl::FailedPreconditionError("the batch's copies were not all given to the device yet");
  return copier_->device_->MakeWait(consumer, ready_);
}

absl::Status BatchEvents::RecordUse(CudaStream consumer) {
  auto use = std::find_if(uses_.begin(), uses_.end(), [consumer](const auto& known) { return known.first == consumer; });
  if (use == uses_.end()) {
    absl::StatusOr<CudaEvent> event = copier_->AcquireEvent();
    if (!event.ok()) {
      use_error_.Update(event.status());
      return event.status();
    }
    uses_.emplace_back(consumer, *event);
    use = uses_.end() - 1;
  }
  absl::Status status = copier_->device_->Record(use->second, consumer);
  use_error_.Update(status);
  return status;
}

absl::StatusOr<bool> BatchEvents::UsesDone() {
  if (!use_error_.ok()) return use_error_;
  for (const auto& [consumer, event] : uses_) {
    absl::StatusOr<bool> done = copier_->device_->Done(event);
    if (!done.ok() || !*done) return done;
  }
  return true;
}

void BatchEvents::Reset() {
  if (ready_ != nullptr) copier_->ReleaseEvent(ready_);
  for (const auto& [consumer, event] : uses_) copier_->ReleaseEvent(event);
  ready_ = nullptr;
  uses_.clear();
  use_error_ = absl::OkStatus();
}

}  // namespace penstock
