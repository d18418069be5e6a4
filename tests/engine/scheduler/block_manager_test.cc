#include "engine/scheduler/block_manager.h"

#include <gtest/gtest.h>

namespace optserve {
namespace {

TEST(BlockManagerTest, GivesEveryBlockOnce) {
  BlockManager blocks(5, 16);
  std::vector<bool> given(5);
  for (int i = 0; i < 5; ++i) {
    const int32_t block = blocks.Allocate();
    EXPECT_FALSE(given[block]);
    given[block] = true;
  }
  EXPECT_EQ(blocks.num_free(), 0);
  EXPECT_EQ(blocks.num_used(), 5);
}

TEST(BlockManagerTest, SharedBlockIsFreeAfterItsLastHolder) {
  BlockManager blocks(2, 16);
  const int32_t block = blocks.Allocate();
  blocks.Share(block);
  EXPECT_TRUE(blocks.IsShared(block));
  blocks.Release(block);
  EXPECT_FALSE(blocks.IsShared(block));
  EXPECT_EQ(blocks.num_free(), 1);
  blocks.Release(block);
  EXPECT_EQ(blocks.num_free(), 2);
}

TEST(BlockManagerTest, CountsBlocksForTokens) {
  const BlockManager blocks(2, 16);
  EXPECT_EQ(blocks.BlocksFor(0), 0);
  EXPECT_EQ(blocks.BlocksFor(1), 1);
  EXPECT_EQ(blocks.BlocksFor(16), 1);
  EXPECT_EQ(blocks.BlocksFor(17), 2);
}

TEST(BlockManagerTest, ViolationSeesWhatIsWrong) {
  BlockManager blocks(4, 16);
  const std::vector<int32_t> a = {blocks.Allocate(), blocks.Allocate()};
  const std::vector<int32_t> shared = {a[0]};
  const std::vector<int32_t> twice = {a[0], a[0]};
  EXPECT_EQ(blocks.Violation(std::vector{&a}), "");
  EXPECT_NE(blocks.Violation(std::vector{&a, &shared}), "") << "more holders than references";
  blocks.Share(a[0]);
  EXPECT_EQ(blocks.Violation(std::vector{&a, &shared}), "");
  EXPECT_NE(blocks.Violation(std::vector{&a}), "") << "a holder that leaked";
  EXPECT_NE(blocks.Violation(std::vector{&twice}), "");
}

TEST(BlockManagerDeathTest, FreeingTwiceAborts) {
  BlockManager blocks(2, 16);
  const int32_t block = blocks.Allocate();
  blocks.Release(block);
  EXPECT_DEATH(blocks.Release(block), "check failed");
}

}  // namespace
}  // namespace optserve
