#pragma once

#include <cstdint>
#include <memory>
#include <vector>

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

// The token drawn for one slice of the plan.
struct SampledToken {
  int32_t slice = 0;   // index into StepPlan::slices
  bool finite = true;  // false: the row held NaN or Inf, `token` says nothing and the sequence must fail
  TokenScore token;
};

// Scores of one slice's prompt tokens, in the order of its score_targets.
struct ScoredPrompt {
  int32_t slice = 0;
  bool finite = true;
  std::vector<TokenScore> tokens;
};

struct StepResult {
  uint64_t step = 0;
  std::vector<SampledToken> sampled;  // one per slice that wants_sample, in slice order
  std::vector<ScoredPrompt> scored;   // one per slice with score_targets, in slice order
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
};

// InvalidArgument, NotFound or ResourceExhausted as StartLocalEngine.
absl::StatusOr<std::unique_ptr<Executor>> MakeLocalExecutor(const EngineConfig& config);

}  // namespace optserve
