#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engine/executor/executor.h"
#include "tests/support/golden_models.h"
#include "tests/support/plan_runner.h"

namespace optserve {

// The model in `directory`, on `size` ranks, says what a golden model says.
inline void ExpectGolden(const std::string& directory, int32_t size, const GoldenModel& golden) {
  SCOPED_TRACE(size);
  auto executor = MakeLocalExecutor(
      {.model_path = directory, .tensor_parallel_size = size, .max_num_seqs = 2, .num_threads = size});
  ASSERT_TRUE(executor.ok());
  const absl::StatusOr<StartResult> start = (*executor)->Start(nullptr);
  ASSERT_TRUE(start.ok()) << start.status();
  const GoldenPrompt& prompt = golden.prompts[2];
  const RunResult result = RunPrompts(**executor, start->kv, {prompt.ids}, {.max_new_tokens = 4})[0];
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(result.generated[i].id, prompt.greedy_ids[i]);
    EXPECT_NEAR(result.generated[i].logprob, prompt.greedy_logprobs[i], kGoldenTolerance);
  }
}

}  // namespace optserve
