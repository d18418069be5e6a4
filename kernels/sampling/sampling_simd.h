#pragma once

#include <cstdint>

#include "kernels/common/simd.h"

namespace optserve {

// Rows are gone through in blocks, each with its largest element and its sum beside it. What is rare (the best tokens,
// the candidates of a cut, the token drawn) is then found by looking into the few blocks that can hold it.
inline constexpr int64_t kRowBlock = 64;

constexpr int64_t NumRowBlocks(int64_t n) { return (n + kRowBlock - 1) / kRowBlock; }

// largest[b] is the largest of block b; returns that of all of x[0, n). n >= 1. NaN anywhere gives anything.
OPTSERVE_SIMD_FUNCTION(float LargestOfBlocks(const float* x, int64_t n, float* largest))

// log(sum of exp(x - largest)), in an order that depends on n alone. NaN if x has one.
OPTSERVE_SIMD_FUNCTION(float LogSumExp(const float* x, int64_t n, float largest))

// The weights that tokens are drawn with.
struct RowWeights {
  float* weights = nullptr;  // [n] exp((x - largest) * scale)
  float* sums = nullptr;     // [NumRowBlocks(n)]
  float* largest = nullptr;  // [NumRowBlocks(n)]
};

OPTSERVE_SIMD_FUNCTION(void WeighRow(const float* x, int64_t n, float largest, float scale, const RowWeights& out))

// The sum of max(weight - threshold, 0): no more than what the weights of at least `threshold` sum to.
OPTSERVE_SIMD_FUNCTION(float SumAbove(const float* weights, int64_t n, float threshold))

}  // namespace optserve
