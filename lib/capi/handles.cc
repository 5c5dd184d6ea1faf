#include "capi/handles.h"

#include <pthread.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"

namespace penstock::capi {
namespace {

// A handle, from its lowest bits: the slot (24), its generation (32), the kind (8). Kinds begin at 1, so that none is NULL; and the upper
// bits lie beyond what a process can map (x86-64, AArch64), so that whoever takes a handle for an address fails at once.
constexpr int kSlotBits = 24;
constexpr int kGenerationBits = 32;
static_assert(sizeof(void*) == 8, "handles are 64 bits");

struct Parts {
  Kind kind;
  uint32_t generation;
  uint32_t slot;
};

void* Pack(const Parts& parts) {
  const uint64_t value =
      uint64_t{static_cast<uint8_t>(parts.kind)} << (kSlotBits + kGenerationBits) | uint64_t{parts.generation} << kSlotBits | parts.slot;
  return reinterpret_cast<void*>(value);
}

Parts Unpack(const void* handle) {
  const auto value = reinterpret_cast<uint64_t>(handle);
  return {static_cast<Kind>(value >> (kSlotBits + kGenerationBits)), static_cast<uint32_t>(value >> kSlotBits),
          static_cast<uint32_t>(value & ((1u << kSlotBits) - 1))};
}

}  // namespace

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kError:
      return "an error";
    case Kind::kOptions:
      return "options";
    case Kind::kRuntime:
      return "a runtime";
    case Kind::kManifest:
      return "a manifest";
    case Kind::kLoader:
      return "a loader";
    case Kind::kBatch:
      return "a batch";
    case Kind::kNone:
      break;
  }
  return "nothing";
}

HandleTable& HandleTable::Get() {
  static auto* table = new HandleTable;
  return *table;
}

HandleTable::HandleTable() {
  // A thread of the parent may be in here at the moment of a fork, and would never leave in the child.
  ::pthread_atfork([] { Get().mutex_.lock(); }, [] { Get().mutex_.unlock(); }, [] { Get().mutex_.unlock(); });
}

absl::StatusOr<void*> HandleTable::Insert(Kind kind, std::shared_ptr<void> object) {
  std::lock_guard<std::mutex> lock(mutex_);
  uint32_t index;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    if (slots_.size() >= size_t{1} << kSlotBits)
      return absl::ResourceExhaustedError("2^24 handles of penstock are open: close what is no longer used");
    // Room to give every slot back without memory.
    if (slots_.size() == slots_.capacity()) slots_.reserve(slots_.size() * 2 + 64);
    free_.reserve(slots_.capacity());
    index = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  }
  Slot& slot = slots_[index];
  slot.kind = kind;
  slot.object = std::move(object);
  return Pack({kind, slot.generation, index});
}

const HandleTable::Slot* HandleTable::SlotOf(Kind kind, const void* handle) const {
  const Parts parts = Unpack(handle);
  if (parts.kind != kind || parts.slot >= slots_.size()) return nullptr;
  const Slot& slot = slots_[parts.slot];
  return slot.kind == kind && slot.generation == parts.generation ? &slot : nullptr;
}

std::shared_ptr<void> HandleTable::Find(Kind kind, const void* handle) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const Slot* slot = SlotOf(kind, handle);
  return slot == nullptr ? nullptr : slot->object;
}

std::shared_ptr<void> HandleTable::Take(Kind kind, const void* handle) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (SlotOf(kind, handle) == nullptr) return nullptr;
  const uint32_t index = Unpack(handle).slot;
  Slot& slot = slots_[index];
  std::shared_ptr<void> object = std::move(slot.object);
  slot.object = nullptr;
  slot.kind = Kind::kNone;
  // A slot whose generations are used up is left empty for good: no handle ever comes twice.
  if (++slot.generation != 0) free_.push_back(index);
  return object;
}

std::string HandleTable::WhyNone(Kind kind, const void* handle) const {
  if (handle == nullptr) return "is NULL";
  const Parts parts = Unpack(handle);
  std::lock_guard<std::mutex> lock(mutex_);
  if (parts.kind == Kind::kNone || parts.kind > Kind::kBatch || parts.slot >= slots_.size()) return "is no handle of penstock";
  const Slot& slot = slots_[parts.slot];
  if (slot.generation == parts.generation && slot.kind == parts.kind)
    return absl::StrCat("is ", KindName(parts.kind), " and not ", KindName(kind));
  if (parts.generation < slot.generation) return absl::StrCat("was ", KindName(parts.kind), " and is closed");
  return "is no handle of penstock";
}

size_t HandleTable::open_handles() const {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t open = 0;
  for (const Slot& slot : slots_) open += slot.kind != Kind::kNone;
  return open;
}

char* HandleTable::NewText(const std::string& text) {
  std::unique_ptr<char, void (*)(void*)> copy(static_cast<char*>(std::malloc(text.size() + 1)), std::free);
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy.get(), text.c_str(), text.size() + 1);
  std::lock_guard<std::mutex> lock(mutex_);
  texts_.insert(copy.get());
  return copy.release();
}

void HandleTable::FreeText(char* text) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (texts_.erase(text) == 0) return;
  }
  std::free(text);
}

}  // namespace penstock::capi
