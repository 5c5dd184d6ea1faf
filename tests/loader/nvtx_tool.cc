// A profiler in small, as NVTX loads one (NVTX_INJECTION64_PATH): counts the ranges of each name, and those that end without having begun
// on the same thread. The test asks for the counts by the last function.
#include <nvtx3/nvToolsExt.h>

#include <map>
#include <mutex>
#include <string>

namespace {

std::mutex mutex;
std::string domain_name;
std::map<std::string, long> counts;  // by name; "unbalanced", "open", "threads"
thread_local long depth = 0;

nvtxDomainHandle_t DomainCreate(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  domain_name = name;
  return reinterpret_cast<nvtxDomainHandle_t>(&domain_name);
}
nvtxStringHandle_t RegisterString(nvtxDomainHandle_t, const char* text) {
  return reinterpret_cast<nvtxStringHandle_t>(new std::string(text));  // as long as the process
}
int Push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  std::lock_guard<std::mutex> lock(mutex);
  const bool right = domain == reinterpret_cast<nvtxDomainHandle_t>(&domain_name) && event->messageType == NVTX_MESSAGE_TYPE_REGISTERED;
  ++counts[right ? *reinterpret_cast<const std::string*>(event->message.registered) : "wrong"];
  ++counts["open"];
  return static_cast<int>(depth++);
}
int Pop(nvtxDomainHandle_t) {
  std::lock_guard<std::mutex> lock(mutex);
  if (depth == 0) return static_cast<int>(++counts["unbalanced"]);
  --counts["open"];
  return static_cast<int>(--depth);
}
void NameThread(uint32_t, const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  ++counts[name];
}

template <typename Function>
void Set(const NvtxExportTableCallbacks& callbacks, NvtxCallbackModule module, unsigned function, Function* own) {
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks.GetModuleFunctionTable(module, &table, &size) == 0 || function >= size) return;
  *table[function] = reinterpret_cast<NvtxFunctionPointer>(own);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* const callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  if (callbacks == nullptr) return 0;
  Set(*callbacks, NVTX_CB_MODULE_CORE2, NVTX_CBID_CORE2_DomainCreateA, DomainCreate);
  Set(*callbacks, NVTX_CB_MODULE_CORE2, NVTX_CBID_CORE2_DomainRegisterStringA, RegisterString);
  Set(*callbacks, NVTX_CB_MODULE_CORE2, NVTX_CBID_CORE2_DomainRangePushEx, Push);
  Set(*callbacks, NVTX_CB_MODULE_CORE2, NVTX_CBID_CORE2_DomainRangePop, Pop);
  Set(*callbacks, NVTX_CB_MODULE_CORE, NVTX_CBID_CORE_NameOsThreadA, NameThread);
  return 1;
}

extern "C" __attribute__((visibility("default"))) long NvtxToolCount(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = counts.find(name);
  return found == counts.end() ? 0 : found->second;
}
