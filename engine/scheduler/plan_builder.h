#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/scheduler/sequence.h"
#include "engine/scheduler/step_plan.h"

namespace optserve {

// Writes StepPlans, one after the other, into the same memory. A sequence that keeps its place from one step to the
// next keeps its slice too: only what has changed is written, and nothing is allocated.
class PlanBuilder {
 public:
  void Begin(uint64_t step);

  // The next slice: the first `num_tokens` tokens of `sequence` that are neither cached nor under way; its blocks cover
  // them. `last_slice` is its slice in the step before this one, if the last of the tokens is drawn there. All slices
  // up to the call of EndDecodes are decodes.
  void Add(const Sequence& sequence, int32_t num_tokens, int32_t last_slice);
  void EndDecodes() { plan_.num_decode = num_slices_; }
  void Zero(int32_t block) { plan_.zeroed_blocks.push_back(block); }
  void Copy(BlockCopy copy) { plan_.block_copies.push_back(copy); }

  // Valid until Begin.
  const StepPlan& End();

  const StepPlan& plan() const { return plan_; }
  uint64_t step() const { return plan_.step; }
  int32_t num_slices() const { return num_slices_; }

 private:
  // The block table in a slice: whose, and which version of it.
  struct Contents {
    SequenceId sequence = 0;
    uint32_t table_version = 0;
    bool operator==(const Contents&) const = default;
  };

  // The slice at the next place, with everything in it that stays the same as long as the sequence runs.
  SequenceSlice& NextSlice(const Sequence& sequence);

  StepPlan plan_;
  int32_t num_slices_ = 0;            // of plan_.slices, in use by this step
  std::vector<Contents> contents_;    // by slice
  std::vector<SequenceSlice> spare_;  // beyond the longest step of late; keeps their memory
};

}  // namespace optserve
