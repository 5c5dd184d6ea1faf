#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace penstock {

uint32_t Crc32c(const void* data, size_t bytes, uint32_t crc) {
  // ISA-L takes an int length and neither inverts at the start nor at the end (crc.h, "crc32_iscsi").
  static constexpr size_t kStepMax = size_t{1} << 30;
  auto* next = static_cast<unsigned char*>(const_cast<void*>(data));
  crc = ~crc;
  while (bytes > 0) {
    const size_t step = std::min(bytes, kStepMax);
    crc = ::crc32_iscsi(next, static_cast<int>(step), crc);
    next += step;
    bytes -= step;
  }
  return ~crc;
}

}  // namespace penstock
