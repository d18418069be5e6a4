#pragma once

#include <signal.h>

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/engine_client.h"

namespace optserve {

// How an engine process gets its engine: StartLocalEngine, or a test's own.
using EngineStarter = std::function<absl::StatusOr<std::unique_ptr<EngineClient>>(const EngineConfig& config,
                                                                                  const LoadProgress& progress)>;

// The engine process: speaks the frames of proto/optserve/internal/engine.proto on `fd`, a connected stream socket that
// it then owns, for one engine. Returns when the front end has closed its end or the engine has failed, whichever is
// first; the process must exit then with this code (0, or 1 for an engine that failed to start or died), because a load
// that the front end no longer waits for may still run.
//
// When the thread that started the process ends, the kernel sends `parent_death_signal`. SIGINT and SIGTERM are
// ignored: they are for the front end, which is in the same process group, and which drains.
int RunEngineProcess(int fd, const EngineStarter& start, int parent_death_signal = SIGKILL);

}  // namespace optserve
