#pragma once

#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/opt_config.h"

namespace optserve {

// The published OPT sizes (Zhang et al. 2022, table 1), so that a deployment can be planned without any file.
struct OptSize {
  std::string_view name;  // "opt-175b"
  OptConfig config;
};
std::span<const OptSize> OptSizes();

// "opt-175b", "175b" or "facebook/opt-175b", in any case. NotFound lists the sizes.
absl::StatusOr<OptConfig> FindOptSize(std::string_view name);

}  // namespace optserve
