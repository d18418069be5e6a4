#include "engine/checkpoint/check_finite.h"

#include <cstdint>
#include <cstring>

#include "engine/checkpoint/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

// Index of the first element of `row` whose exponent bits are all set, or -1. Mapped data may be unaligned.
template <typename Bits>
int64_t FirstNotFinite(const void* row, int64_t count, Bits exponent) {
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, static_cast<const std::byte*>(row) + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    if ((bits & exponent) == exponent) return i;
  }
  return -1;
}

int64_t FirstNotFinite(const TensorView& view, const void* row) {
  switch (view.dtype) {
    case DType::kF16:
      return FirstNotFinite<uint16_t>(row, view.row_size(), 0x7c00);
    case DType::kBF16:
      return FirstNotFinite<uint16_t>(row, view.row_size(), 0x7f80);
    case DType::kF32:
      return FirstNotFinite<uint32_t>(row, view.row_size(), 0x7f800000);
    case DType::kI32:
      break;
  }
  return -1;
}

absl::Status CheckView(const CheckpointTensor& tensor, const TensorView& view) {
  for (int64_t row = 0; row < view.dims[0]; ++row) {
    const int64_t column = FirstNotFinite(view, view.Rows(row, 1).data);
    if (column < 0) continue;
    return InvalidArgument("{}: tensor {} holds NaN or infinity at row {}, column {}", tensor.file,
                           Printable(tensor.name), row, column);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckFinite(const Checkpoint& checkpoint) {
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!tensor.view.empty()) OPTSERVE_RETURN_IF_ERROR(CheckView(tensor, tensor.view));
    for (const TensorTile& tile : tensor.tiles) OPTSERVE_RETURN_IF_ERROR(CheckView(tensor, tile.view));
  }
  return absl::OkStatus();
}

}  // namespace optserve
