#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"

namespace optserve {

// Parses JSON that comes with a model: UTF-8, no key twice in one object (JSON libraries keep one silently, and two
// readers may keep different ones), at most 32 levels deep and a million values, so that a file of a few megabytes
// cannot ask for gigabytes. InvalidArgument says where and why, for a message that starts with the file's name.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text);

// The value as a whole number, if it is one that int64_t holds. JSON's 4.0 is not.
std::optional<int64_t> WholeNumber(const nlohmann::json& value);

}  // namespace optserve
