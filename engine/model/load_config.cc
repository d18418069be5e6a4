#include "engine/model/load_config.h"

#include <string_view>

#include "engine/model/opt_sizes.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr int64_t kPositionPadding = 2;  // rows in front of the position table

struct Shapes {
  int64_t num_layers = 0;
  int64_t vocab_size = 0;
  int64_t embed_size = 0;
  int64_t hidden_size = 0;
  int64_t ffn_size = 0;
  int64_t positions = 0;
};

Shapes ShapesOf(const Checkpoint& checkpoint) {
  Shapes shapes;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const std::string_view name = tensor.name;
    if (name.ends_with("embed_tokens.weight")) {
      shapes.vocab_size = tensor.view.dims[0];
      shapes.embed_size = tensor.view.dims[1];
    } else if (name.ends_with("embed_positions.weight")) {
      shapes.positions = tensor.view.dims[0] - kPositionPadding;
      shapes.hidden_size = tensor.view.dims[1];
    } else if (name.ends_with("fc1.weight")) {
      shapes.ffn_size = tensor.view.dims[0];
      ++shapes.num_layers;
    }
  }
  return shapes;
}

}  // namespace

absl::StatusOr<OptConfig> InferOptConfig(const Checkpoint& checkpoint) {
  const Shapes shapes = ShapesOf(checkpoint);
  for (const OptSize& size : OptSizes()) {
    const OptConfig& config = size.config;
    if (config.num_layers == shapes.num_layers && config.hidden_size == shapes.hidden_size &&
        config.embed_size == shapes.embed_size && config.ffn_size == shapes.ffn_size &&
        config.vocab_size == shapes.vocab_size && config.max_positions == shapes.positions) {
      return config;
    }
  }
  return InvalidArgument(
      "there is no config.json beside {}, and its shapes ({} layers, hidden size {}, vocabulary {}) are of no "
      "published "
      "OPT: give --model-config FILE, a config.json that says num_attention_heads and the rest",
      checkpoint.source(), shapes.num_layers, shapes.hidden_size, shapes.vocab_size);
}

absl::StatusOr<OptConfig> LoadModelConfig(const std::string& model_directory, const Checkpoint& checkpoint,
                                          const std::string& config_file) {
  absl::StatusOr<OptConfig> config = LoadOptConfig(model_directory, config_file);
  if (config_file.empty() && absl::IsNotFound(config.status()) && checkpoint.format() == "metaseq")
    return InferOptConfig(checkpoint);
  return config;
}

absl::StatusOr<OpenedModel> OpenModel(const std::string& model_directory, const std::string& config_file) {
  const absl::Status status = LoadOptConfig(model_directory, config_file).status();
  const bool may_be_inferred = config_file.empty() && absl::IsNotFound(status);
  if (!status.ok() && !may_be_inferred) return status;
  OpenedModel model;
  OPTSERVE_ASSIGN_OR_RETURN(model.checkpoint, OpenCheckpoint(model_directory));
  OPTSERVE_ASSIGN_OR_RETURN(model.config, LoadModelConfig(model_directory, *model.checkpoint, config_file));
  return model;
}

}  // namespace optserve
