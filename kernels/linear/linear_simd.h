#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/simd.h"
#include "kernels/common/tensor.h"
#include "kernels/linear/linear.h"

namespace optserve {

// One part of a Linear in the terms of its loops. Plain pointers: *_simd.cc files call no inline functions of ours.
struct LinearJob {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t num_rows = 0;  // T
  int64_t depth = 0;     // K
  const void* weight = nullptr;
  DType weight_dtype = DType::kF32;
  int64_t weight_stride = 0;
  const void* bias = nullptr;  // or null
  DType bias_dtype = DType::kF32;
  float* out = nullptr;
  int64_t out_stride = 0;
  Activation activation = Activation::kNone;
  bool accumulate = false;
};

// Memory that LinearColumns works in, aligned to 64 bytes.
inline constexpr int64_t kLinearScratchBytes = 512 << 10;

// Columns [begin, end) of out.
OPTSERVE_SIMD_FUNCTION(void LinearColumns(const LinearJob& job, int64_t begin, int64_t end, std::byte* scratch))

}  // namespace optserve
