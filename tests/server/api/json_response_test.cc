#include "server/api/json_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using Json = nlohmann::ordered_json;

const CompletionHead kHead = {.id = "cmpl-1", .created = 1700000000, .model = "m", .system_fingerprint = "fp_1"};
const Usage kUsage = {.prompt_tokens = 3, .completion_tokens = 4, .cached_tokens = 2};

CompletionEvent FirstToken() {
  return {.text = "</s>a", .logprobs = {{.token = {.id = 2, .text = "</s>"}, .text_offset = 0}}};
}

CompletionEvent Token() {
  CompletionEvent event{.index = 1, .text = "\u00e9\n", .token_ids = {7}, .prompt_token_ids = {2, 5}};
  event.logprobs = {
      {.token = {.id = 7, .text = "bytes:\\xc3", .logprob = -0.1f},
       .top = {{.id = 8, .text = " a", .logprob = -0.1f - 0.2f}, {.id = 7, .text = "bytes:\\xc3", .logprob = -0.1f}},
       .text_offset = 4}};
  LogprobEntry prompt_entry;
  prompt_entry.token = {.id = 5, .text = "!", .logprob = -1.5f};
  prompt_entry.top = {prompt_entry.token};
  event.prompt_logprobs.emplace_back();
  event.prompt_logprobs.emplace_back(std::move(prompt_entry));
  event.usage = kUsage;
  return event;
}

std::vector<Json> Frames(const std::string& sse) {
  std::vector<Json> frames;
  std::string_view rest = sse;
  while (!rest.empty()) {
    const size_t end = rest.find("\n\n");
    const std::string_view frame = rest.substr(0, end);
    EXPECT_TRUE(frame.starts_with("data: ")) << frame;
    EXPECT_EQ(frame.find_first_of("\n\r"), std::string_view::npos);
    rest.remove_prefix(end + 2);
    frames.push_back(frame == "data: [DONE]" ? Json("DONE") : Json::parse(frame.substr(6)));
  }
  return frames;
}

TEST(JsonResponseTest, WholeAnswer) {
  CompletionEvent choice = Token();
  choice.finish = FinishReason::kStop;
  choice.stop_reason.emplace<std::string>("x");
  EXPECT_EQ(EncodeCompletion(kHead, {.logprobs = true, .prompt_logprobs = true, .token_ids = true}, {{choice}}, kUsage),
            R"({"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m","system_fingerprint":"fp_1",)"
            R"("choices":[{"index":1,"text":"é\n","logprobs":{"tokens":["bytes:\\xc3"],"token_logprobs":[-0.1],)"
            R"("top_logprobs":[{" a":-0.3,"bytes:\\xc3":-0.1}],"text_offset":[4]},"finish_reason":"stop",)"
            R"("stop_reason":"x","token_ids":[7],"prompt_token_ids":[2,5],)"
            R"("prompt_logprobs":[null,{"5":{"logprob":-1.5,"decoded_token":"!"}}]}],)"
            R"("usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,)"
            R"("prompt_tokens_details":{"cached_tokens":2}}})");
}

TEST(JsonResponseTest, KeysThatWereNotAskedForAreNotThere) {
  CompletionEvent choice{.text = "a", .finish = FinishReason::kLength};
  const Json json = Json::parse(EncodeCompletion({.id = "cmpl-1", .model = "m"}, {}, {{choice}}, kUsage));
  EXPECT_EQ(json.at("system_fingerprint"), nullptr);
  EXPECT_EQ(json.at("choices")[0].dump(),
            R"({"index":0,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null})");
}

TEST(JsonResponseTest, AStopTokenIsANumber) {
  CompletionEvent choice{.finish = FinishReason::kStop, .stop_reason = 7};
  EXPECT_EQ(Json::parse(EncodeCompletion(kHead, {}, {{choice}}, kUsage)).at("choices")[0].at("stop_reason"), 7);
}

TEST(JsonResponseTest, TheFirstTokenOfASequenceHasNulls) {
  const Json json = Json::parse(EncodeCompletion(kHead, {.logprobs = true}, {{FirstToken()}}, kUsage));
  EXPECT_EQ(json.at("choices")[0].at("logprobs").dump(),
            R"({"tokens":["</s>"],"token_logprobs":[null],"top_logprobs":[null],"text_offset":[0]})");
}

TEST(JsonResponseTest, MinusInfinityIsMinus9999Everywhere) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  CompletionEvent choice = Token();
  choice.logprobs[0].token.logprob = choice.logprobs[0].top[1].logprob = -kInf;
  choice.prompt_logprobs[1]->top[0].logprob = -kInf;
  const Json json =
      Json::parse(EncodeCompletion(kHead, {.logprobs = true, .prompt_logprobs = true}, {{choice}}, kUsage))
          .at("choices")[0];
  EXPECT_EQ(json.at("logprobs").at("token_logprobs")[0].dump(), "-9999.0");
  EXPECT_EQ(json.at("logprobs").at("top_logprobs")[0].at("bytes:\\xc3").dump(), "-9999.0");
  EXPECT_EQ(json.at("prompt_logprobs")[1].at("5").at("logprob").dump(), "-9999.0");
}

TEST(JsonResponseTest, ChunksHaveNoUsageUnlessAsked) {
  std::string sse;
  AppendChunk(sse, kHead, {}, Token());
  AppendChunk(sse, kHead, {.include_usage = true}, Token());
  AppendChunk(sse, kHead, {.continuous_usage_stats = true}, Token());
  const std::vector<Json> frames = Frames(sse);
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_FALSE(frames[0].contains("usage"));
  EXPECT_EQ(frames[1].at("usage"), nullptr);
  EXPECT_EQ(frames[2].at("usage").at("total_tokens"), 7);
  EXPECT_EQ(frames[0].at("object"), "text_completion");
  EXPECT_EQ(frames[0].at("choices")[0].at("finish_reason"), nullptr);
}

TEST(JsonResponseTest, ThePromptIsInAChoicesFirstChunkOnly) {
  const CompletionFormat format{.prompt_logprobs = true, .token_ids = true};
  std::string sse;
  AppendChunk(sse, kHead, format, Token());
  CompletionEvent later = Token();
  later.prompt_token_ids.clear();
  later.prompt_logprobs.clear();
  AppendChunk(sse, kHead, format, later);
  const std::vector<Json> frames = Frames(sse);
  EXPECT_TRUE(frames[0].at("choices")[0].contains("prompt_token_ids"));
  EXPECT_TRUE(frames[0].at("choices")[0].contains("prompt_logprobs"));
  EXPECT_FALSE(frames[1].at("choices")[0].contains("prompt_token_ids"));
  EXPECT_FALSE(frames[1].at("choices")[0].contains("prompt_logprobs"));
  EXPECT_EQ(frames[1].at("choices")[0].at("token_ids").dump(), "[7]");
}

TEST(JsonResponseTest, AStreamEndsWithItsUsageIfAskedAndDone) {
  std::string plain;
  AppendStreamEnd(plain, kHead, {}, kUsage);
  EXPECT_EQ(plain, "data: [DONE]\n\n");
  std::string with_usage;
  AppendStreamEnd(with_usage, kHead, {.include_usage = true}, kUsage);
  const std::vector<Json> frames = Frames(with_usage);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0].at("choices").dump(), "[]");
  EXPECT_EQ(frames[0].at("usage").at("completion_tokens"), 4);
  EXPECT_EQ(frames[1], "DONE");
}

TEST(JsonResponseTest, AStreamThatFailsSaysSoAndIsDone) {
  std::string sse;
  AppendStreamError(sse, WithErrorCode(Unavailable("gone"), "engine_dead"));
  const std::vector<Json> frames = Frames(sse);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0].dump(),
            R"({"error":{"message":"gone","type":"service_unavailable","param":null,"code":"engine_dead"}})");
  EXPECT_EQ(frames[1], "DONE");
}

TEST(JsonResponseTest, FormatIsWhatTheRequestAskedFor) {
  CompletionRequest request;
  EXPECT_FALSE(FormatOf(request).logprobs || FormatOf(request).prompt_logprobs || FormatOf(request).token_ids ||
               FormatOf(request).include_usage || FormatOf(request).continuous_usage_stats);
  request = {.logprobs = 0,
             .prompt_logprobs = 0,
             .include_usage = true,
             .continuous_usage_stats = true,
             .return_token_ids = true};
  EXPECT_TRUE(FormatOf(request).logprobs && FormatOf(request).prompt_logprobs && FormatOf(request).token_ids &&
              FormatOf(request).include_usage && FormatOf(request).continuous_usage_stats);
}

TEST(JsonResponseTest, Models) {
  EXPECT_EQ(EncodeModels({{{.id = "m", .created = 5, .max_model_len = 1024}}}),
            R"({"object":"list","data":[{"id":"m","object":"model","created":5,"owned_by":"optserve",)"
            R"("max_model_len":1024}]})");
}

TEST(JsonResponseTest, Tokenizer) {
  EXPECT_EQ(EncodeTokenizeResponse({{2, 5}}, 1024), R"({"tokens":[2,5],"count":2,"max_model_len":1024})");
  EXPECT_EQ(EncodeTokenizeResponse({}, 1024), R"({"tokens":[],"count":0,"max_model_len":1024})");
  EXPECT_EQ(EncodeDetokenizeResponse("a\""), R"({"prompt":"a\""})");
  const Json info = Json::parse(EncodeTokenizerInfo(Tokenizer::Load(DemoModelPath()).value(), 1024));
  EXPECT_EQ(info.at("eos_token"), "</s>");
  EXPECT_EQ(info.at("bos_token"), "</s>");
  EXPECT_EQ(info.at("pad_token"), "<pad>");
  EXPECT_TRUE(info.at("unk_token").is_string());
  EXPECT_EQ(info.at("vocab_size"), 4096);
  EXPECT_EQ(info.at("add_bos_token"), true);
  EXPECT_EQ(info.at("max_model_len"), 1024);
}

}  // namespace
}  // namespace optserve
