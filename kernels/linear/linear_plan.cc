#include "kernels/linear/linear_plan.h"

#include "kernels/linear/linear_table.h"

namespace optserve {
namespace {

// Enough warps for every multiprocessor to have so many, as long as each has enough of a column left to do.
int Splits(int64_t columns, int64_t depth, int columns_of_warp, int64_t warps, int64_t least_depth) {
  int splits = 1;
  while (splits < 8 && columns / columns_of_warp * splits < warps && depth / (splits * 2) >= least_depth) {
    splits *= 2;
  }
  return splits;
}

LinearKernel KernelFor(int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device) {
  if (rows == 1) return LinearKernel::kSkinny;  // by any table
  if (rows > kMaxWmmaRows) return LinearKernel::kLibrary;
  const LinearTableLine& line = NearestLine(device.sm_version, columns, depth);
  if (rows <= line.max_skinny_rows) return LinearKernel::kSkinny;
  return rows <= line.max_wmma_rows ? LinearKernel::kWmma : LinearKernel::kLibrary;
}

}  // namespace

LinearPlan PlanLinearAs(LinearKernel kernel, int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device) {
  LinearPlan plan{.kernel = kernel};
  if (kernel == LinearKernel::kSkinny) {
    plan.splits = Splits(columns, depth, 2, int64_t{32} * device.sm_count, 512);
  } else if (kernel == LinearKernel::kWmma) {
    plan.tile_rows = 8;
    plan.splits = Splits(columns, depth, 32, int64_t{16} * device.sm_count, 128);
  }
  while (plan.tile_rows < rows && kernel != LinearKernel::kLibrary) plan.tile_rows *= 2;
  return plan;
}

LinearPlan PlanLinear(int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device) {
  return PlanLinearAs(KernelFor(rows, columns, depth, device), rows, columns, depth, device);
}

}  // namespace optserve
