#include "engine/checkpoint/rank_files.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/part_merge.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr std::string_view kBegin = "model-rank-";
constexpr std::string_view kMiddle = "-of-";
constexpr std::string_view kEnd = ".safetensors";
constexpr int32_t kMaxRanks = 1024;

struct RankName {
  int32_t rank = 0;
  int32_t size = 0;
};

std::optional<RankName> ParseName(std::string_view name) {
  RankName parsed;
  const char* at = name.data() + std::min(name.size(), kBegin.size());
  const char* const end = name.data() + name.size();
  const auto read = [&](int32_t& number) {
    const auto [next, error] = std::from_chars(at, end, number);
    at = next;
    return error == std::errc() && number >= 0 && number <= kMaxRanks;
  };
  if (!name.starts_with(kBegin) || !read(parsed.rank)) return std::nullopt;
  if (!std::string_view(at, end).starts_with(kMiddle)) return std::nullopt;
  at += kMiddle.size();
  if (!read(parsed.size) || parsed.rank >= parsed.size) return std::nullopt;
  // Not 007.
  return name == RankFileName(parsed.rank, parsed.size) ? std::optional(parsed) : std::nullopt;
}

struct RankPart {
  std::string file;
  std::map<std::string, CheckpointTensor> tensors;
};

absl::StatusOr<RankPart> ReadPart(const MappedFile& file, int32_t rank, int32_t size) {
  std::map<std::string, std::string> metadata;
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<CheckpointTensor> tensors, ReadSafetensors(file, &metadata));
  if (metadata["format"] != kRankFileFormat || metadata[kRankKey] != RankMetadata(rank, size)) {
    return InvalidArgument("{}: not the file of rank {}; by its header it is of \"{}\", rank \"{}\"", file.name(),
                           RankMetadata(rank, size), Printable(metadata["format"]), Printable(metadata[kRankKey]));
  }
  RankPart part{.file = file.name(), .tensors = {}};
  for (CheckpointTensor& tensor : tensors) {
    std::string name = tensor.name;
    part.tensors.emplace(std::move(name), std::move(tensor));
  }
  return part;
}

// Adds one rank's part of a tensor to the parts before it.
absl::Status AddPart(const CheckpointTensor& part, Merge merge, CheckpointTensor* whole) {
  TensorView& sum = whole->view;
  const bool is_first = whole->tiles.empty() && whole->copies.empty();
  const int split = merge == Merge::kColumns ? 1 : 0;  // the dimension that grows
  bool fits = part.view.dtype == sum.dtype && part.view.rank == sum.rank && (merge != Merge::kColumns || sum.rank == 2);
  for (int i = 0; i < sum.rank; ++i) {
    const bool grows = merge != Merge::kSame && i == split;
    if (!grows && part.view.dims[i] != sum.dims[i]) fits = false;
  }
  if (!fits) {
    return InvalidArgument("{}: tensor {} is of another shape or dtype than in {}", part.file, Printable(part.name),
                           whole->file);
  }
  TensorTile tile{.view = part.view, .file = part.file};
  if (merge == Merge::kSame) {
    whole->copies.push_back(tile);
    return absl::OkStatus();
  }
  if (!is_first) {
    (merge == Merge::kRows ? tile.row : tile.column) = sum.dims[split];
    sum.dims[split] += part.view.dims[split];
  }
  whole->tiles.push_back(tile);
  return absl::OkStatus();
}

absl::StatusOr<CheckpointTensor> MergeParts(const std::string& name, const std::vector<RankPart>& parts) {
  CheckpointTensor whole = parts[0].tensors.at(name);
  const Merge merge = MergeOf(name);
  for (const RankPart& part : parts) {
    const auto found = part.tensors.find(name);
    if (found == part.tensors.end()) {
      return InvalidArgument("{}: tensor {} is missing; {} has it", part.file, Printable(name), parts[0].file);
    }
    OPTSERVE_RETURN_IF_ERROR(AddPart(found->second, merge, &whole));
  }
  if (merge == Merge::kSame) return whole;
  whole.view.row_stride = whole.view.row_size();
  if (whole.tiles.size() > 1) whole.view.data = nullptr;
  if (whole.tiles.size() == 1) whole.tiles.clear();
  return whole;
}

}  // namespace

std::string RankFileName(int32_t rank, int32_t size) {
  return fmt::format("{}{}{}{}{}", kBegin, rank, kMiddle, size, kEnd);
}

std::string RankMetadata(int32_t rank, int32_t size) { return fmt::format("{} of {}", rank, size); }

absl::StatusOr<std::optional<int32_t>> FindRankFiles(const std::vector<std::string>& names) {
  std::map<int32_t, std::set<int32_t>> found;  // ranks by size
  for (const std::string& name : names) {
    if (const std::optional<RankName> parsed = ParseName(name)) found[parsed->size].insert(parsed->rank);
  }
  if (found.empty()) return std::nullopt;
  const auto& [size, ranks] = *found.begin();
  if (found.size() > 1) {
    return InvalidArgument("{} and {}: files for different numbers of ranks; keep one set of them",
                           RankFileName(*ranks.begin(), size),
                           RankFileName(*found.rbegin()->second.begin(), found.rbegin()->first));
  }
  for (int32_t rank = 0; rank < size; ++rank) {
    if (!ranks.contains(rank)) {
      return InvalidArgument("{} is missing: the conversion was interrupted, run it again", RankFileName(rank, size));
    }
  }
  return size;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenRankFiles(const ModelDirectory& directory, int32_t size) {
  auto checkpoint = std::make_unique<MappedCheckpoint>("safetensors of ranks", RankFileName(0, size));
  std::vector<RankPart> parts;
  // Views of names: the mapped files outlive the checkpoint's tensors, these parts do not.
  std::vector<std::string_view> file_names;
  for (int32_t rank = 0; rank < size; ++rank) {
    OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, directory.Map(RankFileName(rank, size)));
    OPTSERVE_ASSIGN_OR_RETURN(parts.emplace_back(), ReadPart(*file, rank, size));
    file_names.emplace_back(file->name());
    checkpoint->Keep(std::move(file));
  }
  for (const RankPart& part : parts) {
    for (const auto& [name, tensor] : part.tensors) {
      if (!parts[0].tensors.contains(name)) {
        return InvalidArgument("{}: tensor {} is missing; {} has it", parts[0].file, Printable(name), part.file);
      }
    }
  }
  for (const auto& [name, tensor] : parts[0].tensors) {
    OPTSERVE_ASSIGN_OR_RETURN(CheckpointTensor merged, MergeParts(name, parts));
    for (size_t rank = 0; rank < merged.tiles.size(); ++rank) merged.tiles[rank].file = file_names[rank];
    for (size_t rank = 0; rank < merged.copies.size(); ++rank) merged.copies[rank].file = file_names[rank];
    checkpoint->Add(std::move(merged));
  }
  OPTSERVE_RETURN_IF_ERROR(checkpoint->Finish());
  return checkpoint;
}

}  // namespace optserve
