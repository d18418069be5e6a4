#include "tests/support/fake_executor.h"

#include <algorithm>
#include <bit>
#include <set>

#include "engine/util/mix.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

// What a token leaves in the cache depends on all tokens before it, as in a model of more than one layer. `context` is
// the sum of Contribution over them.
uint64_t KvValue(int32_t token, int32_t position, uint64_t context) {
  return Mix(Mix(static_cast<uint64_t>(token), static_cast<uint64_t>(position)), context);
}
uint64_t Contribution(uint64_t kv_value, int32_t position) { return Mix(kv_value, static_cast<uint64_t>(position)); }

TokenScore Score(uint64_t logits, int32_t id, int32_t num_top, int32_t vocab_size) {
  const auto logprob = [&](int32_t of) {
    return -static_cast<float>(Mix(logits, static_cast<uint64_t>(of) + 100) % 100000) / 1000.0f;
  };
  TokenScore score{.id = id, .logprob = logprob(id)};
  for (int32_t rank = 0; rank < num_top; ++rank) {
    const auto top = static_cast<int32_t>(Mix(logits, static_cast<uint64_t>(rank) + 10000) % vocab_size);
    score.top.push_back({.id = top, .logprob = logprob(top)});
  }
  return score;
}

int32_t Sample(uint64_t logits, const SamplingParams& sampling, int32_t choice, int32_t position,
               const std::vector<SeenToken>& seen, const std::vector<int32_t>& suppressed, int32_t vocab_size) {
  uint64_t state = logits;
  if (sampling.temperature > 0) {
    state = Mix(Mix(Mix(state, sampling.seed), static_cast<uint64_t>(choice)), static_cast<uint64_t>(position));
  }
  for (const SeenToken& token : seen) {
    state += Mix(static_cast<uint64_t>(token.id) + 1, static_cast<uint64_t>(token.generated) + 1);
  }
  state = Mix(state, std::bit_cast<uint32_t>(sampling.top_p));
  const int32_t limit = sampling.vocab_limit > 0 ? sampling.vocab_limit : vocab_size;
  for (uint64_t attempt = 0; attempt < 100000; ++attempt) {
    const auto id = static_cast<int32_t>(Mix(state, attempt) % static_cast<uint64_t>(limit));
    if (std::ranges::find(suppressed, id) == suppressed.end()) return id;
  }
  return 0;
}

}  // namespace

bool operator==(const TokenLogprob& a, const TokenLogprob& b) { return a.id == b.id && a.logprob == b.logprob; }
bool operator==(const TokenScore& a, const TokenScore& b) {
  return a.id == b.id && a.logprob == b.logprob && a.top == b.top;
}

FakeExecutor::FakeExecutor(Options options) : options_(std::move(options)) {
  slots_.resize(static_cast<size_t>(options_.num_blocks) * options_.block_size);
}

ModelInfo FakeExecutor::model() const {
  return {.vocab_size = options_.vocab_size,
          .max_model_len = options_.max_model_len,
          .eos_token_ids = {2},
          .max_num_seqs = options_.max_num_seqs,
          .kv_tokens = static_cast<int64_t>(slots_.size())};
}

absl::StatusOr<StartResult> FakeExecutor::Start(const LoadProgress& progress) {
  if (progress != nullptr) progress(1, 1);
  return StartResult{.kv = {.num_blocks = options_.num_blocks, .block_size = options_.block_size}, .model = model()};
}

int32_t FakeExecutor::SlotOf(const SequenceSlice& slice, int32_t position) const {
  return slice.block_table[position / options_.block_size] * options_.block_size + position % options_.block_size;
}

absl::StatusOr<StepResult> FakeExecutor::Execute(const StepPlan& plan) {
  if (options_.before_step != nullptr) OPTSERVE_RETURN_IF_ERROR(options_.before_step(plan));
  OPTSERVE_RETURN_IF_ERROR(CheckPlan(plan));
  for (const int32_t block : plan.zeroed_blocks) {
    std::fill_n(slots_.begin() + block * options_.block_size, options_.block_size, Slot{});
  }
  OPTSERVE_RETURN_IF_ERROR(CopyBlocks(plan));
  OPTSERVE_RETURN_IF_ERROR(CheckNewBlocks(plan));
  StepResult result{.step = plan.step};
  size_t first_token = 0;
  for (int32_t i = 0; i < std::ssize(plan.slices); ++i) {
    OPTSERVE_RETURN_IF_ERROR(RunSlice(plan, i, first_token, result));
    first_token += plan.slices[i].num_tokens;
  }
  ++num_steps_;
  num_tokens_ += first_token;
  drawn_.Keep(plan, result);
  return result;
}

absl::Status FakeExecutor::CheckPlan(const StepPlan& plan) {
  if (plan.step != num_steps_ + 1) return Internal("step {} after step {}", plan.step, num_steps_);
  if (plan.slices.empty()) return Internal("step {} is empty", plan.step);
  if (std::ssize(plan.slices) > options_.max_num_seqs) return Internal("{} slices", plan.slices.size());
  int64_t num_tokens = 0;
  std::set<SequenceId> sequences;
  written_.clear();
  for (int32_t i = 0; i < std::ssize(plan.slices); ++i) {
    const SequenceSlice& slice = plan.slices[i];
    if (slice.num_tokens < 1) return Internal("slice {} has {} tokens", i, slice.num_tokens);
    if (i < plan.num_decode && slice.num_tokens != 1) return Internal("decode {} has {} tokens", i, slice.num_tokens);
    if (!sequences.insert(slice.sequence).second) return Internal("sequence {} has two slices", slice.sequence);
    if (std::ssize(slice.block_table) * options_.block_size < slice.context_len()) {
      return Internal("slice {} has {} blocks for {} tokens", i, slice.block_table.size(), slice.context_len());
    }
    for (const int32_t block : slice.block_table) {
      if (block < 0 || block >= options_.num_blocks) return Internal("slice {} has block {}", i, block);
    }
    for (int32_t position = slice.num_cached; position < slice.context_len(); ++position) {
      if (!written_.insert(SlotOf(slice, position)).second) {
        return Internal("slot {} is written twice in step {}", SlotOf(slice, position), plan.step);
      }
    }
    num_tokens += slice.num_tokens;
  }
  if (num_tokens != std::ssize(plan.token_ids)) return Internal("{} token ids", plan.token_ids.size());
  if (num_tokens > options_.max_num_batched_tokens) return Internal("{} tokens in a step", num_tokens);
  return absl::OkStatus();
}

// A block that a sequence begins has nothing in it that is not finite.
absl::Status FakeExecutor::CheckNewBlocks(const StepPlan& plan) {
  for (const SequenceSlice& slice : plan.slices) {
    for (int32_t i = (slice.num_cached + options_.block_size - 1) / options_.block_size;
         i * options_.block_size < slice.context_len(); ++i) {
      for (int32_t slot = 0; slot < options_.block_size; ++slot) {
        if (slots_[slice.block_table[i] * options_.block_size + slot].is_finite) continue;
        return Internal("block {} was given to sequence {} with NaN in it", slice.block_table[i], slice.sequence);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status FakeExecutor::CopyBlocks(const StepPlan& plan) {
  std::set<int32_t> sources;
  std::set<int32_t> destinations;
  for (const BlockCopy& copy : plan.block_copies) {
    sources.insert(copy.src);
    if (!destinations.insert(copy.dst).second) return Internal("block {} is the target of two copies", copy.dst);
  }
  for (const BlockCopy& copy : plan.block_copies) {
    if (sources.contains(copy.dst)) return Internal("block {} is copied from and to", copy.dst);
    std::copy_n(slots_.begin() + copy.src * options_.block_size, options_.block_size,
                slots_.begin() + copy.dst * options_.block_size);
  }
  return absl::OkStatus();
}

absl::Status FakeExecutor::RunSlice(const StepPlan& plan, int32_t index, size_t first_token, StepResult& result) {
  const SequenceSlice& slice = plan.slices[index];
  uint64_t context = 0;
  bool is_finite = true;
  for (int32_t position = 0; position < slice.num_cached; ++position) {
    const int32_t slot = SlotOf(slice, position);
    if (!slots_[slot].is_written) return Internal("slot {} is read before it is written", slot);
    if (written_.contains(slot)) return Internal("slot {} is read by one slice and written by another", slot);
    context += Contribution(slots_[slot].value, position);
    is_finite = is_finite && slots_[slot].is_finite;
  }
  ScoredPrompt scored{.slice = index};
  uint64_t logits = 0;
  for (int32_t i = 0; i < slice.num_tokens; ++i) {
    const int32_t position = slice.num_cached + i;
    const int32_t token = drawn_.Resolve(plan.token_ids[first_token + i]);
    is_finite = is_finite && token != options_.nonfinite_token;
    const uint64_t value = KvValue(token, position, context);
    slots_[SlotOf(slice, position)] = {
        .is_written = true, .is_finite = token != options_.nonfinite_token, .value = value};
    context += Contribution(value, position);
    logits = Mix(context, 0);
    const int32_t target = i - slice.score_begin;
    if (target >= 0 && target < std::ssize(slice.score_targets)) {
      scored.tokens.push_back(
          Score(logits, slice.score_targets[target], slice.num_score_logprobs, options_.vocab_size));
      scored.finite = scored.finite && is_finite;
    }
  }
  if (scored.tokens.size() != slice.score_targets.size()) {
    return Internal("slice {} scores {} targets of {}", index, scored.tokens.size(), slice.score_targets.size());
  }
  if (!scored.tokens.empty()) result.scored.push_back(std::move(scored));
  if (slice.wants_sample) {
    const int32_t id = Sample(logits, slice.sampling, slice.choice, slice.context_len(), slice.seen, slice.suppressed,
                              options_.vocab_size);
    result.sampled.push_back({.slice = index,
                              .finite = is_finite,
                              .token = Score(logits, id, slice.sampling.num_logprobs, options_.vocab_size)});
  }
  return absl::OkStatus();
}

ExpectedAnswer ExpectAnswer(const GenerateRequest& request, int32_t choice, const FakeExecutor::Options& options) {
  ExpectedAnswer answer;
  const SamplingParams& sampling = request.sampling;
  const bool has_penalties =
      sampling.repetition_penalty != 1.0f || sampling.presence_penalty != 0.0f || sampling.frequency_penalty != 0.0f;
  std::vector<int32_t> tokens = request.prompt;
  tokens.insert(tokens.end(), request.generated.begin(), request.generated.end());
  uint64_t context = 0;
  for (int32_t position = 0; position < std::ssize(tokens); ++position) {
    context += Contribution(KvValue(tokens[position], position, context), position);
    const uint64_t logits = Mix(context, 0);
    const bool is_prompt = position + 1 < std::ssize(request.prompt);
    if (is_prompt && choice == 0 && request.num_prompt_logprobs >= 0 && position >= request.prompt_scores_sent) {
      answer.prompt_scores.push_back(
          Score(logits, tokens[position + 1], request.num_prompt_logprobs, options.vocab_size));
    }
    if (position + 1 < std::ssize(tokens)) continue;
    const int32_t num_generated = position + 1 - static_cast<int32_t>(request.prompt.size());
    if (num_generated >= request.max_tokens) {
      answer.finish = FinishReason::kLength;
      return answer;
    }
    std::vector<int32_t> suppressed;
    if (num_generated < sampling.min_tokens) suppressed = request.stop_token_ids;
    if (const int32_t n = sampling.no_repeat_ngram_size; n > 0) {
      for (int32_t end = n - 1; end < std::ssize(tokens); ++end) {  // tokens[end] follows the n - 1 before it
        if (std::equal(tokens.end() - (n - 1), tokens.end(), tokens.begin() + end - (n - 1))) {
          suppressed.push_back(tokens[end]);
        }
      }
    }
    std::vector<SeenToken> seen;
    for (int32_t i = 0; has_penalties && i < std::ssize(tokens); ++i) {
      const int32_t id = tokens[i];
      if (std::ranges::find(seen, id, &SeenToken::id) != seen.end()) continue;
      seen.push_back({.id = id,
                      .generated = static_cast<int32_t>(
                          std::count(tokens.begin() + std::ssize(request.prompt), tokens.end(), id))});
    }
    const int32_t id =
        Sample(logits, sampling, request.first_choice + choice, position + 1, seen, suppressed, options.vocab_size);
    tokens.push_back(id);
    answer.tokens.push_back(Score(logits, id, sampling.num_logprobs, options.vocab_size));
    if (num_generated >= sampling.min_tokens && std::ranges::count(request.stop_token_ids, id) > 0) {
      answer.finish = FinishReason::kStop;
      return answer;
    }
  }
  return answer;
}

}  // namespace optserve
