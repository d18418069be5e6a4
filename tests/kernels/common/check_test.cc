#include "kernels/common/check.h"

#include <gtest/gtest.h>

namespace optserve {
namespace {

TEST(CheckTest, PassesAndEvaluatesOnce) {
  int calls = 0;
  OPTSERVE_CHECK(++calls == 1) << "never read";
  EXPECT_EQ(calls, 1);
}

TEST(CheckDeathTest, AbortsWithPlaceConditionAndValues) {
  const int rows = 3;
  EXPECT_DEATH(OPTSERVE_CHECK(rows == 4) << "rows is " << rows, "check_test.cc:.*rows == 4 rows is 3");
}

TEST(CheckTest, BindsToNoElseOfTheCaller) {
  bool reached = false;
  if (false)
    OPTSERVE_CHECK(true);
  else
    reached = true;
  EXPECT_TRUE(reached);
}

}  // namespace
}  // namespace optserve
