#include "engine/checkpoint/shard_index.h"

#include <utility>

#include "engine/checkpoint/strict_json.h"
#include "engine/util/model_directory.h"
#include "engine/util/status.h"

namespace optserve {

absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view json, std::string_view index_name) {
  const absl::StatusOr<nlohmann::json> index = ParseStrictJson(json);
  if (!index.ok()) return Within(index_name, index.status());
  if (!index->is_object() || !index->contains("weight_map") || !(*index)["weight_map"].is_object()) {
    return InvalidArgument("{}: there is no object weight_map", index_name);
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : (*index)["weight_map"].items()) {
    if (!file.is_string()) {
      return InvalidArgument("{}: the file of {} is not a string", index_name, Printable(tensor));
    }
    auto name = file.get<std::string>();
    if (!IsBareFileName(name)) {
      return InvalidArgument("{}: {} is in '{}', which is not the name of a file in the model's folder", index_name,
                             Printable(tensor), Printable(name));
    }
    files.emplace(tensor, std::move(name));
  }
  if (files.empty()) return InvalidArgument("{}: weight_map is empty", index_name);
  return files;
}

}  // namespace optserve
