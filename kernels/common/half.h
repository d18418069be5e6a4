#pragma once

#include <bit>
#include <cstdint>

// The two 16-bit float formats as storage, and their exact values. Safe to include from .cu files.

namespace optserve {

struct F16 {
  uint16_t bits;  // IEEE binary16: sign 1, exponent 5, fraction 10
};

struct BF16 {
  uint16_t bits;  // the upper half of an f32
};

inline float ToF32(float x) { return x; }

inline float ToF32(BF16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

inline float ToF32(F16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  // Infinity and NaN keep their fraction; all else, subnormals included, is moved to f32's exponents by a product.
  const uint32_t value =
      rest >= (31u << 23) ? (rest | 0x7f800000u) : std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f);
  return std::bit_cast<float>(sign | value);
}

}  // namespace optserve
