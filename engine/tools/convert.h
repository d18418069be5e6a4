#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/common/tensor.h"

namespace optserve {

struct ConvertOptions {
  std::string source;                       // a model directory of any format
  std::string target;                       // a directory; made if it is not there
  std::string config_file;                  // instead of the source's config.json; empty: that
  std::string tokenizer_directory;          // whose tokenizer is copied; empty: the source's
  int64_t max_shard_bytes = 5'000'000'000;  // of one file's tensors; a larger tensor has a file of its own
  std::optional<DType> dtype;               // of all tensors; none: as they are stored
  // A file for each of so many ranks, with its part of every tensor, instead of files of at most max_shard_bytes.
  std::optional<int32_t> tensor_parallel_size;
};

struct ConvertReport {
  int32_t files_written = 0;
  int32_t files_kept = 0;  // whole already, from a conversion that was interrupted
  int64_t bytes = 0;       // of tensors, in all files
};

// Writes a model as Hugging Face keeps it: safetensors, one file or several with an index, names with "model.decoder.",
// config.json, and the tokenizer's files if the source has them. transformers opens the result. With
// tensor_parallel_size instead for as many ranks of this program, which then read one file each from beginning to end.
//
// Memory does not grow with the model. Files are written under another name and renamed when they are whole, the index
// last: killed at any time, the same call goes on where it stopped. A source that has changed since is converted anew;
// the target's .converted-from says which it was.
//
// Errors  as those of starting the engine with the source. InvalidArgument: the target holds another model, or a number
//         has no place in the dtype, or the ranks do not divide the model. Unavailable / ResourceExhausted: writing
//         failed.
absl::StatusOr<ConvertReport> ConvertModel(const ConvertOptions& options,
                                           const std::function<void(int64_t, int64_t)>& progress = nullptr);

}  // namespace optserve
