#include "engine/config.h"

#include <array>
#include <limits>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "nlohmann/json.hpp"

namespace optserve {
namespace {

using Json = nlohmann::ordered_json;

// One row per number: what is read, printed and allowed cannot disagree.
template <typename T>
struct NumberKey {
  const char* name;
  T EngineConfig::*member;
  T min;
  T max;
};

constexpr std::array kInt32Keys = {
    NumberKey<int32_t>{"tensor_parallel_size", &EngineConfig::tensor_parallel_size, 1, 1024},
    NumberKey<int32_t>{"max_model_len", &EngineConfig::max_model_len, 0, 1 << 20},
    NumberKey<int32_t>{"max_num_seqs", &EngineConfig::max_num_seqs, 1, 1 << 16},
    NumberKey<int32_t>{"max_num_batched_tokens", &EngineConfig::max_num_batched_tokens, 1, 1 << 20},
    NumberKey<int32_t>{"batch_step_tokens", &EngineConfig::batch_step_tokens, 0, 1 << 20},
    NumberKey<int32_t>{"block_size", &EngineConfig::block_size, 1, 1024},
    NumberKey<int32_t>{"steps_in_flight", &EngineConfig::steps_in_flight, 0, 2},
    NumberKey<int32_t>{"cuda_graph_batch", &EngineConfig::cuda_graph_batch, 0, 1 << 16},
    NumberKey<int32_t>{"max_queue", &EngineConfig::max_queue, 0, 1 << 24},
    NumberKey<int32_t>{"num_threads", &EngineConfig::num_threads, 0, 4096},
    NumberKey<int32_t>{"engines_on_machine", &EngineConfig::engines_on_machine, 1, 64},
    NumberKey<int32_t>{"first_device", &EngineConfig::first_device, 0, 1 << 16},
    NumberKey<int32_t>{"step_timeout_seconds", &EngineConfig::step_timeout_seconds, 1, 86400},
};
constexpr std::array kInt64Keys = {
    NumberKey<int64_t>{"kv_cache_bytes", &EngineConfig::kv_cache_bytes, 0, int64_t{1} << 50},
    NumberKey<int64_t>{"max_queue_tokens", &EngineConfig::max_queue_tokens, 1, int64_t{1} << 40},
};

struct BoolKey {
  const char* name;
  bool EngineConfig::*member;
};
constexpr std::array kBoolKeys = {
    BoolKey{"prefix_cache", &EngineConfig::prefix_cache},
    BoolKey{"share_prefix_cache", &EngineConfig::share_prefix_cache},
    BoolKey{"deterministic_tp", &EngineConfig::deterministic_tp},
    BoolKey{"verify", &EngineConfig::verify},
};

struct TextKey {
  const char* name;
  std::string EngineConfig::*member;
};
constexpr std::array kTextKeys = {
    TextKey{"model_path", &EngineConfig::model_path},
    TextKey{"model_config_path", &EngineConfig::model_config_path},
};

constexpr std::array<std::pair<const char*, DeviceChoice>, 3> kDevices = {
    {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}}};

constexpr std::array<std::pair<const char*, DTypeChoice>, 4> kDTypes = {{{"auto", DTypeChoice::kAuto},
                                                                         {"float16", DTypeChoice::kFloat16},
                                                                         {"float32", DTypeChoice::kFloat32},
                                                                         {"int8", DTypeChoice::kInt8}}};

// Sets the number `name` stands for. False: no row has that name.
template <typename T, size_t kRows>
absl::StatusOr<bool> ReadNumber(const std::array<NumberKey<T>, kRows>& keys, const std::string& name, const Json& value,
                                EngineConfig& config) {
  for (const NumberKey<T>& key : keys) {
    if (name != key.name) continue;
    // Larger than int64 is also larger than every bound.
    const bool is_in_int64 =
        value.is_number_integer() &&
        !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()});
    if (!is_in_int64 || value.get<int64_t>() < key.min || value.get<int64_t>() > key.max) {
      return InvalidArgument("{} is {}, but must be a whole number from {} to {}", name, value.dump(), key.min,
                             key.max);
    }
    config.*key.member = value.get<T>();
    return true;
  }
  return false;
}

absl::Status ReadDevice(const Json& value, EngineConfig& config) {
  for (const auto& [name, device] : kDevices) {
    if (value != name) continue;
    config.device = device;
    return absl::OkStatus();
  }
  return InvalidArgument("device is {}, but must be \"auto\", \"cpu\" or \"cuda\"", value.dump());
}

absl::Status ReadDType(const Json& value, EngineConfig& config) {
  for (const auto& [name, dtype] : kDTypes) {
    if (value != name) continue;
    config.dtype = dtype;
    return absl::OkStatus();
  }
  return InvalidArgument("dtype is {}, but must be \"auto\", \"float16\", \"float32\" or \"int8\"", value.dump());
}

absl::Status ReadKey(const std::string& name, const Json& value, EngineConfig& config) {
  for (const TextKey& key : kTextKeys) {
    if (name != key.name) continue;
    if (!value.is_string()) return InvalidArgument("{} is {}, but must be a string", name, value.dump());
    config.*key.member = value.get<std::string>();
    return absl::OkStatus();
  }
  if (name == "device") return ReadDevice(value, config);
  if (name == "dtype") return ReadDType(value, config);
  OPTSERVE_ASSIGN_OR_RETURN(const bool is_int32, ReadNumber(kInt32Keys, name, value, config));
  if (is_int32) return absl::OkStatus();
  OPTSERVE_ASSIGN_OR_RETURN(const bool is_int64, ReadNumber(kInt64Keys, name, value, config));
  if (is_int64) return absl::OkStatus();
  for (const BoolKey& key : kBoolKeys) {
    if (name != key.name) continue;
    if (!value.is_boolean()) return InvalidArgument("{} is {}, but must be true or false", name, value.dump());
    config.*key.member = value.get<bool>();
    return absl::OkStatus();
  }
  return InvalidArgument("\"{}\" is no key of the engine's configuration", name);
}

}  // namespace

absl::StatusOr<EngineConfig> ParseEngineConfig(std::string_view json) {
  const Json parsed = Json::parse(json, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return InvalidArgument("the engine's configuration is not a JSON object");
  EngineConfig config;
  for (const auto& [name, value] : parsed.items()) OPTSERVE_RETURN_IF_ERROR(ReadKey(name, value, config));
  return config;
}

std::string EngineConfigToJson(const EngineConfig& config) {
  Json json;
  for (const auto& key : kTextKeys) json[key.name] = config.*key.member;
  for (const auto& [name, device] : kDevices) {
    if (device == config.device) json["device"] = name;
  }
  for (const auto& [name, dtype] : kDTypes) {
    if (dtype == config.dtype) json["dtype"] = name;
  }
  for (const auto& key : kInt32Keys) json[key.name] = config.*key.member;
  for (const auto& key : kInt64Keys) json[key.name] = config.*key.member;
  for (const auto& key : kBoolKeys) json[key.name] = config.*key.member;
  // A path is bytes; those that are no UTF-8 cannot be said in JSON and would not be found again.
  return json.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace optserve
