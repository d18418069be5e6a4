#pragma once

#include <cstdint>
#include <random>

#include "engine/scheduler/scheduler.h"

namespace optserve {

// A scheduler that has nothing but decoding to do, and results that cost nothing to make.
class DecodingLoad {
 public:
  // `num_sequences` requests of `prompt_tokens` each, past their prefill, with 2000 tokens to go.
  DecodingLoad(int32_t num_sequences, int32_t prompt_tokens)
      : scheduler_({.num_blocks = num_sequences * ((prompt_tokens + 2000) / 16 + 2),
                    .block_size = 16,
                    .max_num_seqs = num_sequences,
                    .max_num_batched_tokens = 1 << 20,
                    .check_invariants = false}) {
    std::mt19937 random(1);
    for (int32_t i = 0; i < num_sequences; ++i) {
      GenerateRequest request{.id = static_cast<RequestId>(i + 1), .max_tokens = 2000, .stop_token_ids = {2}};
      for (int32_t t = 0; t < prompt_tokens; ++t) request.prompt.push_back(static_cast<int32_t>(random() % 50000) + 3);
      scheduler_.Add(std::move(request), /*owner=*/0, /*now_ns=*/0);
    }
    Step();
  }

  // PlanStep and Commit, and what the engine does with the events: nothing but taking them.
  void Step() {
    const StepPlan& plan = scheduler_.PlanStep(/*now_ns=*/0);
    result_.step = plan.step;
    result_.sampled.resize(plan.slices.size());
    for (int32_t i = 0; i < static_cast<int32_t>(plan.slices.size()); ++i) {
      result_.sampled[i].slice = i;
      result_.sampled[i].token.id = static_cast<int32_t>((plan.step * 7919 + i) % 50000) + 3;
    }
    scheduler_.Commit(std::move(result_));
    scheduler_.events().clear();
  }

  Scheduler& scheduler() { return scheduler_; }

 private:
  Scheduler scheduler_;
  StepResult result_;  // Commit takes the tokens and leaves the memory
};

}  // namespace optserve
