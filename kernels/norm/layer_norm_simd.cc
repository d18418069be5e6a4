#include "kernels/norm/layer_norm_simd.h"

namespace optserve::OPTSERVE_ISA {
namespace {

OPTSERVE_SIMD_INLINE F32x16 LoadAny(const void* p, DType dtype, int64_t i, int64_t n) {
  if (dtype == DType::kF16) {
    const F16* q = static_cast<const F16*>(p) + i;
    return n >= kLanes ? Load(q) : LoadFirst(q, n);
  }
  if (dtype == DType::kBF16) {
    const BF16* q = static_cast<const BF16*>(p) + i;
    return n >= kLanes ? Load(q) : LoadFirst(q, n);
  }
  const float* q = static_cast<const float*>(p) + i;
  return n >= kLanes ? Load(q) : LoadFirst(q, n);
}

OPTSERVE_SIMD_INLINE void StoreAny(float* p, int64_t n, F32x16 a) { n >= kLanes ? Store(p, a) : StoreFirst(p, n, a); }

// Lanes past n are zero in both sums: LoadFirst fills with 0, and for the variance `mean` is taken off first.
OPTSERVE_SIMD_INLINE float Sum(const float* x, int64_t n) {
  F32x16 sum = Zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = Add(sum, Load(x + i));
  if (i < n) sum = Add(sum, LoadFirst(x + i, n - i));
  return ReduceAdd(sum);
}

OPTSERVE_SIMD_INLINE float SumOfSquares(const float* x, int64_t n, float mean) {
  const F32x16 m = Set(mean);
  F32x16 sum = Zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F32x16 d = Sub(Load(x + i), m);
    sum = Fma(d, d, sum);
  }
  float rest = ReduceAdd(sum);
  for (; i < n; ++i) rest += (x[i] - mean) * (x[i] - mean);
  return rest;
}

}  // namespace

void LayerNormRow(float* out, const float* x, int64_t n, const NormAffine& affine, float epsilon) {
  const float mean = Sum(x, n) / static_cast<float>(n);
  const float variance = SumOfSquares(x, n, mean) / static_cast<float>(n);
  const F32x16 m = Set(mean);
  const F32x16 scale = Set(1.0f / __builtin_sqrtf(variance + epsilon));
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    F32x16 y = Mul(Sub(LoadAny(x, DType::kF32, i, left), m), scale);
    if (affine.weight != nullptr) y = Mul(y, LoadAny(affine.weight, affine.weight_dtype, i, left));
    if (affine.bias != nullptr) y = Add(y, LoadAny(affine.bias, affine.bias_dtype, i, left));
    StoreAny(out + i, left, y);
  }
}

void AddBiasResidualRow(float* x, const float* partial, const void* bias, DType bias_dtype, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    F32x16 sum = LoadAny(partial, DType::kF32, i, left);
    if (bias != nullptr) sum = Add(sum, LoadAny(bias, bias_dtype, i, left));
    StoreAny(x + i, left, Add(LoadAny(x, DType::kF32, i, left), sum));
  }
}

}  // namespace optserve::OPTSERVE_ISA
