// CRC-32C in parts, for many threads: each takes the register of its own part from zero, and the parts are joined by moving each register
// over the bytes behind it. The same code on the host, where tests compare it with lib/base/crc32c.h.
#ifndef PENSTOCK_TESTS_GPU_CRC32C_PARTS_H_
#define PENSTOCK_TESTS_GPU_CRC32C_PARTS_H_

#include <cstdint>

#ifdef __CUDACC__
#define PENSTOCK_HOST_DEVICE __host__ __device__
#else
#define PENSTOCK_HOST_DEVICE
#endif

namespace penstock::testing {

inline constexpr uint32_t kCastagnoli = 0x82F63B78;  // reflected: bit 31 is x^0

PENSTOCK_HOST_DEVICE inline uint32_t Crc32cByte(uint32_t state, uint8_t byte) {
  state ^= byte;
  for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? kCastagnoli : 0);
  return state;
}

// The product of two polynomials modulo Castagnoli's.
PENSTOCK_HOST_DEVICE inline uint32_t Crc32cMultiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = uint32_t{1} << 31; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kCastagnoli : 0);
  }
  return product;
}

// The state after `bytes` zero bytes: times x^(8 * bytes), by squaring.
PENSTOCK_HOST_DEVICE inline uint32_t Crc32cOverZeros(uint32_t state, uint64_t bytes) {
  uint32_t power = uint32_t{1} << 23;  // x^8
  for (; bytes != 0; bytes >>= 1) {
    if ((bytes & 1) != 0) state = Crc32cMultiply(state, power);
    power = Crc32cMultiply(power, power);
  }
  return state;
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_GPU_CRC32C_PARTS_H_
