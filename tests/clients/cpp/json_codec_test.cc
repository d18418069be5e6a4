#include "clients/cpp/json_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace optserve::client {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Encoded(const v1::CompletionRequest& request, bool stream = false) {
  return json::parse(EncodeCompletion(request, stream).value());
}

TEST(EncodeCompletionTest, SendsWhatIsSetAndNothingElse) {
  v1::CompletionRequest request;
  request.add_prompt()->set_text("a");
  EXPECT_EQ(Encoded(request), json::parse(R"({"prompt":["a"]})"));
  EXPECT_EQ(Encoded(request, /*stream=*/true), json::parse(R"({"prompt":["a"],"stream":true})"));
}

TEST(EncodeCompletionTest, SendsEveryKindOfField) {
  v1::CompletionRequest request;
  for (const int id : {1, 2}) request.add_prompt()->mutable_token_ids()->add_ids(id);
  request.set_model("m");
  request.set_max_tokens(0);
  request.set_temperature(0.7F);
  request.set_seed(-9'000'000'000'000'000'000);
  request.set_timeout(0.1);
  request.set_echo(true);
  request.set_skip_special_tokens(false);
  request.add_stop("\n");
  request.add_stop_token_ids(5);
  (*request.mutable_logit_bias())[7] = -1.5F;
  (*request.mutable_metadata())["k"] = "v";
  request.mutable_stream_options()->set_include_usage(true);
  EXPECT_EQ(Encoded(request), json::parse(R"({"prompt":[[1],[2]],"model":"m","max_tokens":0,"temperature":0.7,
      "seed":-9000000000000000000,"timeout":0.1,"echo":true,"skip_special_tokens":false,"stop":["\n"],
      "stop_token_ids":[5],"logit_bias":{"7":-1.5},"metadata":{"k":"v"},"stream_options":{"include_usage":true}})"));
}

TEST(EncodeCompletionTest, WhatJsonCannotSayIsRefused) {
  v1::CompletionRequest request;
  request.add_prompt()->set_text("a");
  request.add_prompt()->mutable_token_ids()->add_ids(1);
  EXPECT_TRUE(absl::IsInvalidArgument(EncodeCompletion(request, false).status()));
}

constexpr char kAnswer[] =
    R"({"id":"cmpl-1","object":"text_completion","created":5,"model":"m","system_fingerprint":"f",
  "choices":[{"index":1,"text":" b c","finish_reason":"stop","stop_reason":"x","token_ids":[8,9],"prompt_token_ids":[2,7],
  "logprobs":{"tokens":["</s>","a"," b"," c"],"token_logprobs":[null,-1,-2,-9999.0],
              "top_logprobs":[null,{"a":-1},{" z":-0.5," b":-2},{}],"text_offset":[0,0,1,3]},
  "prompt_logprobs":[null,{"6":{"logprob":-0.5,"decoded_token":"q"},"7":{"logprob":-1,"decoded_token":"a"}}]}],
  "usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":1}}})";

TEST(DecodeCompletionTest, ReadsAllOfAnAnswer) {
  const v1::CompletionResponse answer = DecodeCompletion(kAnswer).value();
  EXPECT_EQ(answer.id(), "cmpl-1");
  EXPECT_EQ(answer.created(), 5);
  EXPECT_EQ(answer.model(), "m");
  EXPECT_EQ(answer.usage().cached_tokens(), 1);
  EXPECT_EQ(answer.usage().total_tokens(), 4);
  const v1::Choice& choice = answer.choices(0);
  EXPECT_EQ(choice.index(), 1);
  EXPECT_EQ(choice.text(), " b c");
  EXPECT_EQ(choice.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(choice.stop_string(), "x");
  EXPECT_THAT(choice.token_ids(), ElementsAre(8, 9));
  ASSERT_EQ(choice.logprobs_size(), 4);
  EXPECT_FALSE(choice.logprobs(0).token().has_logprob());
  EXPECT_EQ(choice.logprobs(3).token().logprob(), -9999.0F);
  EXPECT_EQ(choice.logprobs(3).text_offset(), 3);
  EXPECT_EQ(choice.logprobs(2).top(0).token(), " z");  // in the order of the answer
  EXPECT_EQ(choice.logprobs(2).top(1).logprob(), -2);
  ASSERT_EQ(choice.prompt_logprobs_size(), 2);
  EXPECT_FALSE(choice.prompt_logprobs(0).has_token());
  EXPECT_EQ(choice.prompt_logprobs(1).token().token(), "a");
  EXPECT_EQ(choice.prompt_logprobs(1).top(0).token_id(), 6);
}

TEST(DecodeCompletionTest, IdsOfTokensComeFromWhereTheAnswerSaysThem) {
  const v1::Choice choice = DecodeCompletion(kAnswer)->choices(0);
  EXPECT_EQ(choice.logprobs(1).token().token_id(), 7);
  EXPECT_EQ(choice.logprobs(3).token().token_id(), 9);
  EXPECT_EQ(choice.logprobs(2).top(0).token_id(), -1);
  const v1::Choice as_ids =
      DecodeCompletion(R"({"choices":[{"text":"","logprobs":{"tokens":["token_id:3"],"token_logprobs":[-1],
      "top_logprobs":[{"token_id:4":-0.5}],"text_offset":[0]}}]})")
          ->choices(0);
  EXPECT_EQ(as_ids.logprobs(0).token().token_id(), 3);
  EXPECT_EQ(as_ids.logprobs(0).top(0).token_id(), 4);
}

TEST(DecodeCompletionTest, ServersThatSayLessAreUnderstood) {
  const v1::CompletionResponse answer =
      DecodeCompletion(R"({"choices":[{"text":"a","logprobs":null,"finish_reason":"length"}],"usage":null})").value();
  EXPECT_EQ(answer.choices(0).text(), "a");
  EXPECT_EQ(answer.choices(0).finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_FALSE(answer.has_usage());
}

class MalformedAnswerTest : public ::testing::TestWithParam<const char*> {};

TEST_P(MalformedAnswerTest, IsAnError) {
  for (const absl::Status& status : {DecodeCompletion(GetParam()).status(), DecodeTokenize(GetParam()).status(),
                                     DecodeDetokenize(GetParam()).status(), DecodeModels(GetParam()).status()}) {
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not what the API says"));
  }
  v1::CompletionEvent event;
  EXPECT_FALSE(DecodeEvent(GetParam(), event).ok());
}

INSTANTIATE_TEST_SUITE_P(
    All, MalformedAnswerTest,
    ::testing::Values("", "{", "[]", "null", "5", "\"text\"", "{}", R"({"choices":5,"tokens":5,"data":5,"prompt":5})",
                      R"({"choices":{},"tokens":{},"data":{},"prompt":{}})",
                      R"({"choices":[5],"tokens":["5"],"data":[5],"prompt":null})",
                      R"({"choices":[{}],"tokens":[null],"data":[{}]})", R"({"choices":[{"text":5}]})",
                      R"({"choices":[{"text":"a","logprobs":5}]})", R"({"choices":[{"text":"a","index":"x"}]})",
                      R"({"choices":[{"text":"a","logprobs":{"tokens":["a"],"token_logprobs":[],"top_logprobs":[],
                         "text_offset":[]}}]})",
                      R"({"choices":[{"text":"a","prompt_logprobs":[{"1":5}]}]})", R"({"choices":[],"usage":5})",
                      "{\"choices\":[{\"text\":\"\xFF\"}]}"));

TEST(DecodeEventTest, AnErrorEventIsThatError) {
  const auto decode = [](const char* text) {
    v1::CompletionEvent event;
    return DecodeEvent(text, event);
  };
  const absl::Status engine =
      decode(R"({"error":{"message":"gone","type":"service_unavailable","param":null,"code":"engine_dead"}})");
  EXPECT_TRUE(absl::IsUnavailable(engine));
  EXPECT_EQ(engine.message(), "gone");
  EXPECT_EQ(ErrorInfoOf(engine).code, "engine_dead");
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      decode(R"({"error":{"message":"late","type":"server_error","param":null,"code":"deadline_exceeded"}})")));
  EXPECT_TRUE(absl::IsInternal(decode(R"({"error":{"message":"NaN","type":"server_error"}})")));
  EXPECT_TRUE(absl::IsInternal(decode(R"({"error":"text of another server"})")));
}

TEST(DecodeErrorTest, TakesMessageCodeAndField) {
  const absl::Status status = DecodeError(
      400, R"({"error":{"message":"too hot","type":"invalid_request_error","param":"temperature","code":null}})",
      {.request_id = "req-1"});
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "too hot");
  EXPECT_EQ(ErrorInfoOf(status), (ErrorInfo{.http_status = 400, .param = "temperature", .request_id = "req-1"}));
}

TEST(DecodeErrorTest, AProxysPageIsItsFirstLine) {
  const absl::Status status = DecodeError(502, "<html>\x1b[31m Bad Gateway\r\n<body>", {});
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(status.message(), "<html> [31m Bad Gateway");
  EXPECT_EQ(DecodeError(500, "", {}).message(), "HTTP status 500");
  EXPECT_LE(DecodeError(500, std::string(100'000, 'x'), {}).message().size(), 200U);
}

TEST(DecodeErrorTest, StatusesBecomeCodes) {
  const auto code = [](int status) { return DecodeError(status, "", {}).code(); };
  EXPECT_EQ(code(401), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(code(403), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(code(404), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(405), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code(413), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(429), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(code(500), absl::StatusCode::kInternal);
  EXPECT_EQ(code(503), absl::StatusCode::kUnavailable);
  EXPECT_EQ(code(504), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(code(302), absl::StatusCode::kUnknown);
}

}  // namespace
}  // namespace optserve::client
