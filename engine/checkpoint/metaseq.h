#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/metaseq_files.h"
#include "engine/util/model_directory.h"

namespace optserve {

// A metaseq checkpoint of any number of model-parallel parts, with Hugging Face's names and shapes: parts are put side
// by side, fused K, V, Q products are taken apart, and flattened shards are read through, all as tiles of the mapped
// files. What pickles hold beside the tensors (cfg, args and the like, of classes that we do not have) is skipped.
//
// Source  facebookresearch/metaseq, metaseq/scripts/reshard_mp.py and reshard_fsdp.py.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenMetaseq(const ModelDirectory& directory, const MetaseqFiles& files);

}  // namespace optserve
