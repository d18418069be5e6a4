#include "engine/model/opt_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>

#include "engine/checkpoint/strict_json.h"
#include "engine/util/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using Json = nlohmann::json;

constexpr char kConfigFile[] = "config.json";
constexpr char kGenerationFile[] = "generation_config.json";
constexpr size_t kMaxFileBytes = 4 << 20;

// Beyond any OPT by far; what is larger is a broken file, and sizes computed from these never overflow 63 bits.
constexpr int32_t kMaxLayers = 4096;
constexpr int32_t kMaxWidth = 1 << 20;
constexpr int32_t kMaxVocabulary = 1 << 24;
constexpr int32_t kMaxPositions = 1 << 20;

// Reads typed values out of one of the two files, and names the file and key where one is wrong.
class Reader {
 public:
  Reader(const Json& json, const char* file) : json_(json), file_(file) {}

  // Absent keeps `value`; null too where `nullable`.
  absl::Status Integer(const char* key, int32_t min, int32_t max, int32_t& value, bool nullable = false) const {
    const auto at = json_.find(key);
    if (at == json_.end() || (nullable && at->is_null())) return absl::OkStatus();
    const std::optional<int64_t> number = WholeNumber(*at);
    if (!number || *number < min || *number > max) {
      return InvalidArgument("{}: {} is {}; it must be a whole number from {} to {}", file_, key, Short(*at), min, max);
    }
    value = static_cast<int32_t>(*number);
    return absl::OkStatus();
  }

  absl::Status Boolean(const char* key, bool& value) const {
    const auto at = json_.find(key);
    if (at == json_.end()) return absl::OkStatus();
    if (!at->is_boolean()) return InvalidArgument("{}: {} is {}; it must be true or false", file_, key, Short(*at));
    value = at->get<bool>();
    return absl::OkStatus();
  }

  // A number or a list of numbers. Absent and null keep `value`.
  absl::Status TokenIds(const char* key, int32_t vocab_size, std::vector<int32_t>& value) const {
    const auto at = json_.find(key);
    if (at == json_.end() || at->is_null()) return absl::OkStatus();
    const Json list = at->is_array() ? *at : Json::array({*at});
    std::vector<int32_t> ids;
    for (const Json& item : list) {
      const std::optional<int64_t> id = WholeNumber(item);
      if (!id || *id < 0 || *id >= vocab_size) {
        return InvalidArgument("{}: {} is {}; ids must be from 0 to {}", file_, key, Short(*at), vocab_size - 1);
      }
      ids.push_back(static_cast<int32_t>(*id));
    }
    if (!ids.empty()) value = std::move(ids);
    return absl::OkStatus();
  }

  bool Has(const char* key) const { return json_.contains(key); }
  const Json* Find(const char* key) const {
    const auto at = json_.find(key);
    return at == json_.end() ? nullptr : &*at;
  }

  static std::string Short(const Json& value) {
    constexpr size_t kMax = 60;
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > kMax) text = text.substr(0, kMax) + "...";
    return text;
  }

 private:
  const Json& json_;
  const char* file_;
};

absl::StatusOr<Json> ParseObject(std::string_view text, const char* file) {
  absl::StatusOr<Json> json = ParseStrictJson(text);
  if (!json.ok()) return Within(file, json.status());
  if (!json->is_object()) return InvalidArgument("{}: not a JSON object", file);
  return json;
}

absl::Status ReadSizes(const Reader& reader, OptConfig& config) {
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("num_hidden_layers", 1, kMaxLayers, config.num_layers));
  OPTSERVE_RETURN_IF_ERROR(
      reader.Integer(reader.Has("hidden_size") ? "hidden_size" : "d_model", 1, kMaxWidth, config.hidden_size));
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("num_attention_heads", 1, kMaxWidth, config.num_heads));
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("ffn_dim", 1, kMaxWidth, config.ffn_size));
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("vocab_size", 1, kMaxVocabulary, config.vocab_size));
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("max_position_embeddings", 1, kMaxPositions, config.max_positions));
  config.embed_size = config.hidden_size;
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("word_embed_proj_dim", 1, kMaxWidth, config.embed_size, /*nullable=*/true));
  if (config.hidden_size % config.num_heads != 0) {
    return InvalidArgument("{}: num_attention_heads is {}, which does not divide hidden_size {}", kConfigFile,
                           config.num_heads, config.hidden_size);
  }
  return absl::OkStatus();
}

absl::Status ReadVariant(const Reader& reader, OptConfig& config) {
  bool removed = false;
  OPTSERVE_RETURN_IF_ERROR(reader.Boolean("do_layer_norm_before", config.layer_norm_first));
  OPTSERVE_RETURN_IF_ERROR(reader.Boolean("_remove_final_layer_norm", removed));
  config.final_layer_norm = config.layer_norm_first && !removed;
  OPTSERVE_RETURN_IF_ERROR(reader.Boolean(reader.Has("enable_bias") ? "enable_bias" : "bias", config.has_bias));
  OPTSERVE_RETURN_IF_ERROR(reader.Boolean("layer_norm_elementwise_affine", config.layer_norm_affine));
  OPTSERVE_RETURN_IF_ERROR(reader.Boolean("tie_word_embeddings", config.tied_embeddings));
  if (const Json* activation = reader.Find("activation_function"); activation != nullptr) {
    if (*activation == "relu") {
      config.activation = Activation::kRelu;
    } else if (*activation == "gelu") {
      config.activation = Activation::kGelu;
    } else {
      return InvalidArgument("{}: activation_function is {}; it must be \"relu\" or \"gelu\"", kConfigFile,
                             Reader::Short(*activation));
    }
  }
  return absl::OkStatus();
}

// Ids that a file gives have been checked; a vocabulary may also be too small for those that it leaves out.
absl::Status CheckDefaultIds(const OptConfig& config) {
  const int32_t last_eos = *std::max_element(config.eos_token_ids.begin(), config.eos_token_ids.end());
  for (const auto& [key, id] : {std::pair("bos_token_id", config.bos_token_id),
                                std::pair("pad_token_id", config.pad_token_id), std::pair("eos_token_id", last_eos)}) {
    if (id < config.vocab_size) continue;
    return InvalidArgument("{}: {} is not given, and its default {} is not below vocab_size {}", kConfigFile, key, id,
                           config.vocab_size);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OptConfig> ParseOptConfig(std::string_view config_json, std::string_view generation_config_json) {
  OPTSERVE_ASSIGN_OR_RETURN(const Json json, ParseObject(config_json, kConfigFile));
  const Reader reader(json, kConfigFile);
  if (const Json* type = reader.Find("model_type"); type != nullptr && *type != "opt") {
    return InvalidArgument("{}: model_type is {}; only \"opt\" can be served", kConfigFile, Reader::Short(*type));
  }
  OptConfig config;
  OPTSERVE_RETURN_IF_ERROR(ReadSizes(reader, config));
  OPTSERVE_RETURN_IF_ERROR(ReadVariant(reader, config));
  const int32_t last_id = config.vocab_size - 1;
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("bos_token_id", 0, last_id, config.bos_token_id, /*nullable=*/true));
  OPTSERVE_RETURN_IF_ERROR(reader.Integer("pad_token_id", 0, last_id, config.pad_token_id, /*nullable=*/true));
  OPTSERVE_RETURN_IF_ERROR(reader.TokenIds("eos_token_id", config.vocab_size, config.eos_token_ids));
  if (!generation_config_json.empty()) {
    OPTSERVE_ASSIGN_OR_RETURN(const Json generation, ParseObject(generation_config_json, kGenerationFile));
    OPTSERVE_RETURN_IF_ERROR(
        Reader(generation, kGenerationFile).TokenIds("eos_token_id", config.vocab_size, config.eos_token_ids));
  }
  OPTSERVE_RETURN_IF_ERROR(CheckDefaultIds(config));
  return config;
}

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return NotFound("{}: no such file", Printable(path));
  if (!std::filesystem::is_regular_file(path, error)) return InvalidArgument("{}: not a regular file", Printable(path));
  if (std::filesystem::file_size(path, error) > kMaxFileBytes) {
    return InvalidArgument("{}: such a file has at most {} bytes", Printable(path), kMaxFileBytes);
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::PermissionDeniedError(fmt::format("{}: cannot be read", Printable(path)));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

absl::StatusOr<OptConfig> LoadOptConfig(const std::string& model_directory, const std::string& config_file) {
  OPTSERVE_ASSIGN_OR_RETURN(const ModelDirectory directory, ModelDirectory::Open(model_directory));
  // Messages start with the file's bare name.
  const auto in_directory = [&](const absl::Status& status) {
    return absl::Status(status.code(), fmt::format("{}/{}", Printable(model_directory), std::string(status.message())));
  };
  absl::StatusOr<std::string> config =
      config_file.empty() ? directory.Read(kConfigFile, kMaxFileBytes) : ReadConfigFile(config_file);
  if (!config.ok()) return config_file.empty() ? in_directory(config.status()) : config.status();
  absl::StatusOr<std::string> generation = directory.Read(kGenerationFile, kMaxFileBytes);
  if (absl::IsNotFound(generation.status())) generation = std::string();
  if (!generation.ok()) return in_directory(generation.status());
  absl::StatusOr<OptConfig> parsed = ParseOptConfig(*config, *generation);
  if (parsed.ok()) return parsed;
  const std::string message(parsed.status().message());
  if (config_file.empty() || !message.starts_with(kConfigFile)) return in_directory(parsed.status());
  return absl::Status(parsed.status().code(), Printable(config_file) + message.substr(std::strlen(kConfigFile)));
}

int32_t NumTreeSlices(const OptConfig& config) { return std::gcd(std::gcd(config.num_heads, config.ffn_size), 16); }

absl::Status CheckDeterministicTensorParallelSize(const OptConfig& config, int32_t tensor_parallel_size) {
  const int32_t num_slices = NumTreeSlices(config);
  if (num_slices % tensor_parallel_size == 0) return absl::OkStatus();
  return InvalidArgument(
      "deterministic_tp sums this model's products in {} slices, which tensor_parallel_size {} does not divide",
      num_slices, tensor_parallel_size);
}

absl::Status CheckTensorParallelSize(const OptConfig& config, int32_t tensor_parallel_size) {
  const auto divides = [&](int32_t size) { return config.num_heads % size == 0 && config.ffn_size % size == 0; };
  if (tensor_parallel_size >= 1 && divides(tensor_parallel_size)) return absl::OkStatus();
  std::string sizes;
  for (int32_t size = 1; size <= config.num_heads; ++size) {
    if (divides(size)) sizes += fmt::format("{}{}", sizes.empty() ? "" : ", ", size);
  }
  return InvalidArgument(
      "--tensor-parallel-size is {}, which does not divide this model's {} heads and ffn size {}; sizes that do: {}",
      tensor_parallel_size, config.num_heads, config.ffn_size, sizes);
}

}  // namespace optserve
