// 16-bit floats to float32 without special instructions.
#pragma once

#include <cstdint>
#include <cstring>

namespace {  // each variant is compiled for another instruction set: nothing here may be shared between them

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float bfloat_to_float(uint16_t b) { return bits_to_float(static_cast<uint32_t>(b) << 16); }

inline float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = (h & 0x7fffu) << 13;
  // The exponent is too small by 112; a product by 2^112 also normalises subnormal numbers.
  const uint32_t finite = float_to_bits(bits_to_float(magnitude) * 5.192296858534828e33f);
  const uint32_t special = magnitude | 0x7f800000u;  // infinity or NaN
  return bits_to_float(sign | (magnitude < 0x7c00u << 13 ? finite : special));
}

}  // namespace
