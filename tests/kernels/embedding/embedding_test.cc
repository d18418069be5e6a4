#include "kernels/embedding/embedding.h"

#include <gtest/gtest.h>

#include "tests/support/kernel_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

struct Case {
  CpuIsa isa;
  DType dtype;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const CpuIsa isa : SupportedIsas()) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) cases.push_back({isa, dtype});
  }
  return cases;
}

class EmbeddingTest : public testing::TestWithParam<Case> {};

TEST_P(EmbeddingTest, GathersWidenedRowsAndZerosForOtherShards) {
  const CpuContext ctx = MakeContext(GetParam().isa);
  for (const int64_t width : {1, 16, 31, 768}) {
    const TestTensor table = TestTensor(GetParam().dtype, 10, width, 3, 1).Randomize(1);
    std::vector<int32_t> ids = {100, 109, 99, 110, 103, 0, 2'000'000'000};
    ids.resize(40, 105);  // more than one thread's share
    const TestTensor out = TestTensor(DType::kF32, 40, width).Randomize(2);
    const EmbeddingParams p{.out = out.view(), .ids = ViewOf(ids), .table = table.view(), .first_id = 100};
    cpu::Embedding(ctx, p);
    const std::vector<double> expected = reference::Embedding(p);
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(out.f32()[i], expected[i]) << "element " << i;
  }
}

TEST_P(EmbeddingTest, LooksUpIdsThatWereDrawn) {
  const CpuContext ctx = MakeContext(GetParam().isa);
  const TestTensor table = TestTensor(GetParam().dtype, 10, 31).Randomize(1), out(DType::kF32, 7, 31);
  std::vector<int32_t> ids = {105, ~0, ~1, 109, ~3, ~2, ~4}, drawn = {109, 100, 99, -1};
  const EmbeddingParams p{
      .out = out.view(), .ids = ViewOf(ids), .table = table.view(), .first_id = 100, .drawn = ViewOf(drawn)};
  cpu::Embedding(ctx, p);
  const std::vector<double> expected = reference::Embedding(p);
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(out.f32()[i], expected[i]) << "element " << i;
  // ~1 is the table's first row, ~4 nothing.
  EXPECT_EQ(out.f32()[2 * 31], reference::At(table.view(), 0, 0));
  EXPECT_EQ(out.f32()[6 * 31], 0.0f);
}

TEST_P(EmbeddingTest, AddsTheRowTwoBehindThePosition) {
  const CpuContext ctx = MakeContext(GetParam().isa);
  for (const int64_t width : {1, 16, 31, 768}) {
    const TestTensor table = TestTensor(GetParam().dtype, 12, width, 0, 1).Randomize(1);
    std::vector<int32_t> positions = {0, 9, 4};
    positions.resize(35, 7);
    const TestTensor x = TestTensor(DType::kF32, 35, width).Randomize(2);
    const PositionEmbeddingParams p{.x = x.view(), .positions = ViewOf(positions), .table = table.view()};
    const std::vector<double> expected = reference::PositionEmbedding(p);
    cpu::PositionEmbedding(ctx, p);
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(x.f32()[i], expected[i], 1e-6) << "element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, EmbeddingTest, testing::ValuesIn(Cases()), [](const auto& info) {
  return IsaName(info.param.isa) + "_" + std::to_string(static_cast<int>(info.param.dtype));
});

}  // namespace
}  // namespace optserve
