#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/util/model_directory.h"

// A model that is cut for tensor parallelism: model-rank-R-of-N.safetensors, a file for each rank, with that rank's
// part of every tensor and a copy of every tensor that is not split. `optserve convert --tensor-parallel-size N` writes
// them; N ranks then read one file each, from its first byte to its last, and other numbers of ranks read what they
// need.

namespace optserve {

std::string RankFileName(int32_t rank, int32_t size);

// What __metadata__ says of a rank's file, besides "format": whose it is, however it is called.
inline constexpr char kRankKey[] = "rank";
inline constexpr char kRankFileFormat[] = "optserve rank";
std::string RankMetadata(int32_t rank, int32_t size);  // "0 of 4"

// The number of ranks that a folder's files are for; nullopt if there is no such file. InvalidArgument: one is missing,
// or files for different numbers of ranks are mixed.
absl::StatusOr<std::optional<int32_t>> FindRankFiles(const std::vector<std::string>& names);

// InvalidArgument: a file is broken, is another rank's, or does not fit to the others.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenRankFiles(const ModelDirectory& directory, int32_t size);

}  // namespace optserve
