#include "server/server_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "server/flag_suggestions.h"
#include "tests/server/config/fake_environment.h"

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

const Environment kNoEnvironment = FakeEnvironment({});

// A file that is gone at the end of the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view text) {
    path_ = (std::filesystem::temp_directory_path() / "optserve_config_XXXXXX").string();
    close(mkstemp(path_.data()));
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string ErrorOf(const FlagValues& flags, const Environment& environment = kNoEnvironment) {
  const auto loaded = LoadServerConfig(flags, environment);
  EXPECT_FALSE(loaded.ok());
  return std::string(loaded.status().message());
}

TEST(ServerConfigTest, DefaultsAreTheDocumentedOnes) {
  const auto loaded = LoadServerConfig({}, kNoEnvironment);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.host, "127.0.0.1");
  EXPECT_EQ(loaded->config.port, 8000);
  EXPECT_EQ(loaded->config.grpc_port, 8001);
  EXPECT_FALSE(loaded->config.no_grpc);
  EXPECT_EQ(loaded->config.shutdown_timeout_seconds, 30);
  for (const auto& [option, origin] : loaded->origins) EXPECT_EQ(origin, "default") << option;
}

TEST(ServerConfigTest, FlagWinsOverEnvironmentOverFileOverDefault) {
  const TemporaryFile file(R"({"host": "file", "port": 1, "grpc_host": "file", "no_grpc": true})");
  const Environment environment =
      FakeEnvironment({{"OPTSERVE_CONFIG", file.path()}, {"OPTSERVE_HOST", "env"}, {"OPTSERVE_PORT", "2"}});
  const auto loaded = LoadServerConfig({{"port", "3"}}, environment);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.port, 3);
  EXPECT_EQ(loaded->config.host, "env");
  EXPECT_EQ(loaded->config.grpc_host, "file");
  EXPECT_TRUE(loaded->config.no_grpc);
  EXPECT_EQ(loaded->config.grpc_port, 8001);
  const std::map<std::string, std::string, std::less<>>& origins = loaded->origins;
  EXPECT_EQ(origins.at("port"), "flag");
  EXPECT_EQ(origins.at("host"), "environment");
  EXPECT_EQ(origins.at("grpc-host"), "file");
  EXPECT_EQ(origins.at("grpc-port"), "default");

  const std::string printed = PrintServerConfig(*loaded);
  EXPECT_THAT(printed, testing::ContainsRegex("\nport +3 +flag\n"));
  EXPECT_THAT(printed, testing::ContainsRegex("\nhost +env +environment\n"));
  EXPECT_THAT(printed, testing::ContainsRegex("\nmax-num-seqs +256 +default\n"));
}

// Each option by its flag, and what it must have changed: a row of the table that reads or writes the wrong member
// shows here.
TEST(ServerConfigTest, EveryOptionSetsItsOwnValue) {
  const FlagValues flags = {{"model", "m"},
                            {"model-config", "config"},
                            {"tokenizer", "tokenizer"},
                            {"verify", "true"},
                            {"served-model-name", "name"},
                            {"host", "h"},
                            {"port", "1"},
                            {"no-grpc", "true"},
                            {"grpc-host", "g"},
                            {"grpc-port", "2"},
                            {"unknown-fields", "ignore"},
                            {"shutdown-timeout", "3"},
                            {"log-format", "json"},
                            {"device", "cpu"},
                            {"tensor-parallel-size", "4"},
                            {"max-model-len", "5"},
                            {"max-num-seqs", "6"},
                            {"max-num-batched-tokens", "7"},
                            {"kv-cache-memory", "8"},
                            {"block-size", "9"},
                            {"max-queue", "10"},
                            {"max-queue-tokens", "11"},
                            {"batch-step-tokens", "12"},
                            {"steps-in-flight", "2"},
                            {"cuda-graph-batch", "30"},
                            {"no-prefix-cache", "true"},
                            {"deterministic-tp", "true"},
                            {"share-prefix-cache", "true"},
                            {"threads", "13"},
                            {"step-timeout", "14"},
                            {"replicas", "15"},
                            {"max-engine-deaths", "16"},
                            {"load-timeout", "17"},
                            {"engine-launcher", "mpirun -n 2"},
                            {"api-key-file", "keys"},
                            {"probes-need-key", "true"},
                            {"metrics-need-key", "true"},
                            {"tls-cert", "certificate"},
                            {"tls-key", "key"},
                            {"usage-log", "usage"},
                            {"log-level", "warning"},
                            {"dtype", "int8"},
                            {"metrics-compat", "vllm"},
                            {"otlp-traces-endpoint", "http://c"},
                            {"trace-sampling", "0.25"},
                            {"max-choices", "17"},
                            {"max-text-size", "18"},
                            {"max-body-size", "19"},
                            {"max-bodies-size", "20"},
                            {"max-header-size", "21"},
                            {"max-header-fields", "22"},
                            {"max-target-size", "23"},
                            {"max-connections", "24"},
                            {"stream-buffer", "25"},
                            {"stall-timeout", "26"},
                            {"header-timeout", "27"},
                            {"body-timeout", "28"},
                            {"idle-timeout", "29"}};
  const auto loaded = LoadServerConfig(flags, kNoEnvironment);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(ServerOptions().size(), flags.size());
  for (const ServerOption& option : ServerOptions()) {
    EXPECT_EQ(option.print(loaded->config), flags.find(option.name)->second) << option.name;
    EXPECT_EQ(loaded->origins.find(option.name)->second, "flag") << option.name;
  }
  EXPECT_EQ(loaded->config.model, "m");
  EXPECT_EQ(loaded->config.log_format, LogFormat::kJson);
  EXPECT_EQ(loaded->config.log_level, LogLevel::kWarning);
  EXPECT_TRUE(loaded->config.ignore_unknown_fields);
  EXPECT_EQ(loaded->config.engine.device, DeviceChoice::kCpu);
  EXPECT_EQ(loaded->config.engine.tensor_parallel_size, 4);
  EXPECT_EQ(loaded->config.engine.max_model_len, 5);
  EXPECT_EQ(loaded->config.engine.max_num_seqs, 6);
  EXPECT_EQ(loaded->config.engine.max_num_batched_tokens, 7);
  EXPECT_EQ(loaded->config.engine.kv_cache_bytes, 8);
  EXPECT_EQ(loaded->config.engine.block_size, 9);
  EXPECT_EQ(loaded->config.engine.max_queue, 10);
  EXPECT_EQ(loaded->config.engine.max_queue_tokens, 11);
  EXPECT_EQ(loaded->config.engine.batch_step_tokens, 12);
  EXPECT_EQ(loaded->config.engine.steps_in_flight, 2);
  EXPECT_EQ(loaded->config.engine.cuda_graph_batch, 30);
  EXPECT_FALSE(loaded->config.engine.prefix_cache);
  EXPECT_TRUE(loaded->config.engine.deterministic_tp);
  EXPECT_TRUE(loaded->config.engine.share_prefix_cache);
  EXPECT_EQ(loaded->config.engine.num_threads, 13);
  EXPECT_EQ(loaded->config.request_limits.max_choices, 17);
  EXPECT_EQ(loaded->config.request_limits.text_body_bytes, 18u);
  EXPECT_EQ(loaded->config.http_limits.body_bytes, 19u);
  EXPECT_EQ(loaded->config.http_limits.buffered_body_bytes, 20u);
  EXPECT_EQ(loaded->config.http_limits.header_bytes, 21u);
  EXPECT_EQ(loaded->config.http_limits.header_fields, 22u);
  EXPECT_EQ(loaded->config.http_limits.target_bytes, 23u);
  EXPECT_EQ(loaded->config.http_limits.connections, 24);
  EXPECT_EQ(loaded->config.http_limits.stream_bytes, 25u);
  EXPECT_EQ(loaded->config.http_limits.stall_time, std::chrono::seconds(26));
  EXPECT_EQ(loaded->config.http_limits.header_time, std::chrono::seconds(27));
  EXPECT_EQ(loaded->config.http_limits.body_time, std::chrono::seconds(28));
  EXPECT_EQ(loaded->config.http_limits.idle_time, std::chrono::seconds(29));
  EXPECT_EQ(loaded->config.engine.step_timeout_seconds, 14);
  EXPECT_EQ(loaded->config.replicas, 15);
  EXPECT_EQ(loaded->config.max_engine_deaths, 16);
  EXPECT_EQ(loaded->config.load_timeout_seconds, 17);
  EXPECT_EQ(loaded->config.engine_launcher, "mpirun -n 2");
  EXPECT_EQ(loaded->config.api_key_file, "keys");
  EXPECT_EQ(loaded->config.engine.dtype, DTypeChoice::kInt8);
  EXPECT_TRUE(loaded->config.vllm_metrics);
}

TEST(ServerConfigTest, ABadValueIsNamedAsItWasWritten) {
  EXPECT_EQ(ErrorOf({{"port", "70000"}}), "--port is '70000', but it must be a whole number from 0 to 65535");
  EXPECT_THAT(ErrorOf({{"port", ""}}), HasSubstr("--port is ''"));
  EXPECT_THAT(ErrorOf({{"port", "80x"}}), HasSubstr("--port is '80x'"));
  EXPECT_THAT(ErrorOf({{"device", "tpu"}}), HasSubstr("must be one of auto, cpu, cuda"));
  EXPECT_THAT(ErrorOf({{"host", ""}}), HasSubstr("--host is '', but it must not be empty"));
  EXPECT_THAT(ErrorOf({{"no-grpc", "maybe"}}), HasSubstr("must be true or false"));
  EXPECT_THAT(ErrorOf({{"model", ""}}), HasSubstr("MODEL is ''"));
  EXPECT_THAT(ErrorOf({}, FakeEnvironment({{"OPTSERVE_BLOCK_SIZE", "0"}})), HasSubstr("OPTSERVE_BLOCK_SIZE is '0'"));
  const TemporaryFile file(R"({"max_num_seqs": -1})");
  EXPECT_EQ(ErrorOf({{"config", file.path()}}),
            "max_num_seqs in " + file.path() + " is '-1', but it must be a whole number from 1 to 65536");
}

TEST(ServerConfigTest, ABadFileIsRefused) {
  EXPECT_THAT(ErrorOf({{"config", "/no/such/file"}}), HasSubstr("/no/such/file"));
  const std::pair<const char*, const char*> texts[] = {{"", "is not JSON at line 1, column 1"},
                                                       {"[]", "is not a JSON object"},
                                                       {"{", "is not JSON at line 1, column 2"},
                                                       {"{\"port\": 1,}", "is not JSON at line 1, column 12"},
                                                       {"{\n \"port\": x}", "is not JSON at line 2, column 10"}};
  for (const auto& [text, says] : texts) {
    const TemporaryFile file(text);
    EXPECT_THAT(ErrorOf({{"config", file.path()}}), HasSubstr(says)) << text;
  }
  const TemporaryFile unknown(R"({"prot": 1})");
  EXPECT_THAT(ErrorOf({{"config", unknown.path()}}), HasSubstr("there is no option \"prot\"; did you mean \"port\"?"));
  const TemporaryFile structured(R"({"port": [1]})");
  EXPECT_THAT(ErrorOf({{"config", structured.path()}}), HasSubstr("\"port\" must be a string"));
}

TEST(ServerConfigTest, VariablesThatAreNoOptionAreReportedAndSlipsRefused) {
  const std::vector<std::string> names = {
      "PATH", "OPTSERVE_PORT", "OPTSERVE_ADDRESS", "OPTSERVE_CONFIG", "OPTSERVE_SERVICE_HOST", "OPTSERVE_API_KEY"};
  const auto loaded = LoadServerConfig({}, kNoEnvironment, names);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->unknown_variables, testing::ElementsAre("OPTSERVE_SERVICE_HOST"));
  const std::vector<std::string> slip = {"OPTSERVE_PROT"};
  EXPECT_EQ(LoadServerConfig({}, kNoEnvironment, slip).status().message(),
            "there is no variable OPTSERVE_PROT; did you mean OPTSERVE_PORT?");
}

TEST(ServerConfigTest, TwoServersDoNotShareAPort) {
  EXPECT_THAT(ErrorOf({{"port", "8001"}}), HasSubstr("--port and --grpc-port are both 8001"));
  for (const FlagValues& flags :
       {FlagValues{{"port", "8001"}, {"no-grpc", "true"}}, FlagValues{{"port", "8001"}, {"host", "::1"}},
        FlagValues{{"port", "0"}, {"grpc-port", "0"}}}) {
    EXPECT_TRUE(LoadServerConfig(flags, kNoEnvironment).ok());
  }
}

TEST(ServerConfigTest, OtherSpellingsAreAnsweredWithOurs) {
  std::vector<std::string> flags;
  for (const ServerOption& option : ServerOptions()) flags.push_back("--" + std::string(option.name));
  const std::pair<std::string, std::string> cases[] = {
      {"--ctx-size", "did you mean --max-model-len?"},
      {"--num-shard", "did you mean --tensor-parallel-size?"},
      {"--tp", "did you mean --tensor-parallel-size?"},
      {"-np", "did you mean --max-num-seqs?"},
      {"--max-model-length", "did you mean --max-model-len?"},
      {"--max-model-lenn", "did you mean --max-model-len?"},
      {"--max_model_len", "did you mean --max-model-len?"},
      {"--gpu_memory_utilization", "did you mean --kv-cache-memory?"},
      {"--quantize", "did you mean --dtype int8?"},
      {"--prot", "did you mean --port?"},
      {"--trust-remote-code", "nothing in a model's files is ever executed: leave it out"},
      {"--n-predict", ""},  // --max-tokens is a flag of other commands
      {"--nonsense", ""}};
  for (const auto& [unknown, hint] : cases) EXPECT_EQ(SuggestFlag(unknown, flags), hint) << unknown;
  const std::vector<std::string> of_generate = {"--max-tokens"};
  EXPECT_EQ(SuggestFlag("--n-predict", of_generate), "did you mean --max-tokens?");
}

TEST(ServerConfigTest, OfAnotherConfigurationOnlyWhatMayChangeIsTaken) {
  ServerConfig config;
  ServerConfig next;
  EXPECT_THAT(TakeReloadable(next, config).taken, IsEmpty());
  next.port = 9000;
  next.engine.max_queue = 7;
  next.log_level = LogLevel::kError;
  next.shutdown_timeout_seconds = 5;
  next.request_limits.max_choices = 3;
  next.http_limits.body_bytes = (1 << 20) + 1;
  next.http_limits.idle_time = std::chrono::seconds(3);
  const ConfigChanges changes = TakeReloadable(next, config);
  EXPECT_THAT(changes.taken,
              UnorderedElementsAre("log-level", "shutdown-timeout", "max-choices", "max-body-size", "idle-timeout"));
  EXPECT_THAT(changes.need_restart, UnorderedElementsAre("port", "max-queue"));
  EXPECT_EQ(config.port, 8000);
  EXPECT_EQ(config.engine.max_queue, EngineConfig().max_queue);
  EXPECT_EQ(config.log_level, LogLevel::kError);
  EXPECT_EQ(config.shutdown_timeout_seconds, 5);
  EXPECT_EQ(config.request_limits.max_choices, 3);
  EXPECT_EQ(config.http_limits.body_bytes, size_t{(1 << 20) + 1});
  EXPECT_EQ(config.http_limits.idle_time, std::chrono::seconds(3));
  EXPECT_THAT(TakeReloadable(next, config).taken, IsEmpty());
}

// All of HttpLimits that a flag can say, and no more.
TEST(ServerConfigTest, EveryLimitOfClientsCanChange) {
  ServerConfig config;
  ServerConfig next;
  next.http_limits = {.header_bytes = 1,
                      .header_fields = 1,
                      .target_bytes = 1,
                      .body_bytes = 1,
                      .buffered_body_bytes = 1,
                      .stream_bytes = 1,
                      .connections = 1,
                      .header_time = std::chrono::seconds(1),
                      .body_time = std::chrono::seconds(1),
                      .idle_time = std::chrono::seconds(1),
                      .stall_time = std::chrono::seconds(1)};
  next.request_limits = {.max_choices = 1, .text_body_bytes = 1};
  const ConfigChanges changes = TakeReloadable(next, config);
  EXPECT_EQ(changes.taken.size(), 13u);
  EXPECT_THAT(changes.need_restart, IsEmpty());
}

TEST(ParseSizeTest, UnitsAreBinaryUnlessTheySayDecimal) {
  const std::map<std::string, int64_t> cases = {{"0", 0},
                                                {"1048576", 1 << 20},
                                                {"12B", 12},
                                                {"3KiB", 3 << 10},
                                                {"512MiB", 512 << 20},
                                                {"4GiB", int64_t{4} << 30},
                                                {"4G", int64_t{4} << 30},
                                                {"4Gi", int64_t{4} << 30},
                                                {"1.5GiB", int64_t{3} << 29},
                                                {"2TB", 2000000000000}};
  for (const auto& [text, bytes] : cases) {
    const auto size = ParseSize(text);
    ASSERT_TRUE(size.ok()) << text;
    EXPECT_EQ(*size, bytes) << text;
  }
  for (const char* text : {"", "much", "-1", "1 GiB", "4GiBs", "1e9", "nan", "inf", "9999TiB", "4g", "GiB", "0x10"}) {
    EXPECT_FALSE(ParseSize(text).ok()) << text;
  }
}

}  // namespace
}  // namespace optserve
