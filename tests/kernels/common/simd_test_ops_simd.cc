#include "tests/kernels/common/simd_test_ops.h"

namespace optserve::OPTSERVE_ISA {

void TestWidenF16(const F16* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(in + i));
  if (i < n) StoreFirst(out + i, n - i, LoadFirst(in + i, n - i));
}

void TestWidenBF16(const BF16* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(in + i));
  if (i < n) StoreFirst(out + i, n - i, LoadFirst(in + i, n - i));
}

void TestExp(const float* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) Store(out + i, Exp(Load(in + i)));
}

void TestErf(const float* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) Store(out + i, Erf(Load(in + i)));
}

void TestReduceAdd16(const float* in, float* out) {
  F32x16 a[kLanes];
  for (int l = 0; l < kLanes; ++l) a[l] = Load(in + l * kLanes);
  Store(out, ReduceAdd16(a));
}

float TestReduceAdd(const float* in) { return ReduceAdd(Load(in)); }

float TestReduceMax(const float* in) { return ReduceMax(Load(in)); }

void TestArithmetic(const float* a, const float* b, const float* c, float (*out)[16]) {
  const F32x16 x = Load(a), y = Load(b), z = Load(c);
  Store(out[0], Add(x, y));
  Store(out[1], Sub(x, y));
  Store(out[2], Mul(x, y));
  Store(out[3], Div(x, y));
  Store(out[4], Max(x, y));
  Store(out[5], Min(x, y));
  Store(out[6], Fma(x, y, z));
  Store(out[7], Round(x));
  Store(out[8], CopySign(x, y));
}

void TestTranspose(const float* in, float* out) {
  F32x16 rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = Load(in + i * kLanes);
  Transpose(rows);
  for (int i = 0; i < kLanes; ++i) Store(out + i * kLanes, rows[i]);
}

}  // namespace optserve::OPTSERVE_ISA
