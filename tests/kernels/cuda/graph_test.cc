// Graphs of a device: what is captured runs later, as often as it is launched, on what then lies in the memory.

#include <gmock/gmock.h>

#include "kernels/cache/kv_cache_ops.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_plan.h"
#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

class CudaGraphTest : public CudaTest {
 protected:
  // out = x, by a kernel of ours.
  void Copy(const Mirror& x, const Mirror& out) { cuda::CopyRows(ctx_, {.dst = out.device(), .src = x.device()}); }

  std::string ErrorAfter(const std::function<void()>& call) {
    device_->BeginCapture();
    call();
    const bool has_graph = device_->EndCapture() != nullptr;
    const std::string error = device_->Synchronize();
    EXPECT_EQ(has_graph, error.empty());
    return error;
  }
};

double First(Mirror& m) {
  m.Download();
  return reference::At(m.host(), 0, 0);
}

TEST_F(CudaGraphTest, RunsWhenItIsLaunchedOnWhatIsThereThen) {
  Mirror x = Make(DType::kF32, 1, 4), out = Make(DType::kF32, 1, 4);
  x.Set(0, 1.0f), out.Set(0, -1.0f);
  x.Upload(), out.Upload();
  device_->BeginCapture();
  Copy(x, out);
  const std::unique_ptr<CudaGraph> graph = device_->EndCapture();
  ASSERT_NE(graph, nullptr) << device_->Synchronize();
  EXPECT_EQ(graph->num_nodes(), 1);
  EXPECT_EQ(First(out), -1.0);  // not yet
  for (const float value : {2.0f, 3.0f}) {
    x.Set(0, value);
    x.Upload();
    device_->Launch(*graph);
    EXPECT_EQ(First(out), value);
  }
}

// What a kernel was given by value is what it was when the graph was captured.
TEST_F(CudaGraphTest, KeepsArgumentsAsTheyWere) {
  Mirror x = Make(DType::kF32, 2, 4), out = Make(DType::kF32, 2, 4);
  x.Randomize(1);
  CopyRowsParams params{.dst = out.device().Rows(0, 1), .src = x.device().Rows(0, 1)};
  device_->BeginCapture();
  cuda::CopyRows(ctx_, params);
  const std::unique_ptr<CudaGraph> graph = device_->EndCapture();
  ASSERT_NE(graph, nullptr) << device_->Synchronize();
  params.src = x.device().Rows(1, 1);  // the graph does not see it
  device_->Launch(*graph);
  EXPECT_EQ(First(out), reference::At(x.host(), 0, 0));
}

// So many rows are the library's by any table, and it keeps its arguments, too.
TEST_F(CudaGraphTest, KeepsProductsOfTheLibraryInOrder) {
  constexpr int64_t kRows = kMaxWmmaRows + 1;
  Mirror x = Make(DType::kF16, kRows, 16), weight = Make(DType::kF16, 8, 16), out = Make(DType::kF32, kRows, 8),
         twice = Make(DType::kF32, kRows, 8);
  x.Randomize(1), weight.Randomize(2);
  const auto product = [&](const Mirror& to) {
    LinearParams p{.x = x.device(), .num_parts = 1, .accumulate = true};
    p.parts[0] = {weight.device(), {}, to.device()};
    cuda::Linear(ctx_, p);
  };
  device_->BeginCapture();
  product(out);
  Copy(out, twice);
  product(twice);
  const std::unique_ptr<CudaGraph> graph = device_->EndCapture();
  ASSERT_NE(graph, nullptr) << device_->Synchronize();
  device_->Launch(*graph);
  out.Download(), twice.Download();
  for (int64_t t = 0; t < kRows; ++t) {
    for (int64_t n = 0; n < 8; ++n) {
      ASSERT_NE(reference::At(out.host(), t, n), 0.0);
      ASSERT_NEAR(reference::At(twice.host(), t, n), 2 * reference::At(out.host(), t, n), 1e-4);
    }
  }
}

TEST_F(CudaGraphTest, IsSpoiltByACopyIn) {
  Mirror x = Make(DType::kF32, 1, 4);
  EXPECT_THAT(ErrorAfter([&] { x.Upload(); }), testing::HasSubstr("captur"));
}
TEST_F(CudaGraphTest, IsSpoiltByACopyOut) {
  Mirror x = Make(DType::kF32, 1, 4);
  float value = 0;
  EXPECT_THAT(ErrorAfter([&] { device_->CopyOut(&value, x.device().data, sizeof(value)); }),
              testing::HasSubstr("captur"));
}
TEST_F(CudaGraphTest, IsSpoiltByAnAllocation) {
  EXPECT_THAT(ErrorAfter([&] { EXPECT_EQ(device_->Allocate(256), nullptr); }), testing::HasSubstr("captur"));
}
TEST_F(CudaGraphTest, IsSpoiltByWaiting) {
  EXPECT_THAT(ErrorAfter([&] { (void)device_->Synchronize(); }), testing::HasSubstr("captur"));
}

}  // namespace
}  // namespace optserve
