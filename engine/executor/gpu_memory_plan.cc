#include "engine/executor/gpu_memory_plan.h"

#include "engine/executor/decode_graphs.h"
#include "engine/executor/kv_pool_size.h"
#include "engine/executor/rank_setup.h"
#include "engine/executor/rank_worker.h"
#include "engine/util/log.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr int64_t kReserve = int64_t{128} << 20;

// Of a captured graph: a kernel's node with its parameters, and what a graph takes by itself. Modelled, not yet
// measured; `graphs_captured` in the log says what it was.
constexpr int64_t kBytesPerLaunch = int64_t{8} << 10;
constexpr int64_t kBytesPerGraph = int64_t{1} << 20;
constexpr int64_t kLaunchesPerLayer = 9, kOtherLaunches = 13;

int64_t GraphBytes(const EngineConfig& config, const OptConfig& model) {
  const int64_t launches = model.num_layers * kLaunchesPerLayer + kOtherLaunches;
  return std::ssize(GraphBatchesOf(config, model)) * (kBytesPerGraph + launches * kBytesPerLaunch);
}

}  // namespace

absl::Status CheckWeightsFit(const EngineConfig& config, const OptTensors& tensors, Backend& backend) {
  const int64_t free_bytes = backend.FreeBytes();
  const int64_t all = tensors.num_parameters() * static_cast<int64_t>(SizeOf(DType::kF16));
  const int64_t needed = all / config.tensor_parallel_size;
  if (needed <= free_bytes) return absl::OkStatus();
  int64_t size = config.tensor_parallel_size;
  while (size < 1024 && all / size > free_bytes * 9 / 10) size *= 2;
  return ResourceExhausted(
      "{} needs {} bytes for its part of the weights and has {} free: {} too few; a tensor_parallel_size of {} would "
      "fit",
      backend.info().name, needed, free_bytes, needed - free_bytes, size);
}

absl::StatusOr<PlannedGpu> PlanGpuMemory(const EngineConfig& config, const OptConfig& model,
                                         const GpuPlanInputs& fullest) {
  const StepLimits limits = LimitsOf(config, model);
  PlannedGpu planned;
  GpuMemoryPlan& plan = planned.memory;
  plan.rank = fullest.rank;
  plan.total = fullest.total;
  plan.workspace = fullest.workspace;
  plan.driver = fullest.total - fullest.free.opened - fullest.workspace;
  plan.peer_arena = fullest.free.opened - fullest.free.joined;
  plan.weights = fullest.free.joined - fullest.free.loaded;
  plan.activations = OptModel::ActivationBytes(model, config.tensor_parallel_size, config.deterministic_tp,
                                               limits.max_tokens, fullest.activation_dtype);
  plan.steps = RankWorker::StepBytes(limits, config.tensor_parallel_size);
  plan.graphs = fullest.with_graphs ? GraphBytes(config, model) : 0;
  plan.reserve = kReserve;

  const KvCache::Shape shape{.num_layers = model.num_layers,
                             .num_heads = model.num_heads / config.tensor_parallel_size,
                             .head_size = model.head_size(),
                             .dtype = fullest.activation_dtype};
  const int64_t free_bytes = fullest.free.loaded - plan.activations - plan.steps - plan.graphs - plan.reserve;
  OPTSERVE_ASSIGN_OR_RETURN(planned.kv,
                            SizeDeviceKvPool(config, limits.max_context, KvCache::BytesPerToken(shape), free_bytes));
  plan.kv_cache = int64_t{planned.kv.num_blocks} * planned.kv.block_size * KvCache::BytesPerToken(shape);
  plan.left = free_bytes - plan.kv_cache;
  return planned;
}

void LogGpuMemoryPlan(const PlannedGpu& planned) {
  const GpuMemoryPlan& plan = planned.memory;
  Log(LogFormat::kText)
      .Info("gpu_memory_planned", {{"fullest_rank", plan.rank},
                                   {"total", plan.total},
                                   {"driver", plan.driver},
                                   {"workspace", plan.workspace},
                                   {"peer_arena", plan.peer_arena},
                                   {"weights", plan.weights},
                                   {"activations", plan.activations},
                                   {"steps", plan.steps},
                                   {"graphs", plan.graphs},
                                   {"reserve", plan.reserve},
                                   {"kv_cache", plan.kv_cache},
                                   {"left", plan.left},
                                   {"kv_tokens", int64_t{planned.kv.num_blocks} * planned.kv.block_size}});
}

}  // namespace optserve
