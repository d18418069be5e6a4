#include "engine/scheduler/plan_builder.h"

#include <algorithm>

namespace optserve {
namespace {

// The logits of a token predict the next one: those that predict prompt tokens whose scores are still to come.
void FillScoring(const Sequence& sequence, SequenceSlice& slice) {
  slice.score_targets.clear();
  const GenerateRequest& request = sequence.request->request;
  if (request.num_prompt_logprobs < 0 || sequence.choice != 0) return;
  slice.num_score_logprobs = request.num_prompt_logprobs;
  const int32_t begin = std::max(sequence.next_score, slice.num_cached + 1);
  const int32_t end = std::min(sequence.request->prompt_tokens(), slice.context_len() + 1);
  if (begin >= end) return;
  slice.score_begin = begin - 1 - slice.num_cached;
  slice.score_targets.assign(request.prompt.begin() + begin, request.prompt.begin() + end);
}

void FillSuppressed(const Sequence& sequence, SequenceSlice& slice) {
  slice.suppressed.clear();
  if (!slice.wants_sample) return;
  const RequestState& request = *sequence.request;
  if (request.num_generated(sequence) < request.request.sampling.min_tokens) {
    slice.suppressed = request.request.stop_token_ids;
  }
  if (sequence.ngrams != nullptr) {
    const std::span<const int32_t> banned = sequence.ngrams->Banned();
    slice.suppressed.insert(slice.suppressed.end(), banned.begin(), banned.end());
  }
}

}  // namespace

void PlanBuilder::Begin(uint64_t step) {
  plan_.step = step;
  plan_.num_decode = 0;
  plan_.token_ids.clear();
  plan_.zeroed_blocks.clear();
  plan_.block_copies.clear();
  num_slices_ = 0;
}

void PlanBuilder::Add(const Sequence& sequence, int32_t num_tokens, int32_t last_slice) {
  SequenceSlice& slice = NextSlice(sequence);
  slice.num_tokens = num_tokens;
  slice.num_cached = sequence.num_computed();
  slice.block_table.insert(slice.block_table.end(), sequence.blocks.begin() + std::ssize(slice.block_table),
                           sequence.blocks.end());
  slice.wants_sample = num_tokens == sequence.num_uncomputed() && sequence.request->request.max_tokens > 0;
  FillScoring(sequence, slice);
  FillSuppressed(sequence, slice);
  if (sequence.counts != nullptr && slice.wants_sample) slice.seen = sequence.counts->seen();
  const int32_t known = std::min(num_tokens, sequence.num_tokens() - slice.num_cached);
  const auto first = sequence.tokens.begin() + slice.num_cached;
  plan_.token_ids.insert(plan_.token_ids.end(), first, first + known);
  if (known < num_tokens) plan_.token_ids.push_back(DrawnBySlice(last_slice));
}

SequenceSlice& PlanBuilder::NextSlice(const Sequence& sequence) {
  const int32_t place = num_slices_++;
  if (place == std::ssize(plan_.slices)) {
    contents_.emplace_back();
    if (spare_.empty()) {
      plan_.slices.emplace_back();
    } else {
      plan_.slices.push_back(std::move(spare_.back()));
      spare_.pop_back();
    }
  }
  const Contents wanted{.sequence = sequence.id, .table_version = sequence.table_version};
  if (contents_[place] != wanted) {
    // Others before it have left: its slice of the last step has not moved far.
    const auto old = std::find(contents_.begin() + place, contents_.end(), wanted);
    if (old != contents_.end()) {
      std::swap(plan_.slices[place], plan_.slices[old - contents_.begin()]);
      std::swap(contents_[place], *old);
    }
  }
  SequenceSlice& slice = plan_.slices[place];
  if (contents_[place] == wanted) return slice;
  contents_[place] = wanted;
  slice.sequence = sequence.id;
  slice.block_table.clear();
  slice.block_table.reserve(sequence.blocks.capacity());  // as far as it will ever grow
  slice.sampling = sequence.request->request.sampling;
  slice.choice = sequence.request->request.first_choice + sequence.choice;
  slice.seen.clear();
  slice.score_begin = 0;
  slice.num_score_logprobs = 0;
  return slice;
}

const StepPlan& PlanBuilder::End() {
  while (std::ssize(plan_.slices) > num_slices_) {
    spare_.push_back(std::move(plan_.slices.back()));
    plan_.slices.pop_back();
    contents_.pop_back();
  }
  return plan_;
}

}  // namespace optserve
