#include "engine/executor/decode_graphs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(DecodeGraphsTest, BatchesGrowByATwoAndThenAHalf) {
  EXPECT_THAT(GraphBatches(0), IsEmpty());
  EXPECT_THAT(GraphBatches(1), ElementsAre(1));
  EXPECT_THAT(GraphBatches(6), ElementsAre(1, 2, 4, 6));
  EXPECT_THAT(GraphBatches(20), ElementsAre(1, 2, 4, 8, 16, 20));
  EXPECT_THAT(GraphBatches(100), ElementsAre(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 100));
  EXPECT_THAT(GraphBatches(256), ElementsAre(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256));
}

StepPlan Decodes(int32_t count) {
  StepPlan plan{.num_decode = count};
  for (int32_t i = 0; i < count; ++i) {
    plan.slices.push_back({.num_tokens = 1, .block_table = {1, 2}, .wants_sample = true});
    plan.token_ids.push_back(i);
  }
  return plan;
}

class DecodeGraphsFindTest : public testing::Test {
 protected:
  DecodeGraphsFindTest() {
    for (const int64_t rows : {1, 2, 4}) graphs_.Add({.rows = rows, .blocks = 2}, nullptr);
  }
  int64_t RowsFor(const StepPlan& plan) const {
    const DecodeGraphs::Entry* entry = graphs_.Find(plan);
    return entry != nullptr ? entry->shape.rows : 0;
  }

  DecodeGraphs graphs_;
};

TEST_F(DecodeGraphsFindTest, TakesTheSmallestThatHasRoom) {
  EXPECT_EQ(RowsFor(Decodes(1)), 1);
  EXPECT_EQ(RowsFor(Decodes(2)), 2);
  EXPECT_EQ(RowsFor(Decodes(3)), 4);
  EXPECT_EQ(RowsFor(Decodes(4)), 4);
  EXPECT_EQ(RowsFor(Decodes(5)), 0);
}

TEST_F(DecodeGraphsFindTest, LeavesEverythingElseAlone) {
  StepPlan prompt = Decodes(2);
  prompt.num_decode = 1;  // the other is a prompt's chunk of one token
  EXPECT_EQ(RowsFor(prompt), 0);
  StepPlan scored = Decodes(1);
  scored.slices[0].score_targets = {3};
  EXPECT_EQ(RowsFor(scored), 0);
  StepPlan silent = Decodes(2);
  silent.slices[1].wants_sample = false;
  EXPECT_EQ(RowsFor(silent), 0);
  StepPlan longer = Decodes(2);
  longer.slices[1].block_table.push_back(3);
  EXPECT_EQ(RowsFor(longer), 0);
}

}  // namespace
}  // namespace optserve
