#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve {

// One entry of a safetensors header, as written: nothing is checked against the file yet.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // bytes, relative to the data
  uint64_t end = 0;
};

// Reads the JSON of a header. Errors say what is wrong and name the tensor, but not the file. Duplicate names, unknown
// keys' nesting, numbers that are no whole non-negative ones: refused. Time and memory are linear in the text.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view json);

}  // namespace optserve
