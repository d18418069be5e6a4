#include "engine/executor/rank_setup.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "engine/executor/decode_graphs.h"
#include "engine/util/log.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "kernels/backend.h"

namespace optserve {
namespace {

// Arithmetic is f32 here and 16-bit weights are widened exactly as they are read, so float32 asks for nothing more.
absl::Status CheckDType(DTypeChoice dtype, const Checkpoint& checkpoint) {
  if (dtype == DTypeChoice::kInt8) {
    return absl::UnimplementedError("--dtype is int8, which the CPU does not compute with; leave it out");
  }
  if (dtype != DTypeChoice::kFloat16) return absl::OkStatus();
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (tensor.view.dtype == DType::kF16) continue;
    return InvalidArgument(
        "--dtype is float16, but {} in {} is not, and a CPU serves weights as the file has them; leave it out, or "
        "convert the model first: optserve convert SOURCE TARGET --dtype float16",
        tensor.name, tensor.file);
  }
  return absl::OkStatus();
}

// What the kernels for GPUs are made for.
absl::Status CheckCuda(DTypeChoice dtype, int64_t head_size) {
  if (dtype != DTypeChoice::kAuto && dtype != DTypeChoice::kFloat16) {
    return InvalidArgument(
        "--dtype must be float16 on a GPU, whatever the files hold; leave it out, or use --device cpu");
  }
  for (const int64_t known : {16, 32, 64, 80, 128}) {
    if (head_size == known) return absl::OkStatus();
  }
  return FailedPrecondition(
      "the model's heads have {} numbers, and on a GPU they must have 16, 32, 64, 80 or 128; use --device cpu",
      head_size);
}

}  // namespace

void ChooseDevice(EngineConfig& config) {
  if (config.device != DeviceChoice::kAuto) return;
  config.device = MakeBackend({.kind = DeviceKind::kCuda}).ok() ? DeviceChoice::kCuda : DeviceChoice::kCpu;
}

absl::StatusOr<OpenedModel> OpenModelFor(EngineConfig& config) {
  OPTSERVE_ASSIGN_OR_RETURN(OpenedModel model, OpenModel(config.model_path, config.model_config_path));
  OPTSERVE_RETURN_IF_ERROR(CheckTensorParallelSize(model.config, config.tensor_parallel_size));
  if (config.deterministic_tp) {
    OPTSERVE_RETURN_IF_ERROR(CheckDeterministicTensorParallelSize(model.config, config.tensor_parallel_size));
  }
  if (config.max_model_len > model.config.max_positions) {
    return InvalidArgument("--max-model-len is {}, but the model has {} positions; lower it, or leave it out",
                           config.max_model_len, model.config.max_positions);
  }
  ChooseDevice(config);
  OPTSERVE_RETURN_IF_ERROR(config.device == DeviceChoice::kCuda ? CheckCuda(config.dtype, model.config.head_size())
                                                                : CheckDType(config.dtype, *model.checkpoint));
  return model;
}

int64_t MaxModelLen(const EngineConfig& config, const OptConfig& model) {
  return config.max_model_len > 0 ? config.max_model_len : model.max_positions;
}

StepLimits LimitsOf(const EngineConfig& config, const OptConfig& model) {
  return {.max_tokens = std::max(config.max_num_batched_tokens, config.max_num_seqs),
          .max_sequences = config.max_num_seqs,
          .max_context = MaxModelLen(config, model),
          .block_size = config.block_size,
          .steps_in_flight = std::max(config.steps_in_flight, 1)};
}

std::vector<int64_t> GraphBatchesOf(const EngineConfig& config, const OptConfig& model) {
  return GraphBatches(std::min<int64_t>(config.cuda_graph_batch, LimitsOf(config, model).max_samples()));
}

absl::Status CaptureDecodeGraphs(const EngineConfig& config, const OptConfig& model, RankWorker& rank) {
  const std::vector<int64_t> batches = GraphBatchesOf(config, model);
  if (config.device != DeviceChoice::kCuda || batches.empty()) return absl::OkStatus();
  const bool is_first = rank.comm().rank() == 0;
  const Log log(LogFormat::kText);
  if (const std::string why_not = rank.WhyNoGraphs(); !why_not.empty()) {
    if (is_first) log.Info("no_graphs", {{"why", why_not}});
    return absl::OkStatus();
  }
  const int64_t free_before = rank.backend().FreeBytes();
  if (absl::Status status = rank.CaptureGraphs(batches); !status.ok()) {
    rank.comm().Abort(status);  // the others may wait for it
    return status;
  }
  if (!is_first) return absl::OkStatus();
  const auto& graphs = rank.graphs().entries();
  log.Info("graphs_captured", {{"batches", fmt::format("{}", fmt::join(batches, " "))},
                               {"launches_of_smallest", graphs.front().graph->num_launches()},
                               {"launches_of_largest", graphs.back().graph->num_launches()},
                               {"bytes", free_before - rank.backend().FreeBytes()}});
  return absl::OkStatus();
}

StartResult MakeStartResult(const EngineConfig& config, const OptConfig& model, const OptTensors& tensors,
                            const KvBudget& kv) {
  StartResult result{.kv = kv};
  result.model = {.vocab_size = model.vocab_size,
                  .max_model_len = static_cast<int32_t>(MaxModelLen(config, model)),
                  .eos_token_ids = model.eos_token_ids,
                  .bos_token_id = model.bos_token_id,
                  .max_num_seqs = config.max_num_seqs,
                  .kv_tokens = int64_t{kv.num_blocks} * kv.block_size,
                  .weight_bytes = tensors.num_bytes(),
                  .num_parameters = tensors.num_parameters()};
  return result;
}

CostModel MakeDemandModel(const EngineConfig& config, const OptConfig& model, const OptTensors& tensors) {
  const bool cuda = config.device == DeviceChoice::kCuda;
  CostModel::Options options;
  options.model = model;
  options.weight_bytes = cuda
                             ? static_cast<double>(SizeOf(DType::kF16))
                             : static_cast<double>(tensors.num_bytes()) / static_cast<double>(tensors.num_parameters());
  options.kv_bytes = static_cast<double>(SizeOf(cuda ? DType::kF16 : DType::kF32));
  return CostModel(std::move(options));
}

absl::StatusOr<StepResult> OfRank(std::string_view name, absl::StatusOr<StepResult> result) {
  if (result.ok()) return result;
  return Within(name, result.status());
}

}  // namespace optserve
