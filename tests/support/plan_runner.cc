#include "tests/support/plan_runner.h"

#include <algorithm>
#include <stdexcept>

namespace optserve {
namespace {

struct Sequence {
  std::vector<int32_t> tokens;  // prompt, then what is generated
  int32_t prompt_len = 0;
  int32_t cached = 0;
  std::vector<int32_t> blocks;
};

class Runner {
 public:
  Runner(Executor& executor, const KvBudget& kv, const RunOptions& options)
      : executor_(executor), kv_(kv), options_(options) {}

  std::vector<RunResult> Run(const std::vector<std::vector<int32_t>>& prompts) {
    std::vector<Sequence> sequences;
    for (const auto& prompt : prompts) {
      sequences.push_back({.tokens = prompt, .prompt_len = static_cast<int32_t>(prompt.size())});
      const int32_t needed = sequences.back().prompt_len + options_.max_new_tokens;
      for (int32_t i = 0; i * kv_.block_size < needed; ++i) sequences.back().blocks.push_back(NextBlock());
    }
    std::vector<RunResult> results(prompts.size());
    while (Step(&sequences, &results)) {
    }
    return results;
  }

 private:
  // A step that is coprime to the pool's size visits every block.
  int32_t NextBlock() {
    if (++blocks_taken_ > kv_.num_blocks) throw std::runtime_error("the test's pool is too small");
    return static_cast<int32_t>(int64_t{blocks_taken_} * 7919 % kv_.num_blocks);
  }

  SequenceSlice MakeSlice(const Sequence& sequence, size_t index) {
    const auto len = static_cast<int32_t>(sequence.tokens.size());
    SequenceSlice slice{.sequence = index + 1,
                        .num_tokens = std::min(options_.chunk, len - sequence.cached),
                        .num_cached = sequence.cached,
                        .block_table = sequence.blocks};
    slice.sampling.temperature = 0.0f;
    slice.sampling.num_logprobs = options_.num_logprobs;
    slice.wants_sample = slice.context_len() == len && options_.max_new_tokens > 0;
    for (int32_t i = 0; i < slice.num_tokens; ++i) {
      const int32_t target = sequence.cached + i + 1;
      if (target < sequence.prompt_len) slice.score_targets.push_back(sequence.tokens[target]);
    }
    slice.num_score_logprobs = options_.num_logprobs;
    return slice;
  }

  bool Step(std::vector<Sequence>* sequences, std::vector<RunResult>* results) {
    StepPlan plan{.step = ++step_};
    std::vector<size_t> order;  // decodes first
    const auto wanted = [&](const Sequence& s) {
      const auto generated = static_cast<int32_t>(s.tokens.size()) - s.prompt_len;
      return s.cached < s.prompt_len || (options_.max_new_tokens > 0 && generated < options_.max_new_tokens);
    };
    for (const bool decodes : {true, false}) {
      for (size_t i = 0; i < sequences->size(); ++i) {
        const Sequence& sequence = (*sequences)[i];
        if (!wanted(sequence) || decodes != (sequence.cached >= sequence.prompt_len)) continue;
        if (!options_.batched && !order.empty()) continue;
        order.push_back(i);
        plan.num_decode += decodes ? 1 : 0;
      }
    }
    if (order.empty()) return false;
    for (const size_t i : order) {
      const Sequence& sequence = (*sequences)[i];
      plan.slices.push_back(MakeSlice(sequence, i));
      const auto first = sequence.tokens.begin() + sequence.cached;
      plan.token_ids.insert(plan.token_ids.end(), first, first + plan.slices.back().num_tokens);
    }
    const absl::StatusOr<StepResult> result = executor_.Execute(plan);
    if (!result.ok()) throw std::runtime_error(result.status().ToString());
    for (size_t k = 0; k < order.size(); ++k) (*sequences)[order[k]].cached += plan.slices[k].num_tokens;
    for (const ScoredPrompt& scored : result->scored) {
      if (!scored.finite) throw std::runtime_error("not finite");
      auto& scores = (*results)[order[scored.slice]].prompt_scores;
      scores.insert(scores.end(), scored.tokens.begin(), scored.tokens.end());
    }
    for (const SampledToken& sampled : result->sampled) {
      if (!sampled.finite) throw std::runtime_error("not finite");
      (*results)[order[sampled.slice]].generated.push_back(sampled.token);
      (*sequences)[order[sampled.slice]].tokens.push_back(sampled.token.id);
    }
    return true;
  }

  Executor& executor_;
  const KvBudget kv_;
  const RunOptions options_;
  int32_t blocks_taken_ = 0;
  uint64_t step_ = 0;
};

}  // namespace

std::vector<RunResult> RunPrompts(Executor& executor, const KvBudget& kv,
                                  const std::vector<std::vector<int32_t>>& prompts, const RunOptions& options) {
  return Runner(executor, kv, options).Run(prompts);
}

}  // namespace optserve
