#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/executor/executor.h"
#include "engine/model/opt_config.h"
#include "engine/model/opt_weights.h"
#include "kernels/backend.h"

namespace optserve {

// What the memory of one GPU is for, in bytes. Everything is taken at start: its parts add up to `total`, and what they
// leave is `left`.
struct GpuMemoryPlan {
  int rank = 0;             // the fullest
  int64_t total = 0;        // of the GPU
  int64_t driver = 0;       // gone before we took any: CUDA's context, and other processes
  int64_t workspace = 0;    // what ops share, cuBLAS's among them
  int64_t peer_arena = 0;   // that the other ranks write into
  int64_t weights = 0;      // of this rank
  int64_t activations = 0;  // of the largest step
  int64_t steps = 0;        // inputs and results of the largest step
  int64_t graphs = 0;       // captured decode steps: modelled, the driver decides
  int64_t reserve = 0;      // for what the driver rounds up
  int64_t kv_cache = 0;
  int64_t left = 0;
};

// A GPU's free bytes at the stages of the start.
struct GpuFreeBytes {
  int64_t opened = 0;  // with its workspace
  int64_t joined = 0;  // with the arena of its group
  int64_t loaded = 0;  // with the weights
};

struct GpuPlanInputs {
  int rank = 0;
  int64_t total = 0;
  int64_t workspace = 0;
  GpuFreeBytes free;
  DType activation_dtype = DType::kF16;
  bool with_graphs = false;
};

struct PlannedGpu {
  GpuMemoryPlan memory;
  KvBudget kv;
};

// Before anything is copied: whether a rank's part of the weights, as f16, fits into its device. ResourceExhausted says
// how much is missing, and how many ranks would do.
absl::Status CheckWeightsFit(const EngineConfig& config, const OptTensors& tensors, Backend& backend);

// Sizes the KV pool by what the fullest rank has left. ResourceExhausted names the shortfall and what would fit.
absl::StatusOr<PlannedGpu> PlanGpuMemory(const EngineConfig& config, const OptConfig& model,
                                         const GpuPlanInputs& fullest);

// One line of the log.
void LogGpuMemoryPlan(const PlannedGpu& planned);

}  // namespace optserve
