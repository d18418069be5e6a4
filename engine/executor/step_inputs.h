#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/executor/drawn_tokens.h"
#include "engine/scheduler/step_plan.h"
#include "kernels/backend.h"

namespace optserve {

// A StepPlan as arrays in a rank's device memory, packed side by side and copied in once. The memory grows to the
// largest plan seen; after that a step allocates nothing.
class StepInputs {
 public:
  // Where the logits of one row go: to a slice's sampler or to one of its prompt scores.
  struct ScoreRow {
    int32_t slice = 0;
    int32_t target = 0;
    int32_t num_top = 0;
  };

  // Packs a plan with KV blocks of `block_size` tokens; `drawn` has what the step before it drew. The views below are
  // those of this plan until the next call. ResourceExhausted: no memory.
  absl::Status Set(const StepPlan& plan, const DrawnTokens& drawn, int32_t block_size, Backend& backend);

  TensorView token_ids;  // [T] i32
  TensorView positions;  // [T] i32, index in the sequence
  TensorView slots;      // [T] i32

  // Attention, decoding sequences first: the first num_decode sequences and tokens are theirs.
  int64_t num_tokens = 0;
  int64_t num_sequences = 0;
  int64_t num_decode = 0;
  TensorView block_tables;    // [b, M] i32
  TensorView context_lens;    // [b] i32
  TensorView decode_starts;   // [num_decode + 1] i32
  TensorView prefill_starts;  // [b - num_decode + 1] i32, counted from the first prefill token
  int32_t max_decode_context = 0;
  int32_t max_prefill_context = 0;

  TensorView copy_src;  // [n] i32
  TensorView copy_dst;  // [n] i32

  // Rows of the hidden states whose logits are wanted: [0, num_samples) are sampled, the rest are scored.
  TensorView logit_rows;  // [R] i32
  int64_t num_samples = 0;
  std::vector<int32_t> sampled_slices;  // [num_samples]
  std::vector<int32_t> num_top;         // [num_samples]: best tokens to report
  std::vector<ScoreRow> score_rows;     // [R - num_samples]
  TensorView targets;                   // [R - num_samples] i32

  // For the sampler: params of row r are sample_rows[r].
  const SampleRow* sample_rows = nullptr;  // [num_samples]
  const TokenCount* counts = nullptr;
  const LogitBias* bias = nullptr;
  const int32_t* suppressed = nullptr;

 private:
  // A packed array: where it begins in staging_, and how many elements it has.
  template <typename T>
  struct Packed {
    size_t offset = 0;
    int64_t size = 0;
  };

  template <typename T>
  Packed<T> Reserve(int64_t size);
  template <typename T>
  T* Staged(const Packed<T>& array) {
    return reinterpret_cast<T*>(staging_.data() + array.offset);
  }
  template <typename T>
  T* OnDevice(const Packed<T>& array) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(memory_->data()) + array.offset);
  }
  TensorView View(const Packed<int32_t>& array) const { return MakeView(OnDevice(array), DType::kI32, array.size); }

  void PackTokens(const StepPlan& plan, const DrawnTokens& drawn, int32_t block_size);
  void PackAttention(const StepPlan& plan);
  void PackLogitRows(const StepPlan& plan);
  void PackSampling(const StepPlan& plan);
  void SetViews();

  std::unique_ptr<Buffer> memory_;
  std::vector<std::byte> staging_;  // what memory_ is to hold
  size_t used_ = 0;                 // bytes of staging_

  Packed<int32_t> packed_token_ids_, packed_positions_, packed_slots_;
  Packed<int32_t> packed_block_tables_, packed_context_lens_, packed_decode_starts_, packed_prefill_starts_;
  Packed<int32_t> packed_copy_src_, packed_copy_dst_;
  Packed<int32_t> packed_logit_rows_, packed_targets_, packed_suppressed_;
  Packed<SampleRow> packed_sample_rows_;
  Packed<TokenCount> packed_counts_;
  Packed<LogitBias> packed_bias_;
  int64_t blocks_per_table_ = 0;  // M
};

}  // namespace optserve
