#include "engine/tools/probe_simd.h"

namespace optserve::OPTSERVE_ISA {

float StreamingSum(const float* p, int64_t count) {
  F32x16 sum[8];
#pragma GCC unroll 8
  for (F32x16& s : sum) s = Zero();
  for (int64_t i = 0; i < count; i += 16 * kLanes) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) sum[j % 8] = Add(sum[j % 8], Load(p + i + j * kLanes));
  }
  float total = 0.0f;
  for (const F32x16& s : sum) total += ReduceAdd(s);
  return total;
}

float FmaLoop(int64_t steps) {
  // As many chains as registers hold, so that every unit always has one ready: 24 of 512 bits, 12 of 256, 3 of 4 x 128.
#if defined(__AVX512F__)
  constexpr int kChains = 24;
#elif defined(__AVX2__)
  constexpr int kChains = 6;
#else
  constexpr int kChains = 3;
#endif
  F32x16 chain[kChains];
  const F32x16 a = Set(0.999f), b = Set(0.001f);
#pragma GCC unroll 24
  for (int j = 0; j < kChains; ++j) chain[j] = Set(static_cast<float>(j));
  for (int64_t i = 0; i < steps * 24 / kChains; ++i) {
#pragma GCC unroll 24
    for (F32x16& c : chain) c = Fma(c, a, b);
  }
  F32x16 total = Zero();
#pragma GCC unroll 24
  for (const F32x16& c : chain) total = Add(total, c);
  return ReduceAdd(total);
}

}  // namespace optserve::OPTSERVE_ISA
