#include "engine/util/step_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace optserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<uint64_t> Numbers(const StepRing& ring, uint64_t after) {
  std::vector<uint64_t> numbers;
  for (const StepRecord& record : ring.Since(after)) numbers.push_back(record.step);
  return numbers;
}

TEST(StepRingTest, KeepsTheLastOnesInOrder) {
  StepRing ring(3);
  EXPECT_THAT(Numbers(ring, 0), IsEmpty());
  ring.Add({.step = 1});
  ring.Add({.step = 2});
  EXPECT_THAT(Numbers(ring, 0), ElementsAre(1, 2));
  for (uint64_t step = 3; step <= 7; ++step) ring.Add({.step = step});
  EXPECT_THAT(Numbers(ring, 0), ElementsAre(5, 6, 7));
  EXPECT_THAT(Numbers(ring, 6), ElementsAre(7));
  EXPECT_THAT(Numbers(ring, 7), IsEmpty());
}

}  // namespace
}  // namespace optserve
