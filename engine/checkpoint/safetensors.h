#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"

namespace optserve {

// Opens model.safetensors, or the shards that model.safetensors.index.json names. NotFound: neither is there.
//
// Format  reference: the safetensors README; header of at most 100 MB, tensors tile the data without gap or overlap,
//         nothing follows. Accepted dtypes: F16, BF16, F32.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::string& model_directory);

}  // namespace optserve
