#include "base/trace.h"

#ifdef PENSTOCK_NVTX
#include <nvtx3/nvToolsExt.h>
#include <unistd.h>

#include <mutex>
#include <string>
#endif

namespace penstock {

std::atomic<bool> trace_internal::on{false};

#ifdef PENSTOCK_NVTX
namespace {

constexpr const char* kNames[kTraceStages] = {"plan", "claim", "read", "codec", "copy", "next"};

nvtxDomainHandle_t domain = nullptr;  // as the two below set once, before `on`
nvtxStringHandle_t names[kTraceStages];

}  // namespace

void StartTrace() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Null where no profiler answered: its library is the one that NVTX_INJECTION64_PATH names, loaded by the first NVTX call of a process.
    domain = nvtxDomainCreateA("penstock");
    if (domain == nullptr) return;
    for (int stage = 0; stage < kTraceStages; ++stage) names[stage] = nvtxDomainRegisterStringA(domain, kNames[stage]);
    trace_internal::on.store(true, std::memory_order_release);
  });
}

void NameTraceThread(const char* kind, int index) {
  if (!trace_internal::on.load(std::memory_order_acquire)) return;
  nvtxNameOsThreadA(static_cast<uint32_t>(::gettid()), ("penstock " + std::string(kind) + " " + std::to_string(index)).c_str());
}

void trace_internal::Push(TraceStage stage) {
  nvtxEventAttributes_t event = {};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = names[static_cast<int>(stage)];
  nvtxDomainRangePushEx(domain, &event);
}

void trace_internal::Pop() { nvtxDomainRangePop(domain); }

#else

void StartTrace() {}
void NameTraceThread(const char*, int) {}
void trace_internal::Push(TraceStage) {}
void trace_internal::Pop() {}

#endif

}  // namespace penstock
