#include "engine/checkpoint/checkpoint.h"

#include <array>
#include <optional>
#include <set>
#include <utility>

#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/metaseq.h"
#include "engine/checkpoint/rank_files.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/shard_index.h"
#include "engine/checkpoint/torch_archive.h"
#include "engine/util/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr size_t kMaxIndexBytes = size_t{16} << 20;

// Where weights are looked for, in this order. What a file is, its content decides.
constexpr std::array<std::string_view, 4> kWeightFiles = {"model.safetensors", "model.safetensors.index.json",
                                                          "pytorch_model.bin", "pytorch_model.bin.index.json"};

struct WeightFile {
  std::string format;
  std::vector<CheckpointTensor> tensors;
};

absl::StatusOr<WeightFile> ReadWeightFile(const MappedFile& file) {
  if (LooksLikeTorchFile(file)) {
    OPTSERVE_ASSIGN_OR_RETURN(const TorchArchive archive, OpenTorchFile(file));
    OPTSERVE_ASSIGN_OR_RETURN(std::vector<CheckpointTensor> tensors, ReadStateDict(archive));
    return WeightFile{.format = archive.format, .tensors = std::move(tensors)};
  }
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<CheckpointTensor> tensors, ReadSafetensors(file));
  return WeightFile{.format = "safetensors", .tensors = std::move(tensors)};
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSingle(const ModelDirectory& directory, std::string_view name) {
  OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, directory.Map(name));
  OPTSERVE_ASSIGN_OR_RETURN(WeightFile read, ReadWeightFile(*file));
  auto checkpoint = std::make_unique<MappedCheckpoint>(std::move(read.format), std::string(name));
  for (CheckpointTensor& tensor : read.tensors) checkpoint->Add(std::move(tensor));
  checkpoint->Keep(std::move(file));
  OPTSERVE_RETURN_IF_ERROR(checkpoint->Finish());
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSharded(const ModelDirectory& directory, std::string_view index_name) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::string json, directory.Read(index_name, kMaxIndexBytes));
  OPTSERVE_ASSIGN_OR_RETURN(const auto weight_map, ParseShardIndex(json, index_name));
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map) names.insert(file);

  std::unique_ptr<MappedCheckpoint> checkpoint;
  for (const std::string& name : names) {
    absl::StatusOr<std::unique_ptr<MappedFile>> file = directory.Map(name);
    if (!file.ok()) return Within(index_name, file.status());
    OPTSERVE_ASSIGN_OR_RETURN(WeightFile read, ReadWeightFile(**file));
    if (checkpoint == nullptr) {
      checkpoint = std::make_unique<MappedCheckpoint>(std::move(read.format), std::string(index_name));
    }
    for (CheckpointTensor& tensor : read.tensors) checkpoint->Add(std::move(tensor));
    checkpoint->Keep(*std::move(file));
  }
  OPTSERVE_RETURN_IF_ERROR(checkpoint->Finish());
  for (const auto& [tensor, file] : weight_map) {
    const CheckpointTensor* found = checkpoint->Find(tensor);
    if (found == nullptr || found->file != file) {
      return InvalidArgument("{}: tensor {} should be in {}, but is not", index_name, Printable(tensor), file);
    }
  }
  return checkpoint;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& model_directory) {
  OPTSERVE_ASSIGN_OR_RETURN(const ModelDirectory directory, ModelDirectory::Open(model_directory));
  for (const std::string_view name : kWeightFiles) {
    if (!directory.Has(name)) continue;
    return name.ends_with(".index.json") ? OpenSharded(directory, name) : OpenSingle(directory, name);
  }
  const std::vector<std::string> listed = directory.List();
  OPTSERVE_ASSIGN_OR_RETURN(const std::optional<int32_t> num_ranks, FindRankFiles(listed));
  if (num_ranks) return OpenRankFiles(directory, *num_ranks);
  OPTSERVE_ASSIGN_OR_RETURN(const std::optional<MetaseqFiles> metaseq, FindMetaseqFiles(listed));
  if (metaseq) return OpenMetaseq(directory, *metaseq);
  std::string names;
  for (const std::string_view name : kWeightFiles) names += (names.empty() ? "" : ", ") + std::string(name);
  return NotFound("{}: no weights; looked for {} and metaseq's *.pt", Printable(model_directory), names);
}

}  // namespace optserve
