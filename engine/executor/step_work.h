#pragma once

#include <iterator>

#include "engine/planner/cost_model.h"
#include "engine/scheduler/step_plan.h"

namespace optserve {

// What a plan asks for, in the cost model's terms.
inline StepWork WorkOf(const StepPlan& plan) {
  StepWork work{.num_sequences = std::ssize(plan.slices)};
  for (const SequenceSlice& slice : plan.slices) {
    const int64_t tokens = slice.num_tokens;
    work.num_tokens += tokens;
    work.num_samples += std::ssize(slice.score_targets) + (slice.wants_sample ? 1 : 0);
    work.kv_tokens += slice.context_len();
    work.attended_pairs += tokens * slice.num_cached + tokens * (tokens + 1) / 2;
  }
  return work;
}

}  // namespace optserve
