#include "engine/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace optserve {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(std::string_view json) {
  const auto config = ParseEngineConfig(json);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << json;
  return std::string(config.status().message());
}

TEST(EngineConfigTest, WhatIsPrintedIsRead) {
  const EngineConfig config{.model_path = "/models/opt \"125m\"",
                            .model_config_path = "/models/config.json",
                            .device = DeviceChoice::kCuda,
                            .dtype = DTypeChoice::kInt8,
                            .tensor_parallel_size = 4,
                            .max_model_len = 512,
                            .max_num_seqs = 7,
                            .max_num_batched_tokens = 300,
                            .block_size = 32,
                            .kv_cache_bytes = int64_t{5} << 32,
                            .max_queue = 9,
                            .prefix_cache = false,
                            .share_prefix_cache = true,
                            .deterministic_tp = true,
                            .num_threads = 3,
                            .verify = true,
                            .engines_on_machine = 2,
                            .first_device = 8,
                            .step_timeout_seconds = 11};
  const auto again = ParseEngineConfig(EngineConfigToJson(config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->model_path, config.model_path);
  EXPECT_EQ(again->model_config_path, config.model_config_path);
  EXPECT_TRUE(again->verify);
  EXPECT_EQ(again->device, config.device);
  EXPECT_EQ(again->kv_cache_bytes, config.kv_cache_bytes);
  EXPECT_EQ(again->step_timeout_seconds, config.step_timeout_seconds);
  EXPECT_EQ(again->engines_on_machine, config.engines_on_machine);
  EXPECT_EQ(again->first_device, config.first_device);
  EXPECT_EQ(EngineConfigToJson(*again), EngineConfigToJson(config));
}

TEST(EngineConfigTest, WhatIsNotSaidIsDefault) {
  const auto config = ParseEngineConfig("{}");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(EngineConfigToJson(*config), EngineConfigToJson(EngineConfig()));
}

TEST(EngineConfigTest, UnknownKeyIsNamed) { EXPECT_THAT(ErrorOf(R"({"max_seqs":1})"), HasSubstr("max_seqs")); }

TEST(EngineConfigTest, EveryBoundIsNamed) {
  EXPECT_EQ(ErrorOf(R"({"max_num_seqs":0})"), "max_num_seqs is 0, but must be a whole number from 1 to 65536");
  EXPECT_EQ(ErrorOf(R"({"max_num_seqs":65537})"), "max_num_seqs is 65537, but must be a whole number from 1 to 65536");
  EXPECT_THAT(ErrorOf(R"({"block_size":16.5})"), HasSubstr("block_size is 16.5"));
  EXPECT_THAT(ErrorOf(R"({"block_size":"16"})"), HasSubstr("block_size is \"16\""));
  EXPECT_THAT(ErrorOf(R"({"block_size":null})"), HasSubstr("block_size is null"));
  EXPECT_THAT(ErrorOf(R"({"kv_cache_bytes":-1})"), HasSubstr("kv_cache_bytes is -1"));
  EXPECT_THAT(ErrorOf(R"({"kv_cache_bytes":18446744073709551615})"), HasSubstr("18446744073709551615"));
  EXPECT_THAT(ErrorOf(R"({"device":"tpu"})"), HasSubstr("\"cuda\""));
  EXPECT_THAT(ErrorOf(R"({"dtype":"int4"})"), HasSubstr("\"int8\""));
  EXPECT_THAT(ErrorOf(R"({"prefix_cache":1})"), HasSubstr("prefix_cache is 1, but must be true or false"));
  EXPECT_THAT(ErrorOf(R"({"model_path":1})"), HasSubstr("model_path"));
  EXPECT_THAT(ErrorOf(R"({"model_config_path":1})"), HasSubstr("model_config_path"));
}

TEST(EngineConfigTest, WhatIsNoObjectIsRefused) {
  for (const char* text : {"", "[]", "1", "{", "{\"block_size\":16", "null"}) ErrorOf(text);
}

}  // namespace
}  // namespace optserve
