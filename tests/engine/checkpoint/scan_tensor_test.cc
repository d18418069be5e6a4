#include "engine/checkpoint/scan_tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace optserve {
namespace {

TensorScan Scan(std::vector<float> values, int64_t columns) {
  CheckpointTensor tensor;
  tensor.view = MakeView(values.data(), DType::kF32, static_cast<int64_t>(values.size()) / columns, columns);
  return ScanTensor(tensor);
}

TEST(ScanTensorTest, FindsTheLargest) {
  const TensorScan scan = Scan({0, -7.5f, 3, 1, 2, 0}, 2);
  EXPECT_FALSE(scan.not_finite);
  EXPECT_EQ(scan.largest, 7.5f);
}

TEST(ScanTensorTest, FindsWhatIsNotFiniteAndWhere) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    const TensorScan scan = Scan({0, 1, 2, bad, 4, bad}, 2);
    ASSERT_TRUE(scan.not_finite);
    EXPECT_EQ(scan.not_finite->row, 1);
    EXPECT_EQ(scan.not_finite->column, 1);
    EXPECT_FALSE(std::isfinite(scan.largest));
  }
}

TEST(ScanTensorTest, KnowsTheSixteenBitFormats) {
  std::vector<uint16_t> values = {0x3c00, 0xfbff};  // 1 and f16's most negative number; in bf16 far smaller and larger
  CheckpointTensor tensor;
  tensor.view = MakeView(values.data(), DType::kF16, 2);
  EXPECT_EQ(ScanTensor(tensor).largest, 65504.0f);
  tensor.view.dtype = DType::kBF16;
  EXPECT_GT(ScanTensor(tensor).largest, 1e36f);
  values[1] = 0x7c01;  // NaN in f16 alone
  EXPECT_FALSE(ScanTensor(tensor).not_finite);
  tensor.view.dtype = DType::kF16;
  ASSERT_TRUE(ScanTensor(tensor).not_finite);
  EXPECT_EQ(ScanTensor(tensor).not_finite->row, 1);
}

TEST(ScanTensorTest, PlacesInTilesAreThoseOfTheTensor) {
  std::vector<float> left = {0, 1}, right = {2, INFINITY};
  CheckpointTensor tensor;
  tensor.view = MakeView(nullptr, DType::kF32, 2, 2);
  tensor.tiles = {{.column = 0, .view = MakeView(left.data(), DType::kF32, 2, 1)},
                  {.column = 1, .view = MakeView(right.data(), DType::kF32, 2, 1)}};
  const TensorScan scan = ScanTensor(tensor);
  ASSERT_TRUE(scan.not_finite);
  EXPECT_EQ(scan.not_finite->row, 1);
  EXPECT_EQ(scan.not_finite->column, 1);
}

}  // namespace
}  // namespace optserve
