#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace optserve {

// Reads an index (*.index.json): tensor name -> base name of the file that holds it. File names are bare; the index's
// total_size is not believed. InvalidArgument starts with `index_name`.
absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view json, std::string_view index_name);

}  // namespace optserve
