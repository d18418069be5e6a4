#pragma once

#include "kernels/common/context.h"
#include "kernels/common/tensor.h"

namespace optserve {

// Causal attention of new tokens against their sequences' paged KV cache, which already holds the new tokens' own keys.
//
//   out[t,h,:] = sum_j softmax_j(scale * q[t,h,:] . K[i,j,h,:]) * V[i,j,h,:],   0 <= j <= position of t in sequence i
//
// Token j of sequence i is slot j % B of block block_tables[i, j / B]. Sequence i owns the queries
// [query_starts[i], query_starts[i+1]); its last query sits at position context_lens[i] - 1, the others just before it.
// A decoding sequence is one with a single query; a prefill chunk has many. One op serves both on the CPU; PagedDecode
// and PagedPrefill are the same function at two shapes, split so that a device can have a kernel for each.
//
// Numerics  f32 throughout. The bits of out[t] depend on the sequence's tokens alone: not on chunking (how many queries
//           came with it), the batch, the block table's order or the number of threads. Max abs error against the f64
//           reference: 1e-5 for inputs of unit scale.
//           CUDA: q, out and the cache are f16, D is 16, 32, 64, 80 or 128; scores and sums are f32, max abs error
//           2e-3. A sequence's bits do not depend on the batch, but decode and prefill round differently.
//           PagedDecode takes a context of 0 for a row that only fills up a batch: it has no keys, and out is 0.
//           max_context_len may be larger than the longest.
// Aliasing  out may be q if their strides agree; nothing else overlaps.
// Source    block tables: Kwon et al. 2023, "PagedAttention", sec. 4. Running softmax: Milakov & Gimelshein 2018.
struct PagedAttentionParams {
  TensorView out;               // [T, H, D] f32
  TensorView q;                 // [T, H, D] f32; row_stride >= H * D (a slice of the fused qkv buffer)
  TensorView k_cache;           // [P, H, B, D] f32, one layer of the pool
  TensorView v_cache;           // [P, H, B, D] f32
  TensorView block_tables;      // [b, M] i32, entries past the context are never read
  TensorView query_starts;      // [b + 1] i32, ascending; query_starts[0] = 0, query_starts[b] = T
  TensorView context_lens;      // [b] i32, tokens attended by the sequence's last query; >= its number of queries
  int32_t max_context_len = 0;  // tokens; the host's copy of max(context_lens)
  float scale = 0.0f;           // 1 / sqrt(D)
};

namespace cpu {
void PagedDecode(const CpuContext& ctx, const PagedAttentionParams& p);   // every sequence has exactly one query
void PagedPrefill(const CpuContext& ctx, const PagedAttentionParams& p);  // any number of queries each
}  // namespace cpu

namespace cuda {
void PagedDecode(const CudaContext& ctx, const PagedAttentionParams& p);
void PagedPrefill(const CudaContext& ctx, const PagedAttentionParams& p);
}  // namespace cuda

}  // namespace optserve
