#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/common/context.h"
#include "kernels/common/half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Sixteen f32 lanes, from one source for every instruction set of CpuIsa.
//
// A file named *_simd.cc is compiled once per instruction set (optserve_simd_sources in kernels/CMakeLists.txt), each
// time with OPTSERVE_ISA set to portable, avx2 or avx512, and puts everything it defines into namespace
// optserve::OPTSERVE_ISA:
//
//   // scale_simd.h                                        // scale_simd.cc
//   OPTSERVE_SIMD_FUNCTION(                                namespace optserve::OPTSERVE_ISA {
//       void ScaleRow(float* row, int64_t n, float by));   void ScaleRow(float* row, int64_t n, float by) {
//                                                            int64_t i = 0;
//   // scale_cpu.cc                                          for (; i + 16 <= n; i += 16) Store(row + i, ...);
//   OPTSERVE_SIMD_CALL(ctx.info.isa, ScaleRow)               if (i < n) StoreFirst(row + i, n - i, ...);
//       (row, n, by);                                      }}
//
// Everything else in such a file is `inline` with internal linkage: no templates or inline functions of other headers
// that the compiler might emit out of line, std:: and OPTSERVE_CHECK included, because the linker keeps one copy of
// those for the whole program and could keep the one with AVX-512 in it.
//
// Numerics  the compiler contracts nothing (-ffp-contract=off): what is fused says Fma. F32x16 has the same lanes and
//           the same reduction tree everywhere, so AVX2 and AVX-512 give the same bits; portable code rounds the
//           product in Fma and so does not.

#define OPTSERVE_SIMD_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define OPTSERVE_SIMD_FUNCTION(declaration) \
  namespace portable {                      \
  declaration;                              \
  }                                         \
  namespace avx2 {                          \
  declaration;                              \
  }                                         \
  namespace avx512 {                        \
  declaration;                              \
  }
#define OPTSERVE_SIMD_CALL(isa, function)                  \
  ((isa) == ::optserve::CpuIsa::kAvx512 ? avx512::function \
   : (isa) == ::optserve::CpuIsa::kAvx2 ? avx2::function   \
                                        : portable::function)
#else
#define OPTSERVE_SIMD_FUNCTION(declaration) \
  namespace portable {                      \
  declaration;                              \
  }
#define OPTSERVE_SIMD_CALL(isa, function) (static_cast<void>(isa), portable::function)
#endif

#if defined(OPTSERVE_ISA)

namespace optserve::OPTSERVE_ISA {
namespace {

inline constexpr int kLanes = 16;

// Two vectors that act as one of twice the width.
template <typename Half>
struct Pair {
  Half lo, hi;
};

// ---------------------------------------------------------------- the widest vector that the instruction set has
//
// Max and Min give b if either is NaN, as the x86 instructions do. PowerOfTwo(n) is 2^n for whole n <= 127, and 0 below
// the normal numbers.

#if defined(__AVX512F__)

using F32x16 = __m512;

OPTSERVE_SIMD_INLINE F32x16 Set(float x) { return _mm512_set1_ps(x); }
OPTSERVE_SIMD_INLINE F32x16 Load(const float* p) { return _mm512_loadu_ps(p); }
OPTSERVE_SIMD_INLINE F32x16 Load(const F16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
OPTSERVE_SIMD_INLINE F32x16 Load(const BF16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
OPTSERVE_SIMD_INLINE void Store(float* p, F32x16 a) { _mm512_storeu_ps(p, a); }
OPTSERVE_SIMD_INLINE F32x16 Add(F32x16 a, F32x16 b) { return _mm512_add_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x16 Sub(F32x16 a, F32x16 b) { return _mm512_sub_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x16 Mul(F32x16 a, F32x16 b) { return _mm512_mul_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x16 Div(F32x16 a, F32x16 b) { return _mm512_div_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x16 Max(F32x16 a, F32x16 b) { return _mm512_max_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x16 Min(F32x16 a, F32x16 b) { return _mm512_min_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a, b, c); }
OPTSERVE_SIMD_INLINE F32x16 Round(F32x16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
OPTSERVE_SIMD_INLINE F32x16 PowerOfTwo(F32x16 n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_max_epi32(exponent, _mm512_setzero_si512()), 23));
}
OPTSERVE_SIMD_INLINE F32x16 CopySign(F32x16 magnitude, F32x16 sign) {
  const __m512 mask = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(mask, magnitude), _mm512_and_ps(mask, sign));
}
using F32x8 = __m256;
OPTSERVE_SIMD_INLINE F32x8 LowHalf(F32x16 a) { return _mm512_castps512_ps256(a); }
OPTSERVE_SIMD_INLINE F32x8 HighHalf(F32x16 a) { return _mm512_extractf32x8_ps(a, 1); }
OPTSERVE_SIMD_INLINE void Transpose(__m512 (&a)[16]) {
  __m512 pairs[16], fours[16];  // [4 i + j]: of columns j, j + 4, ..., rows 4 i .. 4 i + 3
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d lo0 = _mm512_castps_pd(pairs[i]), lo1 = _mm512_castps_pd(pairs[i + 2]);
    const __m512d hi0 = _mm512_castps_pd(pairs[i + 1]), hi1 = _mm512_castps_pd(pairs[i + 3]);
    fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo0, lo1));
    fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo0, lo1));
    fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi0, hi1));
    fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi0, hi1));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 even_lo = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88);
    const __m512 odd_lo = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
    const __m512 even_hi = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88);
    const __m512 odd_hi = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
    a[j] = _mm512_shuffle_f32x4(even_lo, even_hi, 0x88);
    a[4 + j] = _mm512_shuffle_f32x4(odd_lo, odd_hi, 0x88);
    a[8 + j] = _mm512_shuffle_f32x4(even_lo, even_hi, 0xdd);
    a[12 + j] = _mm512_shuffle_f32x4(odd_lo, odd_hi, 0xdd);
  }
}

#endif

#if defined(__AVX2__)

#if !defined(__AVX512F__)
using F32x8 = __m256;
using F32x16 = Pair<F32x8>;
#endif

OPTSERVE_SIMD_INLINE F32x8 SetPart(float x, F32x8*) { return _mm256_set1_ps(x); }
OPTSERVE_SIMD_INLINE F32x8 LoadPart(const float* p, F32x8*) { return _mm256_loadu_ps(p); }
OPTSERVE_SIMD_INLINE F32x8 LoadPart(const F16* p, F32x8*) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
OPTSERVE_SIMD_INLINE F32x8 LoadPart(const BF16* p, F32x8*) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
OPTSERVE_SIMD_INLINE void Store(float* p, F32x8 a) { _mm256_storeu_ps(p, a); }
OPTSERVE_SIMD_INLINE F32x8 Add(F32x8 a, F32x8 b) { return _mm256_add_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x8 Sub(F32x8 a, F32x8 b) { return _mm256_sub_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x8 Mul(F32x8 a, F32x8 b) { return _mm256_mul_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x8 Div(F32x8 a, F32x8 b) { return _mm256_div_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x8 Max(F32x8 a, F32x8 b) { return _mm256_max_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x8 Min(F32x8 a, F32x8 b) { return _mm256_min_ps(a, b); }
OPTSERVE_SIMD_INLINE F32x8 Fma(F32x8 a, F32x8 b, F32x8 c) { return _mm256_fmadd_ps(a, b, c); }
OPTSERVE_SIMD_INLINE F32x8 Round(F32x8 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT); }
OPTSERVE_SIMD_INLINE F32x8 PowerOfTwo(F32x8 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_max_epi32(exponent, _mm256_setzero_si256()), 23));
}
OPTSERVE_SIMD_INLINE F32x8 CopySign(F32x8 magnitude, F32x8 sign) {
  const __m256 mask = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(mask, magnitude), _mm256_and_ps(mask, sign));
}
// ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
OPTSERVE_SIMD_INLINE float ReduceAdd(F32x8 a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
OPTSERVE_SIMD_INLINE float ReduceMax(F32x8 a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

OPTSERVE_SIMD_INLINE void Transpose(__m256 (&a)[8]) {
  __m256 fours[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256 lo0 = _mm256_unpacklo_ps(a[i], a[i + 1]), lo1 = _mm256_unpacklo_ps(a[i + 2], a[i + 3]);
    const __m256 hi0 = _mm256_unpackhi_ps(a[i], a[i + 1]), hi1 = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);
    fours[i] = _mm256_shuffle_ps(lo0, lo1, 0x44);
    fours[i + 1] = _mm256_shuffle_ps(lo0, lo1, 0xee);
    fours[i + 2] = _mm256_shuffle_ps(hi0, hi1, 0x44);
    fours[i + 3] = _mm256_shuffle_ps(hi0, hi1, 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    a[j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20);
    a[4 + j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31);
  }
}

#else  // portable: vectors of four, which every compiler target has or imitates

using F32x4 = float __attribute__((vector_size(16)));
using I32x4 = int32_t __attribute__((vector_size(16)));
using F32x8 = Pair<F32x4>;
using F32x16 = Pair<F32x8>;

OPTSERVE_SIMD_INLINE I32x4 Bits(F32x4 a) { return reinterpret_cast<I32x4>(a); }
OPTSERVE_SIMD_INLINE F32x4 FromBits(I32x4 a) { return reinterpret_cast<F32x4>(a); }
OPTSERVE_SIMD_INLINE F32x4 Choose(I32x4 mask, F32x4 a, F32x4 b) {
  return FromBits((mask & Bits(a)) | (~mask & Bits(b)));
}

OPTSERVE_SIMD_INLINE F32x4 SetPart(float x, F32x4*) { return F32x4{x, x, x, x}; }
OPTSERVE_SIMD_INLINE F32x4 LoadPart(const float* p, F32x4*) {
  F32x4 a;
  std::memcpy(&a, p, sizeof(a));
  return a;
}
OPTSERVE_SIMD_INLINE I32x4 LoadBits16(const void* p) {
  uint16_t h[4];
  std::memcpy(h, p, sizeof(h));
  return I32x4{h[0], h[1], h[2], h[3]};
}
OPTSERVE_SIMD_INLINE F32x4 LoadPart(const F16* p, F32x4*) {  // half.h's ToF32, four at a time
  const I32x4 h = LoadBits16(p);
  const I32x4 rest = (h & 0x7fff) << 13;
  const I32x4 finite = Bits(FromBits(rest) * 0x1p112f);
  const I32x4 not_finite = rest >= (31 << 23);
  return FromBits(((h & 0x8000) << 16) | (not_finite & (rest | 0x7f800000)) | (~not_finite & finite));
}
OPTSERVE_SIMD_INLINE F32x4 LoadPart(const BF16* p, F32x4*) { return FromBits(LoadBits16(p) << 16); }
OPTSERVE_SIMD_INLINE void Store(float* p, F32x4 a) { std::memcpy(p, &a, sizeof(a)); }
OPTSERVE_SIMD_INLINE F32x4 Add(F32x4 a, F32x4 b) { return a + b; }
OPTSERVE_SIMD_INLINE F32x4 Sub(F32x4 a, F32x4 b) { return a - b; }
OPTSERVE_SIMD_INLINE F32x4 Mul(F32x4 a, F32x4 b) { return a * b; }
OPTSERVE_SIMD_INLINE F32x4 Div(F32x4 a, F32x4 b) { return a / b; }
OPTSERVE_SIMD_INLINE F32x4 Max(F32x4 a, F32x4 b) { return Choose(a > b, a, b); }
OPTSERVE_SIMD_INLINE F32x4 Min(F32x4 a, F32x4 b) { return Choose(a < b, a, b); }
OPTSERVE_SIMD_INLINE F32x4 Fma(F32x4 a, F32x4 b, F32x4 c) { return a * b + c; }
OPTSERVE_SIMD_INLINE F32x4 Round(F32x4 a) {  // |a| < 2^22
  const F32x4 big = SetPart(0x1.8p23f, &a);
  return (a + big) - big;
}
OPTSERVE_SIMD_INLINE F32x4 PowerOfTwo(F32x4 n) {
  const I32x4 exponent = __builtin_convertvector(n, I32x4) + 127;
  return FromBits((exponent & (exponent > 0)) << 23);
}
OPTSERVE_SIMD_INLINE F32x4 CopySign(F32x4 magnitude, F32x4 sign) {
  return FromBits((Bits(magnitude) & 0x7fffffff) | (Bits(sign) & ~0x7fffffff));
}
OPTSERVE_SIMD_INLINE void Transpose(F32x4 (&a)[4]) {
  const F32x4 lo0 = {a[0][0], a[1][0], a[0][1], a[1][1]}, lo1 = {a[2][0], a[3][0], a[2][1], a[3][1]};
  const F32x4 hi0 = {a[0][2], a[1][2], a[0][3], a[1][3]}, hi1 = {a[2][2], a[3][2], a[2][3], a[3][3]};
  a[0] = F32x4{lo0[0], lo0[1], lo1[0], lo1[1]};
  a[1] = F32x4{lo0[2], lo0[3], lo1[2], lo1[3]};
  a[2] = F32x4{hi0[0], hi0[1], hi1[0], hi1[1]};
  a[3] = F32x4{hi0[2], hi0[3], hi1[2], hi1[3]};
}
OPTSERVE_SIMD_INLINE float ReduceAdd(F32x4 a) { return (a[0] + a[2]) + (a[1] + a[3]); }
OPTSERVE_SIMD_INLINE float ReduceMax(F32x4 a) {
  const float even = a[0] > a[2] ? a[0] : a[2], odd = a[1] > a[3] ? a[1] : a[3];
  return even > odd ? even : odd;
}

#endif

// ---------------------------------------------------------------- the same for pairs

#define OPTSERVE_PAIR_OP(Op, Args, Lo, Hi)  \
  template <typename Half>                  \
  OPTSERVE_SIMD_INLINE Pair<Half> Op Args { \
    return {Op Lo, Op Hi};                  \
  }
OPTSERVE_PAIR_OP(Add, (Pair<Half> a, Pair<Half> b), (a.lo, b.lo), (a.hi, b.hi))
OPTSERVE_PAIR_OP(Sub, (Pair<Half> a, Pair<Half> b), (a.lo, b.lo), (a.hi, b.hi))
OPTSERVE_PAIR_OP(Mul, (Pair<Half> a, Pair<Half> b), (a.lo, b.lo), (a.hi, b.hi))
OPTSERVE_PAIR_OP(Div, (Pair<Half> a, Pair<Half> b), (a.lo, b.lo), (a.hi, b.hi))
OPTSERVE_PAIR_OP(Max, (Pair<Half> a, Pair<Half> b), (a.lo, b.lo), (a.hi, b.hi))
OPTSERVE_PAIR_OP(Min, (Pair<Half> a, Pair<Half> b), (a.lo, b.lo), (a.hi, b.hi))
OPTSERVE_PAIR_OP(Fma, (Pair<Half> a, Pair<Half> b, Pair<Half> c), (a.lo, b.lo, c.lo), (a.hi, b.hi, c.hi))
OPTSERVE_PAIR_OP(Round, (Pair<Half> a), (a.lo), (a.hi))
OPTSERVE_PAIR_OP(PowerOfTwo, (Pair<Half> a), (a.lo), (a.hi))
OPTSERVE_PAIR_OP(CopySign, (Pair<Half> a, Pair<Half> b), (a.lo, b.lo), (a.hi, b.hi))
#undef OPTSERVE_PAIR_OP

template <typename Half>
OPTSERVE_SIMD_INLINE Pair<Half> SetPart(float x, Pair<Half>*) {
  const Half half = SetPart(x, static_cast<Half*>(nullptr));
  return {half, half};
}
template <typename T, typename Half>
OPTSERVE_SIMD_INLINE Pair<Half> LoadPart(const T* p, Pair<Half>*) {
  constexpr int64_t kHalf = sizeof(Half) / sizeof(float);
  return {LoadPart(p, static_cast<Half*>(nullptr)), LoadPart(p + kHalf, static_cast<Half*>(nullptr))};
}
template <typename Half>
OPTSERVE_SIMD_INLINE void Store(float* p, Pair<Half> a) {
  Store(p, a.lo);
  Store(p + sizeof(Half) / sizeof(float), a.hi);
}
#if !defined(__AVX2__)
template <typename Half>
OPTSERVE_SIMD_INLINE float ReduceAdd(Pair<Half> a) {
  return ReduceAdd(Add(a.lo, a.hi));
}
template <typename Half>
OPTSERVE_SIMD_INLINE float ReduceMax(Pair<Half> a) {
  return ReduceMax(Max(a.lo, a.hi));
}
#endif

// ---------------------------------------------------------------- what kernels use

#if !defined(__AVX512F__)
OPTSERVE_SIMD_INLINE F32x16 Set(float x) { return SetPart(x, static_cast<F32x16*>(nullptr)); }
// T: float, F16 or BF16, widened exactly. p may be unaligned.
template <typename T>
OPTSERVE_SIMD_INLINE F32x16 Load(const T* p) {
  return LoadPart(p, static_cast<F32x16*>(nullptr));
}
OPTSERVE_SIMD_INLINE F32x8 LowHalf(F32x16 a) { return a.lo; }
OPTSERVE_SIMD_INLINE F32x8 HighHalf(F32x16 a) { return a.hi; }
#endif

OPTSERVE_SIMD_INLINE F32x16 Zero() { return Set(0.0f); }

// Lanes [0, n) from p, the others 0; 0 <= n <= 16. Reads nothing past n.
template <typename T>
OPTSERVE_SIMD_INLINE F32x16 LoadFirst(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, n * sizeof(T));
  return Load(buffer);
}
OPTSERVE_SIMD_INLINE void StoreFirst(float* p, int64_t n, F32x16 a) {
  float buffer[kLanes];
  Store(buffer, a);
  std::memcpy(p, buffer, n * sizeof(float));
}

// The sum of the lanes, as a tree: lane i and i + 8, then i and i + 4, i and i + 2, 0 and 1.
OPTSERVE_SIMD_INLINE float ReduceAdd(F32x16 a) { return ReduceAdd(Add(LowHalf(a), HighHalf(a))); }
OPTSERVE_SIMD_INLINE float ReduceMax(F32x16 a) { return ReduceMax(Max(LowHalf(a), HighHalf(a))); }

// Lane j of a[i] becomes lane i of a[j].
#if !defined(__AVX512F__)
template <typename Half, int kRows>
OPTSERVE_SIMD_INLINE void Transpose(Pair<Half> (&a)[kRows]) {
  Half top_lo[kRows / 2], top_hi[kRows / 2], bottom_lo[kRows / 2], bottom_hi[kRows / 2];
#pragma GCC unroll 8
  for (int i = 0; i < kRows / 2; ++i) {
    top_lo[i] = a[i].lo;
    top_hi[i] = a[i].hi;
    bottom_lo[i] = a[kRows / 2 + i].lo;
    bottom_hi[i] = a[kRows / 2 + i].hi;
  }
  Transpose(top_lo);
  Transpose(top_hi);
  Transpose(bottom_lo);
  Transpose(bottom_hi);
#pragma GCC unroll 8
  for (int i = 0; i < kRows / 2; ++i) {
    a[i] = {top_lo[i], bottom_lo[i]};
    a[kRows / 2 + i] = {top_hi[i], bottom_hi[i]};
  }
}
#endif

// The sums of sixteen vectors at once: lane l is ReduceAdd(a[l]), by the same tree.
OPTSERVE_SIMD_INLINE F32x16 ReduceAdd16(const F32x16 (&a)[16]) {
#if defined(__AVX512F__)
  // Halving sixteen vectors by shuffles that serve two at a time costs three instructions per sum instead of eight.
  F32x16 quarter[4];  // [i] holds, for each j, the four partial sums of a[4 j + i]
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const F32x16 ab = Add(_mm512_shuffle_f32x4(a[i], a[4 + i], 0x44), _mm512_shuffle_f32x4(a[i], a[4 + i], 0xee));
    const F32x16 cd =
        Add(_mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x44), _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xee));
    quarter[i] = Add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  }
  const F32x16 even = Add(_mm512_unpacklo_ps(quarter[0], quarter[1]), _mm512_unpackhi_ps(quarter[0], quarter[1]));
  const F32x16 odd = Add(_mm512_unpacklo_ps(quarter[2], quarter[3]), _mm512_unpackhi_ps(quarter[2], quarter[3]));
  const __m512d lo = _mm512_unpacklo_pd(_mm512_castps_pd(even), _mm512_castps_pd(odd));
  const __m512d hi = _mm512_unpackhi_pd(_mm512_castps_pd(even), _mm512_castps_pd(odd));
  return Add(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi));
#else
  float sums[kLanes];
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) sums[l] = ReduceAdd(a[l]);
  return Load(sums);
#endif
}

// e^x: relative error below 2e-7 down to the smallest normal number, 0 for x < -87.7, e^88 for x > 88, NaN for NaN.
// Source: Cephes expf, S. Moshier.
OPTSERVE_SIMD_INLINE F32x16 Exp(F32x16 x) {
  const F32x16 bounded = Min(Set(88.0f), Max(Set(-89.0f), x));
  const F32x16 n = Round(Mul(bounded, Set(1.44269504088896341f)));
  const F32x16 r = Fma(n, Set(2.12194440e-4f), Fma(n, Set(-0.693359375f), bounded));  // x - n ln 2, ln 2 in two parts
  F32x16 p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Add(Fma(p, Mul(r, r), r), Set(1.0f));
  return Mul(p, PowerOfTwo(n));
}

// The error function: absolute error below 5e-7, NaN for NaN.
// Source: the rational approximation that Eigen and XLA use.
OPTSERVE_SIMD_INLINE F32x16 Erf(F32x16 x) {
  const F32x16 bounded = Min(Set(4.0f), Max(Set(-4.0f), x));
  const F32x16 square = Mul(bounded, bounded);
  F32x16 p = Set(-2.72614225801306e-10f);
  p = Fma(p, square, Set(2.77068142495902e-08f));
  p = Fma(p, square, Set(-2.10102402082508e-06f));
  p = Fma(p, square, Set(-5.69250639462346e-05f));
  p = Fma(p, square, Set(-7.34990630326855e-04f));
  p = Fma(p, square, Set(-2.95459980854025e-03f));
  p = Fma(p, square, Set(-1.60960333262415e-02f));
  F32x16 q = Set(-1.45660718464996e-05f);
  q = Fma(q, square, Set(-2.13374055278905e-04f));
  q = Fma(q, square, Set(-1.68282697438203e-03f));
  q = Fma(q, square, Set(-7.37332916720468e-03f));
  q = Fma(q, square, Set(-1.42647390514189e-02f));
  return Div(Mul(bounded, p), q);
}

}  // namespace
}  // namespace optserve::OPTSERVE_ISA

#endif  // OPTSERVE_ISA
