#include "engine/checkpoint/mapped_checkpoint.h"

#include <algorithm>

#include "engine/util/status.h"

namespace optserve {

absl::Status MappedCheckpoint::Finish() {
  std::sort(tensors_.begin(), tensors_.end(),
            [](const CheckpointTensor& a, const CheckpointTensor& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors_.size(); ++i) {
    if (tensors_[i].name == tensors_[i - 1].name) {
      return InvalidArgument("{}: tensor {} is in {} and in {}", source_, Printable(tensors_[i].name),
                             tensors_[i - 1].file, tensors_[i].file);
    }
  }
  for (const CheckpointTensor& tensor : tensors_) total_bytes_ += static_cast<int64_t>(tensor.view.num_bytes());
  return absl::OkStatus();
}

const CheckpointTensor* MappedCheckpoint::Find(std::string_view name) const {
  const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const CheckpointTensor& tensor, std::string_view n) { return tensor.name < n; });
  return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

}  // namespace optserve
