#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve {

// A subcommand as a shell needs to know it.
struct CommandWords {
  std::string name;
  std::string help;                // one line
  std::vector<std::string> flags;  // with their dashes
};

// A script that completes subcommands, flags and, elsewhere, file names. InvalidArgument unless `shell` is bash, zsh or
// fish.
absl::StatusOr<std::string> CompletionScript(std::string_view shell, std::span<const CommandWords> commands);

}  // namespace optserve
