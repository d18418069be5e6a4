#include "kernels/linear/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/cpu_context.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

constexpr std::array kIsaNames = {"portable", "avx2", "avx512"};

std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> isas;
  for (int isa = 0; isa <= static_cast<int>(DetectCpuIsa()); ++isa) isas.push_back(static_cast<CpuIsa>(isa));
  return isas;
}

CpuContext MakeContext(CpuIsa isa, int threads) {
  DeviceInfo info = DetectCpu(threads);
  info.isa = isa;
  return CpuContext(info);
}

// A matrix with room between its rows, in memory that ends with its last element, so that AddressSanitizer sees a read
// past it. Values lie in (-1, 1).
class Matrix {
 public:
  Matrix(DType dtype, int64_t rows, int64_t columns, int64_t padding, uint32_t seed, size_t misalign = 0)
      : memory_(((rows - 1) * (columns + padding) + columns) * SizeOf(dtype) + misalign) {
    view_ = MakeView(memory_.data() + misalign, dtype, rows, columns);
    view_.row_stride = columns + padding;
    std::mt19937 random(seed);
    for (int64_t i = 0; i < (rows - 1) * view_.row_stride + columns; ++i) {
      const uint32_t bits = random();
      const uint16_t f16 = static_cast<uint16_t>((bits & 0x83ff) | ((8 + (bits >> 16) % 7) << 10));
      const uint16_t bf16 = static_cast<uint16_t>((bits & 0x807f) | ((120 + (bits >> 16) % 7) << 7));
      const float f32 = std::ldexp(static_cast<float>(static_cast<int32_t>(bits)), -31);
      std::byte* at = memory_.data() + misalign + i * SizeOf(dtype);
      if (dtype == DType::kF16) std::memcpy(at, &f16, 2);
      if (dtype == DType::kBF16) std::memcpy(at, &bf16, 2);
      if (dtype == DType::kF32) std::memcpy(at, &f32, 4);
    }
  }
  const TensorView& view() const { return view_; }
  TensorView vector() const { return MakeView(view_.data, view_.dtype, view_.dims[1]); }  // of a matrix of one row
  std::byte* bytes() { return memory_.data(); }
  const std::vector<std::byte>& memory() const { return memory_; }

 private:
  std::vector<std::byte> memory_;
  TensorView view_;
};

struct Case {
  int64_t rows, depth, columns;
  DType weight = DType::kF16;
  DType bias = DType::kF16;
  bool has_bias = true;
  Activation activation = Activation::kNone;
  bool accumulate = false;
  int64_t padding = 0;
  int num_parts = 1;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << "x" << c.depth << "x" << c.columns << " weight " << static_cast<int>(c.weight) << " bias "
             << (c.has_bias ? static_cast<int>(c.bias) : -1) << " act " << static_cast<int>(c.activation)
             << (c.accumulate ? " accumulate" : "") << " padding " << c.padding << " parts " << c.num_parts;
}

struct Data {
  explicit Data(const Case& c) : x(DType::kF32, c.rows, c.depth, c.padding, 1) {
    params.x = x.view();
    params.num_parts = c.num_parts;
    params.activation = c.activation;
    params.accumulate = c.accumulate;
    for (int i = 0; i < c.num_parts; ++i) {
      const int64_t columns = c.columns + 7 * i;  // parts of different widths
      weights.emplace_back(c.weight, columns, c.depth, c.padding, 10 + i);
      biases.emplace_back(c.bias, 1, columns, 0, 20 + i);
      outs.emplace_back(DType::kF32, c.rows, columns, c.padding, 30 + i);
    }
    for (int i = 0; i < c.num_parts; ++i) {
      params.parts[i] = {weights[i].view(), c.has_bias ? biases[i].vector() : TensorView{}, outs[i].view()};
    }
  }
  Matrix x;
  std::vector<Matrix> weights, biases, outs;
  LinearParams params;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  // Every count of rows around the tiles, with depths and widths that end inside a vector and inside a tile.
  for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33}) {
    cases.push_back({.rows = rows, .depth = 64, .columns = 48});
    cases.push_back({.rows = rows, .depth = 83, .columns = 53, .padding = 5});
  }
  for (int64_t depth : {1, 15, 16, 17, 1023, 1024, 1025, 2100}) {
    cases.push_back({.rows = 3, .depth = depth, .columns = 5});
    cases.push_back({.rows = 19, .depth = depth, .columns = 5});
  }
  for (int64_t columns : {1, 2, 3, 23, 24, 25, 191}) cases.push_back({.rows = 11, .depth = 32, .columns = columns});
  // Wider than one packed group of the scratch memory.
  cases.push_back({.rows = 10, .depth = 1040, .columns = 401});
  for (DType weight : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (DType bias : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (int64_t rows : {1, 12})
        cases.push_back({.rows = rows, .depth = 47, .columns = 29, .weight = weight, .bias = bias});
    }
  }
  for (Activation activation : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
    for (bool accumulate : {false, true}) {
      for (bool has_bias : {false, true}) {
        for (int64_t rows : {1, 12}) {
          cases.push_back({.rows = rows,
                           .depth = 40,
                           .columns = 31,
                           .has_bias = has_bias,
                           .activation = activation,
                           .accumulate = accumulate,
                           .padding = 3});
        }
      }
    }
  }
  for (int num_parts : {2, 3}) {
    cases.push_back({.rows = 1, .depth = 48, .columns = 48, .num_parts = num_parts});
    cases.push_back({.rows = 21, .depth = 48, .columns = 77, .num_parts = num_parts});
  }
  return cases;
}

class LinearTest : public testing::TestWithParam<CpuIsa> {};

INSTANTIATE_TEST_SUITE_P(Isas, LinearTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return kIsaNames[static_cast<int>(info.param)]; });

TEST_P(LinearTest, MatchesReference) {
  for (int threads : {1, 2, 5}) {
    const CpuContext ctx = MakeContext(GetParam(), threads);
    for (const Case& c : Cases()) {
      Data data(c);
      std::vector<Matrix> before = data.outs;
      const std::vector<std::vector<double>> expected = reference::Linear(data.params);
      cpu::Linear(ctx, data.params);
      for (int i = 0; i < c.num_parts; ++i) {
        const TensorView& out = data.params.parts[i].out;
        const double bound = 1e-6 * static_cast<double>(c.depth) + 1e-6;  // as linear.h promises; x and w are below 1
        for (int64_t t = 0; t < out.dims[0]; ++t) {
          for (int64_t n = 0; n < out.dims[1]; ++n) {
            ASSERT_NEAR(reference::At(out, t, n), expected[i][t * out.dims[1] + n], bound)
                << c << ", " << threads << " threads, part " << i << " [" << t << ", " << n << "]";
          }
          for (int64_t pad = out.dims[1]; pad < out.row_stride && t + 1 < out.dims[0]; ++pad) {
            TensorView old = out;
            old.data = before[i].bytes();
            ASSERT_EQ(reference::At(out, t, pad), reference::At(old, t, pad)) << c << ": wrote past a row";
          }
        }
      }
    }
  }
}

// The contract that makes an answer independent of who else is served: bits, not closeness.
TEST_P(LinearTest, RowKeepsItsBitsWhateverComesWithIt) {
  for (int64_t depth : {96, 1500}) {
    const Case all{.rows = 41, .depth = depth, .columns = 75, .activation = Activation::kGelu, .num_parts = 2};
    const CpuContext one_thread = MakeContext(GetParam(), 1);
    Data full(all);
    cpu::Linear(one_thread, full.params);
    for (int threads : {1, 2, 3}) {
      const CpuContext ctx = MakeContext(GetParam(), threads);
      for (int64_t count : {1, 2, 3, 5, 7, 8, 9, 16, 24, 31, 41}) {
        Data data(all);
        for (int64_t row = 0; row < all.rows; row += count) {
          const int64_t rows = std::min(count, all.rows - row);
          LinearParams p = data.params;
          p.x = p.x.Rows(row, rows);
          for (int i = 0; i < p.num_parts; ++i) p.parts[i].out = p.parts[i].out.Rows(row, rows);
          cpu::Linear(ctx, p);
        }
        for (int i = 0; i < all.num_parts; ++i) {
          ASSERT_EQ(data.outs[i].memory(), full.outs[i].memory())
              << count << " rows at a time, " << threads << " threads";
        }
      }
    }
  }
}

TEST_P(LinearTest, ColumnKeepsItsBitsWhereverItLies) {
  const CpuContext ctx = MakeContext(GetParam(), 2);
  for (int64_t rows : {1, 4, 20}) {
    Data data({.rows = rows, .depth = 100, .columns = 90, .has_bias = false});
    cpu::Linear(ctx, data.params);
    Data shifted({.rows = rows, .depth = 100, .columns = 90, .has_bias = false});
    LinearParams p = shifted.params;  // columns 5 ... 90, as another shard of the weight would have them
    p.parts[0].weight = p.parts[0].weight.Rows(5, 85);
    p.parts[0].out = p.parts[0].out.Columns(5, 85);
    cpu::Linear(ctx, p);
    for (int64_t t = 0; t < rows; ++t) {
      EXPECT_EQ(std::memcmp(p.parts[0].out.Rows(t, 1).data, data.params.parts[0].out.Rows(t, 1).Columns(5, 85).data,
                            85 * sizeof(float)),
                0);
    }
  }
}

TEST_P(LinearTest, NaNAndInfinityStayInTheirRow) {
  const CpuContext ctx = MakeContext(GetParam(), 2);
  const Case c{.rows = 20, .depth = 70, .columns = 50, .activation = Activation::kRelu};
  Data clean(c), dirty(c);
  cpu::Linear(ctx, clean.params);
  dirty.params.x.as<float>()[7 * 70 + 69] = std::nanf("");
  dirty.params.x.as<float>()[13 * 70 + 2] = std::numeric_limits<float>::infinity();
  cpu::Linear(ctx, dirty.params);
  for (int64_t t = 0; t < c.rows; ++t) {
    for (int64_t n = 0; n < c.columns; ++n) {
      const float value = dirty.outs[0].view().as<float>()[t * 50 + n];
      if (t == 7) {
        EXPECT_TRUE(std::isnan(value));
      } else if (t != 13) {
        EXPECT_EQ(value, clean.outs[0].view().as<float>()[t * 50 + n]);
      }
    }
  }
}

TEST_P(LinearTest, ReadsWeightsAtOddAddresses) {
  const CpuContext ctx = MakeContext(GetParam(), 2);
  for (DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (int64_t rows : {1, 12}) {
      Data data({.rows = rows, .depth = 50, .columns = 30, .weight = dtype, .has_bias = false});
      cpu::Linear(ctx, data.params);
      Data odd({.rows = rows, .depth = 50, .columns = 30, .weight = dtype, .has_bias = false});
      Matrix weight(dtype, 30, 50, 0, 10, /*misalign=*/1);
      odd.params.parts[0].weight = weight.view();
      cpu::Linear(ctx, odd.params);
      EXPECT_EQ(odd.outs[0].memory(), data.outs[0].memory());
    }
  }
}

TEST_P(LinearTest, DepthBeyondTheScratchMemory) {
  const CpuContext ctx = MakeContext(GetParam(), 2);
  Data data({.rows = 9, .depth = 44001, .columns = 4, .has_bias = false});
  const std::vector<std::vector<double>> expected = reference::Linear(data.params);
  cpu::Linear(ctx, data.params);
  for (int64_t i = 0; i < 9 * 4; ++i) EXPECT_NEAR(data.outs[0].view().as<float>()[i], expected[0][i], 44001e-6);
}

TEST_P(LinearTest, NoRowsIsNoWork) {
  const CpuContext ctx = MakeContext(GetParam(), 2);
  Data data({.rows = 1, .depth = 16, .columns = 16});
  const std::vector<std::byte> before = data.outs[0].memory();
  data.params.x.dims[0] = data.params.parts[0].out.dims[0] = 0;
  cpu::Linear(ctx, data.params);
  EXPECT_EQ(data.outs[0].memory(), before);
}

TEST(LinearIsaTest, Avx2AndAvx512GiveTheSameBits) {
  if (DetectCpuIsa() != CpuIsa::kAvx512) return;  // nothing to compare
  for (int64_t rows : {1, 5, 40}) {
    const Case c{.rows = rows, .depth = 1300, .columns = 70, .activation = Activation::kGelu};
    Data narrow(c), wide(c);
    cpu::Linear(MakeContext(CpuIsa::kAvx2, 1), narrow.params);
    cpu::Linear(MakeContext(CpuIsa::kAvx512, 1), wide.params);
    EXPECT_EQ(narrow.outs[0].memory(), wide.outs[0].memory());
  }
}

TEST(LinearDeathTest, ShapesThatDoNotFitAreNamed) {
  const CpuContext ctx = MakeContext(CpuIsa::kPortable, 1);
  Data data({.rows = 2, .depth = 16, .columns = 8});
  LinearParams p = data.params;
  p.x = p.x.Columns(0, 15);
  EXPECT_DEATH(cpu::Linear(ctx, p), "K is 15 in x, 16 in the weight");
  p = data.params;
  p.parts[0].out = p.parts[0].out.Columns(0, 7);
  EXPECT_DEATH(cpu::Linear(ctx, p), "out is .2, 7. for 2 rows of x and 8 of the weight");
}

}  // namespace
}  // namespace optserve
