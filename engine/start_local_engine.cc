#include <utility>

#include "engine/engine.h"
#include "engine/engine_client.h"
#include "engine/executor/executor.h"
#include "engine/util/status_macros.h"

// On its own, so that an engine with another executor does not link the model and its kernels.

namespace optserve {

absl::StatusOr<std::unique_ptr<EngineClient>> StartLocalEngine(const EngineConfig& config,
                                                               const LoadProgress& progress) {
  OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor, MakeLocalExecutor(config));
  return LocalEngine::Start(config, std::move(executor), progress);
}

}  // namespace optserve
