#include "engine/model/sharding.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace optserve {
namespace {

OptConfig Tiny() {
  OptConfig config;
  config.hidden_size = 48;
  config.num_heads = 12;
  config.ffn_size = 96;
  config.vocab_size = 101;  // a prime
  config.max_positions = 7;
  config.embed_size = 20;
  return config;
}

std::vector<TensorSpec> AllSpecs() {
  std::vector<TensorSpec> specs(ModelTensors().begin(), ModelTensors().end());
  specs.insert(specs.end(), LayerTensors().begin(), LayerTensors().end());
  return specs;
}

TEST(ShardingTest, TheTableHasEveryRoleOnce) {
  std::set<TensorRole> roles;
  for (const TensorSpec& spec : AllSpecs()) EXPECT_TRUE(roles.insert(spec.role).second) << spec.name;
  EXPECT_EQ(roles.size(), static_cast<size_t>(TensorRole::kFfnNormBias) + 1);
}

// Whatever the number of ranks, the shards of a tensor that is split cover each of its elements once.
TEST(ShardingTest, ShardsCoverATensorOnce) {
  for (const int32_t size : {1, 2, 3, 4, 6, 12}) {
    for (const TensorSpec& spec : AllSpecs()) {
      SCOPED_TRACE(spec.name);
      const int64_t rows = SizeOfDim(Tiny(), spec.rows), columns = SizeOfDim(Tiny(), spec.columns);
      const TensorView whole = spec.columns == Dim::kNone ? MakeView(nullptr, DType::kF16, rows)
                                                          : MakeView(nullptr, DType::kF16, rows, columns);
      std::vector<int> seen(rows * columns, 0);
      for (int32_t rank = 0; rank < size; ++rank) {
        const TensorRegion region = ShardOf(whole, spec.split, {.rank = rank, .size = size});
        for (int64_t r = region.row; r < region.row + region.rows; ++r) {
          for (int64_t c = region.column; c < region.column + region.columns; ++c) ++seen[r * columns + c];
        }
      }
      EXPECT_EQ(std::set<int>(seen.begin(), seen.end()), std::set<int>{spec.split == Split::kReplicated ? size : 1});
    }
  }
}

// Column-parallel outputs feed row-parallel inputs: the cuts must be at the same places, and at whole heads.
TEST(ShardingTest, RowParallelInputsAreTheColumnParallelOutputs) {
  const OptConfig config = Tiny();
  const Shard shard{.rank = 2, .size = 4};
  const auto matrix = [](int64_t rows, int64_t columns) { return MakeView(nullptr, DType::kF16, rows, columns); };
  const TensorRegion q = ShardOf(matrix(48, 48), Split::kColumn, shard),
                     out = ShardOf(matrix(48, 48), Split::kRow, shard);
  EXPECT_EQ(q.row, out.column);
  EXPECT_EQ(q.rows, out.columns);
  EXPECT_EQ(q.row % config.head_size(), 0);
  const TensorRegion fc1 = ShardOf(matrix(96, 48), Split::kColumn, shard),
                     fc2 = ShardOf(matrix(48, 96), Split::kRow, shard);
  EXPECT_EQ(fc1.row, fc2.column);
  EXPECT_EQ(fc1.rows, fc2.columns);
}

TEST(ShardingTest, OddVocabulariesLeaveTheLastRankLess) {
  EXPECT_EQ(VocabRangeOf(101, {.rank = 0, .size = 4}).count, 26);
  EXPECT_EQ(VocabRangeOf(101, {.rank = 3, .size = 4}).first, 78);
  EXPECT_EQ(VocabRangeOf(101, {.rank = 3, .size = 4}).count, 23);
  EXPECT_EQ(VocabRangeOf(5, {.rank = 2, .size = 4}).count, 1);
  EXPECT_EQ(VocabRangeOf(5, {.rank = 3, .size = 4}).count, 0);
}

}  // namespace
}  // namespace optserve
