#include "kernels/linear/linear.h"

#include <cmath>
#include <optional>
#include <ostream>
#include <set>
#include <tuple>

#include "kernels/linear/linear_plan.h"
#include "kernels/linear/linear_table.h"
#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

struct Case {
  int64_t rows, depth, columns;
  DType x = DType::kF16;
  DType out = DType::kF32;
  bool has_bias = true;
  Activation activation = Activation::kNone;
  bool accumulate = false;
  int num_parts = 1;
  int64_t x_gap = -1, weight_gap = -1;  // elements between rows; negative: so that they are aligned if the depth allows
  std::optional<LinearKernel> kernel;   // else the table's
  int splits = 0;                       // of that kernel; 0: the plan's
};

constexpr LinearKernel kAllKernels[] = {LinearKernel::kSkinny, LinearKernel::kWmma, LinearKernel::kLibrary};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << "x" << c.depth << "x" << c.columns << " x " << static_cast<int>(c.x) << " out "
             << static_cast<int>(c.out) << " act " << static_cast<int>(c.activation) << (c.has_bias ? " bias" : "")
             << (c.accumulate ? " accumulate" : "") << " parts " << c.num_parts << " kernel "
             << (c.kernel ? static_cast<int>(*c.kernel) : -1) << " splits " << c.splits;
}

class CudaLinearTest : public CudaTest {
 protected:
  struct Data {
    Mirror x;
    std::vector<Mirror> weights, biases, outs;
    LinearParams host, device;
  };

  Data MakeData(const Case& c) {
    const int64_t x_gap = c.x_gap >= 0 ? c.x_gap : c.depth % 8 == 0 ? 8 : 3;
    const int64_t weight_gap = c.weight_gap >= 0 ? c.weight_gap : (8 - c.depth % 8) % 8;
    Data data{Make(c.x, c.rows, c.depth, x_gap), {}, {}, {}, {}, {}};
    data.x.Randomize(1);
    for (LinearParams* p : {&data.host, &data.device}) {
      p->num_parts = c.num_parts;
      p->activation = c.activation;
      p->accumulate = c.accumulate;
    }
    for (int i = 0; i < c.num_parts; ++i) {
      const int64_t columns = c.columns + 7 * i;  // parts of different widths
      data.weights.push_back(Make(DType::kF16, columns, c.depth, weight_gap));
      data.biases.push_back(Make(DType::kF32, 1, columns));
      data.outs.push_back(Make(c.out, c.rows, columns, 5));
      data.weights[i].Randomize(10 + i, 0.1f);
      data.biases[i].Randomize(20 + i);
      data.outs[i].Randomize(30 + i);
    }
    data.host.x = data.x.host();
    data.device.x = data.x.device();
    for (int i = 0; i < c.num_parts; ++i) {
      data.host.parts[i] = {data.weights[i].host(), c.has_bias ? data.biases[i].host_vector() : TensorView{},
                            data.outs[i].host()};
      data.device.parts[i] = {data.weights[i].device(), c.has_bias ? data.biases[i].device_vector() : TensorView{},
                              data.outs[i].device()};
    }
    return data;
  }

  void Run(const Case& c, const LinearParams& p) {
    if (!c.kernel) return cuda::Linear(ctx_, p);
    LinearPlan plan = PlanLinearAs(*c.kernel, p.x.dims[0], c.columns * c.num_parts, c.depth, ctx_.info);
    if (c.splits != 0) plan.splits = c.splits;
    cuda::LinearAs(ctx_, p, &plan);
  }

  void Expect(const Case& c) {
    Data data = MakeData(c);
    const std::vector<std::vector<double>> expected = reference::Linear(data.host);
    Run(c, data.device);
    for (int i = 0; i < c.num_parts; ++i) {
      data.outs[i].Download();
      const TensorView& out = data.host.parts[i].out;
      for (int64_t t = 0; t < out.dims[0]; ++t) {
        for (int64_t n = 0; n < out.dims[1]; ++n) {
          const double wanted = expected[i][t * out.dims[1] + n];
          // Rounding of f32 rows and of f16 results; else only that of sums.
          // Tensor cores cut where others round: some 2^-22 at every fourth element.
          const double relative = c.out == DType::kF16              ? 2e-3
                                  : c.kernel == LinearKernel::kWmma ? 1e-5 + 6e-8 * static_cast<double>(c.depth)
                                                                    : 1e-5;
          const double bound = relative * (1.0 + std::abs(wanted)) +
                               (c.x == DType::kF32 ? 1e-3 : 0.0) * std::sqrt(static_cast<double>(c.depth));
          ASSERT_NEAR(reference::At(out, t, n), wanted, bound) << c << ", part " << i << " [" << t << ", " << n << "]";
        }
      }
    }
  }
};

TEST_F(CudaLinearTest, MatchesReferenceAtEveryCountOfRows) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 65}) {
    Expect({.rows = rows, .depth = 264, .columns = 33});
    Expect({.rows = rows, .depth = 83, .columns = 19, .out = DType::kF16});
  }
}

TEST_F(CudaLinearTest, MatchesReferenceAtEveryDepthAndWidth) {
  for (const int64_t depth : {1, 7, 8, 9, 255, 256, 257, 1023, 1024, 2056, 4104}) {
    Expect({.rows = 3, .depth = depth, .columns = 5});
  }
  for (const int64_t columns : {1, 2, 15, 16, 17, 100}) Expect({.rows = 2, .depth = 64, .columns = columns});
}

// At each tile's edge and one past it, in rows, columns and depth.
TEST_F(CudaLinearTest, TensorCoresMatchTheReferenceAtEveryCountOfRows) {
  for (const int64_t rows : {1, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64}) {
    Expect({.rows = rows, .depth = 72, .columns = 33, .kernel = LinearKernel::kWmma});
    Expect({.rows = rows, .depth = 35, .columns = 19, .out = DType::kF16, .kernel = LinearKernel::kWmma});
  }
}

TEST_F(CudaLinearTest, TensorCoresMatchTheReferenceAtEveryDepthAndWidth) {
  for (const int64_t depth : {1, 8, 9, 16, 24, 31, 32, 40, 63, 64, 65, 256, 264, 1040}) {
    for (const int splits : {1, 2, 8}) {
      Expect({.rows = 11, .depth = depth, .columns = 40, .kernel = LinearKernel::kWmma, .splits = splits});
    }
  }
  for (const int64_t columns : {1, 31, 32, 33, 64, 65, 255, 256, 257}) {
    for (const int splits : {1, 4}) {
      Expect({.rows = 9, .depth = 64, .columns = columns, .kernel = LinearKernel::kWmma, .splits = splits});
    }
  }
}

TEST_F(CudaLinearTest, RowsThatAreNotAligned) {
  for (const LinearKernel kernel : {LinearKernel::kSkinny, LinearKernel::kWmma}) {
    Expect({.rows = 3, .depth = 64, .columns = 20, .x_gap = 3, .kernel = kernel});
    Expect({.rows = 3, .depth = 64, .columns = 20, .weight_gap = 3, .kernel = kernel});
    Expect({.rows = 3,
            .depth = 61,
            .columns = 20,
            .x_gap = 3,
            .kernel = kernel});  // aligned, but no whole number of vectors
  }
}

TEST_F(CudaLinearTest, RowsInF32AreRoundedToNearestEven) {
  Data data = MakeData({.rows = 1, .depth = 1, .columns = 1, .x = DType::kF32, .has_bias = false});
  for (const auto& [x, rounded] : {std::pair(1.0f + 3 * 0x1p-11f, 1.0f + 0x1p-9f), std::pair(1.0f + 0x1p-11f, 1.0f)}) {
    data.x.Set(0, x);
    data.weights[0].Set(0, 1.0f);
    data.x.Upload(), data.weights[0].Upload();
    cuda::Linear(ctx_, data.device);
    data.outs[0].Download();
    EXPECT_EQ(reference::At(data.outs[0].host(), 0, 0), rounded);
  }
}

TEST_F(CudaLinearTest, BiasActivationAndAccumulation) {
  for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
    for (const bool accumulate : {false, true}) {
      for (const bool has_bias : {false, true}) {
        for (const LinearKernel kernel : kAllKernels) {
          for (const DType out : {DType::kF32, DType::kF16}) {
            Expect({.rows = 3,
                    .depth = 40,
                    .columns = 21,
                    .out = out,
                    .has_bias = has_bias,
                    .activation = activation,
                    .accumulate = accumulate,
                    .kernel = kernel});
          }
        }
      }
    }
  }
}

TEST_F(CudaLinearTest, SeveralPartsAndRowsInF32) {
  for (const LinearKernel kernel : kAllKernels) {
    for (const int64_t rows : {1, 16, 21}) {
      if (kernel == LinearKernel::kSkinny && rows > kMaxSkinnyRows) continue;
      Expect({.rows = rows, .depth = 64, .columns = 24, .out = DType::kF16, .num_parts = 3, .kernel = kernel});
      Expect({.rows = rows, .depth = 64, .columns = 24, .num_parts = 2, .kernel = kernel});
      Expect({.rows = rows, .depth = 72, .columns = 24, .x = DType::kF32, .kernel = kernel});
      Expect({.rows = rows, .depth = 75, .columns = 24, .x = DType::kF32, .out = DType::kF16, .kernel = kernel});
    }
    // More f32 rows than half of the workspace holds.
    if (kernel != LinearKernel::kSkinny) {
      Expect({.rows = 40, .depth = 2048, .columns = 3, .x = DType::kF32, .kernel = kernel});
    }
  }
}

// What follows the library's product: more columns than a thread block, and than the launch has threads.
TEST_F(CudaLinearTest, WideRowsAfterTheLibrarysProduct) {
  Expect({.rows = 18, .depth = 16, .columns = 700, .activation = Activation::kRelu, .kernel = LinearKernel::kLibrary});
  Expect({.rows = 17, .depth = 8, .columns = 64 * 256 + 300, .out = DType::kF16, .kernel = LinearKernel::kLibrary});
}

TEST_F(CudaLinearTest, WhatIsAddedToGoesThroughTheWorkspaceInPieces) {
  ctx_.workspace_bytes = 7 * 30 * sizeof(float);  // of 7 rows
  for (const DType out : {DType::kF32, DType::kF16}) {
    Expect({.rows = 40,
            .depth = 24,
            .columns = 30,
            .out = out,
            .activation = out == DType::kF16 ? Activation::kGelu : Activation::kRelu,
            .accumulate = true,
            .kernel = LinearKernel::kLibrary});
  }
}

TEST_F(CudaLinearTest, RowsInF32AndWhatIsAddedToShareTheWorkspace) {
  Expect({.rows = 40,
          .depth = 24,
          .columns = 30,
          .x = DType::kF32,
          .activation = Activation::kRelu,
          .accumulate = true,
          .kernel = LinearKernel::kLibrary});
}

TEST_F(CudaLinearTest, ARowHasTheSameBitsHoweverManyComeWithIt) {
  for (const Case& all : {Case{.rows = 16, .depth = 2056, .columns = 37, .kernel = LinearKernel::kSkinny},
                          Case{.rows = 64, .depth = 520, .columns = 37, .kernel = LinearKernel::kWmma}}) {
    Data whole = MakeData(all);
    Run(all, whole.device);
    whole.outs[0].Download();
    for (const int64_t count : {1, 7, 8, 16, 17, 33}) {
      if (count > all.rows) continue;
      Data part = MakeData(all);
      for (int64_t row = 0; row < all.rows; row += count) {
        LinearParams p = part.device;
        const int64_t rows = std::min(count, all.rows - row);
        p.x = p.x.Rows(row, rows);
        p.parts[0].out = p.parts[0].out.Rows(row, rows);
        Run(all, p);
      }
      part.outs[0].Download();
      for (int64_t t = 0; t < all.rows; ++t) {
        for (int64_t n = 0; n < all.columns; ++n) {
          ASSERT_EQ(reference::At(part.outs[0].host(), t, n), reference::At(whole.outs[0].host(), t, n))
              << all << ": " << count;
        }
      }
    }
  }
}

TEST_F(CudaLinearTest, NaNStaysInItsRow) {
  for (const LinearKernel kernel : kAllKernels) {
    const Case c{.rows = 4, .depth = 64, .columns = 20, .activation = Activation::kRelu, .kernel = kernel};
    Data data = MakeData(c);
    const uint16_t nan = 0x7e00;
    std::memcpy(data.x.host().Rows(2, 1).as<uint16_t>() + 63, &nan, 2);
    data.x.Upload();
    Run(c, data.device);
    data.outs[0].Download();
    for (int64_t t = 0; t < 4; ++t) {
      for (int64_t n = 0; n < 20; ++n) EXPECT_EQ(std::isnan(reference::At(data.outs[0].host(), t, n)), t == 2);
    }
  }
}

TEST(LinearPlanTest, RowsChooseTheTileAndShapesTheSplit) {
  const DeviceInfo v100{.sm_version = 70, .sm_count = 80};
  const auto plan = [&](LinearKernel kernel, int64_t rows, int64_t columns, int64_t depth) {
    return PlanLinearAs(kernel, rows, columns, depth, v100);
  };
  EXPECT_EQ(plan(LinearKernel::kSkinny, 5, 4096, 4096).tile_rows, 8);
  EXPECT_EQ(plan(LinearKernel::kWmma, 5, 4096, 4096).tile_rows, 8);
  EXPECT_EQ(plan(LinearKernel::kWmma, 33, 4096, 4096).tile_rows, 64);
  // 175B on 16 ranks: 768 columns are 384 warps of two, and 80 multiprocessors want 2,560.
  EXPECT_EQ(plan(LinearKernel::kSkinny, 1, 12288, 768).splits, 1);
  EXPECT_EQ(plan(LinearKernel::kSkinny, 1, 2304, 12288).splits, 4);
  // Of 32 columns 384 and 72, where 1,280 are wanted.
  EXPECT_EQ(plan(LinearKernel::kWmma, 20, 12288, 768).splits, 4);
  EXPECT_EQ(plan(LinearKernel::kWmma, 20, 2304, 12288).splits, 8);
  EXPECT_EQ(plan(LinearKernel::kWmma, 20, 2304, 320).splits, 2);  // 160 of K for each of two warps
  for (const int64_t rows : {1, 2, 9, 16}) EXPECT_EQ(plan(LinearKernel::kSkinny, rows, 768, 12288).splits, 8);
  for (const int64_t rows : {1, 8, 17, 64}) EXPECT_EQ(plan(LinearKernel::kWmma, rows, 768, 12288).splits, 8);
}

TEST(LinearPlanTest, TheTableChoosesAmongTheKernels) {
  for (const LinearTableLine& line : LinearTable()) {
    const DeviceInfo device{.sm_version = line.sm_version, .sm_count = 80};
    const auto kernel = [&](int64_t rows) { return PlanLinear(rows, line.columns, line.depth, device).kernel; };
    EXPECT_EQ(kernel(1), LinearKernel::kSkinny);
    EXPECT_EQ(kernel(line.max_skinny_rows), LinearKernel::kSkinny);
    EXPECT_EQ(kernel(line.max_skinny_rows + 1),
              line.max_wmma_rows > line.max_skinny_rows ? LinearKernel::kWmma : LinearKernel::kLibrary);
    EXPECT_NE(kernel(line.max_wmma_rows), LinearKernel::kLibrary);
    EXPECT_EQ(kernel(line.max_wmma_rows + 1), LinearKernel::kLibrary);
    EXPECT_EQ(kernel(kMaxWmmaRows + 1), LinearKernel::kLibrary);
    // The same for shapes near it, and whenever it is asked.
    const LinearTableLine& near = NearestLine(line.sm_version, line.columns + 1, line.depth - 1);
    EXPECT_EQ(near.columns, line.columns);
    EXPECT_EQ(near.depth, line.depth);
  }
}

TEST(LinearPlanTest, EveryShapeHasOneLineAGenerationAndItsSource) {
  std::set<std::tuple<int, int64_t, int64_t>> shapes;
  for (const LinearTableLine& line : LinearTable()) {
    EXPECT_TRUE(shapes.emplace(line.sm_version, line.columns, line.depth).second)
        << line.sm_version << " " << line.columns << " x " << line.depth;
    EXPECT_GE(line.max_skinny_rows, 1);
    EXPECT_LE(line.max_skinny_rows, kMaxSkinnyRows);
    EXPECT_GE(line.max_wmma_rows, line.max_skinny_rows);
    EXPECT_LE(line.max_wmma_rows, kMaxWmmaRows);
    EXPECT_NE(std::string(line.source), "");
  }
}

TEST(LinearPlanTest, AGenerationIsTheNewestThatIsNoNewer) {
  EXPECT_EQ(NearestLine(75, 4096, 4096).sm_version, 70);
  EXPECT_EQ(NearestLine(89, 4096, 4096).sm_version, 80);
  EXPECT_EQ(NearestLine(100, 4096, 4096).sm_version, 90);
  EXPECT_EQ(NearestLine(60, 4096, 4096).sm_version, 70);
}

}  // namespace
}  // namespace optserve
