#include "engine/tools/convert_dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace optserve {
namespace {

// Every 16-bit number comes back as itself.
TEST(ConvertDtypeTest, WhatFitsIsExact) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float f16 = ToF32(F16{static_cast<uint16_t>(bits)});
    EXPECT_TRUE(std::isnan(f16) || ToF16(f16).bits == bits) << bits;
    const float bf16 = ToF32(BF16{static_cast<uint16_t>(bits)});
    EXPECT_TRUE(std::isnan(bf16) || ToBF16(bf16).bits == bits) << bits;
  }
}

// Against the definition: of the two neighbours the nearer, and in the middle the even one.
template <typename Half, typename Convert>
void ExpectNearest(float x, const Convert& convert) {
  const Half got = convert(x);
  const double error = std::fabs(static_cast<double>(ToF32(got)) - x);
  for (const int step : {-1, 1}) {
    const Half other{static_cast<uint16_t>(got.bits + step)};
    const double other_error = std::fabs(static_cast<double>(ToF32(other)) - x);
    EXPECT_FALSE(error > other_error) << x;  // below zero's bits is a NaN, which is no neighbour
    EXPECT_TRUE(error != other_error || got.bits % 2 == 0) << x;
  }
}

TEST(ConvertDtypeTest, WhatDoesNotFitBecomesTheNearest) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> exponent(-26.0f, 15.5f), sign(-1.0f, 1.0f);
  for (int i = 0; i < 100'000; ++i) {
    const float x = std::copysign(std::exp2(exponent(random)), sign(random));
    ExpectNearest<F16>(x, ToF16);
    ExpectNearest<BF16>(x, ToBF16);
  }
  for (const float halfway : {1.0f + 0x1p-11f, 1.0f + 0x3p-11f, 0x1.8p-24f, 0x1p-25f, 2048.5f * 2}) {
    ExpectNearest<F16>(halfway, ToF16);
  }
}

TEST(ConvertDtypeTest, EdgesOfF16) {
  EXPECT_EQ(ToF16(65519.996f).bits, 0x7bff);  // 65504, the largest
  EXPECT_EQ(ToF16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(ToF16(-std::numeric_limits<float>::infinity()).bits, 0xfc00);
  EXPECT_EQ(ToF16(-0.0f).bits, 0x8000);
  EXPECT_EQ(ToF16(0x1p-14f).bits, 0x0400);
  EXPECT_TRUE(std::isnan(ToF32(ToF16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isnan(ToF32(ToBF16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(ConvertDtypeTest, TellsTheFirstNumberThatIsTooLarge) {
  const std::vector<float> values = {1.0f, std::numeric_limits<float>::infinity(), 70000.0f, 80000.0f};
  std::vector<uint16_t> out(4);
  const auto convert = [&](DType dtype) {
    return ConvertElements(reinterpret_cast<const std::byte*>(values.data()), DType::kF32,
                           reinterpret_cast<std::byte*>(out.data()), dtype, 4);
  };
  EXPECT_EQ(convert(DType::kF16), 2);
  EXPECT_EQ(convert(DType::kBF16), -1);
}

}  // namespace
}  // namespace optserve
