#include <array>
#include <cstdint>

#include "kernels/common/check.h"
#include "kernels/common/parallel_for.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_simd.h"

namespace optserve::cpu {
namespace {

// Columns of W that one thread takes at least: whole tiles of every size in linear_simd.cc, so that few are cut short.
constexpr int64_t kGrain = 24;

// Up to so many rows, reading the weights takes longer than the multiplications.
constexpr int64_t kFewRows = 8;

static_assert(kLinearScratchBytes <= static_cast<int64_t>(CpuContext::kScratchBytes));

bool IsFloat(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

LinearJob MakeJob(const LinearParams& p, const LinearPart& part) {
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.x.row_stride >= p.x.dims[1]);
  OPTSERVE_CHECK(part.weight.rank == 2 && IsFloat(part.weight.dtype) && part.weight.row_stride >= part.weight.dims[1]);
  OPTSERVE_CHECK(part.out.rank == 2 && part.out.dtype == DType::kF32 && part.out.row_stride >= part.out.dims[1]);
  OPTSERVE_CHECK(part.weight.dims[1] == p.x.dims[1])
      << "K is " << p.x.dims[1] << " in x, " << part.weight.dims[1] << " in the weight";
  OPTSERVE_CHECK(part.out.dims[0] == p.x.dims[0] && part.out.dims[1] == part.weight.dims[0])
      << "out is [" << part.out.dims[0] << ", " << part.out.dims[1] << "] for " << p.x.dims[0] << " rows of x and "
      << part.weight.dims[0] << " of the weight";
  OPTSERVE_CHECK(part.bias.empty() ||
                 (part.bias.rank == 1 && part.bias.dims[0] == part.weight.dims[0] && IsFloat(part.bias.dtype)));
  return {.x = p.x.as<const float>(),
          .x_stride = p.x.row_stride,
          .num_rows = p.x.dims[0],
          .depth = p.x.dims[1],
          .weight = part.weight.data,
          .weight_dtype = part.weight.dtype,
          .weight_stride = part.weight.row_stride,
          .bias = part.bias.data,
          .bias_dtype = part.bias.dtype,
          .out = part.out.as<float>(),
          .out_stride = part.out.row_stride,
          .activation = p.activation,
          .accumulate = p.accumulate};
}

}  // namespace

// The columns of all parts, laid end to end and cut into one range per thread: one fork and join for Q, K and V.
void Linear(const CpuContext& ctx, const LinearParams& p) {
  OPTSERVE_CHECK(p.num_parts >= 1 && p.num_parts <= static_cast<int>(p.parts.size())) << p.num_parts << " parts";
  std::array<LinearJob, 3> jobs;
  std::array<int64_t, 4> first{};  // of each part, in grains
  for (int i = 0; i < p.num_parts; ++i) {
    jobs[i] = MakeJob(p, p.parts[i]);
    first[i + 1] = first[i] + (p.parts[i].weight.dims[0] + kGrain - 1) / kGrain;
  }
  if (p.x.dims[0] == 0) return;
  OPTSERVE_CHECK(p.x.dims[1] > 0);
  // A few rows are bound by memory, and a stream of weights takes a while to get going: one range per thread. More rows
  // take longer, so that it pays to even out what the threads get of the machine.
  const int64_t num_grains = first[p.num_parts];
  const int64_t per_range = p.x.dims[0] <= kFewRows ? (num_grains - 1) / ctx.pool.num_threads() + 1 : 1;
  ParallelFor(ctx, num_grains, per_range, [&](int64_t begin, int64_t end, int thread) {
    for (int i = 0; i < p.num_parts; ++i) {
      const int64_t num_columns = p.parts[i].weight.dims[0];
      const int64_t from = (begin > first[i] ? begin - first[i] : 0) * kGrain;
      const int64_t to = end < first[i + 1] ? (end - first[i]) * kGrain : num_columns;
      if (from >= to) continue;
      OPTSERVE_SIMD_CALL(ctx.info.isa, LinearColumns)
      (jobs[i], from, to, ctx.scratch(thread));
    }
  });
}

}  // namespace optserve::cpu
