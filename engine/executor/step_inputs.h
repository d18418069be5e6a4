#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/scheduler/step_plan.h"
#include "kernels/backend.h"

namespace optserve {

// The largest step that memory is planned for.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_sequences = 0;
  int64_t max_context = 0;  // tokens of a sequence
  int64_t block_size = 1;
  int64_t steps_in_flight = 1;  // 2: a step may be queued behind one that runs, whose tokens nobody knows yet

  int64_t max_samples() const { return std::min(max_tokens, max_sequences); }
  int64_t max_blocks() const { return (max_context + block_size - 1) / block_size; }  // of a sequence
};

// The shape of a captured graph: a plan of up to so many decoding sequences is filled up with rows that belong to
// nobody, so that all arrays have the same sizes and places whatever the plan.
struct FixedShape {
  int64_t rows = 0;    // 0: the plan's own shape
  int64_t blocks = 0;  // of a block table
};

// A StepPlan as arrays in a rank's device memory, packed side by side and copied in once. Plan takes the memory at
// start; without it, or for a plan beyond all limits, memory grows to the largest plan seen.
//
// An id that the plan has as DrawnBySlice stands there as ~r: row r of what the step before it sampled. The ids
// themselves lie in `drawn`, on the device, and the model looks them up.
class StepInputs {
 public:
  // Bytes that steps within the limits need.
  static int64_t PlannedBytes(const StepLimits& limits);
  absl::Status Plan(const StepLimits& limits, Backend& backend);

  // Where the logits of one row go: to a slice's sampler or to one of its prompt scores.
  struct ScoreRow {
    int32_t slice = 0;
    int32_t target = 0;
    int32_t num_top = 0;
  };

  // Packs a plan with KV blocks of `block_size` tokens. The views below are those of this plan until the next call, and
  // the plan before it is what ids that were drawn come from. At most two plans' copies may be under way, if the memory
  // was planned. ResourceExhausted: no memory.
  //
  // With a shape: the plan's slices are decodes that want a sample, and the counts and views below are the shape's.
  // Rows beyond the plan's have a context of 0 and are not stored; what they draw means nothing.
  absl::Status Set(const StepPlan& plan, int32_t block_size, Backend& backend, const FixedShape& shape = {});

  // Whether the arrays lie in the planned memory: those of one shape are then always in the same places.
  bool is_planned() const { return grown_ == nullptr; }

  // Where the rank keeps the ids that a step drew, by row of its samples: set once, by whoever samples.
  TensorView drawn;  // [N] i32; empty: plans must have all ids

  TensorView token_ids;  // [T] i32; ~r is drawn[r]
  TensorView positions;  // [T] i32, index in the sequence
  TensorView slots;      // [T] i32

  // Attention, decoding sequences first: the first num_decode sequences and tokens are theirs.
  int64_t num_tokens = 0;
  int64_t num_sequences = 0;
  int64_t num_decode = 0;
  TensorView block_tables;         // [b, M] i32
  TensorView context_lens;         // [b] i32
  TensorView decode_starts;        // [num_decode + 1] i32
  TensorView prefill_starts;       // [b - num_decode + 1] i32, counted from the first prefill token
  int32_t max_decode_context = 0;  // of the shape, if there is one
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

  // For the sampler: params of row r are sample_rows[r]. The three lists begin at one address, behind all else, and
  // rows count from there: it depends on the shape alone, and not on how long the lists are.
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
    return reinterpret_cast<T*>(base_ + array.offset);
  }
  TensorView View(const Packed<int32_t>& array) const { return MakeView(OnDevice(array), DType::kI32, array.size); }

  int32_t IdOrRow(int32_t token_id) const;
  void PackTokens(const StepPlan& plan, int32_t block_size);
  void PackAttention(const StepPlan& plan, int32_t block_size, const FixedShape& shape);
  void PackLogitRows(const StepPlan& plan, const FixedShape& shape);
  void PackSampling(const StepPlan& plan);
  void PackCopies(const StepPlan& plan);
  absl::Status ChooseMemory(Backend& backend);
  const std::byte* SourceOfCopy();
  void SetViews();

  std::unique_ptr<Buffer> planned_;
  std::unique_ptr<Buffer> grown_;   // for a plan that planned_ has no room for
  std::byte* base_ = nullptr;       // of the arrays, in one of them
  std::vector<std::byte> staging_;  // what is to lie there
  // Of a device: where copies into planned_ read from, in turn, while the next plan is packed.
  std::array<std::unique_ptr<Buffer>, 2> pinned_;
  size_t turn_ = 0;
  size_t used_ = 0;  // bytes of staging_

  Packed<int32_t> packed_token_ids_, packed_positions_, packed_slots_;
  Packed<int32_t> packed_block_tables_, packed_context_lens_, packed_decode_starts_, packed_prefill_starts_;
  Packed<int32_t> packed_copy_src_, packed_copy_dst_;
  Packed<int32_t> packed_logit_rows_, packed_targets_;
  Packed<SampleRow> packed_sample_rows_;
  Packed<int32_t> packed_lists_;  // counts, bias, suppressed
  int64_t blocks_per_table_ = 0;  // M

  static constexpr int32_t kDrewNothing = -1;
  std::vector<int32_t> rows_;  // of the samples of the plan before, by slice
};

}  // namespace optserve
