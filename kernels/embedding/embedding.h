#pragma once

#include "kernels/common/context.h"
#include "kernels/common/tensor.h"

namespace optserve {

// Token embedding from one rank's shard of the vocabulary:  out[t,:] = table[ids[t] - first_id, :].
//
// An id outside [first_id, first_id + V) gives a row of zeros, so that the sum over ranks is the embedding. ids[t] = ~i
// stands for drawn[i]: an id that the sampler wrote there, and that only the device may know yet.
// Source    Shoeybi et al. 2019, "Megatron-LM", sec. 3 (vocabulary-parallel embedding).
struct EmbeddingParams {
  TensorView out;        // [T, w] f32
  TensorView ids;        // [T] i32
  TensorView table;      // [V, w] f16 | bf16 | f32: this rank's rows
  int32_t first_id = 0;  // the vocabulary id of table row 0
  TensorView drawn;      // [N] i32, or empty; what lies beyond gives zeros
};

// Adds OPT's learned positions:  x[t,:] += table[positions[t] + 2, :].
//
// The checkpoint keeps two padding rows in front: position 0 is row 2 (Zhang et al. 2022; fairseq's offset).
struct PositionEmbeddingParams {
  TensorView x;          // [T, E] f32, updated in place
  TensorView positions;  // [T] i32, 0-based index of the token in its sequence
  TensorView table;      // [max_positions + 2, E] f16 | bf16 | f32
};

namespace cpu {
void Embedding(const CpuContext& ctx, const EmbeddingParams& p);
void PositionEmbedding(const CpuContext& ctx, const PositionEmbeddingParams& p);
}  // namespace cpu

namespace cuda {
void Embedding(const CudaContext& ctx, const EmbeddingParams& p);
void PositionEmbedding(const CudaContext& ctx, const PositionEmbeddingParams& p);
}  // namespace cuda

}  // namespace optserve
