#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/norm/layer_norm.h"

// Tries                                                               time             on
// one block a row, the row kept in shared memory, two passes over it  not yet measured
// The fused kernel does what ends one half of a layer and begins the next in one launch: x += partial + bias, then its
// normalisation. Two passes (mean, then squared differences) because one pass loses digits where the mean is large.

namespace optserve::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct NormJob {
  const float* x;
  int64_t x_stride;
  float* residual;  // where x + partial + bias goes, or null: only normalise
  const float* partial;
  int64_t partial_stride;
  const float* partial_bias;  // or null
  void* out;                  // or null: only add
  int64_t out_stride;
  bool out_is_half;
  const float* weight;  // or null: 1
  const float* bias;    // or null: 0
  int64_t width;
  float epsilon;
};

__global__ void __launch_bounds__(kThreads) NormKernel(NormJob job) {
  GPU_SHARED(float, sums, [kWarps]);
  GPU_DYNAMIC_SHARED(float, row);  // [width]
  const float* x = job.x + blockIdx.x * job.x_stride;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < job.width; i += kThreads) {
    float value = x[i];
    if (job.residual != nullptr) {
      value += job.partial[blockIdx.x * job.partial_stride + i];
      if (job.partial_bias != nullptr) value += job.partial_bias[i];
      job.residual[blockIdx.x * job.x_stride + i] = value;
    }
    row[i] = value;
    sum += value;
  }
  if (job.out == nullptr) return;
  const float width = static_cast<float>(job.width);
  const float mean = gpu::BlockSum<kWarps>(sum, sums) / width;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < job.width; i += kThreads) squares += (row[i] - mean) * (row[i] - mean);
  const float inverse = rsqrtf(gpu::BlockSum<kWarps>(squares, sums) / width + job.epsilon);
  for (int64_t i = threadIdx.x; i < job.width; i += kThreads) {
    float y = (row[i] - mean) * inverse;
    if (job.weight != nullptr) y *= job.weight[i];
    if (job.bias != nullptr) y += job.bias[i];
    const int64_t at = blockIdx.x * job.out_stride + i;
    if (job.out_is_half) {
      gpu::Store(static_cast<F16*>(job.out) + at, y);
    } else {
      gpu::Store(static_cast<float*>(job.out) + at, y);
    }
  }
}

bool IsVector(const TensorView& v, int64_t n) {
  return v.empty() || (v.rank == 1 && v.dims[0] == n && v.dtype == DType::kF32);
}

void Run(const CudaContext& ctx, const NormJob& job, int64_t num_rows) {
  if (num_rows == 0) return;
  gpu::Launch(NormKernel, dim3(static_cast<unsigned>(num_rows)), dim3(kThreads),
              static_cast<size_t>(job.width) * sizeof(float), ctx.stream, job);
}

void SetNorm(const LayerNormParams& p, NormJob& job) {
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.x.dims[1] > 0);
  OPTSERVE_CHECK(p.out.rank == 2 && p.out.dims == p.x.dims);
  OPTSERVE_CHECK(p.out.dtype == DType::kF32 || p.out.dtype == DType::kF16);
  OPTSERVE_CHECK(IsVector(p.weight, p.x.dims[1]) && IsVector(p.bias, p.x.dims[1]));
  job.out = p.out.data;
  job.out_stride = p.out.row_stride;
  job.out_is_half = p.out.dtype == DType::kF16;
  job.weight = p.weight.as<const float>();
  job.bias = p.bias.as<const float>();
  job.epsilon = p.epsilon;
}

void SetResidual(const AddBiasResidualParams& p, NormJob& job) {
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.partial.dtype == DType::kF32);
  OPTSERVE_CHECK(p.partial.rank == 2 && p.partial.dims == p.x.dims && IsVector(p.bias, p.x.dims[1]));
  job.x = job.residual = p.x.as<float>();
  job.x_stride = p.x.row_stride;
  job.width = p.x.dims[1];
  job.partial = p.partial.as<const float>();
  job.partial_stride = p.partial.row_stride;
  job.partial_bias = p.bias.as<const float>();
}

}  // namespace

void LayerNorm(const CudaContext& ctx, const LayerNormParams& p) {
  NormJob job{};
  SetNorm(p, job);
  job.x = p.x.as<const float>();
  job.x_stride = p.x.row_stride;
  job.width = p.x.dims[1];
  Run(ctx, job, p.x.dims[0]);
}

void AddBiasResidual(const CudaContext& ctx, const AddBiasResidualParams& p) {
  NormJob job{};
  SetResidual(p, job);
  Run(ctx, job, p.x.dims[0]);
}

void AddBiasResidualNorm(const CudaContext& ctx, const AddBiasResidualParams& add, const LayerNormParams& norm) {
  OPTSERVE_CHECK(norm.x.data == add.x.data && norm.x.dims == add.x.dims);
  NormJob job{};
  SetNorm(norm, job);
  SetResidual(add, job);
  Run(ctx, job, add.x.dims[0]);
}

}  // namespace optserve::cuda
