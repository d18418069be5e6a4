#include "engine/drain_rate.h"

#include <gtest/gtest.h>

namespace optserve {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(DrainRateTest, AsksForTheTimeThatTheQueueNeeds) {
  DrainRate rate;
  for (int64_t second = 0; second <= 20; ++second) rate.Update(second * kSecond, second * 4, 100);
  EXPECT_EQ(rate.SecondsToDrain(20 * kSecond, 100), 25);
}

TEST(DrainRateTest, FollowsTheLatestDepartures) {
  DrainRate rate;
  uint64_t departed = 0;
  for (int64_t second = 0; second < 100; ++second) rate.Update(second * kSecond, ++departed, 50);
  for (int64_t second = 100; second < 140; ++second) rate.Update(second * kSecond, departed += 10, 50);
  EXPECT_EQ(rate.SecondsToDrain(139 * kSecond, 50), 5);
}

TEST(DrainRateTest, AQueueThatStandsStillAsksForMore) {
  DrainRate rate;
  for (int64_t second = 0; second <= 10; ++second) rate.Update(second * kSecond, second, 10);
  for (int64_t second = 11; second <= 90; ++second) rate.Update(second * kSecond, 10, 10);
  EXPECT_EQ(rate.SecondsToDrain(90 * kSecond, 10), 90);
}

TEST(DrainRateTest, IdleTimeDoesNotCount) {
  DrainRate rate;
  rate.Update(0, 1, 5);
  rate.Update(kSecond, 6, 0);
  rate.Update(1000 * kSecond, 6, 10);
  rate.Update(1001 * kSecond, 8, 10);
  EXPECT_EQ(rate.SecondsToDrain(1001 * kSecond, 10), 5);
}

TEST(DrainRateTest, StaysWithinReason) {
  DrainRate rate;
  EXPECT_EQ(rate.SecondsToDrain(0, 1000), 1) << "nothing is known yet";
  rate.Update(0, 0, 10);
  EXPECT_EQ(rate.SecondsToDrain(kSecond / 1000, 10), 1);
  EXPECT_EQ(rate.SecondsToDrain(100000 * kSecond, 10), 3600);
}

}  // namespace
}  // namespace optserve
