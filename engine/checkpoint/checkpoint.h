#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/common/tensor.h"

namespace optserve {

// A rectangle of a stored tensor that lies in one place: element [row, column] of the tensor is the view's first.
struct TensorTile {
  int64_t row = 0;
  int64_t column = 0;          // 0 for vectors
  TensorView view;             // [rows, columns], or [rows] for vectors
  std::string_view file = {};  // base name; lives as long as the checkpoint
};

// One stored tensor: a view of mapped bytes.
struct CheckpointTensor {
  std::string name;  // Hugging Face's, with the file's own prefix if it has one
  // dtype and dims always; data only if the tensor lies in one place. Read-only, possibly unaligned; lives as long as
  // the checkpoint.
  TensorView view;
  // Where a tensor that does not lie in one place lies: disjoint tiles that cover it. Model-parallel parts and
  // flattened shards of metaseq and the files of ranks are read this way. Empty if view.data is set.
  std::vector<TensorTile> tiles;
  std::string file;  // base name of the (first) file, for messages
  // Files of ranks each hold the whole of what every rank needs: these tiles, by rank, say the same number for number.
  // Empty if the tensor is stored once; else view.data is that of the first.
  std::vector<TensorTile> copies = {};
};

// An opened checkpoint: names to typed views of mapped files. Opening reads headers only and checks every size with
// overflow-checked arithmetic; nothing in a file is executed. Immutable, any thread.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  virtual const std::vector<CheckpointTensor>& tensors() const = 0;  // sorted by name, names distinct
  virtual const CheckpointTensor* Find(std::string_view name) const = 0;
  virtual std::string format() const = 0;  // "safetensors"
  virtual std::string source()
      const = 0;  // the file that stands for the whole, for messages: the index if there is one
  virtual int64_t total_bytes() const = 0;  // of tensor data
};

// Opens the weights in a model directory, whatever their format: it is known by content, not by name. Of several sets
// of weights the first in Hugging Face's order is taken: safetensors before .bin, one file before an index.
//
// NotFound: no weights in a known format, with a list of what was looked for. InvalidArgument: a broken file; one line
// that names file, tensor and reason.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& model_directory);

}  // namespace optserve
