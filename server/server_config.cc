#include "server/server_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/flag_suggestions.h"

namespace optserve {
namespace {

// --- how values are read; an error completes "... is 'text', but it ..." ---------------------------------------------

template <typename T>
absl::Status ParseNumber(std::string_view text, int64_t min, int64_t max, T& number) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < min || value > max) {
    return InvalidArgument("must be a whole number from {} to {}", min, max);
  }
  number = static_cast<T>(value);
  return absl::OkStatus();
}

absl::Status ParseSwitch(std::string_view text, bool& value) {
  if (text == "true" || text == "1") {
    value = true;
  } else if (text == "false" || text == "0") {
    value = false;
  } else {
    return InvalidArgument("must be true or false");
  }
  return absl::OkStatus();
}

absl::Status ParseRatio(std::string_view text, double& value) {
  double ratio = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ratio);
  if (error != std::errc() || end != text.data() + text.size() || !(ratio >= 0 && ratio <= 1)) {
    return InvalidArgument("must be a number from 0 to 1");
  }
  value = ratio;
  return absl::OkStatus();
}

absl::Status ParseText(std::string_view text, std::string& value) {
  if (text.empty()) return InvalidArgument("must not be empty");
  value = text;
  return absl::OkStatus();
}

template <typename T, size_t kSize>
absl::Status ParseChoice(std::string_view text, const std::array<std::pair<std::string_view, T>, kSize>& choices,
                         T& value) {
  std::string names;
  for (const auto& [name, choice] : choices) {
    if (name == text) {
      value = choice;
      return absl::OkStatus();
    }
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  }
  return InvalidArgument("must be one of {}", names);
}

template <typename T, size_t kSize>
std::string PrintChoice(T value, const std::array<std::pair<std::string_view, T>, kSize>& choices) {
  for (const auto& [name, choice] : choices) {
    if (choice == value) return std::string(name);
  }
  return "";
}

constexpr std::array<std::pair<std::string_view, DeviceChoice>, 3> kDevices = {
    {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}}};
constexpr std::array<std::pair<std::string_view, LogFormat>, 2> kLogFormats = {
    {{"text", LogFormat::kText}, {"json", LogFormat::kJson}}};
constexpr std::array<std::pair<std::string_view, DTypeChoice>, 4> kDTypes = {{{"auto", DTypeChoice::kAuto},
                                                                              {"float16", DTypeChoice::kFloat16},
                                                                              {"float32", DTypeChoice::kFloat32},
                                                                              {"int8", DTypeChoice::kInt8}}};
constexpr std::array<std::pair<std::string_view, bool>, 2> kMetricsCompat = {{{"none", false}, {"vllm", true}}};
constexpr std::array<std::pair<std::string_view, LogLevel>, 3> kLogLevels = {
    {{"info", LogLevel::kInfo}, {"warning", LogLevel::kWarning}, {"error", LogLevel::kError}}};
constexpr std::array<std::pair<std::string_view, bool>, 2> kUnknownFields = {{{"reject", false}, {"ignore", true}}};

// --- the table ----------------------------------------------------------------------------------------------------

using Config = ServerConfig;
constexpr bool kOfEngine = true;

// Where a member is: of the whole, or of one of its parts.
template <typename C, typename T>
auto& At(C& config, T Config::*member) {
  return config.*member;
}
template <typename C, typename T>
auto& At(C& config, T EngineConfig::*member) {
  return config.engine.*member;
}
template <typename C, typename T>
auto& At(C& config, T HttpLimits::*member) {
  return config.http_limits.*member;
}
template <typename C, typename T>
auto& At(C& config, T RequestLimits::*member) {
  return config.request_limits.*member;
}

// A row for each kind of member. `value` is what --help shows for it.

template <auto kMember>
constexpr ServerOption Text(std::string_view name, std::string_view value, std::string_view help,
                            bool of_engine = false) {
  return {name,
          value,
          help,
          of_engine,
          [](std::string_view text, Config& c) { return ParseText(text, At(c, kMember)); },
          [](const Config& c) { return At(c, kMember); }};
}

template <auto kMember>
constexpr ServerOption Switch(std::string_view name, std::string_view help, bool of_engine = false) {
  return {name,
          "",
          help,
          of_engine,
          [](std::string_view text, Config& c) { return ParseSwitch(text, At(c, kMember)); },
          [](const Config& c) { return fmt::format("{}", At(c, kMember)); }};
}

template <auto kMember, const auto& kChoices>
constexpr ServerOption Choice(std::string_view name, std::string_view value, std::string_view help,
                              bool of_engine = false) {
  return {name,
          value,
          help,
          of_engine,
          [](std::string_view text, Config& c) { return ParseChoice(text, kChoices, At(c, kMember)); },
          [](const Config& c) { return PrintChoice(At(c, kMember), kChoices); }};
}

// Whole numbers. The bounds are what the flag can mean; the engine checks what the model can do.
template <auto kMember, int64_t kMin, int64_t kMax>
constexpr ServerOption Number(std::string_view name, std::string_view value, std::string_view help,
                              bool of_engine = false) {
  return {name,
          value,
          help,
          of_engine,
          [](std::string_view text, Config& c) { return ParseNumber(text, kMin, kMax, At(c, kMember)); },
          [](const Config& c) { return fmt::format("{}", At(c, kMember)); }};
}

// Bytes, more than 0.
template <auto kMember>
constexpr ServerOption Size(std::string_view name, std::string_view help) {
  return {name,
          "SIZE",
          help,
          false,
          [](std::string_view text, Config& c) {
            const absl::StatusOr<int64_t> bytes = ParseSize(text);
            if (!bytes.ok()) return bytes.status();
            if (*bytes == 0) return InvalidArgument("must be more than 0");
            At(c, kMember) = static_cast<size_t>(*bytes);
            return absl::OkStatus();
          },
          [](const Config& c) { return fmt::format("{}", At(c, kMember)); }};
}

// A duration of whole seconds.
template <auto kMember>
constexpr ServerOption Seconds(std::string_view name, std::string_view help) {
  return {name,
          "SECONDS",
          help,
          false,
          [](std::string_view text, Config& c) {
            int64_t seconds = 0;
            OPTSERVE_RETURN_IF_ERROR(ParseNumber(text, 1, 86400, seconds));
            At(c, kMember) = std::chrono::seconds(seconds);
            return absl::OkStatus();
          },
          [](const Config& c) {
            return fmt::format("{}", std::chrono::duration_cast<std::chrono::seconds>(At(c, kMember)).count());
          }};
}

// One that SIGHUP reads again.
constexpr ServerOption Reloads(ServerOption option) {
  option.reloads = true;
  return option;
}

constexpr ServerOption kOptions[] = {
    Text<&ServerConfig::model>("model", "MODEL", "a model's directory, or its name in the Hugging Face cache"),
    Text<&EngineConfig::model_config_path>(
        "model-config", "FILE", "a config.json to read instead of the model's, or where it has none", kOfEngine),
    Text<&ServerConfig::tokenizer>("tokenizer", "DIR",
                                   "a directory with vocab.json and merges.txt (default: the model's)", kOfEngine),
    Switch<&EngineConfig::verify>(
        "verify", "while loading, look for damage as optserve verify does, and serve nothing that has it", kOfEngine),
    Text<&ServerConfig::served_model_name>("served-model-name", "NAME",
                                           "the name that clients know the model by (default: its directory or name)"),
    Text<&ServerConfig::host>("host", "HOST", "address of the HTTP server"),
    Number<&ServerConfig::port, 0, 65535>("port", "PORT", "port of the HTTP server; 0: any free one"),
    Switch<&ServerConfig::no_grpc>("no-grpc", "serve HTTP only"),
    Text<&ServerConfig::grpc_host>("grpc-host", "HOST", "address of the gRPC server"),
    Number<&ServerConfig::grpc_port, 0, 65535>("grpc-port", "PORT", "port of the gRPC server; 0: any free one"),
    Text<&ServerConfig::api_key_file>("api-key-file", "FILE",
                                      "serve only who has a key of this file, see optserve keys (default: everybody)"),
    Switch<&ServerConfig::probes_need_key>("probes-need-key",
                                           "answer /livez, /readyz, /health, /ping and /version only to who has a key"),
    Switch<&ServerConfig::metrics_need_key>("metrics-need-key", "answer /metrics only to who has a key"),
    Text<&ServerConfig::tls_cert>(
        "tls-cert", "FILE", "speak TLS, HTTP and gRPC: the certificate and its chain, in PEM (default: in clear)"),
    Text<&ServerConfig::tls_key>("tls-key", "FILE", "the key of --tls-cert, in PEM, without a password"),
    Text<&ServerConfig::usage_log>(
        "usage-log", "FILE", "append a line of JSON for each request: who, how many tokens, how much engine time"),
    Choice<&ServerConfig::ignore_unknown_fields, kUnknownFields>("unknown-fields", "reject|ignore",
                                                                 "what to do with unknown fields of a request"),
    Reloads(Number<&ServerConfig::shutdown_timeout_seconds, 0, 86400>(
        "shutdown-timeout", "SECONDS", "how long running requests may take after SIGTERM")),
    Choice<&ServerConfig::log_format, kLogFormats>("log-format", "text|json",
                                                   "how events are written to standard error"),
    Choice<&ServerConfig::vllm_metrics, kMetricsCompat>(
        "metrics-compat", "none|vllm", "also give the numbers at /metrics the names that vLLM has for them"),
    Text<&ServerConfig::otlp_traces_endpoint>(
        "otlp-traces-endpoint", "URL",
        "record completions as OpenTelemetry spans; such as http://127.0.0.1:4318/v1/traces"),
    {"trace-sampling", "RATIO",
     "the part of completions that is recorded, 0 to 1; those with a traceparent say it there", false,
     [](std::string_view text, Config& c) { return ParseRatio(text, c.trace_sampling); },
     [](const Config& c) { return fmt::format("{}", c.trace_sampling); }},
    Reloads(Choice<&ServerConfig::log_level, kLogLevels>("log-level", "info|warning|error",
                                                         "the least of the events that are written")),
    Choice<&EngineConfig::device, kDevices>("device", "auto|cpu|cuda", "where the model runs", kOfEngine),
    Choice<&EngineConfig::dtype, kDTypes>(
        "dtype", "auto|float16|float32|int8",
        "how weights are held; auto: as the model's files have them. On the CPU "
        "float16 needs float16 files and int8 is refused; answers of float32 and auto are the same",
        kOfEngine),
    Number<&EngineConfig::tensor_parallel_size, 1, 1024>(
        "tensor-parallel-size", "N", "ranks that share each layer; must divide its heads", kOfEngine),
    Number<&EngineConfig::max_model_len, 0, 1 << 20>(
        "max-model-len", "N", "tokens of a prompt and its answer together; 0: as many as the model has positions",
        kOfEngine),
    Number<&EngineConfig::max_num_seqs, 1, 1 << 16>("max-num-seqs", "N", "answers computed at a time", kOfEngine),
    Number<&EngineConfig::max_num_batched_tokens, 1, 1 << 20>("max-num-batched-tokens", "N",
                                                              "tokens computed in one step", kOfEngine),
    {"kv-cache-memory", "SIZE", "memory of the KV cache, such as 4GiB; 0: by what is free", kOfEngine,
     [](std::string_view text, Config& c) {
       const absl::StatusOr<int64_t> bytes = ParseSize(text);
       if (bytes.ok()) c.engine.kv_cache_bytes = *bytes;
       return bytes.status();
     },
     [](const Config& c) { return fmt::format("{}", c.engine.kv_cache_bytes); }},
    Number<&EngineConfig::block_size, 1, 1024>("block-size", "N", "tokens of a block of the KV cache", kOfEngine),
    Number<&EngineConfig::max_queue, 0, 1 << 24>("max-queue", "N", "requests that may wait", kOfEngine),
    Number<&EngineConfig::max_queue_tokens, 1, int64_t{1} << 40>("max-queue-tokens", "N",
                                                                 "prompt tokens of the requests that wait", kOfEngine),
    Number<&EngineConfig::steps_in_flight, 0, 2>("steps-in-flight", "N",
                                                 "2: plan a step while another one runs, so that a GPU need not wait "
                                                 "for the next; 0: 2 on GPUs that do not add up by NCCL, else 1",
                                                 kOfEngine),
    Number<&EngineConfig::cuda_graph_batch, 0, 1 << 16>(
        "cuda-graph-batch", "N",
        "on GPUs: up to so many answers, a step of theirs is one CUDA graph, captured at start; 0: none", kOfEngine),
    Number<&EngineConfig::batch_step_tokens, 0, 1 << 20>(
        "batch-step-tokens", "N", "up to so many tokens, requests of the batch lane join the steps of others",
        kOfEngine),
    {"no-prefix-cache", "", "compute prompts that begin alike each time anew", kOfEngine,
     [](std::string_view text, Config& c) {
       bool off = false;
       const absl::Status status = ParseSwitch(text, off);
       if (status.ok()) c.engine.prefix_cache = !off;
       return status;
     },
     [](const Config& c) { return fmt::format("{}", !c.engine.prefix_cache); }},
    Switch<&EngineConfig::deterministic_tp>(
        "deterministic-tp",
        "the same bits on 1, 2, 4, ... ranks: sums over ranks go by one fixed tree; a little slower", kOfEngine),
    Switch<&EngineConfig::share_prefix_cache>(
        "share-prefix-cache",
        "share cached prompts between API keys too, whose owners can then tell by the time what others have asked"),
    Number<&EngineConfig::num_threads, 0, 4096>("threads", "N", "CPU threads of all ranks together; 0: all there are",
                                                kOfEngine),
    Number<&EngineConfig::step_timeout_seconds, 1, 86400>(
        "step-timeout", "N",
        "seconds after which a step is taken for hung, if it is also 20 times the p99: the engine is replaced",
        kOfEngine),
    Number<&ServerConfig::replicas, 1, 64>("replicas", "N",
                                           "engines with the whole model each, which share the requests"),
    Text<&ServerConfig::engine_launcher>(
        "engine-launcher", "COMMAND",
        "mpirun or srun with its options, which starts each rank as a process, here or on other machines: "
        "\"mpirun -n 4 --hostfile HOSTS\" (default: ranks are threads)"),
    Number<&ServerConfig::load_timeout_seconds, 1, 86400>(
        "load-timeout", "SECONDS",
        "without progress after which an engine that loads is taken for hung and started again"),
    Number<&ServerConfig::max_engine_deaths, 1, 1 << 20>(
        "max-engine-deaths", "N", "deaths of an engine in ten minutes after which it is given up"),
    Reloads(Number<&RequestLimits::max_choices, 1, 1 << 20>(
        "max-choices", "N", "answers of one request: its prompts times the larger of n and best_of")),
    Reloads(Size<&RequestLimits::text_body_bytes>("max-text-size", "of a request with text prompts")),
    Reloads(Size<&HttpLimits::body_bytes>("max-body-size", "of any request; beyond --max-text-size only ids fill it")),
    Reloads(
        Size<&HttpLimits::buffered_body_bytes>("max-bodies-size", "of the bodies of all HTTP connections together")),
    Reloads(Size<&HttpLimits::header_bytes>("max-header-size", "of an HTTP request's line and fields")),
    Reloads(Number<&HttpLimits::header_fields, 1, 1 << 20>("max-header-fields", "N", "of an HTTP request")),
    Reloads(Size<&HttpLimits::target_bytes>("max-target-size", "of an HTTP request's path and query")),
    Reloads(Number<&HttpLimits::connections, 1, 1 << 20>("max-connections", "N", "of HTTP at a time")),
    Reloads(Size<&HttpLimits::stream_bytes>("stream-buffer", "of a stream, made and not yet taken by its reader")),
    Reloads(Seconds<&HttpLimits::stall_time>("stall-timeout", "after which a reader that takes nothing is cancelled")),
    Reloads(Seconds<&HttpLimits::header_time>("header-timeout", "for an HTTP request's header to arrive")),
    Reloads(Seconds<&HttpLimits::body_time>("body-timeout", "for an HTTP request's body to arrive")),
    Reloads(Seconds<&HttpLimits::idle_time>("idle-timeout", "between two requests of an HTTP connection")),
};

// --- what an option is called ---------------------------------------------------------------------------------------

std::string EnvironmentName(std::string_view option) {
  std::string name = "OPTSERVE_";
  for (const char c : option) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::string FileKey(std::string_view option) {
  std::string key(option);
  std::ranges::replace(key, '-', '_');
  return key;
}

// Of optserve-cli and `bench serve`, which may run where a server is configured (clients/README.md).
constexpr std::string_view kClientVariables[] = {"OPTSERVE_ADDRESS", "OPTSERVE_API_KEY"};

// Fills unknown_variables; an error for what is nearly ours.
absl::Status CheckVariables(std::span<const std::string> variables, std::vector<std::string>& unknown) {
  std::vector<std::string> ours = {EnvironmentName("config")};
  for (const ServerOption& option : kOptions) ours.push_back(EnvironmentName(option.name));
  for (const std::string& variable : variables) {
    if (!variable.starts_with("OPTSERVE_") || std::ranges::find(ours, variable) != ours.end()) continue;
    if (std::ranges::find(kClientVariables, variable) != std::end(kClientVariables)) continue;
    if (const std::string nearest = NearestName(variable, ours); !nearest.empty()) {
      return InvalidArgument("there is no variable {}; did you mean {}?", variable, nearest);
    }
    unknown.push_back(variable);
  }
  return absl::OkStatus();
}

// Line and column of a byte, from 1.
std::string Place(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, byte);
  const size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0
  return fmt::format("line {}, column {}", std::ranges::count(before, '\n') + 1, byte - line_begin + 1);
}

// --- the four places ----------------------------------------------------------------------------------------------

// The file's values as texts, so that a value means the same wherever it is written.
absl::StatusOr<FlagValues> ReadConfigFile(const std::string& path) {
  std::ifstream in(path);
  if (!in) return NotFound("cannot read the configuration file {}", path);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  nlohmann::json parsed;
  try {
    parsed = nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    // error.byte counts from 1, and is one behind the end where something is missing there.
    const size_t byte = std::min(text.size(), error.byte > 0 ? error.byte - 1 : 0);
    return InvalidArgument("the configuration file {} is not JSON at {}", path, Place(text, byte));
  }
  if (!parsed.is_object()) return InvalidArgument("the configuration file {} is not a JSON object", path);
  std::vector<std::string> keys;
  for (const ServerOption& option : kOptions) keys.push_back(FileKey(option.name));
  FlagValues values;
  for (const auto& [key, value] : parsed.items()) {
    const auto known = std::ranges::find(keys, key);
    if (known == keys.end()) {
      const std::string nearest = NearestName(key, keys);
      const std::string hint =
          nearest.empty() ? "optserve serve --print-config shows all" : fmt::format("did you mean \"{}\"?", nearest);
      return InvalidArgument("{}: there is no option \"{}\"; {}", path, key, hint);
    }
    if (value.is_structured() || value.is_null()) {
      return InvalidArgument("{}: \"{}\" must be a string, a number, true or false", path, key);
    }
    const ServerOption& option = kOptions[known - keys.begin()];
    values[std::string(option.name)] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return values;
}

// What the values mean together.
absl::Status CheckTogether(const ServerConfig& config) {
  if (!config.no_grpc && config.port != 0 && config.port == config.grpc_port && config.host == config.grpc_host) {
    return InvalidArgument("--port and --grpc-port are both {}; choose another for one of them, or give --no-grpc",
                           config.port);
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const ServerOption> ServerOptions() { return kOptions; }

absl::StatusOr<int64_t> ParseSize(std::string_view text) {
  constexpr int64_t kMax = int64_t{1} << 50;
  constexpr std::string_view kPrefixes = "KMGT";
  const absl::Status error = InvalidArgument("must be a number of bytes such as 512MiB or 4GiB, at most 1024TiB");
  double number = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (code != std::errc() || !(number >= 0)) return error;
  std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  double factor = 1;
  if (!unit.empty() && unit != "B") {
    const size_t power = kPrefixes.find(unit.front());
    unit.remove_prefix(1);
    if (power == std::string_view::npos || (unit != "" && unit != "iB" && unit != "i" && unit != "B")) return error;
    factor = std::pow(unit == "B" ? 1000.0 : 1024.0, static_cast<double>(power + 1));
  }
  if (number * factor > static_cast<double>(kMax)) return error;
  return static_cast<int64_t>(number * factor);
}

absl::StatusOr<LoadedServerConfig> LoadServerConfig(const FlagValues& flags, const Environment& environment,
                                                    std::span<const std::string> variables) {
  LoadedServerConfig loaded;
  OPTSERVE_RETURN_IF_ERROR(CheckVariables(variables, loaded.unknown_variables));
  FlagValues file;
  const auto config_flag = flags.find("config");
  const std::optional<std::string> path =
      config_flag != flags.end() ? config_flag->second : environment("OPTSERVE_CONFIG");
  if (path.has_value()) {
    OPTSERVE_ASSIGN_OR_RETURN(file, ReadConfigFile(*path));
  }

  for (const ServerOption& option : kOptions) {
    const std::string name(option.name);
    std::string origin = "default";
    std::string written;  // the option as the user knows it
    std::optional<std::string> text;
    if (const auto flag = flags.find(name); flag != flags.end()) {
      text = flag->second;
      origin = "flag";
      written = name == "model" ? "MODEL" : "--" + name;
    } else if (std::optional<std::string> variable = environment(EnvironmentName(name)); variable.has_value()) {
      text = *std::move(variable);
      origin = "environment";
      written = EnvironmentName(name);
    } else if (const auto entry = file.find(name); entry != file.end()) {
      text = entry->second;
      origin = "file";
      written = fmt::format("{} in {}", FileKey(name), *path);
    }
    if (text.has_value()) {
      if (const absl::Status status = option.parse(*text, loaded.config); !status.ok()) {
        return InvalidArgument("{} is '{}', but it {}", written, *text, std::string(status.message()));
      }
    }
    loaded.origins[name] = origin;
  }
  OPTSERVE_RETURN_IF_ERROR(CheckTogether(loaded.config));
  return loaded;
}

ConfigChanges TakeReloadable(const ServerConfig& next, ServerConfig& config) {
  ConfigChanges changes;
  for (const ServerOption& option : kOptions) {
    const std::string text = option.print(next);
    if (text == option.print(config)) continue;
    // What it prints it also reads.
    const bool is_taken = option.reloads && option.parse(text, config).ok();
    (is_taken ? changes.taken : changes.need_restart).push_back(option.name);
  }
  return changes;
}

std::string PrintServerConfig(const LoadedServerConfig& loaded) {
  std::string text;
  for (const ServerOption& option : kOptions) {
    text += fmt::format("{:<24}{:<32} {}\n", option.name, option.print(loaded.config),
                        loaded.origins.find(option.name)->second);
  }
  return text;
}

}  // namespace optserve
