#include "engine/tools/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/rank_files.h"
#include "engine/checkpoint/tensor_region.h"
#include "engine/model/load_config.h"
#include "engine/model/opt_weights.h"
#include "engine/model/sharding.h"
#include "engine/tools/convert_dtype.h"
#include "engine/tools/output_file.h"
#include "engine/util/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kBandBytes = int64_t{4} << 20;  // gathered, converted and written at a time
constexpr size_t kMaxSmallFile = size_t{64} << 20;
constexpr std::array<std::string_view, 1> kCopied = {"generation_config.json"};
constexpr std::array<std::string_view, 5> kTokenizerFiles = {"vocab.json", "merges.txt", "tokenizer_config.json",
                                                             "tokenizer.json", "special_tokens_map.json"};

// In the target: which files the conversion reads, so that one that goes on keeps nothing of another source.
constexpr std::string_view kSourceNote = ".converted-from";

struct OutputTensor {
  std::string name;
  const CheckpointTensor* from = nullptr;
  TensorRegion region;  // of it
  DType dtype = DType::kF32;

  int64_t num_bytes() const { return region.num_elements() * static_cast<int64_t>(SizeOf(dtype)); }
};

struct OutputShard {
  std::string file;
  Json metadata;
  std::vector<OutputTensor> tensors;
  int64_t num_bytes = 0;
};

const char* SafetensorsName(DType dtype) {
  return dtype == DType::kF16 ? "F16" : dtype == DType::kBF16 ? "BF16" : "F32";
}
const char* TorchName(DType dtype) {
  return dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
}

// What a shard has of each tensor.
std::vector<OutputTensor> ListTensors(const OptConfig& config, const OptTensors& tensors, std::optional<DType> dtype,
                                      const Shard& shard) {
  std::vector<OutputTensor> list;
  const auto add = [&](int32_t layer, const TensorSpec& spec, std::string name) {
    const CheckpointTensor* from = tensors.Find(layer, spec.role);
    if (from == nullptr) return;
    list.push_back({.name = std::move(name),
                    .from = from,
                    .region = ShardOf(from->view, spec.split, shard),
                    .dtype = dtype.value_or(from->view.dtype)});
  };
  for (const TensorSpec& spec : ModelTensors()) {
    add(-1, spec, spec.role == TensorRole::kLmHead ? spec.name : fmt::format("model.decoder.{}", spec.name));
  }
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const TensorSpec& spec : LayerTensors()) {
      add(layer, spec, fmt::format("model.decoder.layers.{}.{}", layer, spec.name));
    }
  }
  return list;
}

// Files as Hugging Face writes them.
std::vector<OutputShard> MakeShards(std::vector<OutputTensor> tensors, int64_t max_shard_bytes) {
  std::vector<OutputShard> shards(1);
  for (OutputTensor& tensor : tensors) {
    if (!shards.back().tensors.empty() && shards.back().num_bytes + tensor.num_bytes() > max_shard_bytes) {
      shards.emplace_back();
    }
    shards.back().num_bytes += tensor.num_bytes();
    shards.back().tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].metadata = {{"format", "pt"}};
    shards[i].file = shards.size() == 1 ? "model.safetensors"
                                        : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

// A file for each rank, see rank_files.h.
std::vector<OutputShard> MakeRankShards(const OptConfig& config, const OptTensors& tensors, std::optional<DType> dtype,
                                        int32_t size) {
  std::vector<OutputShard> shards;
  for (int32_t rank = 0; rank < size; ++rank) {
    OutputShard shard{.file = RankFileName(rank, size),
                      .metadata = {{"format", kRankFileFormat}, {kRankKey, RankMetadata(rank, size)}},
                      .tensors = ListTensors(config, tensors, dtype, {.rank = rank, .size = size})};
    for (const OutputTensor& tensor : shard.tensors) shard.num_bytes += tensor.num_bytes();
    shards.push_back(std::move(shard));
  }
  return shards;
}

std::string HeaderOf(const OutputShard& shard) {
  Json header = {{"__metadata__", shard.metadata}};
  int64_t at = 0;
  for (const OutputTensor& tensor : shard.tensors) {
    std::vector<int64_t> shape = {tensor.region.rows};
    if (tensor.from->view.rank > 1) shape.push_back(tensor.region.columns);
    header[tensor.name] = {
        {"dtype", SafetensorsName(tensor.dtype)}, {"shape", shape}, {"data_offsets", {at, at + tensor.num_bytes()}}};
    at += tensor.num_bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + text;
}

// The model's config.json, changed where the tensors say otherwise than it; or one made from the configuration.
Json ConfigOf(const OptConfig& config, const OptTensors& tensors, std::string_view source_text,
              std::optional<DType> dtype) {
  Json json = source_text.empty()
                  ? Json{{"architectures", {"OPTForCausalLM"}},
                         {"model_type", "opt"},
                         {"activation_function", config.activation == Activation::kGelu ? "gelu" : "relu"},
                         {"num_hidden_layers", config.num_layers},
                         {"hidden_size", config.hidden_size},
                         {"num_attention_heads", config.num_heads},
                         {"ffn_dim", config.ffn_size},
                         {"vocab_size", config.vocab_size},
                         {"max_position_embeddings", config.max_positions},
                         {"word_embed_proj_dim", config.embed_size},
                         {"do_layer_norm_before", config.layer_norm_first},
                         {"_remove_final_layer_norm", false},
                         {"tie_word_embeddings", config.tied_embeddings},
                         {"bos_token_id", config.bos_token_id},
                         {"pad_token_id", config.pad_token_id},
                         {"eos_token_id", config.eos_token_ids[0]}}
                  : Json::parse(source_text, nullptr, /*allow_exceptions=*/false);
  // Old spellings, which transformers passes over.
  if (json.contains("d_model")) json["hidden_size"] = config.hidden_size;
  json["enable_bias"] = tensors.Find(0, TensorRole::kQBias) != nullptr;
  json["layer_norm_elementwise_affine"] = tensors.Find(0, TensorRole::kAttnNormWeight) != nullptr;
  const DType stored = dtype.value_or(tensors.Find(-1, TensorRole::kEmbedTokens)->view.dtype);
  json.erase("dtype");
  json["torch_dtype"] = TorchName(stored);
  return json;
}

class Converter {
 public:
  Converter(const ConvertOptions& options, const std::function<void(int64_t, int64_t)>& progress)
      : options_(options), progress_(progress), target_(options.target) {}

  absl::StatusOr<ConvertReport> Run() {
    OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, OpenCheckpoint(options_.source));
    OPTSERVE_ASSIGN_OR_RETURN(const OptConfig config,
                              LoadModelConfig(options_.source, *checkpoint, options_.config_file));
    OPTSERVE_ASSIGN_OR_RETURN(const OptTensors tensors, OptTensors::Match(config, *checkpoint));
    const std::optional<int32_t> num_ranks = options_.tensor_parallel_size;
    if (num_ranks) OPTSERVE_RETURN_IF_ERROR(CheckTensorParallelSize(config, *num_ranks));
    const std::vector<OutputShard> shards =
        num_ranks ? MakeRankShards(config, tensors, options_.dtype, *num_ranks)
                  : MakeShards(ListTensors(config, tensors, options_.dtype, Shard()), options_.max_shard_bytes);
    for (const OutputShard& shard : shards) total_bytes_ += shard.num_bytes;
    OPTSERVE_RETURN_IF_ERROR(PrepareTarget(shards));
    OPTSERVE_RETURN_IF_ERROR(DropFilesOfOthers(shards, *checkpoint));

    OPTSERVE_ASSIGN_OR_RETURN(const ModelDirectory source, ModelDirectory::Open(options_.source));
    std::string config_text;
    if (!options_.config_file.empty()) {
      OPTSERVE_ASSIGN_OR_RETURN(config_text, ReadConfigFile(options_.config_file));
    } else if (source.Has("config.json")) {
      OPTSERVE_ASSIGN_OR_RETURN(config_text, source.Read("config.json", kMaxSmallFile));
    }
    OPTSERVE_RETURN_IF_ERROR(
        WriteText("config.json", ConfigOf(config, tensors, config_text, options_.dtype).dump(2) + "\n"));
    OPTSERVE_RETURN_IF_ERROR(CopyFiles(source, kCopied));
    if (options_.tokenizer_directory.empty()) {
      OPTSERVE_RETURN_IF_ERROR(CopyFiles(source, kTokenizerFiles));
    } else {
      OPTSERVE_ASSIGN_OR_RETURN(const ModelDirectory tokenizer, ModelDirectory::Open(options_.tokenizer_directory));
      OPTSERVE_RETURN_IF_ERROR(CopyFiles(tokenizer, kTokenizerFiles));
    }
    for (const OutputShard& shard : shards) OPTSERVE_RETURN_IF_ERROR(WriteShard(shard));
    if (!num_ranks && shards.size() > 1)
      OPTSERVE_RETURN_IF_ERROR(WriteText("model.safetensors.index.json", IndexOf(shards)));
    return report_;
  }

 private:
  // The target may hold what this conversion wrote before, and no other weights: a mixture would be no model.
  absl::Status PrepareTarget(const std::vector<OutputShard>& shards) {
    std::error_code error;
    fs::create_directories(target_, error);
    if (error) return Unavailable("{}: {}", target_.string(), error.message());
    if (fs::equivalent(target_, options_.source, error)) {
      return InvalidArgument("{} is the model that is to be converted; give another directory", target_.string());
    }
    std::set<std::string> ours;
    if (!options_.tensor_parallel_size) ours.insert("model.safetensors.index.json");
    for (const OutputShard& shard : shards) ours.insert(shard.file);
    for (const fs::directory_entry& entry : fs::directory_iterator(target_, error)) {
      const std::string name = entry.path().filename().string();
      const std::string extension = entry.path().extension().string();
      const bool weights =
          extension == ".safetensors" || extension == ".bin" || extension == ".pt" || name.ends_with(".index.json");
      if (weights && !ours.contains(name)) {
        return InvalidArgument("{} already holds {}, which is not of this conversion; give an empty directory",
                               target_.string(), name);
      }
    }
    return absl::OkStatus();
  }

  // A header says nothing of the numbers: another source of the same shapes, or a file that was downloaded again, has
  // it too.
  absl::Status DropFilesOfOthers(const std::vector<OutputShard>& shards, const Checkpoint& checkpoint) {
    OPTSERVE_ASSIGN_OR_RETURN(const ModelDirectory target, ModelDirectory::Open(target_.string()));
    const std::string files = DescribeFiles(checkpoint);
    const absl::StatusOr<std::string> before = target.Read(kSourceNote, kMaxSmallFile);
    if (before.ok() && *before == files) return absl::OkStatus();
    std::error_code error;
    for (const OutputShard& shard : shards) {
      fs::remove(target_ / shard.file, error);
      if (error) return Unavailable("{}: {}", (target_ / shard.file).string(), error.message());
    }
    return WriteText(kSourceNote, files);
  }

  // A line for each file of weights: its name, size and time of change.
  std::string DescribeFiles(const Checkpoint& checkpoint) const {
    std::set<std::string> names;
    for (const CheckpointTensor& tensor : checkpoint.tensors()) {
      names.insert(tensor.file);
      for (const TensorTile& tile : tensor.tiles) names.insert(std::string(tile.file));
    }
    std::string lines;
    for (const std::string& name : names) {
      std::error_code error;
      const fs::path path = fs::path(options_.source) / name;
      const auto size = fs::file_size(path, error);
      const auto changed = fs::last_write_time(path, error).time_since_epoch().count();
      lines += fmt::format("{} {} {}\n", Printable(name), size, changed);
    }
    return lines;
  }

  // Those that are there.
  absl::Status CopyFiles(const ModelDirectory& from, std::span<const std::string_view> names) {
    for (const std::string_view name : names) {
      if (!from.Has(name)) continue;
      OPTSERVE_ASSIGN_OR_RETURN(const std::string text, from.Read(name, kMaxSmallFile));
      OPTSERVE_RETURN_IF_ERROR(WriteText(name, text));
    }
    return absl::OkStatus();
  }

  absl::Status WriteText(std::string_view name, std::string_view text) {
    OPTSERVE_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(target_ / name));
    OPTSERVE_RETURN_IF_ERROR(file.Write(text));
    return file.Commit();
  }

  static std::string IndexOf(const std::vector<OutputShard>& shards) {
    Json index;
    int64_t total = 0;
    Json map = Json::object();
    for (const OutputShard& shard : shards) {
      total += shard.num_bytes;
      for (const OutputTensor& tensor : shard.tensors) map[tensor.name] = shard.file;
    }
    index["metadata"] = {{"total_size", total}};
    index["weight_map"] = std::move(map);
    return index.dump(2) + "\n";
  }

  // A file of the right name has been renamed, and so is whole; the header says whether it is of the same options.
  bool IsWritten(const OutputShard& shard, const std::string& header) const {
    const absl::StatusOr<ModelDirectory> target = ModelDirectory::Open(target_.string());
    if (!target.ok()) return false;
    const absl::StatusOr<std::unique_ptr<MappedFile>> file = target->Map(shard.file);
    if (!file.ok()) return false;
    const auto bytes = (*file)->bytes();
    return bytes.size() == header.size() + static_cast<size_t>(shard.num_bytes) &&
           std::memcmp(bytes.data(), header.data(), header.size()) == 0;
  }

  absl::Status WriteShard(const OutputShard& shard) {
    const std::string header = HeaderOf(shard);
    report_.bytes += shard.num_bytes;
    if (IsWritten(shard, header)) {
      ++report_.files_kept;
      Advance(shard.num_bytes);
      return absl::OkStatus();
    }
    OPTSERVE_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(target_ / shard.file));
    OPTSERVE_RETURN_IF_ERROR(file.Write(header));
    for (const OutputTensor& tensor : shard.tensors) OPTSERVE_RETURN_IF_ERROR(WriteTensor(tensor, &file));
    ++report_.files_written;
    return file.Commit();
  }

  absl::Status WriteTensor(const OutputTensor& tensor, OutputFile* file) {
    const TensorView& view = tensor.from->view;
    const TensorRegion& region = tensor.region;
    const auto from_element = static_cast<int64_t>(SizeOf(view.dtype));
    const int64_t band_rows = std::max<int64_t>(1, kBandBytes / std::max<int64_t>(1, region.columns * from_element));
    for (int64_t row = 0; row < region.rows; row += band_rows) {
      TensorRegion band = region;
      band.row += row;
      band.rows = std::min(band_rows, region.rows - row);
      const int64_t count = band.num_elements();
      gathered_.resize(static_cast<size_t>(count * from_element));
      CopyRegion(*tensor.from, band, gathered_.data());
      converted_.resize(static_cast<size_t>(count) * SizeOf(tensor.dtype));
      const int64_t overflow = ConvertElements(gathered_.data(), view.dtype, converted_.data(), tensor.dtype, count);
      if (overflow >= 0) {
        return InvalidArgument("{}: tensor {} holds a number at row {} that is beyond {}", tensor.from->file,
                               Printable(tensor.from->name), band.row + overflow / region.columns,
                               TorchName(tensor.dtype));
      }
      OPTSERVE_RETURN_IF_ERROR(file->Write(converted_));
      Advance(static_cast<int64_t>(converted_.size()));
    }
    return absl::OkStatus();
  }

  void Advance(int64_t bytes) {
    done_bytes_ += bytes;
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  const ConvertOptions& options_;
  const std::function<void(int64_t, int64_t)>& progress_;
  const fs::path target_;
  ConvertReport report_;
  int64_t total_bytes_ = 0;
  int64_t done_bytes_ = 0;
  std::vector<std::byte> gathered_;   // a band as it is stored
  std::vector<std::byte> converted_;  // and as it is written
};

}  // namespace

absl::StatusOr<ConvertReport> ConvertModel(const ConvertOptions& options,
                                           const std::function<void(int64_t, int64_t)>& progress) {
  return Converter(options, progress).Run();
}

}  // namespace optserve
