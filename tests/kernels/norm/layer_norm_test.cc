#include "kernels/norm/layer_norm.h"

#include <gtest/gtest.h>

#include "tests/support/kernel_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

class LayerNormTest : public testing::TestWithParam<CpuIsa> {};

TEST_P(LayerNormTest, MatchesReference) {
  const CpuContext ctx = MakeContext(GetParam());
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t width : {1, 4, 15, 16, 17, 80, 768, 1000}) {
      const TestTensor x = TestTensor(DType::kF32, 19, width, 2).Randomize(1);
      const TestTensor out = TestTensor(DType::kF32, 19, width);
      const TestTensor weight = TestTensor(dtype, 1, width, 0, 1).Randomize(2);
      const TestTensor bias = TestTensor(dtype, 1, width, 0, 1).Randomize(3);
      for (const bool affine : {true, false}) {
        LayerNormParams p{.out = out.view(), .x = x.view()};
        if (affine) p.weight = weight.vector();
        if (affine) p.bias = bias.vector();
        cpu::LayerNorm(ctx, p);
        const std::vector<double> expected = reference::LayerNorm(p);
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR(out.f32()[i], expected[i], 1e-5) << "width " << width << " element " << i;
        }
      }
    }
  }
}

TEST_P(LayerNormTest, EpsilonIsAddedToTheVariance) {
  const CpuContext ctx = MakeContext(GetParam());
  const TestTensor x = TestTensor(DType::kF32, 1, 64).Randomize(1, /*scale=*/3e-3f);  // a variance near epsilon
  const TestTensor out(DType::kF32, 1, 64);
  for (const float epsilon : {1e-5f, 1e-6f}) {
    const LayerNormParams p{.out = out.view(), .x = x.view(), .epsilon = epsilon};
    cpu::LayerNorm(ctx, p);
    const std::vector<double> expected = reference::LayerNorm(p);
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(out.f32()[i], expected[i], 1e-5);
  }
}

TEST_P(LayerNormTest, ALargeMeanLeavesTheVarianceAlone) {
  const CpuContext ctx = MakeContext(GetParam());
  const TestTensor x = TestTensor(DType::kF32, 1, 256).Randomize(1);
  for (int i = 0; i < 256; ++i) x.f32()[i] += 1000.0f;
  const TestTensor out(DType::kF32, 1, 256);
  const LayerNormParams p{.out = out.view(), .x = x.view()};
  cpu::LayerNorm(ctx, p);
  const std::vector<double> expected = reference::LayerNorm(p);
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(out.f32()[i], expected[i], 1e-4);
}

TEST_P(LayerNormTest, ARowsBitsDoNotDependOnTheOthersNorOnThreadsAndMayBeInPlace) {
  const TestTensor x = TestTensor(DType::kF32, 37, 100).Randomize(1);
  const TestTensor alone(DType::kF32, 1, 100);
  const TestTensor weight = TestTensor(DType::kF32, 1, 100).Randomize(2);
  const CpuContext one = MakeContext(GetParam(), 1), three = MakeContext(GetParam(), 3);
  cpu::LayerNorm(one, {.out = alone.view(), .x = x.view().Rows(30, 1), .weight = weight.vector()});
  cpu::LayerNorm(three, {.out = x.view(), .x = x.view(), .weight = weight.vector()});
  for (int i = 0; i < 100; ++i) ASSERT_EQ(alone.f32()[i], x.f32()[30 * 100 + i]);
}

TEST_P(LayerNormTest, AddsPartialAndBiasOnce) {
  const CpuContext ctx = MakeContext(GetParam());
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t width : {1, 15, 16, 17, 768}) {
      const TestTensor x = TestTensor(DType::kF32, 20, width).Randomize(1);
      const TestTensor partial = TestTensor(DType::kF32, 20, width).Randomize(2);
      const TestTensor bias = TestTensor(dtype, 1, width, 0, 1).Randomize(3);
      for (const bool has_bias : {true, false}) {
        AddBiasResidualParams p{.x = x.view(), .partial = partial.view()};
        if (has_bias) p.bias = bias.vector();
        const std::vector<double> expected = reference::AddBiasResidual(p);
        cpu::AddBiasResidual(ctx, p);
        for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(x.f32()[i], expected[i], 2e-6);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, LayerNormTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return IsaName(info.param); });

}  // namespace
}  // namespace optserve
