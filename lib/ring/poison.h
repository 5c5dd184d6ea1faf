// AddressSanitizer does not see what the kernel writes, so the memory of a request is checked before it is handed over.
#ifndef PENSTOCK_RING_POISON_H_
#define PENSTOCK_RING_POISON_H_

#include "base/check.h"
#include "ring/ring.h"

#if defined(__SANITIZE_ADDRESS__)
#define PENSTOCK_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PENSTOCK_HAS_ASAN 1
#endif
#endif

#ifdef PENSTOCK_HAS_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace penstock {

inline void CheckNotPoisoned([[maybe_unused]] const Request& request) {
  PENSTOCK_DCHECK(request.need_bytes <= request.length_bytes, "a request needs more than it has room for");
#ifdef PENSTOCK_HAS_ASAN
  PENSTOCK_CHECK(request.length_bytes == 0 || __asan_region_is_poisoned(request.destination, request.length_bytes) == nullptr,
                 "a request's memory is not allocated, or was freed");
#endif
}

}  // namespace penstock

#endif  // PENSTOCK_RING_POISON_H_
