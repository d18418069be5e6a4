#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/common/tensor.h"

namespace optserve {

// One stored tensor: a view of mapped bytes.
struct CheckpointTensor {
  std::string name;  // as stored
  TensorView view;   // read-only, possibly unaligned; lives as long as the checkpoint
  std::string file;  // base name of the file, for messages
};

// An opened checkpoint: names to typed views of mapped files. Opening reads headers only and checks every size with
// overflow-checked arithmetic; nothing in a file is executed. Immutable, any thread.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  virtual const std::vector<CheckpointTensor>& tensors() const = 0;  // sorted by name, names distinct
  virtual const CheckpointTensor* Find(std::string_view name) const = 0;
  virtual std::string format() const = 0;   // "safetensors"
  virtual int64_t total_bytes() const = 0;  // of tensor data
};

// Opens the weights in a model directory. NotFound: no weights in a known format, with a list of what was looked for.
// InvalidArgument: a broken file; one line that names file, tensor and reason.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& model_directory);

}  // namespace optserve
