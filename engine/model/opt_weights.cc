#include "engine/model/opt_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "engine/checkpoint/model_directory.h"
#include "engine/checkpoint/tensor_region.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

// Stored beside the weights by some writers and no part of the model: a version number of fairseq's decoder, and
// metaseq's second name of embed_tokens.
constexpr std::string_view kIgnored[] = {"version", "output_projection.weight"};

// What stands in front of the decoder's names; the first under which there is a token embedding.
std::string FindPrefix(const Checkpoint& checkpoint) {
  for (const char* prefix : {"model.decoder.", "decoder.", ""}) {
    if (checkpoint.Find(prefix + std::string("embed_tokens.weight")) != nullptr) return prefix;
  }
  return "model.decoder.";
}

std::string ShapeText(const TensorView& view) {
  std::string text = "[";
  for (int32_t i = 0; i < view.rank; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", view.dims[i]);
  return text + "]";
}

// The first few complaints in full, and how many more there are.
absl::Status Summary(const std::vector<std::string>& complaints) {
  constexpr size_t kShown = 5;
  std::string text;
  for (size_t i = 0; i < std::min(kShown, complaints.size()); ++i) text += (i == 0 ? "" : "; ") + complaints[i];
  if (complaints.empty()) return absl::OkStatus();
  if (complaints.size() <= kShown) return absl::InvalidArgumentError(text);
  return InvalidArgument("{}; and {} more", text, complaints.size() - kShown);
}

// Goes through the table and the checkpoint side by side.
class Matcher {
 public:
  Matcher(const OptConfig& config, const Checkpoint& checkpoint)
      : config_(config), checkpoint_(checkpoint), prefix_(FindPrefix(checkpoint)) {
    has_bias_ = AnyStored(Presence::kWithBias);
    has_affine_ = AnyStored(Presence::kWithAffine);
  }

  // Calls found(layer, role, tensor) for every tensor that fits, and returns what does not.
  template <typename Found>
  std::vector<std::string> Run(const Found& found) {
    for (const TensorSpec& spec : ModelTensors()) Visit(-1, spec, found);
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const TensorSpec& spec : LayerTensors()) Visit(layer, spec, found);
    }
    for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
      if (known_.contains(tensor.name) || IsIgnored(tensor.name)) continue;
      complaints_.push_back(fmt::format("{}: tensor {} is none of this model's", tensor.file, Printable(tensor.name)));
    }
    return std::move(complaints_);
  }

 private:
  std::string NameOf(int32_t layer, const TensorSpec& spec) const {
    if (spec.role == TensorRole::kLmHead) return spec.name;
    return layer < 0 ? prefix_ + spec.name : fmt::format("{}layers.{}.{}", prefix_, layer, spec.name);
  }

  // The presence of tensors decides what the model has, because config files are wrong about it (Galactica): a kind of
  // tensor that is there once must be there everywhere.
  bool AnyStored(Presence presence) const {
    for (const TensorSpec& spec : ModelTensors()) {
      if (spec.presence == presence && checkpoint_.Find(NameOf(-1, spec)) != nullptr) return true;
    }
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const TensorSpec& spec : LayerTensors()) {
        if (spec.presence == presence && checkpoint_.Find(NameOf(layer, spec)) != nullptr) return true;
      }
    }
    return false;
  }

  bool IsExpected(int32_t layer, const TensorSpec& spec) const {
    const bool is_final_norm = layer < 0 && spec.presence == Presence::kWithAffine;
    if (is_final_norm && !config_.final_layer_norm) return false;
    switch (spec.presence) {
      case Presence::kAlways:
        return true;
      case Presence::kWithBias:
        return has_bias_;
      case Presence::kWithAffine:
        return has_affine_;
      case Presence::kWithProjections:
        return config_.has_projections();
      case Presence::kUntied:
        return !config_.tied_embeddings;
    }
    return false;
  }

  template <typename Found>
  void Visit(int32_t layer, const TensorSpec& spec, const Found& found) {
    const std::string name = NameOf(layer, spec);
    const CheckpointTensor* tensor = checkpoint_.Find(name);
    if (!IsExpected(layer, spec)) return;
    if (tensor == nullptr) {
      complaints_.push_back(fmt::format("{}: tensor {} is missing", checkpoint_.source(), name));
      return;
    }
    known_.insert(tensor->name);
    const int64_t rows = SizeOfDim(config_, spec.rows), columns = SizeOfDim(config_, spec.columns);
    const int32_t rank = spec.columns == Dim::kNone ? 1 : 2;
    const TensorView& view = tensor->view;
    if (view.rank != rank || view.dims[0] != rows || (rank == 2 && view.dims[1] != columns)) {
      complaints_.push_back(
          fmt::format("{}: tensor {} has shape {}, config.json needs {}", tensor->file, name, ShapeText(view),
                      rank == 1 ? fmt::format("[{}]", rows) : fmt::format("[{}, {}]", rows, columns)));
      return;
    }
    found(layer, spec.role, *tensor);
  }

  bool IsIgnored(std::string_view name) const {
    if (name == "lm_head.weight") return config_.tied_embeddings;
    if (name.substr(0, prefix_.size()) != prefix_) return false;
    for (const std::string_view ignored : kIgnored) {
      if (name.substr(prefix_.size()) == ignored) return true;
    }
    return false;
  }

  const OptConfig& config_;
  const Checkpoint& checkpoint_;
  std::string prefix_;
  bool has_bias_ = false;
  bool has_affine_ = false;
  std::set<std::string_view> known_;
  std::vector<std::string> complaints_;
};

// Loads one rank's shards, tensor by tensor; the first error stays.
class ShardLoader {
 public:
  ShardLoader(const OptTensors& tensors, const Shard& shard, Backend& backend, OptWeights& weights)
      : tensors_(tensors), shard_(shard), backend_(backend), weights_(weights) {}

  TensorView Load(int32_t layer, TensorRole role) {
    const CheckpointTensor* tensor = tensors_.Find(layer, role);
    if (tensor == nullptr || !status_.ok()) return {};
    absl::StatusOr<TensorView> loaded =
        backend_.LoadWeight(HostView(*tensor, ShardOf(tensor->view, SplitOf(role), shard_)));
    if (!loaded.ok()) {
      status_ = Within(tensor->name, loaded.status());
      return {};
    }
    return *loaded;
  }

  absl::Status status() const { return status_; }

 private:
  TensorView HostView(const CheckpointTensor& tensor, const TensorRegion& region) {
    if (const std::optional<TensorView> view = FindRegion(tensor, region)) return *view;
    const DType dtype = tensor.view.dtype;
    const auto bytes = static_cast<size_t>(region.num_elements()) * SizeOf(dtype);
    std::byte* data = weights_.gathered.emplace_back(std::make_unique_for_overwrite<std::byte[]>(bytes)).get();
    CopyRegion(tensor, region, data);
    return tensor.view.rank == 1 ? MakeView(data, dtype, region.rows)
                                 : MakeView(data, dtype, region.rows, region.columns);
  }

  static Split SplitOf(TensorRole role) {
    for (const auto& specs : {ModelTensors(), LayerTensors()}) {
      for (const TensorSpec& spec : specs) {
        if (spec.role == role) return spec.split;
      }
    }
    return Split::kReplicated;
  }

  const OptTensors& tensors_;
  Shard shard_;
  Backend& backend_;
  OptWeights& weights_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<OptTensors> OptTensors::Match(const OptConfig& config, const Checkpoint& checkpoint) {
  OptTensors result;
  OPTSERVE_RETURN_IF_ERROR(
      Summary(Matcher(config, checkpoint).Run([&](int32_t layer, TensorRole role, const CheckpointTensor& tensor) {
        result.tensors_.emplace(std::pair(layer, role), &tensor);
        result.num_parameters_ += tensor.view.num_elements();
        result.num_bytes_ += static_cast<int64_t>(tensor.view.num_bytes());
      })));
  return result;
}

std::vector<std::string> FindMismatches(const OptConfig& config, const Checkpoint& checkpoint) {
  return Matcher(config, checkpoint).Run([](int32_t, TensorRole, const CheckpointTensor&) {});
}

const CheckpointTensor* OptTensors::Find(int32_t layer, TensorRole role) const {
  const auto at = tensors_.find({layer, role});
  return at == tensors_.end() ? nullptr : at->second;
}

absl::StatusOr<OptWeights> LoadOptWeights(const OptConfig& config, const OptTensors& tensors, const Shard& shard,
                                          Backend& backend) {
  using R = TensorRole;
  OptWeights weights;
  ShardLoader loader(tensors, shard, backend, weights);
  weights.embed_tokens = loader.Load(-1, R::kEmbedTokens);
  weights.embed_positions = loader.Load(-1, R::kEmbedPositions);
  weights.project_in = loader.Load(-1, R::kProjectIn);
  weights.project_out = loader.Load(-1, R::kProjectOut);
  weights.final_norm = {loader.Load(-1, R::kFinalNormWeight), loader.Load(-1, R::kFinalNormBias)};
  weights.vocab = VocabRangeOf(config.vocab_size, shard);
  weights.lm_head = config.tied_embeddings ? weights.embed_tokens : loader.Load(-1, R::kLmHead);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    weights.layers.push_back({
        .attn_norm = {loader.Load(i, R::kAttnNormWeight), loader.Load(i, R::kAttnNormBias)},
        .q = {loader.Load(i, R::kQWeight), loader.Load(i, R::kQBias)},
        .k = {loader.Load(i, R::kKWeight), loader.Load(i, R::kKBias)},
        .v = {loader.Load(i, R::kVWeight), loader.Load(i, R::kVBias)},
        .out = {loader.Load(i, R::kOutWeight), loader.Load(i, R::kOutBias)},
        .ffn_norm = {loader.Load(i, R::kFfnNormWeight), loader.Load(i, R::kFfnNormBias)},
        .fc1 = {loader.Load(i, R::kFc1Weight), loader.Load(i, R::kFc1Bias)},
        .fc2 = {loader.Load(i, R::kFc2Weight), loader.Load(i, R::kFc2Bias)},
    });
  }
  OPTSERVE_RETURN_IF_ERROR(loader.status());
  return weights;
}

}  // namespace optserve
