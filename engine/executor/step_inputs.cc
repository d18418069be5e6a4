#include "engine/executor/step_inputs.h"

#include <algorithm>
#include <cstring>

#include "engine/util/status_macros.h"
#include "kernels/common/check.h"

namespace optserve {

namespace {

constexpr size_t kAlignment = 64;
// Of logit_bias and suppressed ids: what steps are planned with for each sequence. A request may have more.
constexpr int64_t kListEntries = 1024;

static_assert(sizeof(TokenCount) == 2 * sizeof(int32_t) && sizeof(LogitBias) == 2 * sizeof(int32_t));

}  // namespace

int64_t StepInputs::PlannedBytes(const StepLimits& limits) {
  const int64_t sequences = limits.max_sequences, samples = limits.max_samples();
  constexpr int64_t kWord = sizeof(int32_t);
  // Ids, positions, slots; rows of logits and their targets.
  int64_t bytes = limits.max_tokens * 5 * kWord;
  // Tables, lengths, starts of queries, copies.
  bytes += sequences * (limits.max_blocks() + 5) * kWord;
  bytes += samples * (static_cast<int64_t>(sizeof(SampleRow)) + 2 * (limits.max_context + kListEntries) * kWord);
  constexpr int64_t kArrays = 14;
  return bytes + kArrays * static_cast<int64_t>(kAlignment);
}

absl::Status StepInputs::Plan(const StepLimits& limits, Backend& backend) {
  const auto bytes = static_cast<size_t>(PlannedBytes(limits));
  OPTSERVE_ASSIGN_OR_RETURN(planned_, backend.Allocate(bytes));
  if (backend.info().host_memory) return absl::OkStatus();
  for (std::unique_ptr<Buffer>& pinned : pinned_) {
    OPTSERVE_ASSIGN_OR_RETURN(pinned, backend.AllocateHost(bytes));
  }
  return absl::OkStatus();
}

absl::Status StepInputs::Set(const StepPlan& plan, int32_t block_size, Backend& backend, const FixedShape& shape) {
  used_ = 0;
  num_tokens = static_cast<int64_t>(plan.token_ids.size());
  num_sequences = static_cast<int64_t>(plan.slices.size());
  num_decode = plan.num_decode;
  if (shape.rows > 0) {
    OPTSERVE_CHECK(num_decode == num_sequences && num_decode <= shape.rows)
        << num_decode << " of " << num_sequences << " sequences decode, in " << shape.rows << " rows";
    num_tokens = num_sequences = num_decode = shape.rows;
  }
  PackTokens(plan, block_size);
  PackAttention(plan, block_size, shape);
  PackLogitRows(plan, shape);
  PackSampling(plan);
  PackCopies(plan);
  OPTSERVE_RETURN_IF_ERROR(ChooseMemory(backend));
  backend.CopyIn(MakeView(base_, DType::kI32, static_cast<int64_t>(used_ / sizeof(int32_t))), SourceOfCopy());
  SetViews();
  return absl::OkStatus();
}

// The copy reads its memory when the device comes to it; then the plan after the next is not packed yet.
const std::byte* StepInputs::SourceOfCopy() {
  if (!is_planned() || pinned_[0] == nullptr) return staging_.data();
  turn_ = (turn_ + 1) % pinned_.size();
  auto* const pinned = static_cast<std::byte*>(pinned_[turn_]->data());
  std::memcpy(pinned, staging_.data(), used_);
  return pinned;
}

absl::Status StepInputs::ChooseMemory(Backend& backend) {
  if (planned_ != nullptr && planned_->size() >= used_) {
    grown_.reset();
    base_ = static_cast<std::byte*>(planned_->data());
    return absl::OkStatus();
  }
  if (grown_ == nullptr || grown_->size() < used_) {
    grown_.reset();  // the old one first: both need not fit
    OPTSERVE_ASSIGN_OR_RETURN(grown_, backend.Allocate(staging_.size()));
  }
  base_ = static_cast<std::byte*>(grown_->data());
  return absl::OkStatus();
}

template <typename T>
StepInputs::Packed<T> StepInputs::Reserve(int64_t size) {
  const Packed<T> array{used_, size};
  used_ += (static_cast<size_t>(size) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  if (staging_.size() < used_) staging_.resize(used_ * 2);
  return array;
}

int32_t StepInputs::IdOrRow(int32_t token_id) const {
  if (!IsDrawn(token_id)) return token_id;
  const auto slice = static_cast<size_t>(SliceThatDraws(token_id));
  OPTSERVE_CHECK(!drawn.empty()) << "nobody keeps what steps draw";
  OPTSERVE_CHECK(slice < rows_.size() && rows_[slice] != kDrewNothing) << "slice " << slice << " drew nothing";
  return ~rows_[slice];
}

void StepInputs::PackTokens(const StepPlan& plan, int32_t block_size) {
  packed_token_ids_ = Reserve<int32_t>(num_tokens);
  packed_positions_ = Reserve<int32_t>(num_tokens);
  packed_slots_ = Reserve<int32_t>(num_tokens);
  std::transform(plan.token_ids.begin(), plan.token_ids.end(), Staged(packed_token_ids_),
                 [&](int32_t id) { return IdOrRow(id); });
  int32_t* position = Staged(packed_positions_);
  int32_t* slot = Staged(packed_slots_);
  const int32_t* const end = position + plan.token_ids.size();
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
  for (auto t = static_cast<int64_t>(plan.token_ids.size()); t < num_tokens; ++t) {
    Staged(packed_token_ids_)[t] = Staged(packed_positions_)[t] = 0;
    Staged(packed_slots_)[t] = -1;
  }
}

// Behind all that a graph reads: how many there are must not move it.
void StepInputs::PackCopies(const StepPlan& plan) {
  const auto num_copies = static_cast<int64_t>(plan.block_copies.size());
  packed_copy_src_ = Reserve<int32_t>(num_copies);
  packed_copy_dst_ = Reserve<int32_t>(num_copies);
  for (int64_t i = 0; i < num_copies; ++i) {
    Staged(packed_copy_src_)[i] = plan.block_copies[i].src;
    Staged(packed_copy_dst_)[i] = plan.block_copies[i].dst;
  }
}

void StepInputs::PackAttention(const StepPlan& plan, int32_t block_size, const FixedShape& shape) {
  blocks_per_table_ = shape.blocks;
  for (const SequenceSlice& slice : plan.slices) {  // at most the shape's, see below
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
  const auto num_slices = static_cast<int64_t>(plan.slices.size());
  for (int64_t i = 0; i < num_slices; ++i) {
    const SequenceSlice& slice = plan.slices[i];
    int32_t* table = Staged(packed_block_tables_) + i * blocks_per_table_;
    int32_t* const rest = std::copy(slice.block_table.begin(), slice.block_table.end(), table);
    std::fill(rest, table + blocks_per_table_, 0);
    Staged(packed_context_lens_)[i] = slice.context_len();
    if (i < num_decode) {
      OPTSERVE_CHECK(slice.num_tokens == 1) << "slice " << i << " is no decode";
      decode_start[1] = decode_start[0] + 1;
      ++decode_start;
      OPTSERVE_CHECK(shape.rows == 0 || static_cast<int64_t>(slice.block_table.size()) <= shape.blocks)
          << slice.block_table.size() << " blocks in " << shape.blocks;
      max_decode_context = std::max(max_decode_context, slice.context_len());
    } else {
      prefill_start[1] = prefill_start[0] + slice.num_tokens;
      ++prefill_start;
      max_prefill_context = std::max(max_prefill_context, slice.context_len());
    }
  }
  for (int64_t i = num_slices; i < num_sequences; ++i) {
    int32_t* table = Staged(packed_block_tables_) + i * blocks_per_table_;
    std::fill(table, table + blocks_per_table_, 0);
    Staged(packed_context_lens_)[i] = 0;
    decode_start[1] = decode_start[0] + 1;
    ++decode_start;
  }
  if (shape.rows > 0) max_decode_context = static_cast<int32_t>(shape.blocks * block_size);
}

void StepInputs::PackLogitRows(const StepPlan& plan, const FixedShape& shape) {
  sampled_slices.clear();
  num_top.clear();
  score_rows.clear();
  rows_.assign(plan.slices.size(), kDrewNothing);
  for (int32_t i = 0; i < static_cast<int32_t>(plan.slices.size()); ++i) {
    const SequenceSlice& slice = plan.slices[i];
    if (slice.wants_sample) {
      rows_[i] = static_cast<int32_t>(sampled_slices.size());
      sampled_slices.push_back(i);
      num_top.push_back(slice.sampling.num_logprobs);
    }
    for (const int32_t target : slice.score_targets) {
      score_rows.push_back({.slice = i, .target = target, .num_top = slice.num_score_logprobs});
    }
  }
  OPTSERVE_CHECK(shape.rows == 0 || (sampled_slices.size() == plan.slices.size() && score_rows.empty()))
      << "step " << plan.step << " does not only decode";
  num_samples = shape.rows > 0 ? shape.rows : static_cast<int64_t>(sampled_slices.size());
  const auto num_scores = static_cast<int64_t>(score_rows.size());
  packed_logit_rows_ = Reserve<int32_t>(num_samples + num_scores);
  packed_targets_ = Reserve<int32_t>(num_scores);
  int32_t* sampled = Staged(packed_logit_rows_);
  int32_t* scored = sampled + num_samples;
  for (int64_t i = std::ssize(sampled_slices); i < num_samples; ++i) sampled[i] = static_cast<int32_t>(i);
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
  packed_lists_ = Reserve<int32_t>(2 * num_counts + 2 * num_bias + num_suppressed);
  auto* const counts_list = reinterpret_cast<TokenCount*>(Staged(packed_lists_));
  auto* const bias_list = reinterpret_cast<LogitBias*>(Staged(packed_lists_));
  int32_t* const suppressed_list = Staged(packed_lists_);
  int32_t count = 0;
  auto bias_at = static_cast<int32_t>(num_counts);
  auto suppressed_at = static_cast<int32_t>(2 * (num_counts + num_bias));
  std::fill_n(Staged(packed_sample_rows_), num_samples, SampleRow{.temperature = 0.0f});
  for (int64_t r = 0; r < std::ssize(sampled_slices); ++r) {
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
    for (const SeenToken& seen : slice.seen) counts_list[count++] = {seen.id, seen.generated};
    for (const auto& [id, value] : s.logit_bias) bias_list[bias_at++] = {id, value};
    for (const int32_t id : slice.suppressed) suppressed_list[suppressed_at++] = id;
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
  suppressed = OnDevice(packed_lists_);
  counts = reinterpret_cast<const TokenCount*>(suppressed);
  bias = reinterpret_cast<const LogitBias*>(suppressed);
}

}  // namespace optserve
