#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "optserve/client/client.h"

// What every command needs: the way to the server, and what to say when it cannot be gone.

namespace optserve::cli {

struct ServerAccess {
  std::string address = "http://127.0.0.1:8000";
  std::string api_key;       // of the environment
  std::string api_key_file;  // its first line is the key; before api_key
  std::string ca_file;
  double timeout_seconds = 600;
};

// Exit codes of all commands.
inline constexpr int kExitOk = 0;
inline constexpr int kExitRuntimeError = 1;
inline constexpr int kExitBadUsage = 2;  // trying again changes nothing

absl::StatusOr<std::unique_ptr<client::Client>> Connect(const ServerAccess& access);
client::CallOptions CallOf(const ServerAccess& access);

// Prints "optserve-cli: ..." on standard error, and a second line if there is something to do about it; returns the
// exit code that goes with it.
int Fail(const absl::Status& error, const ServerAccess& access);

// What to do about an error; empty if we do not know.
std::string HintFor(const absl::Status& error, const ServerAccess& access);

// Standard input, or a file; without the last line's end, which editors and echo write. InvalidArgument names a file
// that cannot be read.
absl::StatusOr<std::string> ReadText(const std::string& file);  // "-": standard input

}  // namespace optserve::cli
