// Handles: what a C program holds in place of an address.
//
// A handle is 64 bits in the shape of a pointer: kind, generation and slot of a table. A slot's generation grows whenever what was in it is
// taken out, so that a handle which was closed is never valid again, and a number that somebody made up is one only by luck.
#ifndef PENSTOCK_CAPI_HANDLES_H_
#define PENSTOCK_CAPI_HANDLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"

namespace penstock::capi {

enum class Kind : uint8_t { kNone = 0, kError, kOptions, kRuntime, kManifest, kLoader, kBatch };

// Thread-safe, also across fork(): its mutex is taken before and let go after, on both sides.
class HandleTable {
 public:
  // The process's; never destroyed.
  static HandleTable& Get();

  // Errors: ResourceExhausted  2^24 handles are open.
  absl::StatusOr<void*> Insert(Kind kind, std::shared_ptr<void> object);
  // Null where the handle is none of that kind (any more).
  std::shared_ptr<void> Find(Kind kind, const void* handle) const;
  std::shared_ptr<void> Take(Kind kind, const void* handle);
  // "is NULL", "is a closed batch"...: why Find() gave nothing.
  std::string WhyNone(Kind kind, const void* handle) const;
  size_t open_handles() const;

  // A copy of `text` with a zero behind it, which FreeText() frees. Throws std::bad_alloc.
  char* NewText(const std::string& text);
  // Leaves alone what is none of those.
  void FreeText(char* text);

  HandleTable(const HandleTable&) = delete;
  HandleTable& operator=(const HandleTable&) = delete;

 private:
  struct Slot {
    Kind kind = Kind::kNone;
    uint32_t generation = 0;
    std::shared_ptr<void> object;
  };
  HandleTable();
  // The slot of a handle; null where it is none of `kind`. With the mutex held.
  const Slot* SlotOf(Kind kind, const void* handle) const;

  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::unordered_set<char*> texts_;
};

const char* KindName(Kind kind);

}  // namespace penstock::capi

#endif  // PENSTOCK_CAPI_HANDLES_H_
