#pragma once

#include <cstdint>

#include "kernels/common/context.h"

namespace optserve {

enum class LinearKernel : uint8_t {
  kSkinny,   // the ordinary cores'; weights are read once
  kWmma,     // the tensor cores'; weights are read once
  kLibrary,  // the library's matrix product, then an epilogue
};

// How a product of `rows` rows is launched on a device. Plain host arithmetic: tested without a GPU.
struct LinearPlan {
  LinearKernel kernel = LinearKernel::kSkinny;
  int tile_rows = 1;  // that one of our thread blocks computes: 1, 2, 4, 8, 16 of kSkinny, 8, 16, 32, 64 of kWmma
  int splits = 1;     // warps of a block that share a column's sum over K: 1, 2, 4 or 8
};

// Rows of the largest tiles. No line of the table lets our own kernels have more: they would read weights twice.
inline constexpr int64_t kMaxSkinnyRows = 16, kMaxWmmaRows = 64;

// The kernel by linear_table.inc. `splits` does not depend on `rows`, so that as long as it is the same one of our own
// kernels, a row's bits do not depend on how many others come with it.
LinearPlan PlanLinear(int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device);

// The same for a kernel that is chosen already, which can have so many rows.
LinearPlan PlanLinearAs(LinearKernel kernel, int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device);

struct LinearParams;
namespace cuda {
// Linear by `plan`, or where it is null by PlanLinear's: for who measures which is faster.
void LinearAs(const CudaContext& ctx, const LinearParams& p, const LinearPlan* plan);
}  // namespace cuda

}  // namespace optserve
