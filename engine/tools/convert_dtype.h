#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/common/half.h"
#include "kernels/common/tensor.h"

namespace optserve {

// To the nearest, ties to even. A finite number beyond f16's largest becomes an infinity.
F16 ToF16(float x);
BF16 ToBF16(float x);

// Converts count elements. Returns the index of the first finite element that became infinite, or -1. `from` and `to`
// need no alignment.
int64_t ConvertElements(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype, int64_t count);

}  // namespace optserve
