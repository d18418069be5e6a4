#pragma once

#include <cstdint>

#include "kernels/common/simd.h"

namespace optserve {

// The sum of `count` floats, a multiple of 256; p is aligned to 64 bytes.
OPTSERVE_SIMD_FUNCTION(float StreamingSum(const float* p, int64_t count))

// 24 * 16 * `steps` independent multiply-adds, 2 flops each; the result only keeps the compiler from dropping them.
OPTSERVE_SIMD_FUNCTION(float FmaLoop(int64_t steps))

}  // namespace optserve
