#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

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
  // 2: a step may be submitted while another one runs. What the configuration says; if it leaves that open, 2 where a
  // step can be queued behind another on a device and waited for by itself.
  int32_t max_steps_in_flight = 1;
};

// The engine's view of its ranks: all of them as one. One thread calls.
class Executor {
 public:
  virtual ~Executor() = default;

  // Loads the weights and sizes the KV pool by the fullest rank: config.kv_cache_bytes if given (of all ranks
  // together), else what the backend's rule finds. Called once, first.
  virtual absl::StatusOr<StartResult> Start(const LoadProgress& progress) = 0;

  // Runs one step to its end. An error ends the engine: nothing is repaired in place. Tokens that the plan has as
  // DrawnBySlice are those that the step before it drew; only if config.steps_in_flight is 2.
  virtual absl::StatusOr<StepResult> Execute(const StepPlan& plan) = 0;

  // The same in two calls: Submit queues a step behind those under way, Collect waits for the oldest of them. At most
  // max_steps_in_flight are under way; a plan stays as it is until it is collected.
  virtual void Submit(const StepPlan& plan) { submitted_ = &plan; }
  virtual absl::StatusOr<StepResult> Collect() { return Execute(*TakeSubmitted()); }

  // Whom a step that does not end waits for, such as "rank 2": for the log. From any thread, also during Execute.
  virtual std::string WhoIsBehind() const { return "the executor"; }

  // An error that ends the engine although no step runs, such as a rank that has gone. From any thread.
  virtual absl::Status Health() const { return absl::OkStatus(); }

 protected:
  const StepPlan* TakeSubmitted() { return std::exchange(submitted_, nullptr); }

 private:
  const StepPlan* submitted_ = nullptr;
};

// InvalidArgument, NotFound or ResourceExhausted as StartLocalEngine.
absl::StatusOr<std::unique_ptr<Executor>> MakeLocalExecutor(const EngineConfig& config);

}  // namespace optserve
