#include "engine/executor/step_inputs.h"

#include <algorithm>

#include "engine/util/status_macros.h"
#include "kernels/common/check.h"

namespace optserve {

absl::Status StepInputs::Set(const StepPlan& plan, const DrawnTokens& drawn, int32_t block_size, Backend& backend) {
  used_ = 0;
  num_tokens = static_cast<int64_t>(plan.token_ids.size());
  num_sequences = static_cast<int64_t>(plan.slices.size());
  num_decode = plan.num_decode;
  PackTokens(plan, drawn, block_size);
  PackAttention(plan);
  PackLogitRows(plan);
  PackSampling(plan);

  if (memory_ == nullptr || memory_->size() < used_) {
    memory_.reset();  // the old one first: both need not fit
    OPTSERVE_ASSIGN_OR_RETURN(memory_, backend.Allocate(staging_.size()));
  }
  backend.CopyIn(MakeView(memory_->data(), DType::kI32, static_cast<int64_t>(used_ / sizeof(int32_t))),
                 staging_.data());
  SetViews();
  return absl::OkStatus();
}

template <typename T>
StepInputs::Packed<T> StepInputs::Reserve(int64_t size) {
  constexpr size_t kAlignment = 64;
  const Packed<T> array{used_, size};
  used_ += (static_cast<size_t>(size) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  if (staging_.size() < used_) staging_.resize(used_ * 2);
  return array;
}

void StepInputs::PackTokens(const StepPlan& plan, const DrawnTokens& drawn, int32_t block_size) {
  packed_token_ids_ = Reserve<int32_t>(num_tokens);
  packed_positions_ = Reserve<int32_t>(num_tokens);
  packed_slots_ = Reserve<int32_t>(num_tokens);
  std::transform(plan.token_ids.begin(), plan.token_ids.end(), Staged(packed_token_ids_),
                 [&](int32_t id) { return drawn.Resolve(id); });
  int32_t* position = Staged(packed_positions_);
  int32_t* slot = Staged(packed_slots_);
  const int32_t* const end = position + num_tokens;
  for (const SequenceSlice& slice : plan.slices) {
    OPTSERVE_CHECK(slice.num_tokens >= 1 && position + slice.num_tokens <= end) << "step " << plan.step;
    OPTSERVE_CHECK(int64_t{slice.context_len()} <= static_cast<int64_t>(slice.block_table.size()) * block_size)
        << "sequence " << slice.sequence << " has " << slice.block_table.size() << " blocks for " << slice.context_len()
        << " tokens";
    for (int32_t p = slice.num_cached; p < slice.context_len(); ++p) {
      *position++ = p;
      *slot++ = slice.block_table[p / block_size] * block_size + p % block_size;
    }
  }
  OPTSERVE_CHECK(position == end) << "step " << plan.step << " has tokens of no slice";

  const auto num_copies = static_cast<int64_t>(plan.block_copies.size());
  packed_copy_src_ = Reserve<int32_t>(num_copies);
  packed_copy_dst_ = Reserve<int32_t>(num_copies);
  for (int64_t i = 0; i < num_copies; ++i) {
    Staged(packed_copy_src_)[i] = plan.block_copies[i].src;
    Staged(packed_copy_dst_)[i] = plan.block_copies[i].dst;
  }
}

void StepInputs::PackAttention(const StepPlan& plan) {
  blocks_per_table_ = 0;
  for (const SequenceSlice& slice : plan.slices) {
    blocks_per_table_ = std::max(blocks_per_table_, static_cast<int64_t>(slice.block_table.size()));
  }
  packed_block_tables_ = Reserve<int32_t>(num_sequences * blocks_per_table_);
  packed_context_lens_ = Reserve<int32_t>(num_sequences);
  packed_decode_starts_ = Reserve<int32_t>(num_decode + 1);
  packed_prefill_starts_ = Reserve<int32_t>(num_sequences - num_decode + 1);
  max_decode_context = max_prefill_context = 0;
  int32_t* decode_start = Staged(packed_decode_starts_);
  int32_t* prefill_start = Staged(packed_prefill_starts_);
  *decode_start = *prefill_start = 0;
  for (int64_t i = 0; i < num_sequences; ++i) {
    const SequenceSlice& slice = plan.slices[i];
    int32_t* table = Staged(packed_block_tables_) + i * blocks_per_table_;
    int32_t* const rest = std::copy(slice.block_table.begin(), slice.block_table.end(), table);
    std::fill(rest, table + blocks_per_table_, 0);
    Staged(packed_context_lens_)[i] = slice.context_len();
    if (i < num_decode) {
      OPTSERVE_CHECK(slice.num_tokens == 1) << "slice " << i << " is no decode";
      decode_start[1] = decode_start[0] + 1;
      ++decode_start;
      max_decode_context = std::max(max_decode_context, slice.context_len());
    } else {
      prefill_start[1] = prefill_start[0] + slice.num_tokens;
      ++prefill_start;
      max_prefill_context = std::max(max_prefill_context, slice.context_len());
    }
  }
}

void StepInputs::PackLogitRows(const StepPlan& plan) {
  sampled_slices.clear();
  num_top.clear();
  score_rows.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(plan.slices.size()); ++i) {
    const SequenceSlice& slice = plan.slices[i];
    if (slice.wants_sample) {
      sampled_slices.push_back(i);
      num_top.push_back(slice.sampling.num_logprobs);
    }
    for (const int32_t target : slice.score_targets) {
      score_rows.push_back({.slice = i, .target = target, .num_top = slice.num_score_logprobs});
    }
  }
  num_samples = static_cast<int64_t>(sampled_slices.size());
  const auto num_scores = static_cast<int64_t>(score_rows.size());
  packed_logit_rows_ = Reserve<int32_t>(num_samples + num_scores);
  packed_targets_ = Reserve<int32_t>(num_scores);
  int32_t* sampled = Staged(packed_logit_rows_);
  int32_t* scored = sampled + num_samples;
  int32_t first_token = 0;
  for (const SequenceSlice& slice : plan.slices) {
    if (slice.wants_sample) *sampled++ = first_token + slice.num_tokens - 1;
    for (size_t k = 0; k < slice.score_targets.size(); ++k) {
      *scored++ = first_token + slice.score_begin + static_cast<int32_t>(k);
    }
    first_token += slice.num_tokens;
  }
  for (int64_t i = 0; i < num_scores; ++i) Staged(packed_targets_)[i] = score_rows[i].target;
}

void StepInputs::PackSampling(const StepPlan& plan) {
  int64_t num_counts = 0, num_bias = 0, num_suppressed = 0;
  for (const int32_t i : sampled_slices) {
    num_counts += static_cast<int64_t>(plan.slices[i].seen.size());
    num_bias += static_cast<int64_t>(plan.slices[i].sampling.logit_bias.size());
    num_suppressed += static_cast<int64_t>(plan.slices[i].suppressed.size());
  }
  packed_sample_rows_ = Reserve<SampleRow>(num_samples);
  packed_counts_ = Reserve<TokenCount>(num_counts);
  packed_bias_ = Reserve<LogitBias>(num_bias);
  packed_suppressed_ = Reserve<int32_t>(num_suppressed);
  int32_t count = 0, bias_at = 0, suppressed_at = 0;
  for (int64_t r = 0; r < num_samples; ++r) {
    const SequenceSlice& slice = plan.slices[sampled_slices[r]];
    const SamplingParams& s = slice.sampling;
    SampleRow row{.temperature = s.temperature,
                  .top_k = s.top_k,
                  .top_p = s.top_p,
                  .min_p = s.min_p,
                  .typical_p = s.typical_p,
                  .repetition_penalty = s.repetition_penalty,
                  .presence_penalty = s.presence_penalty,
                  .frequency_penalty = s.frequency_penalty,
                  .seed = s.seed,
                  .choice = static_cast<uint32_t>(slice.choice),
                  .position = static_cast<uint32_t>(slice.context_len()),
                  .vocab_limit = s.vocab_limit,
                  .num_top = s.num_logprobs,
                  .counts_begin = count,
                  .bias_begin = bias_at,
                  .suppressed_begin = suppressed_at};
    for (const SeenToken& seen : slice.seen) Staged(packed_counts_)[count++] = {seen.id, seen.generated};
    for (const auto& [id, value] : s.logit_bias) Staged(packed_bias_)[bias_at++] = {id, value};
    for (const int32_t id : slice.suppressed) Staged(packed_suppressed_)[suppressed_at++] = id;
    row.counts_end = count;
    row.bias_end = bias_at;
    row.suppressed_end = suppressed_at;
    Staged(packed_sample_rows_)[r] = row;
  }
}

void StepInputs::SetViews() {
  token_ids = View(packed_token_ids_);
  positions = View(packed_positions_);
  slots = View(packed_slots_);
  block_tables = MakeView(OnDevice(packed_block_tables_), DType::kI32, num_sequences, blocks_per_table_);
  context_lens = View(packed_context_lens_);
  decode_starts = View(packed_decode_starts_);
  prefill_starts = View(packed_prefill_starts_);
  copy_src = View(packed_copy_src_);
  copy_dst = View(packed_copy_dst_);
  logit_rows = View(packed_logit_rows_);
  targets = View(packed_targets_);
  sample_rows = OnDevice(packed_sample_rows_);
  counts = OnDevice(packed_counts_);
  bias = OnDevice(packed_bias_);
  suppressed = OnDevice(packed_suppressed_);
}

}  // namespace optserve
