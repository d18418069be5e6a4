#pragma once

#include <cstdint>

#include "kernels/common/simd.h"
#include "kernels/common/tensor.h"

namespace optserve {

// Weight and bias of a norm, or a bias alone; null: none.
struct NormAffine {
  const void* weight = nullptr;
  DType weight_dtype = DType::kF32;
  const void* bias = nullptr;
  DType bias_dtype = DType::kF32;
};

// One row of LayerNorm; out may be x.
OPTSERVE_SIMD_FUNCTION(void LayerNormRow(float* out, const float* x, int64_t n, const NormAffine& affine,
                                         float epsilon))

// x[0, n) += partial + bias; `bias` null: none.
OPTSERVE_SIMD_FUNCTION(void AddBiasResidualRow(float* x, const float* partial, const void* bias, DType bias_dtype,
                                               int64_t n))

}  // namespace optserve
