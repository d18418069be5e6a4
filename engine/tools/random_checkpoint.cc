#include "engine/tools/random_checkpoint.h"

#include <algorithm>
#include <random>

#include "engine/model/sharding.h"
#include "fmt/format.h"

namespace optserve {

RandomCheckpoint::RandomCheckpoint(const OptConfig& config) {
  const auto add = [&](const std::string& prefix, const TensorSpec& spec) {
    if (!IsPresent(config, spec.presence)) return;
    tensors_.push_back({.name = prefix + spec.name, .view = ShapeOf(config, spec), .file = "random"});
  };
  for (const TensorSpec& spec : ModelTensors()) {
    add(spec.role == TensorRole::kLmHead ? "" : "model.decoder.", spec);
  }
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const TensorSpec& spec : LayerTensors()) add(fmt::format("model.decoder.layers.{}.", layer), spec);
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });

  int64_t size = 0;
  for (const CheckpointTensor& tensor : tensors_) size += tensor.view.num_elements();
  values_ = LargePages<uint16_t>(size);
  std::mt19937 random(1);
  // Any sign and fraction, exponents of 2^-7 and 2^-6: about the spread of a trained model's weights.
  for (uint16_t& value : values_) value = static_cast<uint16_t>((random() & 0x87ff) | 0x2000);
  uint16_t* at = values_.data();
  for (CheckpointTensor& tensor : tensors_) {
    tensor.view.data = at;
    at += tensor.view.num_elements();
  }
}

const CheckpointTensor* RandomCheckpoint::Find(std::string_view name) const {
  for (const CheckpointTensor& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

}  // namespace optserve
