#pragma once

#include <cstdint>

#include "kernels/common/context.h"

namespace optserve {

// How a product of `rows` rows is launched on a device. Plain host arithmetic: tested without a GPU.
struct LinearPlan {
  bool gemm = false;  // the library's matrix product, then an epilogue; else our own kernel, which reads weights once
  int tile_rows = 1;  // rows that one thread block computes: 1, 2, 4, 8 or 16
  int splits = 1;     // warps of a block that share a column's sum over K
};

// Up to so many rows our own kernel is used.
inline constexpr int64_t kMaxSkinnyRows = 16;

// `splits` does not depend on `rows`, so that a row's bits do not depend on how many others come with it.
LinearPlan PlanLinear(int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device);

}  // namespace optserve
