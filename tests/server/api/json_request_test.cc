#include "server/api/json_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/util/error_details.h"
#include "server/api/error_codec.h"

// What bodies mean. What is refused, and with which error, is tests/api/cases.

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::Pair;

CompletionRequest Decode(std::string_view body, const JsonDecodeOptions& options = {}) {
  absl::StatusOr<CompletionRequest> request = DecodeCompletionRequest(body, options);
  EXPECT_TRUE(request.ok()) << request.status();
  return request.ok() ? *std::move(request) : CompletionRequest();
}

TEST(JsonRequestTest, EveryFieldGoesWhereItBelongs) {
  const CompletionRequest request = Decode(R"({
      "model": "m", "prompt": "p", "max_tokens": 101, "min_tokens": 2, "temperature": 0.25, "top_p": 0.5, "top_k": 3,
      "min_p": 0.125, "typical_p": 0.75, "presence_penalty": 1.5, "frequency_penalty": -1.5,
      "repetition_penalty": 1.25, "no_repeat_ngram_size": 4, "logit_bias": {"7": -100, "0": 0.5},
      "seed": -9223372036854775808, "n": 5, "best_of": 6, "stop": ["a", "bc"], "include_stop_str_in_output": true,
      "stop_token_ids": [8, 9], "ignore_eos": true, "logprobs": 10, "echo": true, "prompt_logprobs": 11,
      "return_token_ids": true, "return_tokens_as_token_ids": true, "skip_special_tokens": false,
      "add_special_tokens": false, "parse_special_tokens": false, "truncate_prompt_tokens": 12, "user": "u",
      "metadata": {"x": [1, {"y": null}]}, "priority": -13, "batch": true, "cache_salt": "s", "timeout": 1.5, "suffix": null})");
  EXPECT_EQ(request.model, "m");
  EXPECT_THAT(request.prompts, ElementsAre(Prompt(std::string("p"))));
  EXPECT_FALSE(request.prompt_is_list);
  EXPECT_EQ(request.max_tokens, 101);
  EXPECT_EQ(request.min_tokens, 2);
  EXPECT_EQ(request.temperature, 0.25f);
  EXPECT_EQ(request.top_p, 0.5f);
  EXPECT_EQ(request.top_k, 3);
  EXPECT_EQ(request.min_p, 0.125f);
  EXPECT_EQ(request.typical_p, 0.75f);
  EXPECT_EQ(request.presence_penalty, 1.5f);
  EXPECT_EQ(request.frequency_penalty, -1.5f);
  EXPECT_EQ(request.repetition_penalty, 1.25f);
  EXPECT_EQ(request.no_repeat_ngram_size, 4);
  EXPECT_THAT(request.logit_bias, ElementsAre(Pair(7, -100.0f), Pair(0, 0.5f)));
  EXPECT_EQ(request.seed, INT64_MIN);
  EXPECT_EQ(request.n, 5);
  EXPECT_EQ(request.best_of, 6);
  EXPECT_THAT(request.stop, ElementsAre("a", "bc"));
  EXPECT_TRUE(request.include_stop_str_in_output);
  EXPECT_THAT(request.stop_token_ids, ElementsAre(8, 9));
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_EQ(request.logprobs, 10);
  EXPECT_TRUE(request.echo);
  EXPECT_EQ(request.prompt_logprobs, 11);
  EXPECT_TRUE(request.return_token_ids);
  EXPECT_TRUE(request.return_tokens_as_token_ids);
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_FALSE(request.add_special_tokens);
  EXPECT_FALSE(request.parse_special_tokens);
  EXPECT_EQ(request.truncate_prompt_tokens, 12);
  EXPECT_EQ(request.user, "u");
  EXPECT_EQ(request.priority, -13);
  EXPECT_TRUE(request.batch);
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_EQ(request.timeout_seconds, 1.5);
  EXPECT_FALSE(request.stream);
}

TEST(JsonRequestTest, StreamOptions) {
  const CompletionRequest request =
      Decode(R"({"prompt":"x","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}})");
  EXPECT_TRUE(request.stream && request.has_stream_options);
  EXPECT_TRUE(request.include_usage && request.continuous_usage_stats);
  EXPECT_FALSE(Decode(R"({"prompt":"x","stream":true,"stream_options":{}})").include_usage);
}

TEST(JsonRequestTest, TheFourKindsOfPrompt) {
  using Ids = std::vector<int32_t>;
  EXPECT_THAT(Decode(R"({"prompt":"a\u00e9\ud83d\ude00\u0000"})").prompts,
              ElementsAre(Prompt(std::string("a\u00e9\U0001F600\0", 8))));
  EXPECT_THAT(Decode(R"({"prompt":["a","b"]})").prompts,
              ElementsAre(Prompt(std::string("a")), Prompt(std::string("b"))));
  EXPECT_THAT(Decode(R"({"prompt":[5, 6.0,2147483647]})").prompts, ElementsAre(Prompt(Ids{5, 6, 2147483647})));
  EXPECT_THAT(Decode(R"({"prompt":[[5],[6,7]]})").prompts, ElementsAre(Prompt(Ids{5}), Prompt(Ids{6, 7})));
  EXPECT_TRUE(Decode(R"({"prompt":["a"]})").prompt_is_list);
  EXPECT_TRUE(Decode(R"({"prompt":[[5]]})").prompt_is_list);
  EXPECT_FALSE(Decode(R"({"prompt":[5]})").prompt_is_list);
}

TEST(JsonRequestTest, UnknownFieldsAreIgnoredOnRequest) {
  const std::string body = R"({"nonsense":{"a":[1]},"prompt":"x","other":null})";
  EXPECT_FALSE(DecodeCompletionRequest(body).ok());
  std::vector<std::string> ignored;
  EXPECT_TRUE(DecodeCompletionRequest(body, {.ignore_unknown_fields = true}, &ignored).ok());
  EXPECT_THAT(ignored, ElementsAre("nonsense", "other"));
  // What is ignored must still be JSON, and not be there twice.
  EXPECT_FALSE(DecodeCompletionRequest(R"({"prompt":"x","a":NaN})", {.ignore_unknown_fields = true}).ok());
  EXPECT_FALSE(DecodeCompletionRequest(R"({"prompt":"x","a":1,"a":1})", {.ignore_unknown_fields = true}).ok());
}

TEST(JsonRequestTest, OnlyIdsMayBeLong) {
  const JsonDecodeOptions options{.limits = {.text_body_bytes = 100}};
  const std::string ids = R"({"prompt":[5)" + std::string(200, ' ') + "]}";
  const std::string text = R"({"prompt":"x")" + std::string(200, ' ') + "}";
  EXPECT_TRUE(DecodeCompletionRequest(ids, options).ok());
  const absl::Status status = DecodeCompletionRequest(text, options).status();
  EXPECT_EQ(ToHttpError(status).status, 413);
  EXPECT_EQ(Param(status), "prompt");
}

TEST(JsonRequestTest, MorePromptsThanChoicesAreRefusedBeforeTheyAreRead) {
  std::string body = R"({"prompt":["a")";
  for (int i = 0; i < 300; ++i) body += R"(,"a")";
  const absl::Status status = DecodeCompletionRequest(body + ",}").status();  // the error behind them is not reached
  EXPECT_EQ(Param(status), "prompt");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("256"));
}

TEST(JsonRequestTest, Tokenize) {
  const auto request = DecodeTokenizeRequest(R"({"prompt":"a b","add_special_tokens":false,"model":"m"})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompt, "a b");
  EXPECT_EQ(request->model, "m");
  EXPECT_FALSE(request->add_special_tokens);
  EXPECT_TRUE(request->parse_special_tokens);
  EXPECT_TRUE(DecodeTokenizeRequest(R"({"prompt":"","parse_special_tokens":null})").ok());
  EXPECT_EQ(Param(DecodeTokenizeRequest("{}").status()), "prompt");
  EXPECT_EQ(Param(DecodeTokenizeRequest(R"({"prompt":5})").status()), "prompt");
  EXPECT_EQ(Param(DecodeTokenizeRequest(R"({"prompt":"","text":""})").status()), "text");
}

TEST(JsonRequestTest, Detokenize) {
  const auto request = DecodeDetokenizeRequest(R"({"tokens":[2,5],"model":null})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->tokens, ElementsAre(2, 5));
  EXPECT_TRUE(DecodeDetokenizeRequest(R"({"tokens":[]})").ok());
  EXPECT_EQ(Param(DecodeDetokenizeRequest("{}").status()), "tokens");
  EXPECT_EQ(Param(DecodeDetokenizeRequest(R"({"tokens":[1,-1]})").status()), "tokens[1]");
  EXPECT_EQ(Param(DecodeDetokenizeRequest(R"({"tokens":"a"})").status()), "tokens");
}

}  // namespace
}  // namespace optserve
