#include "clients/bench/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace optserve::bench {
namespace {

double Median(std::span<const double> values) { return Quantile(values, 0.5); }

// The expected values are numpy.quantile's.
TEST(StatisticsTest, QuantilesLieOnTheLineBetweenTwoValues) {
  const std::vector<double> values = {7, 1, 3, 10};
  EXPECT_DOUBLE_EQ(Quantile(values, 0.0), 1);
  EXPECT_DOUBLE_EQ(Quantile(values, 0.5), 5);
  EXPECT_DOUBLE_EQ(Quantile(values, 0.9), 9.1);
  EXPECT_DOUBLE_EQ(Quantile(values, 0.99), 9.91);
  EXPECT_DOUBLE_EQ(Quantile(values, 1.0), 10);
  EXPECT_DOUBLE_EQ(Quantile(std::vector<double>{4}, 0.99), 4);
  EXPECT_DOUBLE_EQ(Quantile({}, 0.5), 0);
}

TEST(StatisticsTest, DescribesValues) {
  std::vector<double> values(101);
  std::iota(values.begin(), values.end(), 0.0);
  const Distribution d = Describe(values);
  EXPECT_EQ(d.count, 101);
  EXPECT_DOUBLE_EQ(d.mean, 50);
  EXPECT_DOUBLE_EQ(d.min, 0);
  EXPECT_DOUBLE_EQ(d.p50, 50);
  EXPECT_DOUBLE_EQ(d.p90, 90);
  EXPECT_DOUBLE_EQ(d.p99, 99);
  EXPECT_DOUBLE_EQ(d.max, 100);
  EXPECT_EQ(Describe({}).count, 0);
}

TEST(StatisticsTest, ABootstrapIntervalHoldsTheRatioAndNarrowsWithMoreValues) {
  std::vector<double> few, many;
  for (int i = 0; i < 30; ++i) few.push_back(10 + i % 10);
  for (int i = 0; i < 3000; ++i) many.push_back(10 + i % 10);
  std::vector<double> twice = many;
  for (double& value : twice) value *= 2;
  const Ratio wide = BootstrapRatio(few, few, Median, 500, 1);
  const Ratio narrow = BootstrapRatio(many, twice, Median, 500, 1);
  EXPECT_DOUBLE_EQ(wide.value, 1);
  EXPECT_LT(wide.low, 1);
  EXPECT_GT(wide.high, 1);
  EXPECT_DOUBLE_EQ(narrow.value, 2);
  EXPECT_LE(narrow.low, 2);
  EXPECT_GE(narrow.high, 2);
  EXPECT_LT(narrow.high - narrow.low, wide.high - wide.low);
  EXPECT_EQ(BootstrapRatio(few, few, Median, 500, 1).low, wide.low);
  EXPECT_EQ(BootstrapRatio({}, few, Median, 500, 1).value, 0);
}

// Of the ratio of two means of n values each, the standard error is sqrt(2 / n) sd / mean, and 95 % of a normal
// distribution lie within 1.96 of those.
TEST(StatisticsTest, ABootstrapIntervalIsAsWideAsTheValuesSay) {
  std::vector<double> values;
  for (int i = 0; i < 3000; ++i) values.push_back(10 + i % 10);
  const auto mean = [](std::span<const double> of) {
    return std::accumulate(of.begin(), of.end(), 0.0) / static_cast<double>(of.size());
  };
  const Ratio ratio = BootstrapRatio(values, values, mean, 2000, 1);
  const double standard_error = std::sqrt(2.0 / 3000) * std::sqrt(8.25) / 14.5;
  EXPECT_NEAR((ratio.high - ratio.low) / (2 * 1.96 * standard_error), 1, 0.1);
  EXPECT_NEAR((ratio.high + ratio.low) / 2, 1, 0.2 * standard_error);
}

}  // namespace
}  // namespace optserve::bench
