#pragma once

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"

namespace optserve {

// InvalidArgument names file, tensor and place of the first NaN or infinity. Reads every byte, which opening does not.
absl::Status CheckFinite(const Checkpoint& checkpoint);

}  // namespace optserve
