#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/scheduler/step_plan.h"

namespace optserve {

// A plan as bytes, for ranks in other processes of the same binary and byte order. DecodeStepPlan(EncodeStepPlan(plan))
// is the plan. InvalidArgument: the bytes are not all of a plan.
std::string EncodeStepPlan(const StepPlan& plan);
absl::StatusOr<StepPlan> DecodeStepPlan(std::string_view bytes);

}  // namespace optserve
