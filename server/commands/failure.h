#pragma once

#include "absl/status/status.h"

namespace optserve {

// Exit codes of all commands.
inline constexpr int kExitOk = 0;
inline constexpr int kExitRuntimeError = 1;
inline constexpr int kExitBadUsage = 2;  // usage, configuration or model: trying again changes nothing

// Prints the error as one line, "optserve: ...", on standard error, and returns the exit code that goes with it.
int Fail(const absl::Status& error);

}  // namespace optserve
