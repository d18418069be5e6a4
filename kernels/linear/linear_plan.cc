#include "kernels/linear/linear_plan.h"

#include "kernels/linear/linear_table.h"

namespace optserve {

LinearPlan PlanLinear(int64_t rows, int64_t columns, int64_t depth, const DeviceInfo& device) {
  LinearPlan plan;
  // A single row is ours by any table; so is more than the largest tile the library's.
  plan.gemm =
      rows > kMaxSkinnyRows || (rows > 1 && rows > NearestLine(device.sm_version, columns, depth).max_skinny_rows);
  while (plan.tile_rows < rows && plan.tile_rows < kMaxSkinnyRows) plan.tile_rows *= 2;
  // Enough warps for every multiprocessor to have 32, as long as each has 512 products of a column left.
  constexpr int kColumnsPerWarp = 2;
  const int64_t wanted = int64_t{32} * device.sm_count;
  while (plan.splits < 8 && columns / kColumnsPerWarp * plan.splits < wanted && depth / (plan.splits * 2) >= 512) {
    plan.splits *= 2;
  }
  return plan;
}

}  // namespace optserve
