#pragma once

#include <CLI/App.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// How optserve and optserve-cli teach a shell their words.

namespace optserve {

// A subcommand as a shell needs to know it.
struct CommandWords {
  std::string name;
  std::string help;                // one line
  std::vector<std::string> flags;  // with their dashes
};

// The subcommands of a program.
std::vector<CommandWords> CommandsOf(const CLI::App& app);

// A script that completes subcommands, flags and, elsewhere, file names of `program`. InvalidArgument unless `shell` is
// bash, zsh or fish.
absl::StatusOr<std::string> CompletionScript(std::string_view shell, std::string_view program,
                                             std::span<const CommandWords> commands);

}  // namespace optserve
