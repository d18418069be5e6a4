#pragma once

#include <cstdint>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "tests/fuzz/fuzz.h"

namespace optserve::fuzz {

// Reads the first and last byte of every row that a view covers: AddressSanitizer sees a view that leaves its file.
// Counts on the view's rows being in the file, so that their number is bounded by it.
inline void CheckView(const InputFile& file, const TensorView& view) {
  FUZZ_CHECK(view.rank >= 1 && view.rank <= 4);
  for (int i = 0; i < view.rank; ++i) FUZZ_CHECK(view.dims[i] >= 0);
  if (view.num_elements() == 0) return;
  FUZZ_CHECK(view.row_stride >= view.row_size());
  const auto element = static_cast<int64_t>(SizeOf(view.dtype));
  const auto last_row = static_cast<__int128>(view.dims[0] - 1) * view.row_stride;
  const __int128 bytes = (last_row + view.row_size()) * element;
  FUZZ_CHECK(bytes <= static_cast<__int128>(file.get().bytes().size()));
  FUZZ_CHECK(file.Holds(view.data, static_cast<size_t>(bytes)));
}

// What holds of all tensors that a reader of one file returns.
inline void CheckTensors(const InputFile& file, const std::vector<CheckpointTensor>& tensors) {
  for (const CheckpointTensor& tensor : tensors) {
    FUZZ_CHECK(tensor.file == file.get().name());
    CheckView(file, tensor.view);
  }
}

}  // namespace optserve::fuzz
