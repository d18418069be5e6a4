#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"
#include "engine/util/step_account.h"

namespace optserve {

using SequenceId = uint64_t;

// How often a token stands in a sequence; only kept for sequences with penalties.
struct SeenToken {
  int32_t id = 0;
  int32_t generated = 0;  // times among the generated tokens; 0: in the prompt only
};

// One sequence's share of a step.
struct SequenceSlice {
  SequenceId sequence = 0;
  int32_t num_tokens = 0;            // new tokens in this step
  int32_t num_cached = 0;            // tokens already in the KV cache
  std::vector<int32_t> block_table;  // physical block ids, enough for context_len() tokens

  bool wants_sample = false;        // false only for a prefill chunk that is not the last, and for pure scoring
  SamplingParams sampling;          // as the client sent it
  int32_t choice = 0;               // RNG key is (sampling.seed, choice, context_len())
  std::vector<int32_t> suppressed;  // ids not allowed in this step: stop tokens before min_tokens
  std::vector<SeenToken> seen;      // for penalties; empty without

  // Prompt scoring: the logits of tokens [score_begin, score_begin + score_targets.size()) of this slice predict
  // score_targets. num_score_logprobs best tokens are reported beside each.
  int32_t score_begin = 0;
  std::vector<int32_t> score_targets;
  int32_t num_score_logprobs = 0;

  int32_t context_len() const { return num_cached + num_tokens; }
};

// Copy-on-write of a KV block, all layers.
struct BlockCopy {
  int32_t src = 0;
  int32_t dst = 0;
};

// A token id that is not known yet when a step is planned: what slice `slice` of the step before it draws. Who runs
// the step puts the id in its place.
constexpr int32_t DrawnBySlice(int32_t slice) { return ~slice; }
constexpr bool IsDrawn(int32_t token_id) { return token_id < 0; }
constexpr int32_t SliceThatDraws(int32_t token_id) { return ~token_id; }

// What the ranks compute in one step, and nothing else.
//
// Built by Scheduler::PlanStep() on the engine thread, read-only afterwards; every rank gets the same bytes, through
// memory or MPI. It is complete in itself: a rank remembers nothing of earlier plans but the tokens that the last one
// drew, so any step can be written by hand in a test or replayed from a dump.
//
// Invariants  decode slices come first; token_ids is packed in slice order; a sequence appears at most once;
//             block_table covers context_len() tokens; no block is both source and destination of a copy.
struct StepPlan {
  uint64_t step = 0;       // 1, 2, 3, ...
  int32_t num_decode = 0;  // slices[0, num_decode) have num_tokens == 1
  std::vector<SequenceSlice> slices;
  std::vector<int32_t> token_ids;       // [T]; may be DrawnBySlice
  std::vector<int32_t> zeroed_blocks;   // on all layers, first of all: who had them left NaN or Inf in them
  std::vector<BlockCopy> block_copies;  // done before the forward pass

  std::span<const SequenceSlice> decodes() const { return std::span(slices).first(num_decode); }
  std::span<const SequenceSlice> prefills() const { return std::span(slices).subspan(num_decode); }
};

// The token drawn for one slice of the plan.
struct SampledToken {
  int32_t slice = 0;   // index into StepPlan::slices
  bool finite = true;  // false: the row held NaN or Inf, `token` says nothing and the sequence must fail
  TokenScore token;
};

// Scores of one slice's prompt tokens, in the order of its score_targets.
struct ScoredPrompt {
  int32_t slice = 0;
  bool finite = true;
  std::vector<TokenScore> tokens;
};

struct StepResult {
  uint64_t step = 0;
  std::vector<SampledToken> sampled;  // one per slice that wants_sample, in slice order
  std::vector<ScoredPrompt> scored;   // one per slice with score_targets, in slice order
  StepTimes times;                    // of rank 0, from the first to the last thing that it does
  StepDemand demand;
};

}  // namespace optserve
