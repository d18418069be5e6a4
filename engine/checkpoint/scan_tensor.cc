#include "engine/checkpoint/scan_tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "engine/util/model_directory.h"
#include "kernels/common/half.h"

namespace optserve {
namespace {

// The largest weights of the published OPT models are some tens, in layer norms.
constexpr float kAbsurd = 1e4f;

// Without the sign, the bits of floating point numbers are in the order of their magnitude, infinity and then NaN last:
// looking for either is looking for the largest number.
template <typename Bits>
struct Format {
  Bits magnitude;  // mask of all bits but the sign
  Bits infinity;
};

template <typename Bits>
Bits LoadBits(const std::byte* at) {  // mapped data may be unaligned
  Bits bits;
  std::memcpy(&bits, at, sizeof(bits));
  return bits;
}

template <typename Bits>
Bits LargestBits(const std::byte* row, int64_t count, Bits magnitude) {
  Bits largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = static_cast<Bits>(LoadBits<Bits>(row + i * static_cast<int64_t>(sizeof(Bits))) & magnitude);
    largest = std::max(largest, bits);
  }
  return largest;
}

// Adds a tile to what is known. Returns the largest bits.
template <typename Bits>
Bits ScanTile(const TensorTile& tile, const Format<Bits>& format, TensorScan* scan) {
  Bits largest = 0;
  const int64_t columns = tile.view.row_size();
  for (int64_t r = 0; r < tile.view.dims[0]; ++r) {
    const auto* row = static_cast<const std::byte*>(tile.view.Rows(r, 1).data);
    const Bits in_row = LargestBits(row, columns, format.magnitude);
    largest = std::max(largest, in_row);
    if (in_row < format.infinity || scan->not_finite) continue;
    int64_t c = 0;
    while ((LoadBits<Bits>(row + c * static_cast<int64_t>(sizeof(Bits))) & format.magnitude) < format.infinity) ++c;
    scan->not_finite = {.row = tile.row + r, .column = tile.column + c};
    scan->file = tile.file;
  }
  return largest;
}

template <typename Bits>
Bits ScanTiles(std::span<const TensorTile> tiles, const Format<Bits>& format, TensorScan* scan) {
  Bits largest = 0;
  for (const TensorTile& tile : tiles) {
    const Bits in_tile = ScanTile(tile, format, scan);
    if (!scan->not_finite && in_tile >= largest) scan->file = tile.file;
    largest = std::max(largest, in_tile);
  }
  return largest;
}

TensorScan Scan(DType dtype, std::span<const TensorTile> tiles) {
  TensorScan scan;
  switch (dtype) {
    case DType::kF16:
      scan.largest = ToF32(F16{ScanTiles(tiles, Format<uint16_t>{0x7fff, 0x7c00}, &scan)});
      break;
    case DType::kBF16:
      scan.largest = ToF32(BF16{ScanTiles(tiles, Format<uint16_t>{0x7fff, 0x7f80}, &scan)});
      break;
    case DType::kF32:
      scan.largest = std::bit_cast<float>(ScanTiles(tiles, Format<uint32_t>{0x7fffffff, 0x7f800000}, &scan));
      break;
    case DType::kI32:
      break;
  }
  return scan;
}

}  // namespace

TensorScan ScanTensor(const CheckpointTensor& tensor) {
  const DType dtype = tensor.view.dtype;
  if (!tensor.copies.empty()) return Scan(dtype, tensor.copies);
  if (tensor.view.empty()) return Scan(dtype, tensor.tiles);
  const TensorTile whole{.view = tensor.view, .file = tensor.file};
  return Scan(dtype, std::span(&whole, 1));
}

TensorScan ScanRegion(const CheckpointTensor& tensor, const TensorRegion& region, size_t copy) {
  return Scan(tensor.view.dtype, TilesOf(tensor, region, copy));
}

std::optional<std::string> ProblemOf(const CheckpointTensor& tensor, const TensorScan& scan) {
  if (scan.not_finite) {
    return fmt::format("{}: tensor {} holds NaN or infinity at row {}, column {}", scan.file, Printable(tensor.name),
                       scan.not_finite->row, scan.not_finite->column);
  }
  if (scan.largest <= kAbsurd) return std::nullopt;
  return fmt::format("{}: tensor {} holds {}; no trained OPT has weights beyond {}", scan.file, Printable(tensor.name),
                     scan.largest, kAbsurd);
}

std::optional<std::string> ProblemOfCopies(const CheckpointTensor& tensor) {
  for (const TensorTile& copy : tensor.copies) {
    if (std::memcmp(copy.view.data, tensor.view.data, tensor.view.num_bytes()) == 0) continue;
    return fmt::format("{}: tensor {} is not what {} says", copy.file, Printable(tensor.name), tensor.file);
  }
  return std::nullopt;
}

}  // namespace optserve
