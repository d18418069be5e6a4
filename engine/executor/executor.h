#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/engine_client.h"
#include "engine/request.h"
#include "engine/scheduler/step_plan.h"

namespace optserve {

// The KV pool that fits, the same on every rank.
struct KvBudget {
  int32_t num_blocks = 0;
  int32_t block_size = 0;  // tokens
};

struct StartResult {
  KvBudget kv;
  ModelInfo model;
};

// The engine's view of its ranks: all of them as one. One thread calls.
class Executor {
 public:
  virtual ~Executor() = default;

  // Loads the weights and sizes the KV pool by the fullest rank: config.kv_cache_bytes if given (of all ranks
  // together), else what the backend's rule finds. Called once, first.
  virtual absl::StatusOr<StartResult> Start(const LoadProgress& progress) = 0;

  // Runs one step to its end. An error ends the engine: nothing is repaired in place.
  virtual absl::StatusOr<StepResult> Execute(const StepPlan& plan) = 0;

  // Whom a step that does not end waits for, such as "rank 2": for the log. From any thread, also during Execute.
  virtual std::string WhoIsBehind() const { return "the executor"; }
};

// InvalidArgument, NotFound or ResourceExhausted as StartLocalEngine.
absl::StatusOr<std::unique_ptr<Executor>> MakeLocalExecutor(const EngineConfig& config);

}  // namespace optserve
