#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/tensor_region.h"

namespace optserve {

// What a look at every element of a tensor, or of a part of one, finds.
struct TensorScan {
  struct Place {
    int64_t row = 0;
    int64_t column = 0;
  };
  std::optional<Place> not_finite;  // the first NaN or infinity
  float largest = 0.0f;             // absolute; NaN or infinity if there is one
  std::string_view file;            // where not_finite, or else largest, was found; lives as long as the checkpoint
};

// Reads the whole tensor, every copy of it, as fast as memory gives it.
TensorScan ScanTensor(const CheckpointTensor& tensor);

// Reads a region of the copy `copy` of a vector or matrix.
TensorScan ScanRegion(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy = 0);

// What is wrong with the numbers, as a line that names file, tensor and place: NaN, infinity, or a number of a size
// that no trained OPT has. nullopt if nothing is.
std::optional<std::string> ProblemOf(const CheckpointTensor& tensor, const TensorScan& scan);

// The same of the first copy that is not equal to the others.
std::optional<std::string> ProblemOfCopies(const CheckpointTensor& tensor);

}  // namespace optserve
