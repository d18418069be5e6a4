#pragma once

#include <algorithm>
#include <random>

#include "tests/engine/scheduler/harness.h"

namespace optserve {

// Random pools and requests, of every kind the scheduler knows.
class Traffic {
 public:
  explicit Traffic(uint64_t seed) : random_(seed) {}

  int32_t Uniform(int32_t min, int32_t max) { return std::uniform_int_distribution(min, max)(random_); }
  bool Chance(int32_t percent) { return Uniform(1, 100) <= percent; }

  FakeExecutor::Options Pool() {
    const int32_t block_size = Uniform(1, 6);
    const int32_t longest = Uniform(8, 60);
    const int32_t minimum = (longest + block_size - 1) / block_size;
    return {.num_blocks = minimum + Uniform(0, 3) * Uniform(0, 10),
            .block_size = block_size,
            .max_model_len = longest,
            .max_num_seqs = Uniform(1, 12),
            .max_num_batched_tokens = Uniform(1, 40)};
  }

  GenerateRequest Request(RequestId id, const FakeExecutor::Options& options, int64_t now_ns, int64_t step_ns) {
    const int32_t prompt_tokens = Uniform(1, options.max_model_len - 1);
    // Few different prompts, so that some are the same and some begin alike.
    GenerateRequest request{.id = id, .prompt = MakePrompt(prompt_tokens, Uniform(1, 3))};
    if (Chance(30)) request.prompt.back() = Uniform(0, 48);
    request.max_tokens = Chance(10) ? 0 : Uniform(1, options.max_model_len - prompt_tokens);
    request.num_choices = Chance(30) ? Uniform(2, 6) : 1;
    request.first_choice = Chance(10) ? 5 : 0;
    if (Chance(60)) request.stop_token_ids = {Uniform(0, 49), Uniform(0, 49)};
    if (Chance(30)) request.num_prompt_logprobs = Uniform(0, 3);
    if (Chance(20)) request.api_key_id = "another";
    if (Chance(20)) request.cache_salt = "salt";
    if (Chance(50)) request.user = Chance(50) ? "a" : "b";
    request.priority = Uniform(-1, 1);
    request.share_weight = Uniform(1, 3);
    request.batch = Chance(40);
    if (Chance(20)) request.deadline_ns = now_ns + Uniform(1, 200) * step_ns;
    SamplingParams& sampling = request.sampling;
    sampling.temperature = Chance(50) ? 0.0f : 1.0f;
    sampling.seed = static_cast<uint64_t>(Uniform(0, 5));
    sampling.num_logprobs = Uniform(0, 2);
    if (Chance(20)) sampling.min_tokens = Uniform(0, 20);
    if (Chance(20)) sampling.presence_penalty = 0.5f;
    if (Chance(20)) sampling.no_repeat_ngram_size = Uniform(1, 4);
    if (request.num_choices == 1 && request.max_tokens > 1 && Chance(20)) {
      const ExpectedAnswer whole = ExpectAnswer(request, 0, options);
      const int32_t size = Uniform(0, static_cast<int32_t>(whole.tokens.size()) - 1);
      for (int32_t i = 0; i < size; ++i) request.generated.push_back(whole.tokens[i].id);
      if (request.num_prompt_logprobs >= 0) request.prompt_scores_sent = Uniform(0, prompt_tokens - 1);
    }
    return request;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace optserve
