#include "kernels/sampling/philox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace optserve {
namespace {

// Known answers of Random123's distribution, kat_vectors.
TEST(PhiloxTest, MatchesThePublishedVectors) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}), testing::ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              testing::ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              testing::ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, UniformNumbersLieInTheUnitIntervalAndFillIt) {
  constexpr int kBins = 64, kNumbers = 64 * 1000;
  std::vector<int> seen(kBins, 0);
  for (uint32_t i = 0; i < kNumbers; ++i) {
    const double number = UniformAt(/*seed=*/i % 7, /*choice=*/i % 11, /*position=*/i);
    ASSERT_GE(number, 0.0);
    ASSERT_LT(number, 1.0);
    ++seen[static_cast<int>(number * kBins)];
  }
  double chi_square = 0.0;
  for (const int count : seen) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 63 + 5 * std::sqrt(2.0 * 63));
}

TEST(PhiloxTest, EveryPartOfTheKeyMatters) {
  const double number = UniformAt(1, 2, 3);
  EXPECT_EQ(number, UniformAt(1, 2, 3));
  EXPECT_NE(number, UniformAt(1 + (uint64_t{1} << 32), 2, 3));
  EXPECT_NE(number, UniformAt(2, 2, 3));
  EXPECT_NE(number, UniformAt(1, 3, 3));
  EXPECT_NE(number, UniformAt(1, 2, 4));
  EXPECT_NE(number, UniformAt(1, 3, 2));
}

}  // namespace
}  // namespace optserve
