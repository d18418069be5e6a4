#include "engine/tools/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/kv_cache.h"
#include "engine/model/load_config.h"
#include "engine/model/opt_weights.h"
#include "engine/model/sharding.h"
#include "engine/util/model_directory.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    case DType::kI32:
      return "int32";
  }
  return "";
}

const char* Name(Activation activation) { return activation == Activation::kGelu ? "gelu" : "relu"; }

int64_t ShardBytes(const OptConfig& config, const OptTensors& tensors, const Shard& shard) {
  int64_t bytes = 0;
  const auto add = [&](int32_t layer, const TensorSpec& spec) {
    const CheckpointTensor* tensor = tensors.Find(layer, spec.role);
    if (tensor == nullptr) return;
    bytes += ShardOf(tensor->view, spec.split, shard).num_elements() * static_cast<int64_t>(SizeOf(tensor->view.dtype));
  };
  for (const TensorSpec& spec : ModelTensors()) add(-1, spec);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const TensorSpec& spec : LayerTensors()) add(layer, spec);
  }
  return bytes;
}

std::string SizeText(int64_t bytes) {
  if (bytes >= 1'000'000'000) return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
  if (bytes >= 1'000'000) return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
  return fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
}

std::string ShapeText(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace

absl::StatusOr<ModelReport> InspectModel(const std::string& model_directory, const std::string& config_file) {
  OPTSERVE_ASSIGN_OR_RETURN(OpenedModel model, OpenModel(model_directory, config_file));
  const std::unique_ptr<Checkpoint> checkpoint = std::move(model.checkpoint);
  ModelReport report;
  report.config = std::move(model.config);
  OPTSERVE_ASSIGN_OR_RETURN(const OptTensors tensors, OptTensors::Match(report.config, *checkpoint));
  report.format = checkpoint->format();
  report.source = checkpoint->source();
  report.total_bytes = checkpoint->total_bytes();
  report.num_parameters = tensors.num_parameters();
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    report.tensors.push_back({.name = Printable(tensor.name),
                              .dtype = tensor.view.dtype,
                              .shape = {tensor.view.dims.begin(), tensor.view.dims.begin() + tensor.view.rank},
                              .file = tensor.file});
  }
  for (int32_t size = 1; size <= report.config.num_heads; ++size) {
    if (!CheckTensorParallelSize(report.config, size).ok()) continue;
    report.ranks.push_back({.tensor_parallel_size = size,
                            .weight_bytes = ShardBytes(report.config, tensors, {.rank = 0, .size = size}),
                            .kv_bytes_per_token = KvCache::BytesPerToken({.num_layers = report.config.num_layers,
                                                                          .num_heads = report.config.num_heads / size,
                                                                          .head_size = report.config.head_size()})});
  }
  return report;
}

std::string ReportText(const ModelReport& report) {
  const OptConfig& c = report.config;
  std::string text = fmt::format("{}: {}, {}, {} parameters\n", report.source, report.format,
                                 SizeText(report.total_bytes), report.num_parameters);
  text +=
      fmt::format("{} layers, hidden size {}, {} heads of {}, ffn size {}, vocabulary {}, {} positions\n", c.num_layers,
                  c.hidden_size, c.num_heads, c.head_size(), c.ffn_size, c.vocab_size, c.max_positions);
  text +=
      fmt::format("{}, {} norm{}{}, end of sequence {}\n\n", Name(c.activation), c.layer_norm_first ? "pre" : "post",
                  c.has_projections() ? fmt::format(", embeddings of {} projected", c.embed_size) : "",
                  c.tied_embeddings ? ", tied head" : ", head of its own", fmt::join(c.eos_token_ids, ", "));
  text += "tensor-parallel size   weights of a rank   KV cache of 1000 tokens on a rank\n";
  for (const ModelReport::Rank& rank : report.ranks) {
    text += fmt::format("{:>20}   {:>17}   {:>33}\n", rank.tensor_parallel_size, SizeText(rank.weight_bytes),
                        SizeText(1000 * rank.kv_bytes_per_token));
  }
  size_t width = 0;
  for (const ModelReport::Tensor& tensor : report.tensors) width = std::max(width, tensor.name.size());
  text += "\n";
  for (const ModelReport::Tensor& tensor : report.tensors) {
    text += fmt::format("{:<{}}  {:<8}  {:<16}  {}\n", tensor.name, width, Name(tensor.dtype), ShapeText(tensor.shape),
                        tensor.file);
  }
  return text;
}

std::string ReportJson(const ModelReport& report) {
  const OptConfig& c = report.config;
  nlohmann::ordered_json json;
  json["format"] = report.format;
  json["source"] = report.source;
  json["total_bytes"] = report.total_bytes;
  json["num_parameters"] = report.num_parameters;
  json["config"] = {{"num_layers", c.num_layers},
                    {"hidden_size", c.hidden_size},
                    {"num_heads", c.num_heads},
                    {"head_size", c.head_size()},
                    {"ffn_size", c.ffn_size},
                    {"vocab_size", c.vocab_size},
                    {"max_positions", c.max_positions},
                    {"embed_size", c.embed_size},
                    {"layer_norm_first", c.layer_norm_first},
                    {"final_layer_norm", c.final_layer_norm},
                    {"tied_embeddings", c.tied_embeddings},
                    {"activation", Name(c.activation)},
                    {"bos_token_id", c.bos_token_id},
                    {"eos_token_ids", c.eos_token_ids}};
  json["tensor_parallel"] = nlohmann::ordered_json::array();
  for (const ModelReport::Rank& rank : report.ranks) {
    json["tensor_parallel"].push_back({{"size", rank.tensor_parallel_size},
                                       {"weight_bytes_per_rank", rank.weight_bytes},
                                       {"kv_bytes_per_token_and_rank", rank.kv_bytes_per_token}});
  }
  json["tensors"] = nlohmann::ordered_json::array();
  for (const ModelReport::Tensor& tensor : report.tensors) {
    json["tensors"].push_back(
        {{"name", tensor.name}, {"dtype", Name(tensor.dtype)}, {"shape", tensor.shape}, {"file", tensor.file}});
  }
  return json.dump(2) + "\n";
}

}  // namespace optserve
