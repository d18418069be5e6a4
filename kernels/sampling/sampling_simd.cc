#include "kernels/sampling/sampling_simd.h"

namespace optserve::OPTSERVE_ISA {
namespace {

inline constexpr float kMinusInfinity = -__builtin_inff();

// Lanes [0, n) of p, the others -Inf.
OPTSERVE_SIMD_INLINE F32x16 LoadFirstOrMinusInfinity(const float* p, int64_t n) {
  float buffer[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) buffer[i] = i < n ? p[i] : kMinusInfinity;
  return Load(buffer);
}

}  // namespace

float LargestOf(const float* x, int64_t n) {
  F32x16 a = Set(kMinusInfinity), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a = Max(a, Load(x + i));
    b = Max(b, Load(x + i + kLanes));
    c = Max(c, Load(x + i + 2 * kLanes));
    d = Max(d, Load(x + i + 3 * kLanes));
  }
  for (; i < n; i += kLanes) a = Max(a, LoadFirstOrMinusInfinity(x + i, n - i));
  return ReduceMax(Max(Max(a, b), Max(c, d)));
}

void NormalizeRow(const float* x, int64_t n, RowNormalizer& result) {
  const float largest = LargestOf(x, n);
  const F32x16 m = Set(largest);
  F32x16 a = Zero(), b = Zero();
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a = Add(a, Exp(Sub(Load(x + i), m)));
    b = Add(b, Exp(Sub(Load(x + i + kLanes), m)));
  }
  for (; i < n; i += kLanes) a = Add(a, Exp(Sub(LoadFirstOrMinusInfinity(x + i, n - i), m)));
  result.largest = largest;
  result.log_sum = __builtin_logf(ReduceAdd(Add(a, b)));
}

void ExpOfDifferences(float* out, const float* x, int64_t n, float largest, float scale) {
  const F32x16 m = Set(largest), by = Set(scale);
  for (int64_t i = 0; i < n; i += kLanes) {
    if (n - i >= kLanes) {
      Store(out + i, Exp(Mul(Sub(Load(x + i), m), by)));
    } else {
      StoreFirst(out + i, n - i, Exp(Mul(Sub(LoadFirst(x + i, n - i), m), by)));
    }
  }
}

}  // namespace optserve::OPTSERVE_ISA
