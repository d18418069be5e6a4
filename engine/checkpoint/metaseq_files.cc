#include "engine/checkpoint/metaseq_files.h"

#include <charconv>
#include <map>
#include <string_view>
#include <utility>

#include "engine/util/status.h"

namespace optserve {
namespace {

constexpr std::string_view kPart = "model_part-";
constexpr std::string_view kShard = "-shard";
constexpr std::string_view kSuffix = ".pt";

// Takes a decimal number from the front of `text`.
std::optional<int> TakeNumber(std::string_view* text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || number < 0) return std::nullopt;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return number;
}

struct PartName {
  std::string prefix;  // up to "model_part-"
  int part = 0;
  std::optional<int> shard;
};

std::optional<PartName> ParsePartName(std::string_view name) {
  const size_t at = name.rfind(kPart);
  if (at == std::string_view::npos) return std::nullopt;
  PartName parsed{.prefix = std::string(name.substr(0, at + kPart.size()))};
  std::string_view rest = name.substr(at + kPart.size());
  const std::optional<int> part = TakeNumber(&rest);
  if (!part) return std::nullopt;
  parsed.part = *part;
  if (rest.starts_with(kShard)) {
    rest.remove_prefix(kShard.size());
    parsed.shard = TakeNumber(&rest);
    if (!parsed.shard) return std::nullopt;
  }
  if (rest != kSuffix) return std::nullopt;
  return parsed;
}

}  // namespace

absl::StatusOr<std::optional<MetaseqFiles>> FindMetaseqFiles(const std::vector<std::string>& names) {
  std::map<std::pair<int, int>, std::string> found;  // part, shard
  std::vector<std::string> others;
  std::string prefix;
  bool has_shards = false;
  for (const std::string& name : names) {
    if (!name.ends_with(kSuffix)) continue;
    const std::optional<PartName> parsed = ParsePartName(name);
    if (!parsed) {
      others.push_back(name);
      continue;
    }
    const bool first = found.empty();
    if (!first && (parsed->prefix != prefix || parsed->shard.has_value() != has_shards)) {
      return InvalidArgument("{} and {} belong to different checkpoints; keep one in the folder", found.begin()->second,
                             name);
    }
    prefix = parsed->prefix;
    has_shards = parsed->shard.has_value();
    found.emplace(std::pair(parsed->part, parsed->shard.value_or(0)), name);
  }
  if (found.empty()) {
    if (others.empty()) return std::nullopt;
    if (others.size() > 1) return InvalidArgument("{} and {}: which of them is the model?", others[0], others[1]);
    return MetaseqFiles{.parts = {{others[0]}}};
  }

  MetaseqFiles files;
  for (auto& [numbers, name] : found) {
    const auto& [part, shard] = numbers;
    if (part > static_cast<int>(files.parts.size())) {
      return InvalidArgument("{}{}.pt is missing; {} is there", prefix, files.parts.size(), name);
    }
    if (part == static_cast<int>(files.parts.size())) files.parts.emplace_back();
    std::vector<std::string>& shards = files.parts.back();
    if (part != static_cast<int>(files.parts.size()) - 1 || shard != static_cast<int>(shards.size())) {
      return InvalidArgument("{}{}-shard{}.pt is missing; {} is there", prefix, part, shards.size(), name);
    }
    shards.push_back(std::move(name));
  }
  for (size_t part = 0; part < files.parts.size(); ++part) {
    if (files.parts[part].size() != files.parts[0].size()) {
      return InvalidArgument("{}{} has {} shards, but part 0 has {}", prefix, part, files.parts[part].size(),
                             files.parts[0].size());
    }
  }
  return files;
}

}  // namespace optserve
