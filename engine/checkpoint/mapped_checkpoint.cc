#include "engine/checkpoint/mapped_checkpoint.h"

#include <algorithm>

#include "engine/util/status.h"

namespace optserve {

absl::Status MappedCheckpoint::Finish() {
  std::sort(tensors_.begin(), tensors_.end(),
            [](const CheckpointTensor& a, const CheckpointTensor& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors_.size(); ++i) {
    if (tensors_[i].name == tensors_[i - 1].name) {
      return InvalidArgument("tensor {} is in {} and in {}", tensors_[i].name, tensors_[i - 1].file, tensors_[i].file);
    }
  }
  for (const CheckpointTensor& tensor : tensors_) total_bytes_ += static_cast<int64_t>(tensor.view.num_bytes());
  for (const auto& file : files_) file->WillNeed();
  return absl::OkStatus();
}

const CheckpointTensor* MappedCheckpoint::Find(std::string_view name) const {
  const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const CheckpointTensor& tensor, std::string_view n) { return tensor.name < n; });
  return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

TensorView MakeMappedView(const std::byte* data, DType dtype, std::span<const uint64_t> shape) {
  TensorView view;
  // Not written to: weights are only read, and the pages are mapped read-only.
  view.data = const_cast<std::byte*>(data);
  view.dtype = dtype;
  view.rank = static_cast<int32_t>(std::min<size_t>(shape.size(), 4));
  for (size_t i = 0; i < shape.size(); ++i) {
    const auto dim = static_cast<int64_t>(shape[i]);
    if (i < 4) {
      view.dims[i] = dim;
    } else {
      view.dims[3] *= dim;
    }
  }
  view.row_stride = view.row_size();
  return view;
}

}  // namespace optserve
