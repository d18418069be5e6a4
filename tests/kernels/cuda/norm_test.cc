#include <cmath>

#include "kernels/norm/layer_norm.h"
#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

class CudaNormTest : public CudaTest {
 protected:
  void ExpectNear(Mirror& got, const std::vector<double>& expected, double bound) {
    got.Download();
    const TensorView& view = got.host();
    for (int64_t t = 0; t < view.dims[0]; ++t) {
      for (int64_t i = 0; i < view.dims[1]; ++i) {
        const double wanted = expected[t * view.dims[1] + i];
        ASSERT_NEAR(reference::At(view, t, i), wanted, bound * (1.0 + std::abs(wanted)))
            << "[" << t << ", " << i << "]";
      }
    }
  }
};

TEST_F(CudaNormTest, MatchesReference) {
  for (const int64_t width : {1, 15, 256, 257, 768, 1000}) {
    for (const DType dtype : {DType::kF32, DType::kF16}) {
      for (const bool affine : {true, false}) {
        Mirror x = Make(DType::kF32, 3, width, 2), out = Make(dtype, 3, width, 4);
        Mirror weight = Make(DType::kF32, 1, width), bias = Make(DType::kF32, 1, width);
        x.Randomize(1), weight.Randomize(2), bias.Randomize(3);
        LayerNormParams host{.out = out.host(), .x = x.host()}, device{.out = out.device(), .x = x.device()};
        if (affine) {
          host.weight = weight.host_vector(), host.bias = bias.host_vector();
          device.weight = weight.device_vector(), device.bias = bias.device_vector();
        }
        const std::vector<double> expected = reference::LayerNorm(host);
        cuda::LayerNorm(ctx_, device);
        ExpectNear(out, expected, dtype == DType::kF16 ? 1e-3 : 1e-5);
      }
    }
  }
}

// A mean that squares would drown in, and differences whose square is below epsilon.
TEST_F(CudaNormTest, LargeMeansAndTinyVariances) {
  for (const auto& [mean, deviation] : std::vector<std::pair<float, float>>{{1000.0f, 1.0f}, {0.0f, 1e-3f}}) {
    constexpr int64_t kWidth = 500;
    Mirror x = Make(DType::kF32, 2, kWidth), out = Make(DType::kF32, 2, kWidth);
    x.Randomize(1, deviation);
    for (int64_t i = 0; i < 2 * kWidth; ++i) x.Set(i, mean + x.host().as<float>()[i]);
    x.Upload();
    const std::vector<double> expected = reference::LayerNorm({.out = out.host(), .x = x.host()});
    cuda::LayerNorm(ctx_, {.out = out.device(), .x = x.device()});
    // Of numbers near 1000 f32 has the differences to 6e-5.
    ExpectNear(out, expected, mean > 0.0f ? 2e-4 : 1e-5);
  }
}

TEST_F(CudaNormTest, KeepsARoundedCopy) {
  Mirror x = Make(DType::kF32, 3, 300, 2), copy = Make(DType::kF16, 3, 300, 5), rounded = Make(DType::kF16, 3, 300);
  x.Randomize(1), copy.Randomize(2);
  cuda::LayerNorm(ctx_, {.out = rounded.device(), .x = x.device()});
  cuda::LayerNorm(ctx_, {.out = x.device(), .x = x.device(), .copy = copy.device()});
  x.Download(), copy.Download(), rounded.Download();
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t i = 0; i < 300; ++i) {
      ASSERT_EQ(reference::At(copy.host(), t, i), reference::At(rounded.host(), t, i));
      ASSERT_NEAR(reference::At(x.host(), t, i), reference::At(copy.host(), t, i), 2e-3);
    }
  }
}

TEST_F(CudaNormTest, HalvesAreTheFloatsRoundedToNearestEven) {
  Mirror x = Make(DType::kF32, 2, 300), floats = Make(DType::kF32, 2, 300), halves = Make(DType::kF16, 2, 300);
  x.Randomize(1);
  cuda::LayerNorm(ctx_, {.out = floats.device(), .x = x.device()});
  cuda::LayerNorm(ctx_, {.out = halves.device(), .x = x.device()});
  floats.Download(), halves.Download();
  for (int64_t i = 0; i < 600; ++i) {
    const auto rounded = static_cast<_Float16>(floats.host().as<float>()[i]);
    EXPECT_EQ(reference::At(halves.host(), i / 300, i % 300), static_cast<double>(rounded));
  }
}

TEST_F(CudaNormTest, AddsBiasAndResidual) {
  for (const int64_t width : {1, 300}) {
    for (const bool has_bias : {true, false}) {
      Mirror x = Make(DType::kF32, 2, width, 1), partial = Make(DType::kF32, 2, width, 3);
      Mirror bias = Make(DType::kF32, 1, width);
      x.Randomize(1), partial.Randomize(2), bias.Randomize(3);
      const std::vector<double> expected =
          reference::AddBiasResidual({x.host(), partial.host(), has_bias ? bias.host_vector() : TensorView{}});
      cuda::AddBiasResidual(ctx_, {x.device(), partial.device(), has_bias ? bias.device_vector() : TensorView{}});
      ExpectNear(x, expected, 1e-6);
    }
  }
}

// The fused op, in both of its uses: into another tensor (the norm comes before the next layer) and in place (after).
TEST_F(CudaNormTest, FusedHasTheBitsOfTheTwo) {
  for (const bool in_place : {false, true}) {
    constexpr int64_t kWidth = 600;
    Mirror x = Make(DType::kF32, 3, kWidth, 4), y = Make(DType::kF32, 3, kWidth, 4);
    Mirror partial = Make(DType::kF32, 3, kWidth, 8);
    Mirror bias = Make(DType::kF32, 1, kWidth), weight = Make(DType::kF32, 1, kWidth);
    Mirror norm_bias = Make(DType::kF32, 1, kWidth);
    Mirror x_out = Make(DType::kF16, 3, kWidth), y_out = Make(DType::kF16, 3, kWidth);
    x.Randomize(1), y.Randomize(1), partial.Randomize(2), bias.Randomize(3), weight.Randomize(4),
        norm_bias.Randomize(5);
    const auto norm = [&](const Mirror& of, const Mirror& out) {
      return LayerNormParams{.out = in_place ? of.device() : out.device(),
                             .x = of.device(),
                             .weight = weight.device_vector(),
                             .bias = norm_bias.device_vector()};
    };
    cuda::AddBiasResidualNorm(ctx_, {x.device(), partial.device(), bias.device_vector()}, norm(x, x_out));
    cuda::AddBiasResidual(ctx_, {y.device(), partial.device(), bias.device_vector()});
    cuda::LayerNorm(ctx_, norm(y, y_out));
    x.Download(), y.Download(), x_out.Download(), y_out.Download();
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t i = 0; i < kWidth; ++i) {
        ASSERT_EQ(reference::At(x.host(), t, i), reference::At(y.host(), t, i));
        ASSERT_EQ(reference::At(x_out.host(), t, i), reference::At(y_out.host(), t, i));
      }
    }
  }
}

}  // namespace
}  // namespace optserve
