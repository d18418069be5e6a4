#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "server/server_config.h"

namespace optserve {

// `optserve serve`: HTTP and gRPC in this process, the engine in a child process. Returns the exit code: after SIGTERM
// (running requests finish first, up to the shutdown timeout; a second signal ends at once), when something is wrong
// with configuration or model, or when the engine has died.
//
// Prints one line on standard output when the ports are open and the model answers:
//   optserve ready http=http://127.0.0.1:8000 grpc=127.0.0.1:8001 model=NAME
// Events go to standard error. SIGHUP reloads what runtime_files.h says; `reread` gives the configuration as it is
// then.
int Serve(const ServerConfig& config, std::function<absl::StatusOr<ServerConfig>()> reread);

}  // namespace optserve
