// Alignment arithmetic. `alignment` is a power of two.
#ifndef PENSTOCK_BASE_ALIGN_H_
#define PENSTOCK_BASE_ALIGN_H_

#include <cstdint>

namespace penstock {

constexpr bool IsPowerOfTwo(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }
constexpr uint64_t AlignUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }
constexpr uint64_t AlignDown(uint64_t value, uint64_t alignment) { return value & ~(alignment - 1); }
constexpr bool IsAligned(uint64_t value, uint64_t alignment) { return (value & (alignment - 1)) == 0; }
constexpr uint64_t CeilDiv(uint64_t value, uint64_t divisor) { return value / divisor + (value % divisor != 0 ? 1 : 0); }

}  // namespace penstock

#endif  // PENSTOCK_BASE_ALIGN_H_
