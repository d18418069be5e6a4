#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"

namespace optserve {

// What a look at every element of a tensor finds.
struct TensorScan {
  struct Place {
    int64_t row = 0;
    int64_t column = 0;
  };
  std::optional<Place> not_finite;  // a NaN or infinity
  float largest = 0.0f;             // absolute; NaN or infinity if there is one
};

// Reads the whole tensor, as fast as memory gives it.
TensorScan ScanTensor(const CheckpointTensor& tensor);

// InvalidArgument names file, tensor and place of the first NaN or infinity. Reads every byte, which opening does not.
absl::Status CheckFinite(const Checkpoint& checkpoint);

}  // namespace optserve
