#pragma once

#include <array>

#include "kernels/common/context.h"
#include "kernels/common/tensor.h"

namespace optserve {

enum class Activation : uint8_t { kNone, kRelu, kGelu };  // kGelu is the exact one, with erf

// One product that shares its input with others. Q, K and V are three parts of one op, because the checkpoint keeps
// three matrices and mapped weights are not copied to lie side by side.
struct LinearPart {
  TensorView weight;  // [N, K] f16 | bf16 | f32; torch's Linear layout, one row per output; row_stride >= K
  TensorView bias;    // [N] f16 | bf16 | f32, or empty
  TensorView out;     // [T, N] f32, on CUDA also f16; row_stride >= N
};

// out = activation(x * weight^T + bias) for each part; with accumulate, out += that.
//
// Numerics  f16 and bf16 weights are widened exactly to f32; products and sums are f32 FMA. The order of the sum over K
//           depends on K alone: a row of out has the same bits whatever T is, whichever other rows are computed with it
//           and on how many threads.  Max abs error against the f64 reference: 1e-6 * K * max|x| * max|w|.
//           CUDA: weights are f16 and biases f32; f32 rows of x are rounded to f16 first. A row's bits are the same for
//           every T that linear_table.inc gives to one and the same of our two kernels; above them they are the
//           library's.
// Aliasing  out overlaps nothing else.
struct LinearParams {
  TensorView x;  // [T, K] f32, on CUDA also f16; row_stride >= K
  std::array<LinearPart, 3> parts;
  int num_parts = 1;
  Activation activation = Activation::kNone;
  bool accumulate = false;
};

namespace cpu {
void Linear(const CpuContext& ctx, const LinearParams& p);
}  // namespace cpu

namespace cuda {
void Linear(const CudaContext& ctx, const LinearParams& p);
}  // namespace cuda

}  // namespace optserve
