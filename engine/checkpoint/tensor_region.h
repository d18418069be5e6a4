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

// Of a tensor that is stored several times, copy `copy` is meant; else it says nothing.

// The region as a view of the mapped bytes, if it lies in one place.
std::optional<TensorView> FindRegion(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy = 0);

// Where the region lies: tiles that cover it and nothing else, placed in the tensor, in the order of the tensor's own.
std::vector<TensorTile> TilesOf(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy = 0);

// The same for reading it ahead: these bytes and no others.
std::vector<ByteRegion> BytesOf(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy = 0);

// Copies a region, wherever it lies, to `out`, row by row without gaps.
void CopyRegion(const CheckpointTensor& tensor, const TensorRegion& region, std::byte* out);

// All of a tensor.
TensorRegion WholeOf(const CheckpointTensor& tensor);

}  // namespace optserve
