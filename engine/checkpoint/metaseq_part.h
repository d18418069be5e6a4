#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/torch_archive.h"

namespace optserve {

// The tensors of one model-parallel part, by metaseq's names.
struct MetaseqPart {
  std::string file;  // the (first) file, for messages
  std::unordered_map<std::string, CheckpointTensor> tensors;
};

// Names that a part may have and that are no tensors of the model: a version number, and a copy of the embedding that
// metaseq's own tools let go stale.
bool IsIgnoredByMetaseq(std::string_view name);

// The dictionary `model` of a part's file, or of one of its shards.
absl::StatusOr<const PickleValue*> FindMetaseqModel(const TorchArchive& archive);

// A part in one file, each tensor for itself.
absl::StatusOr<MetaseqPart> ReadMetaseqPart(const TorchArchive& archive);

// True if the parameters lie one behind the other in flat_param_0, one for the root and one for each layer.
bool IsFlattened(const TorchArchive& archive, const PickleValue& model);

// A part whose flattened parameters are cut into shards, in order: shard_metadata says which tensors they are, of what
// shapes, and how much padding each shard ends with. Files that older tools wrote have no shard_metadata; they are of
// an OPT that is not 350M, in the order that all of these have, cut into `num_parts` parts, and sizes follow from their
// number of elements. Source  metaseq pull request 197; fairscale, FullyShardedDataParallel.local_metadata_dict.
absl::StatusOr<MetaseqPart> ReadFlattenedPart(const std::vector<TorchArchive>& shards, size_t num_parts);

}  // namespace optserve
