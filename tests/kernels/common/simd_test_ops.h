#pragma once

#include <cstdint>

#include "kernels/common/simd.h"

// simd.h seen from outside: each function applies one of its functions to an array, on every instruction set.

namespace optserve {

OPTSERVE_SIMD_FUNCTION(void TestWidenF16(const F16* in, int64_t n, float* out))
OPTSERVE_SIMD_FUNCTION(void TestWidenBF16(const BF16* in, int64_t n, float* out))
OPTSERVE_SIMD_FUNCTION(void TestExp(const float* in, int64_t n, float* out))
OPTSERVE_SIMD_FUNCTION(void TestErf(const float* in, int64_t n, float* out))
OPTSERVE_SIMD_FUNCTION(void TestReduceAdd16(const float* in, float* out))
OPTSERVE_SIMD_FUNCTION(float TestReduceAdd(const float* in))
OPTSERVE_SIMD_FUNCTION(float TestReduceMax(const float* in))
// out[op][lane] for: a + b, a - b, a * b, a / b, max, min, a * b + c, round a, |a| with the sign of b
OPTSERVE_SIMD_FUNCTION(void TestArithmetic(const float* a, const float* b, const float* c, float (*out)[16]))
OPTSERVE_SIMD_FUNCTION(void TestTranspose(const float* in, float* out))  // 16 rows of 16

}  // namespace optserve
