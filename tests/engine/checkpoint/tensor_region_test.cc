#include "engine/checkpoint/tensor_region.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <vector>

namespace optserve {
namespace {

// A [4, 6] matrix whose element [r, c] is 10 r + c, whole and cut into four tiles that lie apart.
class TensorRegionTest : public testing::Test {
 protected:
  TensorRegionTest() {
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 6; ++c) whole_values_[r * 6 + c] = static_cast<float>(10 * r + c);
    }
    whole_.view = MakeView(whole_values_.data(), DType::kF32, 4, 6);
    cut_.view = MakeView(nullptr, DType::kF32, 4, 6);
    for (const auto& [row, rows, column, columns] :
         {std::array{0, 1, 0, 2}, std::array{0, 1, 2, 4}, std::array{1, 3, 0, 5}, std::array{1, 3, 5, 1}}) {
      std::vector<float>& values = storage_.emplace_back();
      for (int r = row; r < row + rows; ++r) {
        for (int c = column; c < column + columns; ++c) values.push_back(static_cast<float>(10 * r + c));
      }
      cut_.tiles.push_back({.row = row, .column = column, .view = MakeView(values.data(), DType::kF32, rows, columns)});
    }
  }

  static std::vector<float> Values(const TensorRegion& region) {
    std::vector<float> values;
    for (int64_t r = region.row; r < region.row + region.rows; ++r) {
      for (int64_t c = region.column; c < region.column + region.columns; ++c) {
        values.push_back(static_cast<float>(10 * r + c));
      }
    }
    return values;
  }
  static std::vector<float> Values(const TensorView& view) {
    std::vector<float> values;
    for (int64_t r = 0; r < view.dims[0]; ++r) {
      const float* row = view.Rows(r, 1).as<float>();
      values.insert(values.end(), row, row + view.row_size());
    }
    return values;
  }

  std::vector<float> whole_values_ = std::vector<float>(24);
  std::vector<std::vector<float>> storage_;
  CheckpointTensor whole_;
  CheckpointTensor cut_;
};

TEST_F(TensorRegionTest, EveryRegionIsFoundOrGathered) {
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t rows = 1; row + rows <= 4; ++rows) {
      for (int64_t column = 0; column < 6; ++column) {
        for (int64_t columns = 1; column + columns <= 6; ++columns) {
          const TensorRegion region{row, rows, column, columns};
          const std::optional<TensorView> in_whole = FindRegion(whole_, region);
          ASSERT_TRUE(in_whole);
          EXPECT_EQ(Values(*in_whole), Values(region));
          if (const std::optional<TensorView> in_tile = FindRegion(cut_, region)) {
            EXPECT_EQ(Values(*in_tile), Values(region));
          }
          std::vector<float> gathered(region.num_elements(), -1.0f);
          for (const CheckpointTensor* tensor : {&cut_, &whole_}) {
            std::fill(gathered.begin(), gathered.end(), -1.0f);
            CopyRegion(*tensor, region, reinterpret_cast<std::byte*>(gathered.data()));
            EXPECT_EQ(gathered, Values(region));
          }
        }
      }
    }
  }
}

TEST_F(TensorRegionTest, ARegionWithinOneTileIsNotCopied) {
  EXPECT_TRUE(FindRegion(cut_, {.row = 2, .rows = 2, .column = 1, .columns = 3}));
  EXPECT_FALSE(FindRegion(cut_, {.row = 2, .rows = 2, .column = 4, .columns = 2}));
}

TEST_F(TensorRegionTest, VectorsAreColumns) {
  std::vector<float> low = {0, 1, 2}, high = {3, 4};
  CheckpointTensor vector;
  vector.view = MakeView(nullptr, DType::kF32, 5);
  vector.tiles = {{.row = 0, .view = MakeView(low.data(), DType::kF32, 3)},
                  {.row = 3, .view = MakeView(high.data(), DType::kF32, 2)}};
  EXPECT_EQ(Values(*FindRegion(vector, {.row = 1, .rows = 2})), std::vector<float>({1, 2}));
  EXPECT_FALSE(FindRegion(vector, {.row = 1, .rows = 3}));
  std::vector<float> gathered(4);
  CopyRegion(vector, {.row = 1, .rows = 4}, reinterpret_cast<std::byte*>(gathered.data()));
  EXPECT_EQ(gathered, std::vector<float>({1, 2, 3, 4}));
}

}  // namespace
}  // namespace optserve
