#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/read_ahead.h"
#include "kernels/common/tensor.h"

namespace optserve {

// A rectangle of a stored tensor: what one rank needs of it. A vector is a column: `columns` is 1.
struct TensorRegion {
  int64_t row = 0;
  int64_t rows = 0;
  int64_t column = 0;
  int64_t columns = 1;

  int64_t num_elements() const { return rows * columns; }
};

// The region as a view of the mapped bytes, if it lies in one place.
std::optional<TensorView> FindRegion(const CheckpointTensor& tensor, const TensorRegion& region);

// Where the region lies, for reading it ahead: these bytes and no others, in the order of the file for each tile.
std::vector<ByteRegion> BytesOf(const CheckpointTensor& tensor, const TensorRegion& region);

// Copies a region, wherever it lies, to `out`, row by row without gaps.
void CopyRegion(const CheckpointTensor& tensor, const TensorRegion& region, std::byte* out);

}  // namespace optserve
