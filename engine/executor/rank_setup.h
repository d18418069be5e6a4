#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/executor/executor.h"
#include "engine/executor/rank_worker.h"
#include "engine/executor/step_inputs.h"
#include "engine/model/load_config.h"
#include "engine/model/opt_config.h"
#include "engine/model/opt_weights.h"
#include "engine/planner/cost_model.h"
#include "engine/scheduler/step_plan.h"

// What every executor with ranks of its own does the same way, wherever the ranks are.

namespace optserve {

// kAuto becomes a GPU if this build and machine have one, else the CPU.
void ChooseDevice(EngineConfig& config);

// Opens config.model_path and checks that it can be served as `config` says, whose device is no longer kAuto
// afterwards. Errors are lines for the user.
absl::StatusOr<OpenedModel> OpenModelFor(EngineConfig& config);

int64_t MaxModelLen(const EngineConfig& config, const OptConfig& model);
StepLimits LimitsOf(const EngineConfig& config, const OptConfig& model);

// The batches whose decode steps are to be captured as graphs.
std::vector<int64_t> GraphBatchesOf(const EngineConfig& config, const OptConfig& model);

// Captures them, if there are any; all ranks of the group at once. Rank 0 logs which, or why none.
absl::Status CaptureDecodeGraphs(const EngineConfig& config, const OptConfig& model, RankWorker& rank);

StartResult MakeStartResult(const EngineConfig& config, const OptConfig& model, const OptTensors& tensors,
                            const KvBudget& kv);

// Says what a step cannot do without, by the sizes of the model alone; which node and how well it does are the other
// half of a cost model, and left out here.
CostModel MakeDemandModel(const EngineConfig& config, const OptConfig& model, const OptTensors& tensors);

// A rank's result, its error with the rank's name in front.
absl::StatusOr<StepResult> OfRank(std::string_view name, absl::StatusOr<StepResult> result);

}  // namespace optserve
