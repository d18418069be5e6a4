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

std::vector<ByteRegion> BytesOf(const CheckpointTensor& tensor, const TensorRegion& region) {
  const auto element = static_cast<int64_t>(SizeOf(tensor.view.dtype));
  const auto bytes_of = [&](const TensorView& view) {
    return ByteRegion{.data = view.as<const std::byte>(),
                      .row_bytes = Columns(view) * element,
                      .rows = view.dims[0],
                      .stride = view.row_stride * element,
                      .file = tensor.file};
  };
  if (const std::optional<TensorView> view = FindRegion(tensor, region)) return {bytes_of(*view)};
  std::vector<ByteRegion> bytes;
  for (const TensorTile& tile : tensor.tiles) {
    if (const std::optional<Overlap> common = OverlapOf(tile, region)) {
      bytes.push_back(bytes_of(
          Cut(tile.view, common->row - tile.row, common->rows, common->column - tile.column, common->columns)));
    }
  }
  return bytes;
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
    const std::optional<Overlap> common = OverlapOf(tile, region);
    if (!common) continue;
    const auto bytes = static_cast<size_t>(common->columns * element);
    for (int64_t row = common->row; row < common->row + common->rows; ++row) {
      const std::byte* from = tile.view.as<std::byte>() +
                              ((row - tile.row) * tile.view.row_stride + common->column - tile.column) * element;
      std::memcpy(out + ((row - region.row) * region.columns + common->column - region.column) * element, from, bytes);
    }
  }
}

}  // namespace optserve
