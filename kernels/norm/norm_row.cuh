#pragma once

#include "kernels/common/check.h"
#include "kernels/common/gpu.h"
#include "kernels/norm/layer_norm.h"

// One row of a layer's norm, and of what comes before it, by one thread block: x += partial + bias, then the norm of
// the new x. Where `partial` comes from is the caller's: a tensor, or an all-reduce.
//
// Two passes (mean, then squared differences) because one pass loses digits where the mean is large.

namespace optserve::cuda {

struct NormJob {
  const float* x;
  int64_t x_stride;
  float* residual;            // where x + partial + bias goes, or null: only normalise
  const float* partial_bias;  // or null
  void* out;                  // or null: only add
  int64_t out_stride;
  bool out_is_half;
  F16* copy;  // what out gets, rounded; or null
  int64_t copy_stride;
  const float* weight;  // or null: 1
  const float* bias;    // or null: 0
  int64_t width;
  float epsilon;
};

// `row` has room for job.width floats, `sums` for one of each warp; both may be used again at once. partial(i) is
// called once for each i, and only if there is a residual.
template <int kThreads, typename Partial>
GPU_DEVICE void NormRow(const NormJob& job, int64_t at, float* row, float* sums, Partial partial) {
  constexpr int kWarps = kThreads / 32;
  const float* x = job.x + at * job.x_stride;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < job.width; i += kThreads) {
    float value = x[i];
    if (job.residual != nullptr) {
      value += partial(i);
      if (job.partial_bias != nullptr) value += job.partial_bias[i];
      job.residual[at * job.x_stride + i] = value;
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
    if (job.copy != nullptr) gpu::Store(job.copy + at * job.copy_stride + i, y);
    if (job.out_is_half) {
      gpu::Store(static_cast<F16*>(job.out) + at * job.out_stride + i, y);
    } else {
      gpu::Store(static_cast<float*>(job.out) + at * job.out_stride + i, y);
    }
  }
}

inline bool IsVector(const TensorView& v, int64_t n) {
  return v.empty() || (v.rank == 1 && v.dims[0] == n && v.dtype == DType::kF32);
}

inline void SetNorm(const LayerNormParams& p, NormJob& job) {
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.x.dims[1] > 0);
  OPTSERVE_CHECK(p.out.rank == 2 && p.out.dims == p.x.dims);
  OPTSERVE_CHECK(p.out.dtype == DType::kF32 || p.out.dtype == DType::kF16);
  OPTSERVE_CHECK(IsVector(p.weight, p.x.dims[1]) && IsVector(p.bias, p.x.dims[1]));
  job.out = p.out.data;
  job.out_stride = p.out.row_stride;
  job.out_is_half = p.out.dtype == DType::kF16;
  OPTSERVE_CHECK(p.copy.empty() || (p.copy.dims == p.x.dims && p.copy.dtype == DType::kF16));
  job.copy = p.copy.as<F16>();
  job.copy_stride = p.copy.row_stride;
  job.weight = p.weight.as<const float>();
  job.bias = p.bias.as<const float>();
  job.epsilon = p.epsilon;
}

inline void SetResidual(const AddBiasResidualParams& p, NormJob& job) {
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.partial.dtype == DType::kF32);
  OPTSERVE_CHECK(p.partial.rank == 2 && p.partial.dims == p.x.dims && IsVector(p.bias, p.x.dims[1]));
  job.x = job.residual = p.x.as<float>();
  job.x_stride = p.x.row_stride;
  job.width = p.x.dims[1];
  job.partial_bias = p.bias.as<const float>();
}

}  // namespace optserve::cuda
