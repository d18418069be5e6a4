#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/util/log.h"
#include "server/api/completion_fields.h"
#include "server/commands/model_path.h"
#include "server/http/http_limits.h"

// What `serve` is told, from four places: a flag wins over OPTSERVE_<FLAG> in the environment, that over the JSON file
// of --config, that over the default. One table names every option once: for all four, --help and --print-config.

namespace optserve {

struct ServerConfig {
  std::string model;              // as given: a directory or a name in the Hugging Face cache
  std::string tokenizer;          // a directory; empty: the model's
  std::string served_model_name;  // empty: by the model's name or directory
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free one
  bool no_grpc = false;  // HTTP only
  std::string grpc_host = "127.0.0.1";
  uint16_t grpc_port = 8001;     // 0: any free one
  std::string api_key_file;      // empty: no keys are needed
  bool probes_need_key = false;  // /livez, /readyz and their like, /version
  bool metrics_need_key = false;
  std::string tls_cert;                   // PEM, with the certificates that lead to a root; empty: in clear
  std::string tls_key;                    // PEM; with tls_cert
  std::string usage_log;                  // empty: nothing is recorded
  bool ignore_unknown_fields = false;     // of requests; else they are errors
  int32_t shutdown_timeout_seconds = 30;  // for what runs when SIGTERM comes
  LogFormat log_format = LogFormat::kText;
  bool vllm_metrics = false;         // /metrics has vLLM's names too
  std::string otlp_traces_endpoint;  // a collector's URL; empty: no traces
  double trace_sampling = 1.0;       // of requests without a traceparent, the part that is recorded
  LogLevel log_level = LogLevel::kInfo;
  int32_t replicas = 1;           // engine processes, each with the whole model
  std::string engine_launcher;    // a command, split at spaces, that starts each rank as a process; empty: as threads
  int32_t max_engine_deaths = 3;  // in ten minutes; then the server ends
  int32_t load_timeout_seconds = 300;  // without progress
  HttpLimits http_limits;              // what a client may take of the server
  RequestLimits request_limits;        // what one request may ask for
  EngineConfig engine;                 // all but model_path
};

// One way to configure the server. Names are flags without their dashes, such as max-model-len: OPTSERVE_MAX_MODEL_LEN
// in the environment, "max_model_len" in the file.
struct ServerOption {
  std::string_view name;
  std::string_view value;  // what --help shows for the value; empty: a switch, whose text is true or false
  std::string_view help;
  bool of_engine = false;  // also an option of commands that run an engine without a server
  // An error completes the sentence "--name is 'text', but it ...".
  absl::Status (*parse)(std::string_view text, ServerConfig& config);
  std::string (*print)(const ServerConfig& config);
  bool reloads = false;  // on SIGHUP
};

std::span<const ServerOption> ServerOptions();

// Flags of the command line by name, without dashes; the model, which has no dashes, is "model".
using FlagValues = std::map<std::string, std::string, std::less<>>;

struct LoadedServerConfig {
  ServerConfig config;
  std::map<std::string, std::string, std::less<>> origins;  // by option: "flag", "environment", "file", "default"
  std::vector<std::string> unknown_variables;               // OPTSERVE_*, but no option's nor nearly one's
};

// InvalidArgument names the option as it was written, its text and what is allowed. The file is that of
// flags["config"], else of OPTSERVE_CONFIG; unknown keys in it are refused, NotFound if it cannot be read.
//
// `variables` are the names of all variables, to find those that are meant for us and misspelt: a slip of a letter or
// two is refused. Others that begin with OPTSERVE_ are only reported, because they may be somebody else's: Kubernetes
// makes OPTSERVE_SERVICE_HOST and the like for a service of that name.
absl::StatusOr<LoadedServerConfig> LoadServerConfig(const FlagValues& flags, const Environment& environment,
                                                    std::span<const std::string> variables = {});

// Options by name, in the table's order.
struct ConfigChanges {
  std::vector<std::string_view> taken;
  std::vector<std::string_view> need_restart;
};

// What `next` says otherwise than `config`; what may change while the server runs is taken into `config`.
ConfigChanges TakeReloadable(const ServerConfig& next, ServerConfig& config);

// For --print-config: a line for each option, its value and its origin.
std::string PrintServerConfig(const LoadedServerConfig& loaded);

// Bytes: 1048576, 512MiB, 4G (as GiB), 1.5TB (decimal).
absl::StatusOr<int64_t> ParseSize(std::string_view text);

}  // namespace optserve
