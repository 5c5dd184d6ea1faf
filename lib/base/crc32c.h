// CRC-32C (Castagnoli, RFC 3720), by the ISA-L library.
#ifndef PENSTOCK_BASE_CRC32C_H_
#define PENSTOCK_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace penstock {

// The CRC-32C of `bytes` bytes, going on from `crc` (0 to begin). Crc32c("123456789") is 0xE3069283.
uint32_t Crc32c(const void* data, size_t bytes, uint32_t crc = 0);

}  // namespace penstock

#endif  // PENSTOCK_BASE_CRC32C_H_
