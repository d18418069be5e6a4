#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/executor/step_inputs.h"
#include "engine/model/kv_cache.h"
#include "engine/model/opt_config.h"
#include "engine/model/opt_weights.h"
#include "kernels/backend.h"

namespace optserve {

// The forward pass of an OPT on one rank. All sizes of OPT, OPT-IML and Galactica are this class with other numbers.
//
// Source  Zhang et al. 2022, "OPT"; the reference implementation is transformers' modeling_opt.py.
class OptModel {
 public:
  // Logits are made in tiles of so many rows: memory for them does not grow with the prompt or the batch.
  static constexpr int64_t kLogitTile = 64;

  // Allocates what a step of up to max_tokens tokens needs. `kv`, `comm` and `backend` outlive the model.
  // With `deterministic_tp` the size of `comm` changes no bit of the logits.
  static absl::StatusOr<OptModel> Make(const OptConfig& config, OptWeights weights, int64_t max_tokens,
                                       bool deterministic_tp, KvCache& kv, Communicator& comm, Backend& backend);

  // Bytes that a rank of `num_ranks` allocates for it.
  static int64_t ActivationBytes(const OptConfig& config, int num_ranks, bool deterministic_tp, int64_t max_tokens,
                                 DType dtype);

  // What the step copies of blocks on write; before Forward.
  void CopyBlocks(const StepInputs& in);

  // Computes all tokens of a step and stores their keys and values. The hidden states stay for Logits.
  void Forward(const StepInputs& in);

  // Logits [count, V] of rows [begin, begin + count) of in.logit_rows; count <= kLogitTile. Complete on rank 0 alone.
  // The view is valid until the next call.
  TensorView Logits(const StepInputs& in, int64_t begin, int64_t count);

 private:
  // Activations of one step, [T, ...] each; views of one buffer. f32, or where it says a the backend's
  // activation_dtype.
  struct Activations {
    TensorView embed;         // [T, w]; with projections only
    TensorView x;             // [T, E]: the residual stream
    TensorView h;             // [T, E] a: normalised
    TensorView qkv;           // [T, 3 * H * D] a
    TensorView attn;          // [T, H * D] a
    TensorView ffn;           // [T, F / ranks] a
    TensorView partial;       // [levels * T, E]: one rank's summand, and those of its tree that wait; see RowParallel
    TensorView rows;          // [kLogitTile, E]
    TensorView head_rows;     // [kLogitTile, E] a: normalised; with a final norm only
    TensorView embed_rows;    // [kLogitTile, w] a; with projections only
    TensorView logits_shard;  // [kLogitTile, V / ranks]; with several ranks only
    TensorView gathered;      // [ranks, kLogitTile * V / ranks]; with several ranks only
    TensorView logits;        // [kLogitTile, V]
  };

  OptModel(const OptConfig& config, OptWeights weights, int32_t num_slices, KvCache& kv, Communicator& comm,
           Backend& backend)
      : config_(config),
        weights_(std::move(weights)),
        num_slices_(num_slices),
        kv_(&kv),
        comm_(&comm),
        backend_(&backend) {}

  // Lays them out one after the other from `memory` on. Returns the bytes.
  static int64_t LayOut(const OptConfig& config, int num_ranks, int32_t num_slices, int64_t max_tokens, DType dtype,
                        std::byte* memory, Activations& activations);
  absl::Status AllocateActivations(int64_t max_tokens);

  void Embed(const StepInputs& in, const TensorView& x);
  void SelfAttention(int32_t layer, const StepInputs& in, const TensorView& x, const TensorView& h);
  void FeedForward(int32_t layer, const TensorView& x, const TensorView& h);
  void Attend(int32_t layer, const StepInputs& in, const TensorView& q, const TensorView& out);
  // Where the norm of x is read from, and the op that puts it there.
  TensorView Normalised(const TensorView& x) const;
  LayerNormParams NormOf(const NormWeights& norm, const TensorView& x) const;
  // x += input * weight^T, summed over ranks, + bias once; then, with a norm, that of x, in the same pass over x.
  void RowParallel(const LinearWeights& linear, const TensorView& input, const TensorView& x, const NormWeights* norm);
  // The sum of slices [first, first + count) of input * weight^T over K, by a binary tree; its place is the level's.
  TensorView SumSlices(const TensorView& weight, const TensorView& input, int32_t first, int32_t count, int32_t level);
  TensorView Partial(int32_t level, int64_t num_tokens) const {
    return activations_.partial.Rows(level * activations_.x.dims[0], num_tokens);
  }

  int64_t local_heads() const { return config_.num_heads / comm_->size(); }
  int64_t local_width() const { return local_heads() * config_.head_size(); }

  OptConfig config_;
  OptWeights weights_;
  int32_t num_slices_ = 0;  // of this rank's part of K in row-parallel products; 0: its part is summed as a whole
  KvCache* kv_;
  Communicator* comm_;
  Backend* backend_;
  Activations activations_;
  std::unique_ptr<Buffer> memory_;
};

}  // namespace optserve
