#include "engine/executor/kv_pool_size.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace optserve {
namespace {

using testing::HasSubstr;

constexpr int64_t kBytesPerToken = 1000;
constexpr int64_t kMaxModelLen = 100;  // 7 blocks of 16 tokens

absl::StatusOr<KvBudget> Size(const EngineConfig& config, int64_t available_bytes) {
  return SizeKvPool(config, kMaxModelLen, kBytesPerToken, available_bytes);
}

TEST(KvPoolSizeTest, HasRoomForAllSequencesIfThereIsMemory) {
  const KvBudget kv = *Size({.max_num_seqs = 10}, int64_t{1} << 40);
  EXPECT_EQ(kv.num_blocks, 70);
  EXPECT_EQ(kv.block_size, 16);
}

TEST(KvPoolSizeTest, TakesAtMostHalfOfTheMemory) {
  EXPECT_EQ(Size({.max_num_seqs = 10}, 1'000'000)->num_blocks, 500 / 16);
}

TEST(KvPoolSizeTest, EnginesOfOneMachineShareThatHalf) {
  EXPECT_EQ(Size({.max_num_seqs = 10, .engines_on_machine = 4}, 1'000'000)->num_blocks, 500 / 16 / 4);
  const absl::Status status = Size({.engines_on_machine = 2}, 2 * 7 * 16 * kBytesPerToken).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("by 2 engines together"));
}

TEST(KvPoolSizeTest, HoldsOneSequenceOrRefuses) {
  EXPECT_EQ(Size({}, 2 * 7 * 16 * kBytesPerToken)->num_blocks, 7);
  const absl::Status status = Size({}, 2 * 7 * 16 * kBytesPerToken - 1).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("lower --max-model-len"));
}

TEST(KvPoolSizeTest, TakesWhatItIsGiven) {
  EXPECT_EQ(Size({.max_num_seqs = 1, .kv_cache_bytes = 1'000'000}, 1'000'000)->num_blocks, 62);
  const absl::Status status = Size({.kv_cache_bytes = 111'999}, 1'000'000).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kv-cache-memory is 111999 bytes"));
}

TEST(KvPoolSizeTest, RefusesMoreThanThereIs) {
  EXPECT_TRUE(Size({.kv_cache_bytes = 1'000'000}, 1'000'000).ok());
  const absl::Status status = Size({.kv_cache_bytes = 1'000'001}, 1'000'000).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("1000000 are available"));
}

TEST(KvPoolSizeTest, SlotsStayWithin32Bits) {
  const KvBudget kv = *Size({.kv_cache_bytes = int64_t{1} << 62}, int64_t{1} << 62);
  EXPECT_LE(int64_t{kv.num_blocks} * kv.block_size, INT32_MAX);
  EXPECT_GT(int64_t{kv.num_blocks} * kv.block_size, INT32_MAX - 16);
}

TEST(KvPoolSizeTest, ThisMachineHasMemory) {
  EXPECT_GT(AvailableMemoryBytes(), int64_t{16} << 20);
  EXPECT_LT(AvailableMemoryBytes(), int64_t{1} << 50);
}

}  // namespace
}  // namespace optserve
