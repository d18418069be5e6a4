#include "engine/model/opt_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "engine/checkpoint/scan_tensor.h"
#include "engine/checkpoint/tensor_region.h"
#include "engine/util/model_directory.h"
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

  // Calls found(layer, role, tensor) for every tensor that fits, ignored(tensor) for those that no model needs, and
  // returns what does not fit.
  template <typename Found, typename Ignored>
  std::vector<std::string> Run(const Found& found, const Ignored& ignored) {
    for (const TensorSpec& spec : ModelTensors()) Visit(-1, spec, found);
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const TensorSpec& spec : LayerTensors()) Visit(layer, spec, found);
    }
    for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
      if (known_.contains(tensor.name)) continue;
      if (IsIgnored(tensor.name)) {
        ignored(tensor);
        continue;
      }
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

// One rank's shards: first all are named, then they are loaded in the order of the files.
class ShardLoader {
 public:
  ShardLoader(const OptTensors& tensors, const Shard& shard) : tensors_(tensors), shard_(shard) {}

  // `out` stays empty where the model does without the tensor.
  void Want(int32_t layer, TensorRole role, TensorView* out) {
    const CheckpointTensor* tensor = tensors_.Find(layer, role);
    if (tensor == nullptr) return;
    const TensorRegion region = ShardOf(tensor->view, SpecOf(role).split, shard_);
    // Each rank its own copy, or where there are fewer or more copies than ranks, evenly.
    const size_t copy = static_cast<size_t>(shard_.rank) * tensor->copies.size() / static_cast<size_t>(shard_.size);
    wanted_.push_back(
        {.tensor = tensor, .region = region, .copy = copy, .bytes = BytesOf(*tensor, region, copy), .out = out});
  }

  void SortByPlace() {
    const auto place = [](const Wanted& wanted) { return wanted.bytes.empty() ? nullptr : wanted.bytes[0].data; };
    std::sort(wanted_.begin(), wanted_.end(),
              [&](const Wanted& a, const Wanted& b) { return std::less<>()(place(a), place(b)); });
  }

  std::vector<ByteRegion> Bytes() const {
    std::vector<ByteRegion> bytes;
    for (const Wanted& wanted : wanted_) bytes.insert(bytes.end(), wanted.bytes.begin(), wanted.bytes.end());
    return bytes;
  }

  absl::Status Load(Backend& backend, const LoadOptions& options) const {
    ReadAhead read(Bytes(), {.num_threads = options.num_readers, .progress = options.progress});
    size_t num_regions = 0;
    for (const Wanted& wanted : wanted_) {
      num_regions += wanted.bytes.size();
      OPTSERVE_RETURN_IF_ERROR(read.Wait(num_regions));
      if (options.on_problem) {
        LookAt(*wanted.tensor, ScanRegion(*wanted.tensor, wanted.region, wanted.copy), options.on_problem);
      }
      absl::StatusOr<TensorView> loaded = LoadOne(wanted, backend);
      if (!loaded.ok()) return Within(wanted.tensor->name, loaded.status());
      *wanted.out = *loaded;
    }
    if (options.on_problem && shard_.rank == 0) {
      for (const CheckpointTensor* tensor : tensors_.ignored()) {
        LookAt(*tensor, ScanTensor(*tensor), options.on_problem);
      }
    }
    return absl::OkStatus();
  }

 private:
  struct Wanted {
    const CheckpointTensor* tensor = nullptr;
    TensorRegion region;
    size_t copy = 0;  // of the tensor's copies
    std::vector<ByteRegion> bytes;
    TensorView* out = nullptr;
  };

  static void LookAt(const CheckpointTensor& tensor, const TensorScan& scan,
                     const std::function<void(std::string)>& on_problem) {
    if (std::optional<std::string> problem = ProblemOf(tensor, scan)) on_problem(*std::move(problem));
    if (std::optional<std::string> problem = ProblemOfCopies(tensor)) on_problem(*std::move(problem));
  }

  static absl::StatusOr<TensorView> LoadOne(const Wanted& wanted, Backend& backend) {
    const CheckpointTensor& tensor = *wanted.tensor;
    const TensorRegion& region = wanted.region;
    if (const std::optional<TensorView> view = FindRegion(tensor, region, wanted.copy))
      return backend.LoadWeight(*view);
    const TensorView shape = tensor.view.rank == 1 ? MakeView(nullptr, tensor.view.dtype, region.rows)
                                                   : MakeView(nullptr, tensor.view.dtype, region.rows, region.columns);
    return backend.LoadRows(shape, [&](int64_t row, int64_t count, std::byte* out) {
      TensorRegion band = region;
      band.row += row;
      band.rows = count;
      CopyRegion(tensor, band, out);
    });
  }

  const OptTensors& tensors_;
  Shard shard_;
  std::vector<Wanted> wanted_;
};

// Calls want(layer, role, where) for every weight of a model. `weights` stays where it is.
template <typename Want>
void ForEachWeight(const OptConfig& config, OptWeights& weights, const Want& want) {
  using R = TensorRole;
  const auto norm = [&](int32_t layer, R weight, R bias, NormWeights& out) {
    want(layer, weight, &out.weight);
    want(layer, bias, &out.bias);
  };
  const auto linear = [&](int32_t layer, R weight, R bias, LinearWeights& out) {
    want(layer, weight, &out.weight);
    want(layer, bias, &out.bias);
  };
  want(-1, R::kEmbedTokens, &weights.embed_tokens);
  want(-1, R::kEmbedPositions, &weights.embed_positions);
  want(-1, R::kProjectIn, &weights.project_in);
  want(-1, R::kProjectOut, &weights.project_out);
  norm(-1, R::kFinalNormWeight, R::kFinalNormBias, weights.final_norm);
  if (!config.tied_embeddings) want(-1, R::kLmHead, &weights.lm_head);
  weights.layers.resize(static_cast<size_t>(config.num_layers));
  for (int32_t i = 0; i < config.num_layers; ++i) {
    LayerWeights& layer = weights.layers[static_cast<size_t>(i)];
    norm(i, R::kAttnNormWeight, R::kAttnNormBias, layer.attn_norm);
    linear(i, R::kQWeight, R::kQBias, layer.q);
    linear(i, R::kKWeight, R::kKBias, layer.k);
    linear(i, R::kVWeight, R::kVBias, layer.v);
    linear(i, R::kOutWeight, R::kOutBias, layer.out);
    norm(i, R::kFfnNormWeight, R::kFfnNormBias, layer.ffn_norm);
    linear(i, R::kFc1Weight, R::kFc1Bias, layer.fc1);
    linear(i, R::kFc2Weight, R::kFc2Bias, layer.fc2);
  }
}

void WantAll(const OptConfig& config, ShardLoader& loader, OptWeights& weights) {
  ForEachWeight(config, weights,
                [&](int32_t layer, TensorRole role, TensorView* out) { loader.Want(layer, role, out); });
}

// What no tensor says.
void Complete(const OptConfig& config, const Shard& shard, OptWeights& weights) {
  weights.vocab = VocabRangeOf(config.vocab_size, shard);
  if (config.tied_embeddings) weights.lm_head = weights.embed_tokens;
}

}  // namespace

absl::StatusOr<OptTensors> OptTensors::Match(const OptConfig& config, const Checkpoint& checkpoint) {
  OptTensors result;
  const auto found = [&](int32_t layer, TensorRole role, const CheckpointTensor& tensor) {
    result.tensors_.emplace(std::pair(layer, role), &tensor);
    result.num_parameters_ += tensor.view.num_elements();
    result.num_bytes_ += static_cast<int64_t>(tensor.view.num_bytes());
  };
  const auto ignored = [&](const CheckpointTensor& tensor) { result.ignored_.push_back(&tensor); };
  OPTSERVE_RETURN_IF_ERROR(Summary(Matcher(config, checkpoint).Run(found, ignored)));
  return result;
}

std::vector<std::string> FindMismatches(const OptConfig& config, const Checkpoint& checkpoint) {
  return Matcher(config, checkpoint)
      .Run([](int32_t, TensorRole, const CheckpointTensor&) {}, [](const CheckpointTensor&) {});
}

const CheckpointTensor* OptTensors::Find(int32_t layer, TensorRole role) const {
  const auto at = tensors_.find({layer, role});
  return at == tensors_.end() ? nullptr : at->second;
}

std::vector<ByteRegion> BytesOfShard(const OptConfig& config, const OptTensors& tensors, const Shard& shard) {
  OptWeights weights;
  ShardLoader loader(tensors, shard);
  WantAll(config, loader, weights);
  loader.SortByPlace();
  return loader.Bytes();
}

absl::StatusOr<OptWeights> LoadOptWeights(const OptConfig& config, const OptTensors& tensors, const Shard& shard,
                                          Backend& backend, const LoadOptions& options) {
  OptWeights weights;
  ShardLoader loader(tensors, shard);
  WantAll(config, loader, weights);
  loader.SortByPlace();
  OPTSERVE_RETURN_IF_ERROR(loader.Load(backend, options));
  Complete(config, shard, weights);
  return weights;
}

absl::StatusOr<OptWeights> MakeOptWeights(const OptConfig& config, const Shard& shard, const MakeWeight& make) {
  OptWeights weights;
  absl::Status status;
  ForEachWeight(config, weights, [&](int32_t, TensorRole role, TensorView* out) {
    const TensorSpec& spec = SpecOf(role);
    const bool is_final_norm = role == TensorRole::kFinalNormWeight || role == TensorRole::kFinalNormBias;
    if (!status.ok() || !IsPresent(config, spec.presence) || (is_final_norm && !config.final_layer_norm)) return;
    const TensorRegion part = ShardOf(ShapeOf(config, spec), spec.split, shard);
    absl::StatusOr<TensorView> made =
        make(spec.columns == Dim::kNone ? MakeView(nullptr, DType::kF32, part.rows)
                                        : MakeView(nullptr, DType::kF16, part.rows, part.columns));
    status = made.status();
    if (made.ok()) *out = *made;
  });
  OPTSERVE_RETURN_IF_ERROR(status);
  Complete(config, shard, weights);
  return weights;
}

}  // namespace optserve
