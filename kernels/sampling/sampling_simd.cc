#include "kernels/sampling/sampling_simd.h"

namespace optserve::OPTSERVE_ISA {
namespace {

inline constexpr float kMinusInfinity = -__builtin_inff();

// Lanes [0, n) of p, the others -Inf; n may be more than kLanes, or none.
OPTSERVE_SIMD_INLINE F32x16 LoadOrMinusInfinity(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  float buffer[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) buffer[i] = i < n ? p[i] : kMinusInfinity;
  return Load(buffer);
}

}  // namespace

static_assert(kRowBlock == 4 * kLanes);

float LargestOfBlocks(const float* x, int64_t n, float* largest) {
  F32x16 all = Set(kMinusInfinity);
  for (int64_t i = 0; i < n; i += kRowBlock) {
    F32x16 block = LoadOrMinusInfinity(x + i, n - i);
    if (n - i >= kRowBlock) {
      const F32x16 front = Max(block, Load(x + i + kLanes));
      block = Max(front, Max(Load(x + i + 2 * kLanes), Load(x + i + 3 * kLanes)));
    } else {
      for (int64_t j = i + kLanes; j < n; j += kLanes) block = Max(block, LoadOrMinusInfinity(x + j, n - j));
    }
    largest[i / kRowBlock] = ReduceMax(block);
    all = Max(all, block);
  }
  return ReduceMax(all);
}

float LogSumExp(const float* x, int64_t n, float largest) {
  const F32x16 m = Set(largest);
  F32x16 a = Zero(), b = Zero();
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a = Add(a, Exp(Sub(Load(x + i), m)));
    b = Add(b, Exp(Sub(Load(x + i + kLanes), m)));
  }
  for (; i < n; i += kLanes) a = Add(a, Exp(Sub(LoadOrMinusInfinity(x + i, n - i), m)));
  return __builtin_logf(ReduceAdd(Add(a, b)));
}

void WeighRow(const float* x, int64_t n, float largest, float scale, const RowWeights& out) {
  const F32x16 m = Set(largest), by = Set(scale);
  for (int64_t block = 0; block * kRowBlock < n; ++block) {
    F32x16 sum = Zero(), most = Zero();
    const int64_t end = (block + 1) * kRowBlock < n ? (block + 1) * kRowBlock : n;
    for (int64_t i = block * kRowBlock; i < end; i += kLanes) {
      const F32x16 weight = Exp(Mul(Sub(LoadOrMinusInfinity(x + i, n - i), m), by));
      n - i >= kLanes ? Store(out.weights + i, weight) : StoreFirst(out.weights + i, n - i, weight);
      sum = Add(sum, weight);
      most = Max(most, weight);
    }
    out.sums[block] = ReduceAdd(sum);
    out.largest[block] = ReduceMax(most);
  }
}

float SumAbove(const float* weights, int64_t n, float threshold) {
  const F32x16 t = Set(threshold);
  F32x16 sum[4] = {Zero(), Zero(), Zero(), Zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int u = 0; u < 4; ++u) sum[u] = Add(sum[u], Max(Sub(Load(weights + i + u * kLanes), t), Zero()));
  }
  for (; i < n; i += kLanes) sum[0] = Add(sum[0], Max(Sub(LoadOrMinusInfinity(weights + i, n - i), t), Zero()));
  return ReduceAdd(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])));
}

}  // namespace optserve::OPTSERVE_ISA
