#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/planner/cost_model.h"

namespace optserve {

// What somebody thinks of serving.
struct DeploymentRequest {
  std::string model_name;
  OptConfig model;
  NodeSpec node;
  EngineProfile profile;
  double weight_bytes = 2.0;  // of a parameter
  double kv_bytes = 2.0;      // of a number in the KV cache
  int32_t prompt_tokens = 512;
  int32_t output_tokens = 128;
};

// A modelled number and how far it may be off.
struct Interval {
  double fast = 0.0;
  double likely = 0.0;
  double slow = 0.0;
};

// Decoding `batch` sequences at once, in the middle of their answers.
struct BatchForecast {
  int64_t batch = 0;
  Interval next_token_seconds;
  Interval tokens_per_second;  // of all replicas
  StepCost parts;              // likely
};

// One way to cut the node up.
struct DeploymentOption {
  int32_t tensor_parallel_size = 1;
  int32_t num_replicas = 1;
  double weight_bytes_per_device = 0.0;
  int64_t kv_tokens = 0;        // of a replica; <= 0: the weights leave no room, and the rest is empty
  int64_t max_full_length = 0;  // sequences of the model's whole context, of a replica
  int64_t max_concurrency = 0;  // sequences of prompt and output, of a replica
  Interval first_token_seconds;
  std::vector<BatchForecast> batches;  // 1, 8, 32, ... max_concurrency
  bool fits() const { return max_concurrency > 0; }
};

struct Deployment {
  DeploymentRequest request;
  // By tensor-parallel size: those that divide the model's heads and ffn, within the node.
  std::vector<DeploymentOption> options;
};

// InvalidArgument: prompt and output are longer than the model's context.
absl::StatusOr<Deployment> PlanDeployment(const DeploymentRequest& request);

// A page for people, and the same as JSON. Both say "modelled".
std::string DeploymentText(const Deployment& deployment);
std::string DeploymentJson(const Deployment& deployment);

}  // namespace optserve
