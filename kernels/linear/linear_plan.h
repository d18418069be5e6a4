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

// Rows of the largest tile. No line of the table lets our own kernel have more: it would read weights twice.
inline constexpr int64_t kMaxSkinnyRows = 16;

// The kernel by linear_table.inc. `splits` does not depend on `rows`, so that as long as it is our own kernel's, a
// row's bits do not depend on how many others come with it.
LinearPlan PlanLinear(int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device);

struct LinearParams;
namespace cuda {
// Linear by `plan`, or where it is null by PlanLinear's: for who measures which is faster.
void LinearAs(const CudaContext& ctx, const LinearParams& p, const LinearPlan* plan);
}  // namespace cuda

}  // namespace optserve
