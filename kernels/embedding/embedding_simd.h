#pragma once

#include <cstdint>

#include "kernels/common/simd.h"
#include "kernels/common/tensor.h"

namespace optserve {

// out[0, n) = row, widened exactly to f32. `row` may be unaligned.
OPTSERVE_SIMD_FUNCTION(void WidenRow(float* out, const void* row, DType dtype, int64_t n))

// x[0, n) += row.
OPTSERVE_SIMD_FUNCTION(void AddWideRow(float* x, const void* row, DType dtype, int64_t n))

}  // namespace optserve
