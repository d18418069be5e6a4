#include "engine/checkpoint/tensor_region.h"

#include <algorithm>
#include <cstring>

namespace optserve {
namespace {

int64_t Columns(const TensorView& view) { return view.rank == 1 ? 1 : view.row_size(); }

TensorView Cut(const TensorView& view, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const TensorView cut = view.Rows(row, rows);
  return view.rank == 1 ? cut : cut.Columns(column, columns);
}

}  // namespace

std::optional<TensorView> FindRegion(const CheckpointTensor& tensor, const TensorRegion& region) {
  if (!tensor.view.empty()) return Cut(tensor.view, region.row, region.rows, region.column, region.columns);
  for (const TensorTile& tile : tensor.tiles) {
    const int64_t row = region.row - tile.row;
    const int64_t column = region.column - tile.column;
    if (row < 0 || row + region.rows > tile.view.dims[0]) continue;
    if (column < 0 || column + region.columns > Columns(tile.view)) continue;
    return Cut(tile.view, row, region.rows, column, region.columns);
  }
  return std::nullopt;
}

void CopyRegion(const CheckpointTensor& tensor, const TensorRegion& region, std::byte* out) {
  const auto element = static_cast<int64_t>(SizeOf(tensor.view.dtype));
  if (const std::optional<TensorView> view = FindRegion(tensor, region)) {
    const auto row_bytes = static_cast<size_t>(region.columns * element);
    if (view->is_contiguous()) {
      std::memcpy(out, view->data, view->num_bytes());
    } else {
      for (int64_t row = 0; row < region.rows; ++row) {
        std::memcpy(out + static_cast<size_t>(row) * row_bytes, view->Rows(row, 1).data, row_bytes);
      }
    }
    return;
  }
  for (const TensorTile& tile : tensor.tiles) {
    const int64_t row_begin = std::max(region.row, tile.row);
    const int64_t row_end = std::min(region.row + region.rows, tile.row + tile.view.dims[0]);
    const int64_t column_begin = std::max(region.column, tile.column);
    const int64_t column_end = std::min(region.column + region.columns, tile.column + Columns(tile.view));
    if (row_begin >= row_end || column_begin >= column_end) continue;
    const auto bytes = static_cast<size_t>((column_end - column_begin) * element);
    for (int64_t row = row_begin; row < row_end; ++row) {
      const std::byte* from =
          tile.view.as<std::byte>() + ((row - tile.row) * tile.view.row_stride + column_begin - tile.column) * element;
      std::memcpy(out + ((row - region.row) * region.columns + column_begin - region.column) * element, from, bytes);
    }
  }
}

}  // namespace optserve
