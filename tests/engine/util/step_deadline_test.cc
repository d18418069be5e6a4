#include "engine/util/step_deadline.h"

#include <gtest/gtest.h>

namespace optserve {
namespace {

TEST(StepDeadlineTest, IsTheFloorForShortSteps) {
  StepDeadline deadline(10);
  EXPECT_EQ(deadline.seconds(), 10);
  for (int i = 0; i < 1000; ++i) deadline.Observe(0.01);
  EXPECT_EQ(deadline.seconds(), 10);
}

TEST(StepDeadlineTest, IsTwentyTimesTheP99OfLongSteps) {
  StepDeadline deadline(10);
  for (int i = 0; i < 100; ++i) deadline.Observe(i == 50 ? 100 : 1.0 + i * 1e-6);
  EXPECT_NEAR(deadline.seconds(), 20, 0.01);  // one in a hundred does not count
  for (int i = 0; i < 20; ++i) deadline.Observe(3);
  EXPECT_NEAR(deadline.seconds(), 60, 0.01);
}

TEST(StepDeadlineTest, ForgetsWhatWasLongAgo) {
  StepDeadline deadline(10);
  for (int i = 0; i < 100; ++i) deadline.Observe(5);
  EXPECT_EQ(deadline.seconds(), 100);
  for (int i = 0; i < 600; ++i) deadline.Observe(0.1);
  EXPECT_EQ(deadline.seconds(), 10);
}

}  // namespace
}  // namespace optserve
