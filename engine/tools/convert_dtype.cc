#include "engine/tools/convert_dtype.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace optserve {
namespace {

float LoadElement(const std::byte* at, DType dtype) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return dtype == DType::kF16 ? ToF32(F16{bits}) : ToF32(BF16{bits});
}

// Stores the nearest, and returns it.
float StoreElement(float value, std::byte* at, DType dtype) {
  if (dtype == DType::kF32) {
    std::memcpy(at, &value, sizeof(value));
    return value;
  }
  if (dtype == DType::kF16) {
    const F16 half = ToF16(value);
    std::memcpy(at, &half.bits, sizeof(half.bits));
    return ToF32(half);
  }
  const BF16 half = ToBF16(value);
  std::memcpy(at, &half.bits, sizeof(half.bits));
  return ToF32(half);
}

}  // namespace

BF16 ToBF16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return {static_cast<uint16_t>((bits >> 16) | 0x40)};  // a quiet NaN, whatever was cut off
  const uint32_t rounding = 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>((bits + rounding) >> 16)};
}

F16 ToF16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};   // NaN
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // from 65520 on: infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14, a multiple of 2^-24: adding 0.5, whose last place is that, lets the processor round.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) & 0xffff))};
  }
  const uint32_t rounding = 0xfff + ((magnitude >> 13) & 1);
  return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + rounding) >> 13))};
}

int64_t ConvertElements(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype, int64_t count) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<size_t>(count) * SizeOf(to_dtype));
    return -1;
  }
  int64_t overflow = -1;
  for (int64_t i = 0; i < count; ++i) {
    const float value = LoadElement(from + static_cast<size_t>(i) * SizeOf(from_dtype), from_dtype);
    const float stored = StoreElement(value, to + static_cast<size_t>(i) * SizeOf(to_dtype), to_dtype);
    if (overflow < 0 && std::isinf(stored) && !std::isinf(value)) overflow = i;
  }
  return overflow;
}

}  // namespace optserve
