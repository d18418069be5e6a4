#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve {

// The files of a metaseq checkpoint: one per model-parallel part, or several where each part's parameters are flattened
// and cut into FSDP shards.
struct MetaseqFiles {
  std::vector<std::vector<std::string>> parts;  // [part][shard]; one shard if the file name has none

  bool operator==(const MetaseqFiles&) const = default;
};

// Picks metaseq's files out of the names in a folder: PREFIX-model_part-N.pt, PREFIX-model_part-N-shardS.pt, or a
// single file NAME.pt (reshard.pt, restored.pt). Parts and shards are ordered by their numbers: 10 comes after 9.
//
// nullopt if there is no .pt file. InvalidArgument if a part or shard is missing, or files of several checkpoints are
// mixed.
// Source  facebookresearch/metaseq, projects/OPT/README.md and download_opt175b.md.
absl::StatusOr<std::optional<MetaseqFiles>> FindMetaseqFiles(const std::vector<std::string>& names);

}  // namespace optserve
