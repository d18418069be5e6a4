#include "engine/checkpoint/tensor_region.h"

#include <algorithm>
#include <cstring>

namespace optserve {
namespace {

int64_t Columns(const TensorView& view) { return view.rank == 1 ? 1 : view.row_size(); }

TensorView Cut(const TensorView& view, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const TensorView cut = view.Rows(row, rows);
  return view.rank == 2 ? cut.Columns(column, columns) : cut;
}

// What a tile has of a region, in the tensor's coordinates.
struct Overlap {
  int64_t row = 0, rows = 0, column = 0, columns = 0;
};

std::optional<Overlap> OverlapOf(const TensorTile& tile, const TensorRegion& region) {
  const int64_t row = std::max(region.row, tile.row);
  const int64_t rows = std::min(region.row + region.rows, tile.row + tile.view.dims[0]) - row;
  const int64_t column = std::max(region.column, tile.column);
  const int64_t columns = std::min(region.column + region.columns, tile.column + Columns(tile.view)) - column;
  if (rows <= 0 || columns <= 0) return std::nullopt;
  return Overlap{.row = row, .rows = rows, .column = column, .columns = columns};
}

}  // namespace

std::optional<TensorView> FindRegion(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy) {
  const TensorView& whole = tensor.copies.empty() ? tensor.view : tensor.copies[copy].view;
  if (!whole.empty()) return Cut(whole, region.row, region.rows, region.column, region.columns);
  for (const TensorTile& tile : tensor.tiles) {
    const int64_t row = region.row - tile.row;
    const int64_t column = region.column - tile.column;
    if (row < 0 || row + region.rows > tile.view.dims[0]) continue;
    if (column < 0 || column + region.columns > Columns(tile.view)) continue;
    return Cut(tile.view, row, region.rows, column, region.columns);
  }
  return std::nullopt;
}

std::vector<TensorTile> TilesOf(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy) {
  std::vector<TensorTile> tiles;
  const auto add = [&](const TensorTile& tile) {
    const std::optional<Overlap> common = OverlapOf(tile, region);
    if (!common) return;
    tiles.push_back(
        {.row = common->row,
         .column = common->column,
         .view = Cut(tile.view, common->row - tile.row, common->rows, common->column - tile.column, common->columns),
         .file = tile.file});
  };
  if (!tensor.copies.empty()) {
    add(tensor.copies[copy]);
  } else if (!tensor.view.empty()) {
    add({.view = tensor.view, .file = tensor.file});
  } else {
    for (const TensorTile& tile : tensor.tiles) add(tile);
  }
  return tiles;
}

std::vector<ByteRegion> BytesOf(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy) {
  const auto element = static_cast<int64_t>(SizeOf(tensor.view.dtype));
  std::vector<ByteRegion> bytes;
  for (const TensorTile& tile : TilesOf(tensor, region, copy)) {
    bytes.push_back({.data = tile.view.as<const std::byte>(),
                     .row_bytes = Columns(tile.view) * element,
                     .rows = tile.view.dims[0],
                     .stride = tile.view.row_stride * element,
                     .file = tile.file});
  }
  return bytes;
}

void CopyRegion(const CheckpointTensor& tensor, const TensorRegion& region, std::byte* out) {
  const auto element = static_cast<int64_t>(SizeOf(tensor.view.dtype));
  for (const TensorTile& tile : TilesOf(tensor, region)) {
    std::byte* to = out + ((tile.row - region.row) * region.columns + tile.column - region.column) * element;
    if (tile.view.is_contiguous() && Columns(tile.view) == region.columns) {
      std::memcpy(to, tile.view.data, tile.view.num_bytes());
      continue;
    }
    const auto row_bytes = static_cast<size_t>(Columns(tile.view) * element);
    for (int64_t row = 0; row < tile.view.dims[0]; ++row) {
      std::memcpy(to + row * region.columns * element, tile.view.Rows(row, 1).data, row_bytes);
    }
  }
}

TensorRegion WholeOf(const CheckpointTensor& tensor) {
  return {.rows = tensor.view.dims[0], .columns = Columns(tensor.view)};
}

}  // namespace optserve
