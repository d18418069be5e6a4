#pragma once

#include "kernels/common/context.h"
#include "kernels/common/tensor.h"

namespace optserve {

// Caches and keys and values are f32 on the CPU and f16 on CUDA, where D is a multiple of 8.

// Stores the new tokens' keys and values:  k_cache[slot / B, :, slot % B, :] = k[t, :, :], likewise v.
struct WriteKvParams {
  TensorView k_cache;  // [P, H, B, D] f32, one layer of the pool
  TensorView v_cache;  // [P, H, B, D] f32
  TensorView k;        // [T, H, D] f32; row_stride >= H * D
  TensorView v;        // [T, H, D] f32
  TensorView slots;    // [T] i32: block * B + offset; no slot twice. CUDA: a negative one is a row that is not stored
};

// Copy-on-write of whole blocks of one layer:  cache[dst[i]] = cache[src[i]]. No block is both source and destination.
struct CopyBlocksParams {
  TensorView k_cache;  // [P, H, B, D] f32
  TensorView v_cache;  // [P, H, B, D] f32
  TensorView src;      // [n] i32
  TensorView dst;      // [n] i32
};

// out[r,:] = x[rows[r],:]: the tokens whose logits are wanted.
struct GatherRowsParams {
  TensorView out;   // [R, E] f32
  TensorView x;     // [T, E] f32
  TensorView rows;  // [R] i32
};

// dst = src for matrices of any row strides: puts a rank's slice of the logits into its columns of the full row.
struct CopyRowsParams {
  TensorView dst;  // [R, N] f32
  TensorView src;  // [R, N] f32
};

namespace cpu {
void WriteKv(const CpuContext& ctx, const WriteKvParams& p);
void CopyBlocks(const CpuContext& ctx, const CopyBlocksParams& p);
void GatherRows(const CpuContext& ctx, const GatherRowsParams& p);
void CopyRows(const CpuContext& ctx, const CopyRowsParams& p);
}  // namespace cpu

namespace cuda {
void WriteKv(const CudaContext& ctx, const WriteKvParams& p);
void CopyBlocks(const CudaContext& ctx, const CopyBlocksParams& p);
void GatherRows(const CudaContext& ctx, const GatherRowsParams& p);
void CopyRows(const CudaContext& ctx, const CopyRowsParams& p);
}  // namespace cuda

}  // namespace optserve
