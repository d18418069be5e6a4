#include "kernels/cache/kv_cache_ops.h"

#include <gtest/gtest.h>

#include "tests/support/kernel_test.h"

namespace optserve {
namespace {

constexpr int64_t kBlocks = 5, kHeads = 3, kBlockSize = 4, kHeadSize = 10;
constexpr int64_t kBlockFloats = kHeads * kBlockSize * kHeadSize;

TensorView AsCache(const TestTensor& memory) {
  return MakeView(memory.view().data, DType::kF32, kBlocks, kHeads, kBlockSize, kHeadSize);
}

// Columns [begin, begin + H * D) of a fused buffer as [T, H, D].
TensorView HeadsAt(const TestTensor& fused, int64_t begin) {
  TensorView view = fused.view().Columns(begin, kHeads * kHeadSize);
  view.rank = 3;
  view.dims = {view.dims[0], kHeads, kHeadSize, 0};
  return view;
}

TEST(KvCacheOpsTest, WriteKvPutsTokensIntoTheirSlotsAndNowhereElse) {
  const CpuContext ctx = MakeContext(DetectCpuIsa());
  const TestTensor k_memory = TestTensor(DType::kF32, kBlocks, kBlockFloats).Randomize(1);
  const TestTensor v_memory = TestTensor(DType::kF32, kBlocks, kBlockFloats).Randomize(2);
  const TestTensor fused = TestTensor(DType::kF32, 3, 2 * kHeads * kHeadSize, 7).Randomize(3);
  std::vector<int32_t> slots = {19, 0, 6};
  std::vector<float> expected_k(k_memory.f32(), k_memory.f32() + kBlocks * kBlockFloats);
  std::vector<float> expected_v(v_memory.f32(), v_memory.f32() + kBlocks * kBlockFloats);
  for (int t = 0; t < 3; ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t d = 0; d < kHeadSize; ++d) {
        const int64_t at = ((slots[t] / kBlockSize * kHeads + h) * kBlockSize + slots[t] % kBlockSize) * kHeadSize + d;
        expected_k[at] = fused.view().Rows(t, 1).as<float>()[h * kHeadSize + d];
        expected_v[at] = fused.view().Rows(t, 1).as<float>()[kHeads * kHeadSize + h * kHeadSize + d];
      }
    }
  }
  cpu::WriteKv(ctx, {.k_cache = AsCache(k_memory),
                     .v_cache = AsCache(v_memory),
                     .k = HeadsAt(fused, 0),
                     .v = HeadsAt(fused, kHeads * kHeadSize),
                     .slots = ViewOf(slots)});
  EXPECT_EQ(std::vector<float>(k_memory.f32(), k_memory.f32() + kBlocks * kBlockFloats), expected_k);
  EXPECT_EQ(std::vector<float>(v_memory.f32(), v_memory.f32() + kBlocks * kBlockFloats), expected_v);
}

TEST(KvCacheOpsTest, CopyBlocksCopiesKeysAndValues) {
  const CpuContext ctx = MakeContext(DetectCpuIsa());
  const TestTensor k = TestTensor(DType::kF32, kBlocks, kBlockFloats).Randomize(1);
  const TestTensor v = TestTensor(DType::kF32, kBlocks, kBlockFloats).Randomize(2);
  std::vector<float> expected_k(k.f32(), k.f32() + kBlocks * kBlockFloats);
  std::vector<float> expected_v(v.f32(), v.f32() + kBlocks * kBlockFloats);
  std::vector<int32_t> src = {4, 4, 1}, dst = {0, 2, 3};
  for (size_t i = 0; i < src.size(); ++i) {
    std::copy_n(expected_k.begin() + src[i] * kBlockFloats, kBlockFloats, expected_k.begin() + dst[i] * kBlockFloats);
    std::copy_n(expected_v.begin() + src[i] * kBlockFloats, kBlockFloats, expected_v.begin() + dst[i] * kBlockFloats);
  }
  cpu::CopyBlocks(ctx, {.k_cache = AsCache(k), .v_cache = AsCache(v), .src = ViewOf(src), .dst = ViewOf(dst)});
  EXPECT_EQ(std::vector<float>(k.f32(), k.f32() + kBlocks * kBlockFloats), expected_k);
  EXPECT_EQ(std::vector<float>(v.f32(), v.f32() + kBlocks * kBlockFloats), expected_v);
}

TEST(KvCacheOpsTest, GatherRowsAndCopyRowsRespectStrides) {
  const CpuContext ctx = MakeContext(DetectCpuIsa());
  const TestTensor x = TestTensor(DType::kF32, 6, 13, 4).Randomize(1);
  const TestTensor out = TestTensor(DType::kF32, 3, 13).Randomize(2);
  std::vector<int32_t> rows = {5, 0, 5};
  cpu::GatherRows(ctx, {.out = out.view(), .x = x.view(), .rows = ViewOf(rows)});
  const TestTensor wide = TestTensor(DType::kF32, 3, 40).Randomize(3);
  const float before = wide.f32()[9], after = wide.f32()[23];
  cpu::CopyRows(ctx, {.dst = wide.view().Columns(10, 13), .src = out.view()});
  for (int r = 0; r < 3; ++r) {
    for (int i = 0; i < 13; ++i) {
      ASSERT_EQ(out.f32()[r * 13 + i], x.f32()[rows[r] * 17 + i]);
      ASSERT_EQ(wide.f32()[r * 40 + 10 + i], out.f32()[r * 13 + i]);
    }
  }
  EXPECT_EQ(wide.f32()[9], before);
  EXPECT_EQ(wide.f32()[23], after);
}

TEST(KvCacheOpsDeathTest, ASlotOutsideThePoolIsABug) {
  const CpuContext ctx = MakeContext(DetectCpuIsa(), 1);
  const TestTensor cache(DType::kF32, kBlocks, kBlockFloats);
  const TestTensor token(DType::kF32, 1, kHeads * kHeadSize);
  std::vector<int32_t> slots = {kBlocks * kBlockSize};
  EXPECT_DEATH(cpu::WriteKv(ctx, {.k_cache = AsCache(cache),
                                  .v_cache = AsCache(cache),
                                  .k = HeadsAt(token, 0),
                                  .v = HeadsAt(token, 0),
                                  .slots = ViewOf(slots)}),
               "slot 20");
}

}  // namespace
}  // namespace optserve
