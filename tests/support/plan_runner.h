#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/scheduler/step_plan.h"

namespace optserve {

// Drives an executor with hand-made plans: no scheduler in between.

struct RunOptions {
  int32_t max_new_tokens = 0;  // greedy; 0: score the prompt only
  int32_t chunk = 1 << 20;     // prompt tokens per step
  bool batched = false;        // all prompts in one batch; else one after the other
  int32_t num_logprobs = 5;
};

// What a prompt gave.
struct RunResult {
  std::vector<TokenScore> prompt_scores;  // of its tokens 1, 2, ...
  std::vector<TokenScore> generated;
};

// Blocks are handed out in an order that mixes them over the pool. Throws on an error of the executor.
std::vector<RunResult> RunPrompts(Executor& executor, const KvBudget& kv,
                                  const std::vector<std::vector<int32_t>>& prompts, const RunOptions& options);

}  // namespace optserve
