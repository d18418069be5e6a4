#pragma once

#include <cstdint>

#include "kernels/common/simd.h"

namespace optserve {

// log_softmax(x)[i] = x[i] - largest - log_sum. Not finite when the row has a NaN or +Inf, or nothing but -Inf.
struct RowNormalizer {
  float largest = 0.0f;
  float log_sum = 0.0f;  // of exp(x - largest); the order of the sum depends on n alone
};

OPTSERVE_SIMD_FUNCTION(void NormalizeRow(const float* x, int64_t n, RowNormalizer& result))

// The largest of x[0, n); n >= 1. NaN anywhere gives anything.
OPTSERVE_SIMD_FUNCTION(float LargestOf(const float* x, int64_t n))

// out[i] = exp((x[i] - largest) * scale). out may be x.
OPTSERVE_SIMD_FUNCTION(void ExpOfDifferences(float* out, const float* x, int64_t n, float largest, float scale))

}  // namespace optserve
