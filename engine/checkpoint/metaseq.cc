#include "engine/checkpoint/metaseq.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/metaseq_part.h"
#include "engine/checkpoint/part_merge.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

// metaseq's name of a tensor in Hugging Face's words.
std::string Renamed(const std::string& name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kPrefixes = {{
      {"decoder.layer_norm.", "decoder.final_layer_norm."},
      {"decoder.project_in_dim.", "decoder.project_in."},
      {"decoder.project_out_dim.", "decoder.project_out."},
  }};
  for (const auto& [from, to] : kPrefixes) {
    if (name.starts_with(from)) return std::string(to) + name.substr(from.size());
  }
  return name;
}

// Rows [begin, begin + count) of a tensor.
CheckpointTensor CutRows(const CheckpointTensor& tensor, std::string name, int64_t begin, int64_t count) {
  CheckpointTensor cut{.name = std::move(name), .view = tensor.view, .tiles = {}, .file = tensor.file};
  cut.view.dims[0] = count;
  for (const TensorTile& tile : tensor.tiles) {
    const int64_t first = std::max(tile.row, begin);
    const int64_t last = std::min(tile.row + tile.view.dims[0], begin + count);
    if (first >= last) continue;
    cut.tiles.push_back({.row = first - begin,
                         .column = tile.column,
                         .view = tile.view.Rows(first - tile.row, last - first),
                         .file = tile.file});
  }
  return cut;
}

// Replaces a part's fused products by the three that they are: keys, values, queries, one behind the other.
absl::Status SplitFused(MetaseqPart* part) {
  constexpr std::string_view kFused = ".qkv_proj.";
  constexpr std::array<std::string_view, 3> kOrder = {".k_proj.", ".v_proj.", ".q_proj."};
  std::vector<CheckpointTensor> split;
  for (auto at = part->tensors.begin(); at != part->tensors.end();) {
    const std::string& name = at->first;
    const size_t where = name.find(kFused);
    if (where == std::string::npos) {
      ++at;
      continue;
    }
    const int64_t rows = at->second.view.dims[0];
    if (rows % 3 != 0) {
      return InvalidArgument("{}: tensor {} has {} rows, which are not keys, values and queries", part->file,
                             Printable(name), rows);
    }
    for (size_t i = 0; i < kOrder.size(); ++i) {
      std::string part_name = name;
      part_name.replace(where, kFused.size(), kOrder[i]);
      split.push_back(CutRows(at->second, std::move(part_name), static_cast<int64_t>(i) * (rows / 3), rows / 3));
    }
    at = part->tensors.erase(at);
  }
  for (CheckpointTensor& tensor : split) {
    std::string name = tensor.name;
    if (!part->tensors.emplace(name, std::move(tensor)).second) {
      return InvalidArgument("{}: tensor {} is there for itself and fused", part->file, Printable(name));
    }
  }
  return absl::OkStatus();
}

// Puts the parts of one tensor side by side.
absl::StatusOr<CheckpointTensor> MergeParts(const std::string& name, std::vector<MetaseqPart>& parts) {
  CheckpointTensor merged = std::move(parts[0].tensors.at(name));
  const TensorView first = merged.view;
  const Merge merge = MergeOf(name);
  for (size_t p = 1; p < parts.size(); ++p) {
    const auto found = parts[p].tensors.find(name);
    if (found == parts[p].tensors.end()) {
      return InvalidArgument("{}: tensor {} is missing; {} has it", parts[p].file, Printable(name), parts[0].file);
    }
    const TensorView& view = found->second.view;
    if (view.rank != first.rank || view.dims != first.dims || view.dtype != first.dtype) {
      return InvalidArgument("{}: tensor {} is of another shape or dtype than in {}", parts[p].file, Printable(name),
                             parts[0].file);
    }
    if (merge == Merge::kSame) continue;
    if (merge == Merge::kColumns && view.rank != 2) {
      return InvalidArgument("{}: tensor {} is no matrix", parts[p].file, Printable(name));
    }
    const auto share = static_cast<int64_t>(p);
    for (TensorTile tile : found->second.tiles) {
      if (merge == Merge::kRows) tile.row += share * first.dims[0];
      if (merge == Merge::kColumns) tile.column += share * first.dims[1];
      merged.tiles.push_back(tile);
    }
  }
  const auto count = static_cast<int64_t>(parts.size());
  if (merge == Merge::kRows) merged.view.dims[0] *= count;
  if (merge == Merge::kColumns) merged.view.dims[1] *= count;
  merged.view.row_stride = merged.view.row_size();
  if (merged.tiles.size() == 1) {
    merged.view = merged.tiles[0].view;
    merged.file = merged.tiles[0].file;
    merged.tiles.clear();
  }
  merged.name = Renamed(name);
  return merged;
}

absl::StatusOr<MetaseqPart> ReadPart(const ModelDirectory& directory, const std::vector<std::string>& names,
                                     size_t num_parts, MappedCheckpoint* checkpoint) {
  std::vector<TorchArchive> shards;
  for (const std::string& name : names) {
    OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, directory.Map(name));
    OPTSERVE_ASSIGN_OR_RETURN(shards.emplace_back(), OpenTorchFile(*file));
    checkpoint->Keep(std::move(file));
  }
  OPTSERVE_ASSIGN_OR_RETURN(const PickleValue* model, FindMetaseqModel(shards[0]));
  if (IsFlattened(shards[0], *model)) return ReadFlattenedPart(shards, num_parts);
  if (shards.size() > 1) return InvalidArgument("{}: a shard whose parameters are not flattened", names[0]);
  return ReadMetaseqPart(shards[0]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenMetaseq(const ModelDirectory& directory, const MetaseqFiles& files) {
  auto checkpoint = std::make_unique<MappedCheckpoint>("metaseq", files.parts[0][0]);
  std::vector<MetaseqPart> parts;
  for (const std::vector<std::string>& shards : files.parts) {
    OPTSERVE_ASSIGN_OR_RETURN(parts.emplace_back(), ReadPart(directory, shards, files.parts.size(), checkpoint.get()));
    OPTSERVE_RETURN_IF_ERROR(SplitFused(&parts.back()));
  }
  for (const MetaseqPart& part : parts) {
    for (const auto& [name, tensor] : part.tensors) {
      if (!parts[0].tensors.contains(name)) {
        return InvalidArgument("{}: tensor {} is missing; {} has it", parts[0].file, Printable(name), part.file);
      }
    }
  }
  std::vector<std::string> names;
  for (const auto& [name, tensor] : parts[0].tensors) names.push_back(name);
  for (const std::string& name : names) {
    OPTSERVE_ASSIGN_OR_RETURN(CheckpointTensor merged, MergeParts(name, parts));
    checkpoint->Add(std::move(merged));
  }
  OPTSERVE_RETURN_IF_ERROR(checkpoint->Finish());
  return checkpoint;
}

}  // namespace optserve
