#pragma once

#include "kernels/common/context.h"
#include "kernels/common/tensor.h"

namespace optserve {

// Layer normalisation of each row:  out = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias.
//
// var is the biased variance (divide by E). An empty weight means 1, an empty bias means 0 (Galactica).
// Numerics  statistics in f32 over a fixed order, so a row's bits do not depend on the other rows; max abs error
//           against the f64 reference 1e-5 for inputs of unit variance. CUDA: weight and bias are f32.
// Aliasing  out may be x.
// Source    Ba et al. 2016, "Layer Normalization".
struct LayerNormParams {
  TensorView out;     // [T, E] f32, on CUDA also f16
  TensorView x;       // [T, E] f32
  TensorView weight;  // [E] f16 | bf16 | f32, or empty
  TensorView bias;    // [E] f16 | bf16 | f32, or empty
  float epsilon = 1e-5f;
  TensorView copy = {};  // [T, E] f16, CUDA: what out gets, rounded, for products that read it; or empty
};

// Ends a row-parallel linear after its all-reduce:  x += partial + bias, bias once.
struct AddBiasResidualParams {
  TensorView x;        // [T, E] f32, updated in place
  TensorView partial;  // [T, E] f32, the sum over ranks
  TensorView bias;     // [E] f16 | bf16 | f32, or empty
};

// AddBiasResidualNorm does both in one pass over the rows, the norm of the new x, with the same bits: what ends one
// half of a decoder layer and begins the next. norm.x is add.x.

namespace cpu {
void LayerNorm(const CpuContext& ctx, const LayerNormParams& p);
void AddBiasResidual(const CpuContext& ctx, const AddBiasResidualParams& p);
void AddBiasResidualNorm(const CpuContext& ctx, const AddBiasResidualParams& add, const LayerNormParams& norm);
}  // namespace cpu

namespace cuda {
void LayerNorm(const CudaContext& ctx, const LayerNormParams& p);
void AddBiasResidual(const CudaContext& ctx, const AddBiasResidualParams& p);
void AddBiasResidualNorm(const CudaContext& ctx, const AddBiasResidualParams& add, const LayerNormParams& norm);
}  // namespace cuda

}  // namespace optserve
