#include "kernels/norm/layer_norm.h"

#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/norm/norm_row.cuh"

// Tries                                                               time             on
// one block a row, the row kept in shared memory, two passes over it  not yet measured
// The fused kernel does what ends one half of a layer and begins the next in one launch: x += partial + bias, then its
// normalisation. With several GPUs the all-reduce is in it, too: collective/all_reduce.cu.

namespace optserve::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) NormKernel(NormJob job, const float* partial, int64_t partial_stride) {
  GPU_SHARED(float, sums, [kThreads / 32]);
  GPU_DYNAMIC_SHARED(float, row);  // [width]
  const float* summand = partial + blockIdx.x * partial_stride;
  NormRow<kThreads>(job, blockIdx.x, row, sums, [summand](int64_t i) { return summand[i]; });
}

void Run(const CudaContext& ctx, const NormJob& job, const TensorView& partial, int64_t num_rows) {
  if (num_rows == 0) return;
  gpu::Launch(NormKernel, dim3(static_cast<unsigned>(num_rows)), dim3(kThreads),
              static_cast<size_t>(job.width) * sizeof(float), ctx.stream, job, partial.as<const float>(),
              partial.row_stride);
}

}  // namespace

void LayerNorm(const CudaContext& ctx, const LayerNormParams& p) {
  NormJob job{};
  SetNorm(p, job);
  job.x = p.x.as<const float>();
  job.x_stride = p.x.row_stride;
  job.width = p.x.dims[1];
  Run(ctx, job, {}, p.x.dims[0]);
}

void AddBiasResidual(const CudaContext& ctx, const AddBiasResidualParams& p) {
  NormJob job{};
  SetResidual(p, job);
  Run(ctx, job, p.partial, p.x.dims[0]);
}

void AddBiasResidualNorm(const CudaContext& ctx, const AddBiasResidualParams& add, const LayerNormParams& norm) {
  OPTSERVE_CHECK(norm.x.data == add.x.data && norm.x.dims == add.x.dims);
  NormJob job{};
  SetNorm(norm, job);
  SetResidual(add, job);
  Run(ctx, job, add.partial, add.x.dims[0]);
}

}  // namespace optserve::cuda
