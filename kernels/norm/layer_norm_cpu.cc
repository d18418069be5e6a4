#include "kernels/common/check.h"
#include "kernels/common/parallel_for.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/layer_norm_simd.h"

namespace optserve::cpu {
namespace {

// Rows that one thread takes at least: fewer are done before another thread has woken up.
constexpr int64_t kGrain = 8;

bool IsVector(const TensorView& v, int64_t n) { return v.empty() || (v.rank == 1 && v.dims[0] == n); }

}  // namespace

void LayerNorm(const CpuContext& ctx, const LayerNormParams& p) {
  const int64_t width = p.x.dims[1];
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.out.dtype == DType::kF32 && width > 0);
  OPTSERVE_CHECK(p.out.rank == 2 && p.out.dims[0] == p.x.dims[0] && p.out.dims[1] == width);
  OPTSERVE_CHECK(IsVector(p.weight, width) && IsVector(p.bias, width));
  const NormAffine affine{p.weight.data, p.weight.dtype, p.bias.data, p.bias.dtype};
  ParallelFor(ctx, p.x.dims[0], kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      OPTSERVE_SIMD_CALL(ctx.info.isa, LayerNormRow)
      (p.out.Rows(t, 1).as<float>(), p.x.Rows(t, 1).as<const float>(), width, affine, p.epsilon);
    }
  });
}

void AddBiasResidual(const CpuContext& ctx, const AddBiasResidualParams& p) {
  const int64_t width = p.x.dims[1];
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.partial.dtype == DType::kF32);
  OPTSERVE_CHECK(p.partial.rank == 2 && p.partial.dims[0] == p.x.dims[0] && p.partial.dims[1] == width);
  OPTSERVE_CHECK(IsVector(p.bias, width));
  ParallelFor(ctx, p.x.dims[0], kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      OPTSERVE_SIMD_CALL(ctx.info.isa, AddBiasResidualRow)
      (p.x.Rows(t, 1).as<float>(), p.partial.Rows(t, 1).as<const float>(), p.bias.data, p.bias.dtype, width);
    }
  });
}

void AddBiasResidualNorm(const CpuContext& ctx, const AddBiasResidualParams& add, const LayerNormParams& norm) {
  OPTSERVE_CHECK(norm.x.data == add.x.data && norm.x.dims == add.x.dims);
  AddBiasResidual(ctx, add);
  LayerNorm(ctx, norm);
}

}  // namespace optserve::cpu
