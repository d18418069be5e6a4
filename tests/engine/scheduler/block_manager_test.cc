#include "engine/scheduler/block_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

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
  blocks.Hold(block);
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
  blocks.Hold(a[0]);
  EXPECT_EQ(blocks.Violation(std::vector{&a, &shared}), "");
  EXPECT_NE(blocks.Violation(std::vector{&a}), "") << "a holder that leaked";
  EXPECT_NE(blocks.Violation(std::vector{&twice}), "");
}

TEST(BlockManagerTest, RegisteredBlocksAreCachedUntilTheirRoomIsNeeded) {
  BlockManager blocks(3, 16);
  const int32_t a = blocks.Allocate();
  const int32_t b = blocks.Allocate();
  blocks.Register(a, {.low = 1});
  blocks.Register(b, {.low = 2});
  blocks.Release(a);
  blocks.Release(b);
  EXPECT_EQ(blocks.num_free(), 1);
  EXPECT_EQ(blocks.num_cached(), 2);
  EXPECT_EQ(blocks.num_used(), 0);
  EXPECT_EQ(blocks.Find({.low = 1}), a);
  blocks.Hold(a);  // used again: now b is the longest unused
  blocks.Release(a);
  EXPECT_EQ(blocks.num_cached(), 2);
  blocks.Allocate();
  EXPECT_EQ(blocks.Find({.low = 2}), b) << "free blocks go first";
  EXPECT_EQ(blocks.Allocate(), b);
  EXPECT_EQ(blocks.Find({.low = 2}), BlockManager::kNone);
  EXPECT_EQ(blocks.Find({.low = 1}), a);
}

TEST(BlockManagerTest, EqualContentsAreRegisteredOnce) {
  BlockManager blocks(2, 16);
  const int32_t a = blocks.Allocate();
  const int32_t b = blocks.Allocate();
  blocks.Register(a, {.low = 1, .high = 1});
  blocks.Register(b, {.low = 1, .high = 1});
  EXPECT_EQ(blocks.Find({.low = 1, .high = 1}), a);
  EXPECT_EQ(blocks.Find({.low = 1, .high = 2}), BlockManager::kNone);
  blocks.Release(b);
  EXPECT_EQ(blocks.num_free(), 1);
}

TEST(BlockManagerTest, ForgottenBlocksAreFreeAfterwards) {
  BlockManager blocks(2, 16);
  const int32_t a = blocks.Allocate();
  blocks.Register(a, {.low = 1});
  blocks.Forget(a);
  EXPECT_EQ(blocks.Find({.low = 1}), BlockManager::kNone);
  blocks.Release(a);
  EXPECT_EQ(blocks.num_free(), 2);
}

TEST(BlockManagerTest, FindsWhatCollidesAfterAnyRemoval) {
  // Few places for many hashes, in a random order of coming and going, against a map.
  std::mt19937 random(1);
  BlockManager blocks(16, 16);
  std::map<uint64_t, int32_t> expected;
  std::vector<int32_t> held;
  for (int i = 0; i < 16; ++i) held.push_back(blocks.Allocate());
  for (int i = 0; i < 20000; ++i) {
    const uint64_t key = random() % 64 * 8;
    const int32_t block = held[random() % held.size()];
    const auto owner = std::ranges::find(expected, block, &std::pair<const uint64_t, int32_t>::second);
    if (owner != expected.end()) {
      blocks.Forget(block);
      expected.erase(owner);
    } else if (!expected.contains(key)) {
      blocks.Register(block, {.low = key, .high = 7});
      expected[key] = block;
    }
    for (uint64_t probe = 0; probe < 64 * 8; probe += 8) {
      const auto found = expected.find(probe);
      ASSERT_EQ(blocks.Find({.low = probe, .high = 7}), found == expected.end() ? BlockManager::kNone : found->second);
    }
  }
}

TEST(BlockManagerDeathTest, FreeingTwiceAborts) {
  BlockManager blocks(2, 16);
  const int32_t block = blocks.Allocate();
  blocks.Release(block);
  EXPECT_DEATH(blocks.Release(block), "check failed");
}

}  // namespace
}  // namespace optserve
