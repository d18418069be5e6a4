#pragma once

#include <cstdint>
#include <vector>

#include "engine/scheduler/step_plan.h"
#include "kernels/common/check.h"

namespace optserve {

// The tokens that the last step drew, for a plan that was made before they were known.
class DrawnTokens {
 public:
  void Keep(const StepPlan& plan, const StepResult& result) {
    by_slice_.assign(plan.slices.size(), kNone);
    // A row that was not finite drew nothing; what is computed behind it is dropped, whatever it is.
    for (const SampledToken& sampled : result.sampled) by_slice_[sampled.slice] = sampled.finite ? sampled.token.id : 0;
  }

  int32_t Resolve(int32_t token_id) const {
    if (!IsDrawn(token_id)) return token_id;
    const size_t slice = SliceThatDraws(token_id);
    OPTSERVE_CHECK(slice < by_slice_.size() && by_slice_[slice] != kNone) << "slice " << slice << " drew nothing";
    return by_slice_[slice];
  }

 private:
  static constexpr int32_t kNone = -1;
  std::vector<int32_t> by_slice_;
};

}  // namespace optserve
