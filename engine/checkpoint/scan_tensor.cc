#include "engine/checkpoint/scan_tensor.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "engine/checkpoint/model_directory.h"
#include "engine/util/status.h"
#include "kernels/common/half.h"

namespace optserve {
namespace {

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

// Adds a view whose first element is at `origin` of the tensor. Returns the largest bits.
template <typename Bits>
Bits ScanView(const TensorView& view, TensorScan::Place origin, const Format<Bits>& format, TensorScan* scan) {
  Bits largest = 0;
  const int64_t columns = view.row_size();
  for (int64_t r = 0; r < view.dims[0]; ++r) {
    const auto* row = static_cast<const std::byte*>(view.Rows(r, 1).data);
    const Bits in_row = LargestBits(row, columns, format.magnitude);
    largest = std::max(largest, in_row);
    if (in_row < format.infinity || scan->not_finite) continue;
    int64_t c = 0;
    while ((LoadBits<Bits>(row + c * static_cast<int64_t>(sizeof(Bits))) & format.magnitude) < format.infinity) ++c;
    scan->not_finite = {.row = origin.row + r, .column = origin.column + c};
  }
  return largest;
}

template <typename Bits>
Bits ScanAll(const CheckpointTensor& tensor, const Format<Bits>& format, TensorScan* scan) {
  Bits largest = 0;
  if (!tensor.view.empty()) largest = ScanView(tensor.view, {}, format, scan);
  for (const TensorTile& tile : tensor.tiles) {
    largest = std::max(largest, ScanView(tile.view, {.row = tile.row, .column = tile.column}, format, scan));
  }
  return largest;
}

}  // namespace

TensorScan ScanTensor(const CheckpointTensor& tensor) {
  TensorScan scan;
  switch (tensor.view.dtype) {
    case DType::kF16:
      scan.largest = ToF32(F16{ScanAll(tensor, Format<uint16_t>{0x7fff, 0x7c00}, &scan)});
      break;
    case DType::kBF16:
      scan.largest = ToF32(BF16{ScanAll(tensor, Format<uint16_t>{0x7fff, 0x7f80}, &scan)});
      break;
    case DType::kF32:
      scan.largest = std::bit_cast<float>(ScanAll(tensor, Format<uint32_t>{0x7fffffff, 0x7f800000}, &scan));
      break;
    case DType::kI32:
      break;
  }
  return scan;
}

absl::Status CheckFinite(const Checkpoint& checkpoint) {
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const TensorScan scan = ScanTensor(tensor);
    if (!scan.not_finite) continue;
    return InvalidArgument("{}: tensor {} holds NaN or infinity at row {}, column {}", tensor.file,
                           Printable(tensor.name), scan.not_finite->row, scan.not_finite->column);
  }
  return absl::OkStatus();
}

}  // namespace optserve
