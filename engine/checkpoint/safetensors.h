#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/util/model_directory.h"

namespace optserve {

// The tensors of a safetensors file, as views into it: u64 length, JSON header, data. The header's ranges must tile the
// data exactly, and each must be as long as its shape and dtype say. F16, BF16 and F32 of at most four dimensions; a
// scalar becomes a vector of one. `metadata`, if given, gets __metadata__.
//
// InvalidArgument: one line that names file, tensor and reason.
// Source  huggingface/safetensors, README and safetensors/src/tensor.rs.
absl::StatusOr<std::vector<CheckpointTensor>> ReadSafetensors(const MappedFile& file,
                                                              std::map<std::string, std::string>* metadata = nullptr);

// True if the file starts as a safetensors file does: a length and '{'.
bool LooksLikeSafetensors(const MappedFile& file);

}  // namespace optserve
