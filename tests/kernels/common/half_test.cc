#include "kernels/common/half.h"

#include <gtest/gtest.h>

#include <cmath>

namespace optserve {
namespace {

TEST(HalfTest, F16FollowsItsDefinitionForEveryPattern) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = (bits >> 10) & 31;
    const int fraction = bits & 1023;
    const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
    const float actual = ToF32(F16{static_cast<uint16_t>(bits)});
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(actual), fraction != 0) << bits;
      EXPECT_EQ(std::isinf(actual), fraction == 0) << bits;
      EXPECT_EQ(std::signbit(actual), sign < 0) << bits;
      continue;
    }
    const double expected =
        exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
    EXPECT_EQ(actual, expected) << bits;
    EXPECT_EQ(std::signbit(actual), sign < 0) << bits;
  }
}

TEST(HalfTest, BF16IsTheUpperHalfOfF32) {
  EXPECT_EQ(ToF32(BF16{0x3f80}), 1.0f);
  EXPECT_EQ(ToF32(BF16{0xc049}), -3.140625f);
  EXPECT_EQ(ToF32(BF16{0x0001}), std::ldexp(1.0f, -133));
  EXPECT_TRUE(std::isnan(ToF32(BF16{0x7fc0})));
}

}  // namespace
}  // namespace optserve
