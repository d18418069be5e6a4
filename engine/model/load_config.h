#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/opt_config.h"

namespace optserve {

// The configuration of a model whose weights are open: config.json if it is there; else, for metaseq's downloads, which
// come without one, the published OPT of the tensors' shapes. The number of heads is in no tensor, so another shape
// cannot be told: InvalidArgument says what to do. `config_file`, if given, is read instead of config.json.
absl::StatusOr<OptConfig> LoadModelConfig(const std::string& model_directory, const Checkpoint& checkpoint,
                                          const std::string& config_file = "");

struct OpenedModel {
  std::unique_ptr<Checkpoint> checkpoint;
  OptConfig config;
};

// Weights and configuration of a model directory. What is wrong with config.json is said before anything about weights:
// it is what a user has written himself.
absl::StatusOr<OpenedModel> OpenModel(const std::string& model_directory, const std::string& config_file = "");

// The published OPT that has the tensors' shapes.
absl::StatusOr<OptConfig> InferOptConfig(const Checkpoint& checkpoint);

}  // namespace optserve
