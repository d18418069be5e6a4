#include "kernels/cache/kv_cache_ops.h"
#include "kernels/embedding/embedding.h"
#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/reference.h"

// Ops that move rows: nothing is rounded, so everything is exact.

namespace optserve {
namespace {

class CudaRowsTest : public CudaTest {
 protected:
  void ExpectEqual(Mirror& got, const std::vector<double>& expected) {
    got.Download();
    const TensorView& view = got.host();
    for (int64_t t = 0; t < view.dims[0]; ++t) {
      for (int64_t i = 0; i < view.dims[1]; ++i) {
        ASSERT_EQ(reference::At(view, t, i), expected[t * view.dims[1] + i]) << "[" << t << ", " << i << "]";
      }
    }
  }
};

TEST_F(CudaRowsTest, EmbeddingOfOneShard) {
  for (const int64_t width : {1, 255, 512, 515}) {
    Mirror table = Make(DType::kF16, 10, width, 3), out = Make(DType::kF32, 6, width, 2);
    table.Randomize(1), out.Randomize(2);
    Mirror ids = Ids({100, 109, 99, 110, 0, 104});
    const std::vector<double> expected =
        reference::Embedding({out.host(), ids.host_vector(), table.host(), /*first_id=*/100});
    cuda::Embedding(ctx_, {out.device(), ids.device_vector(), table.device(), 100});
    ExpectEqual(out, expected);
  }
}

// Some ids were drawn on the device. What a row that was not finite drew may be anything.
TEST_F(CudaRowsTest, EmbeddingOfDrawnIds) {
  Mirror table = Make(DType::kF16, 10, 300, 3), out = Make(DType::kF32, 8, 300);
  table.Randomize(1), out.Randomize(2);
  Mirror ids = Ids({105, ~0, ~1, 109, ~3, ~2, ~4, ~2'000'000'000}), drawn = Ids({109, 100, 99, 103, 107});
  const TensorView host_drawn = MakeView(drawn.host().data, DType::kI32, 4);  // the fifth is beyond
  const std::vector<double> expected =
      reference::Embedding({out.host(), ids.host_vector(), table.host(), /*first_id=*/100, host_drawn});
  cuda::Embedding(ctx_, {out.device(), ids.device_vector(), table.device(), 100, drawn.device_vector().Rows(0, 4)});
  ExpectEqual(out, expected);
  drawn.Fill({-1, -100, 2'000'000'000, -2'000'000'000, 0});
  const std::vector<double> of_nothing =
      reference::Embedding({out.host(), ids.host_vector(), table.host(), 100, host_drawn});
  cuda::Embedding(ctx_, {out.device(), ids.device_vector(), table.device(), 100, drawn.device_vector().Rows(0, 4)});
  ExpectEqual(out, of_nothing);
}

TEST_F(CudaRowsTest, PositionsAreReadTwoRowsOn) {
  Mirror table = Make(DType::kF16, 12, 300, 4), x = Make(DType::kF32, 3, 300, 1);
  table.Randomize(1), x.Randomize(2);
  Mirror positions = Ids({0, 9, 4});
  const std::vector<double> sums = reference::PositionEmbedding({x.host(), positions.host_vector(), table.host()});
  std::vector<double> expected;
  for (const double sum : sums) expected.push_back(static_cast<float>(sum));
  cuda::PositionEmbedding(ctx_, {x.device(), positions.device_vector(), table.device()});
  ExpectEqual(x, expected);
}

TEST_F(CudaRowsTest, KeysAndValuesGoToTheirSlots) {
  constexpr int64_t kBlocks = 4, kBlock = 5;
  // A token has fewer pieces of 16 bytes than a block has threads, and more.
  for (const int64_t heads : {3, 13}) {
    const int64_t head_size = heads == 3 ? 16 : 80;
    Mirror k_cache = Make(DType::kF16, kBlocks, heads * kBlock * head_size);
    Mirror v_cache = Make(DType::kF16, kBlocks, heads * kBlock * head_size);
    Mirror k = Make(DType::kF16, 5, heads * head_size, 8), v = Make(DType::kF16, 5, heads * head_size, 16);
    k_cache.Randomize(1), v_cache.Randomize(2), k.Randomize(3), v.Randomize(4);
    const std::vector<int32_t> slots = {19, 0, -1, 7, 13};  // the third is stored nowhere
    Mirror slot_ids = Ids(slots);
    const auto expected = [&](const Mirror& cache, const Mirror& rows) {
      std::vector<double> all;
      for (int64_t p = 0; p < kBlocks; ++p) {
        for (int64_t i = 0; i < cache.host().dims[1]; ++i) all.push_back(reference::At(cache.host(), p, i));
      }
      for (size_t t = 0; t < slots.size(); ++t) {
        if (slots[t] < 0) continue;
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t d = 0; d < head_size; ++d) {
            const int64_t at = ((slots[t] / kBlock * heads + h) * kBlock + slots[t] % kBlock) * head_size + d;
            all[at] = reference::At(rows.host(), static_cast<int64_t>(t), h * head_size + d);
          }
        }
      }
      return all;
    };
    const std::vector<double> keys = expected(k_cache, k), values = expected(v_cache, v);
    const auto cache = [&](const Mirror& m) {
      return MakeView(m.device().data, DType::kF16, kBlocks, heads, kBlock, head_size);
    };
    cuda::WriteKv(ctx_, {.k_cache = cache(k_cache),
                         .v_cache = cache(v_cache),
                         .k = AsHeads(k.device(), heads),
                         .v = AsHeads(v.device(), heads),
                         .slots = slot_ids.device_vector()});
    ExpectEqual(k_cache, keys);
    ExpectEqual(v_cache, values);

    // Copies of whole blocks.
    Mirror src = Ids({0, 3}), dst = Ids({2, 1});
    const auto copied = [&](std::vector<double> all) {
      const auto size = static_cast<int64_t>(all.size()) / kBlocks;
      std::copy_n(all.begin(), size, all.begin() + 2 * size);
      std::copy_n(all.begin() + 3 * size, size, all.begin() + size);
      return all;
    };
    cuda::CopyBlocks(ctx_, {cache(k_cache), cache(v_cache), src.device_vector(), dst.device_vector()});
    ExpectEqual(k_cache, copied(keys));
    ExpectEqual(v_cache, copied(values));
  }
}

TEST_F(CudaRowsTest, GathersAndCopiesRows) {
  Mirror x = Make(DType::kF32, 5, 130, 2), out = Make(DType::kF32, 3, 130), wide = Make(DType::kF32, 3, 200);
  x.Randomize(1), wide.Randomize(2);
  Mirror rows = Ids({4, 0, 4});
  std::vector<double> gathered, placed;
  for (const int64_t row : {4, 0, 4}) {
    for (int64_t i = 0; i < 130; ++i) gathered.push_back(reference::At(x.host(), row, i));
  }
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t i = 0; i < 200; ++i) {
      placed.push_back(i >= 30 && i < 160 ? gathered[r * 130 + i - 30] : reference::At(wide.host(), r, i));
    }
  }
  cuda::GatherRows(ctx_, {out.device(), x.device(), rows.device_vector()});
  cuda::CopyRows(ctx_, {wide.device().Columns(30, 130), out.device()});
  ExpectEqual(out, gathered);
  ExpectEqual(wide, placed);
}

}  // namespace
}  // namespace optserve
