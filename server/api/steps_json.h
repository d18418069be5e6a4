#pragma once

#include <span>
#include <string>

#include "engine/util/step_records.h"

namespace optserve {

// The answer of GET /debug/steps.
std::string EncodeSteps(std::span<const StepRecord> steps);

}  // namespace optserve
