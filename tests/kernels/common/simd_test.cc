#include "kernels/common/simd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/common/cpu_context.h"
#include "tests/kernels/common/simd_test_ops.h"

namespace optserve {
namespace {

class SimdTest : public testing::TestWithParam<CpuIsa> {};

std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> isas;
  for (int isa = 0; isa <= static_cast<int>(DetectCpuIsa()); ++isa) isas.push_back(static_cast<CpuIsa>(isa));
  return isas;
}

INSTANTIATE_TEST_SUITE_P(Isas, SimdTest, testing::ValuesIn(SupportedIsas()), [](const auto& info) {
  return std::string(std::array{"portable", "avx2", "avx512"}[static_cast<int>(info.param)]);
});

// Two NaNs may differ in their quiet bit.
bool SameNumber(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

TEST_P(SimdTest, WidensEveryF16AndBF16Exactly) {
  std::vector<F16> half(65536 + 3);  // and a tail of three
  std::vector<BF16> brain(half.size());
  for (size_t i = 0; i < half.size(); ++i) half[i].bits = brain[i].bits = static_cast<uint16_t>(i);
  std::vector<float> out(half.size());
  OPTSERVE_SIMD_CALL(GetParam(), TestWidenF16)(half.data(), half.size(), out.data());
  for (size_t i = 0; i < half.size(); ++i) ASSERT_PRED2(SameNumber, out[i], ToF32(half[i])) << i;
  OPTSERVE_SIMD_CALL(GetParam(), TestWidenBF16)(brain.data(), brain.size(), out.data());
  for (size_t i = 0; i < brain.size(); ++i) ASSERT_PRED2(SameNumber, out[i], ToF32(brain[i])) << i;
}

TEST_P(SimdTest, WidensFromAnyAddress) {
  std::vector<unsigned char> bytes(2 * 21 + 1);
  std::vector<F16> half(21);
  for (size_t i = 0; i < half.size(); ++i) half[i].bits = static_cast<uint16_t>(0x3c00 + i);
  std::memcpy(bytes.data() + 1, half.data(), 2 * half.size());
  std::vector<float> out(21);
  OPTSERVE_SIMD_CALL(GetParam(), TestWidenF16)(reinterpret_cast<const F16*>(bytes.data() + 1), 21, out.data());
  for (size_t i = 0; i < half.size(); ++i) EXPECT_EQ(out[i], ToF32(half[i])) << i;
}

TEST_P(SimdTest, ExpIsCloseToTheExactOne) {
  std::vector<float> in;
  for (float x = -87.3f; x < 88.0f; x += 0.0113f) in.push_back(x);
  in.resize((in.size() + 15) / 16 * 16, 0.0f);
  std::vector<float> out(in.size());
  OPTSERVE_SIMD_CALL(GetParam(), TestExp)(in.data(), in.size(), out.data());
  for (size_t i = 0; i < in.size(); ++i) {
    const double exact = std::exp(static_cast<double>(in[i]));
    EXPECT_NEAR(out[i] / exact, 1.0, 2e-7) << in[i];
  }
}

TEST_P(SimdTest, ExpAtItsEnds) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> in(16, 0.0f), out(16);
  in[1] = -inf;
  in[2] = -88.0f;
  in[3] = -1e30f;
  in[4] = inf;
  in[5] = std::nanf("");
  OPTSERVE_SIMD_CALL(GetParam(), TestExp)(in.data(), 16, out.data());
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_EQ(out[3], 0.0f);
  EXPECT_GT(out[4], 1e38f);
  EXPECT_TRUE(std::isnan(out[5]));
}

TEST_P(SimdTest, ErfIsCloseToTheExactOne) {
  std::vector<float> in;
  for (float x = -6.0f; x < 6.0f; x += 0.00073f) in.push_back(x);
  in.push_back(std::nanf(""));
  in.resize((in.size() + 15) / 16 * 16, 0.0f);
  std::vector<float> out(in.size());
  OPTSERVE_SIMD_CALL(GetParam(), TestErf)(in.data(), in.size(), out.data());
  for (size_t i = 0; i < in.size(); ++i) {
    if (std::isnan(in[i])) {
      EXPECT_TRUE(std::isnan(out[i]));
    } else {
      EXPECT_NEAR(out[i], std::erf(static_cast<double>(in[i])), 5e-7) << in[i];
    }
  }
}

TEST_P(SimdTest, SixteenSumsAtOnceAreTheSumsOneByOne) {
  float in[16][16], out[16];
  for (int i = 0; i < 256; ++i) in[i / 16][i % 16] = static_cast<float>((i * 7919) % 1013) * 0.37f - 100.0f;
  OPTSERVE_SIMD_CALL(GetParam(), TestReduceAdd16)(in[0], out);
  for (int l = 0; l < 16; ++l) EXPECT_EQ(out[l], OPTSERVE_SIMD_CALL(GetParam(), TestReduceAdd)(in[l])) << l;
}

TEST_P(SimdTest, ReductionsAreTheDocumentedTree) {
  float in[16];
  for (int i = 0; i < 16; ++i) in[i] = (i % 2 == 0 ? 1.0f : -1.0f) * std::ldexp(1.0f + 0.37f * i, i);
  float tree[16];
  std::memcpy(tree, in, sizeof(in));
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) tree[i] += tree[i + width];
  }
  EXPECT_EQ(OPTSERVE_SIMD_CALL(GetParam(), TestReduceAdd)(in), tree[0]);
  EXPECT_EQ(OPTSERVE_SIMD_CALL(GetParam(), TestReduceMax)(in), in[14]);
}

TEST_P(SimdTest, ArithmeticRoundsOnceAndFmaFuses) {
  float a[16], b[16], c[16], out[9][16];
  for (int i = 0; i < 16; ++i) {
    a[i] = 1.0f + 0.731f * i;
    b[i] = -3.3f + 0.613f * i;
    c[i] = -a[i] * b[i];  // so that a * b + c is the rounding error of the product
  }
  OPTSERVE_SIMD_CALL(GetParam(), TestArithmetic)(a, b, c, out);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[0][i], a[i] + b[i]);
    EXPECT_EQ(out[1][i], a[i] - b[i]);
    EXPECT_EQ(out[2][i], a[i] * b[i]);
    EXPECT_EQ(out[3][i], a[i] / b[i]);
    EXPECT_EQ(out[4][i], std::max(a[i], b[i]));
    EXPECT_EQ(out[5][i], std::min(a[i], b[i]));
    EXPECT_EQ(out[6][i], GetParam() == CpuIsa::kPortable ? 0.0f : std::fma(a[i], b[i], c[i]));
    EXPECT_EQ(out[7][i], std::nearbyint(a[i]));
    EXPECT_EQ(out[8][i], std::copysign(a[i], b[i]));
  }
}

TEST_P(SimdTest, TransposesSixteenRows) {
  std::vector<float> in(256), out(256);
  for (int i = 0; i < 256; ++i) in[i] = static_cast<float>(i);
  OPTSERVE_SIMD_CALL(GetParam(), TestTranspose)(in.data(), out.data());
  for (int i = 0; i < 256; ++i) ASSERT_EQ(out[i % 16 * 16 + i / 16], in[i]);
}

}  // namespace
}  // namespace optserve
