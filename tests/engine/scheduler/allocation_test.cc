#include <gtest/gtest.h>

#include "tests/support/counting_new.h"
#include "tests/support/scheduler_load.h"

namespace optserve {
namespace {

TEST(SchedulerAllocationTest, DecodingStepsAllocateNothing) {
  DecodingLoad load(/*num_sequences=*/64, /*prompt_tokens=*/40);
  for (int step = 0; step < 40; ++step) load.Step();  // every vector has seen its size
  const uint64_t before = NumAllocations();
  for (int step = 0; step < 200; ++step) load.Step();  // block edges included
  EXPECT_EQ(NumAllocations() - before, 0);
}

}  // namespace
}  // namespace optserve
