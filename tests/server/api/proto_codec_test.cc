#include "server/api/proto_codec.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "engine/util/error_details.h"

namespace optserve {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::TextFormat;
using testing::ElementsAre;
using testing::HasSubstr;

template <typename M>
M Parse(const std::string& text) {
  M message;
  EXPECT_TRUE(TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

absl::StatusOr<CompletionRequest> Decode(const std::string& text, bool stream = false) {
  return DecodeCompletionRequest(Parse<v1::CompletionRequest>(text), stream);
}

// What a client sees of an error.
std::string Shown(const absl::Status& status) {
  return std::string(status.message()) + " | " + Param(status).value_or("-") + " | " + ErrorCode(status).value_or("-");
}

TEST(ProtoCodecTest, HasEveryFieldOfTheApiAndNoOther) {
  const google::protobuf::Descriptor& message = *v1::CompletionRequest::descriptor();
  int found = 0;
  for (const CompletionField& field : CompletionFields()) {
    if (field.name == "stream" || field.name == "suffix") continue;  // a method of its own; only ever null
    EXPECT_NE(message.FindFieldByName(std::string(field.name)), nullptr) << field.name;
    ++found;
  }
  EXPECT_EQ(message.field_count(), found);
  for (const auto& [name, member] : StreamOptionFields()) {
    EXPECT_NE(v1::StreamOptions::descriptor()->FindFieldByName(std::string(name)), nullptr) << name;
  }
}

TEST(ProtoCodecTest, AbsentFieldsHaveTheDefaultsOfJson) {
  const auto request = Decode("prompt { text: 'Hi' }");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(*request, *DecodeCompletionRequest(R"({"prompt":["Hi"]})"));
}

TEST(ProtoCodecTest, EveryFieldMeansWhatItMeansInJson) {
  const auto request = Decode(
      "model: 'm' prompt { text: 'a' } prompt { text: 'b' } max_tokens: 7 min_tokens: 2 temperature: 0.7 top_p: 0.9 "
      "top_k: 5 min_p: 0.1 typical_p: 0.8 presence_penalty: -1.5 frequency_penalty: 0.25 repetition_penalty: 1.1 "
      "no_repeat_ngram_size: 3 logit_bias { key: 9 value: -100 } seed: -3 n: 2 best_of: 2 stop: 'x' stop: 'yy' "
      "include_stop_str_in_output: true stop_token_ids: [4, 5] ignore_eos: true logprobs: 1 echo: true "
      "prompt_logprobs: 0 return_token_ids: true return_tokens_as_token_ids: true skip_special_tokens: false "
      "add_special_tokens: false parse_special_tokens: false truncate_prompt_tokens: 6 user: 'u' "
      "metadata { key: 'k' value: 'v' } priority: -1 batch: true cache_salt: 's' timeout: 2.5 "
      "stream_options { include_usage: true continuous_usage_stats: true }",
      /*stream=*/true);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(*request, *DecodeCompletionRequest(R"({
      "model":"m","prompt":["a","b"],"max_tokens":7,"min_tokens":2,"temperature":0.7,"top_p":0.9,"top_k":5,
      "min_p":0.1,"typical_p":0.8,"presence_penalty":-1.5,"frequency_penalty":0.25,"repetition_penalty":1.1,
      "no_repeat_ngram_size":3,"logit_bias":{"9":-100},"seed":-3,"n":2,"best_of":2,"stop":["x","yy"],
      "include_stop_str_in_output":true,"stop_token_ids":[4,5],"ignore_eos":true,"logprobs":1,"echo":true,
      "prompt_logprobs":0,"return_token_ids":true,"return_tokens_as_token_ids":true,"skip_special_tokens":false,
      "add_special_tokens":false,"parse_special_tokens":false,"truncate_prompt_tokens":6,"user":"u",
      "metadata":{"k":"v"},"priority":-1,"batch":true,"cache_salt":"s","timeout":2.5,"stream":true,
      "stream_options":{"include_usage":true,"continuous_usage_stats":true}})"));
  // Lest a field be compared at its default: every one was set.
  const CompletionRequest defaults = *DecodeCompletionRequest(R"({"prompt":"Hi"})");
  EXPECT_NE(request->seed, defaults.seed);
  EXPECT_NE(request->timeout_seconds, defaults.timeout_seconds);
  EXPECT_NE(request->cache_salt, defaults.cache_salt);
  EXPECT_NE(request->batch, defaults.batch);
}

TEST(ProtoCodecTest, TokenIdsAreAPrompt) {
  const auto request = Decode("prompt { token_ids { ids: [2, 40, 7] } } prompt { token_ids { ids: [3] } }");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(*request, *DecodeCompletionRequest(R"({"prompt":[[2,40,7],[3]]})"));
}

// Every field with a numeric bound, just outside of it: the same words from both codecs.
TEST(ProtoCodecTest, BoundsAreThoseOfJson) {
  int tried = 0;
  for (const CompletionField& field : CompletionFields()) {
    const FieldDescriptor* proto_field = v1::CompletionRequest::descriptor()->FindFieldByName(std::string(field.name));
    if (proto_field == nullptr || proto_field->is_repeated()) continue;
    for (const double value : {field.bounds.min - 1, field.bounds.max + 1}) {
      v1::CompletionRequest message;
      message.add_prompt()->set_text("Hi");
      const bool fits = std::abs(value) <= std::numeric_limits<int32_t>::max();
      if (!fits) continue;
      const google::protobuf::Reflection& reflection = *message.GetReflection();
      switch (proto_field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_INT32:
          reflection.SetInt32(&message, proto_field, static_cast<int32_t>(value));
          break;
        case FieldDescriptor::CPPTYPE_FLOAT:
          reflection.SetFloat(&message, proto_field, static_cast<float>(value));
          break;
        case FieldDescriptor::CPPTYPE_DOUBLE:
          reflection.SetDouble(&message, proto_field, value);
          break;
        default:
          continue;
      }
      const auto json = DecodeCompletionRequest(fmt::format(R"({{"prompt":"Hi","{}":{}}})", field.name, value));
      const auto proto = DecodeCompletionRequest(message, /*stream=*/false);
      ASSERT_FALSE(proto.ok()) << field.name << " " << value;
      EXPECT_EQ(Shown(proto.status()), Shown(json.status()));
      EXPECT_EQ(Param(proto.status()), field.name);
      ++tried;
    }
  }
  EXPECT_GE(tried, 25);
}

TEST(ProtoCodecTest, RulesBetweenFieldsAreThoseOfJson) {
  const struct {
    std::string proto, json;
    bool stream = false;
  } kCases[] = {
      {"", "{}"},
      {"prompt { text: '' }", R"({"prompt":[""]})"},
      {"prompt { text: 'a' } prompt { token_ids {} }", R"({"prompt":["a",""]})"},
      {"prompt { token_ids { ids: [1, -1] } }", R"({"prompt":[[1,-1]]})"},
      {"prompt { text: 'a' } max_tokens: 0", R"({"prompt":"a","max_tokens":0})"},
      {"prompt { text: 'a' } n: 2 best_of: 1", R"({"prompt":"a","n":2,"best_of":1})"},
      {"prompt { text: 'a' } best_of: 2", R"({"prompt":"a","best_of":2,"stream":true})", true},
      {"prompt { text: 'a' } stream_options {}", R"({"prompt":"a","stream_options":{}})"},
      {"prompt { text: 'a' } stop: 'x' stop: ''", R"({"prompt":"a","stop":["x",""]})"},
      {"prompt { text: 'a' } temperature: nan", R"({"prompt":"a","temperature":3})"},
      {"prompt { text: 'a' } logit_bias { key: 1 value: 101 }", R"({"prompt":"a","logit_bias":{"1":101}})"},
      {"prompt { text: 'a' } prompt { text: 'b' } prompt { text: 'c' } n: 128", R"({"prompt":["a","b","c"],"n":128})"},
  };
  for (const auto& [proto, json, stream] : kCases) {
    const absl::Status status = Decode(proto, stream).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << proto;
    const absl::Status of_json = DecodeCompletionRequest(json).status();
    EXPECT_EQ(Param(status), Param(of_json)) << proto;
    if (proto.find("nan") != std::string::npos) continue;  // JSON cannot say it
    EXPECT_EQ(status.message(), of_json.message()) << proto;
  }
}

TEST(ProtoCodecTest, APromptIsTextOrIds) {
  const absl::Status status = Decode("prompt { text: 'a' } prompt {}").status();
  EXPECT_EQ(status.message(), "prompt[1] must have text or token_ids");
  EXPECT_EQ(Param(status), "prompt[1]");
}

TEST(ProtoCodecTest, LongTextsAreRefusedAndLongIdsAreNot) {
  ProtoDecodeOptions options;
  options.limits.text_body_bytes = 10;
  v1::CompletionRequest message;
  message.add_prompt()->set_text("12345");
  message.add_prompt()->set_text("67890");
  EXPECT_TRUE(DecodeCompletionRequest(message, false, options).ok());
  for (int i = 0; i < 100; ++i) message.mutable_prompt(0)->mutable_token_ids()->add_ids(i);
  EXPECT_TRUE(DecodeCompletionRequest(message, false, options).ok());
  message.mutable_prompt(0)->set_text("123456");
  const absl::Status status = DecodeCompletionRequest(message, false, options).status();
  EXPECT_EQ(ErrorCode(status), "request_too_large");
  EXPECT_EQ(Param(status), "prompt");
}

TEST(ProtoCodecTest, UnknownFieldsAreRefusedWhereverTheyAre) {
  v1::CompletionRequest top = Parse<v1::CompletionRequest>("prompt { token_ids { ids: 1 } } stream_options {}");
  v1::CompletionRequest deep = top;
  v1::CompletionRequest options = top;
  top.GetReflection()->MutableUnknownFields(&top)->AddVarint(999, 1);
  v1::TokenIds* ids = deep.mutable_prompt(0)->mutable_token_ids();
  ids->GetReflection()->MutableUnknownFields(ids)->AddVarint(998, 1);
  v1::StreamOptions* stream = options.mutable_stream_options();
  stream->GetReflection()->MutableUnknownFields(stream)->AddVarint(997, 1);

  EXPECT_EQ(Param(DecodeCompletionRequest(top, true).status()), "999");
  EXPECT_EQ(Param(DecodeCompletionRequest(deep, true).status()), "prompt[0].token_ids.998");
  EXPECT_EQ(Param(DecodeCompletionRequest(options, true).status()), "stream_options.997");
  EXPECT_THAT(std::string(DecodeCompletionRequest(top, true).status().message()), HasSubstr("field number 999"));
  for (const v1::CompletionRequest& message : {top, deep, options}) {
    EXPECT_TRUE(DecodeCompletionRequest(message, true, {.limits = {}, .ignore_unknown_fields = true}).ok());
  }
}

// Bytes that are nearly a request: whatever still parses is refused, naming a field, or is within every bound.
TEST(ProtoCodecTest, MangledMessagesAreRefusedOrValid) {
  const std::string good =
      Parse<v1::CompletionRequest>(
          "model: 'm' prompt { text: 'abc' } prompt { token_ids { ids: [2, 40, 7] } } max_tokens: 7 "
          "temperature: 0.7 top_k: 5 logit_bias { key: 9 value: -100 } seed: -3 n: 2 stop: 'x' "
          "stop_token_ids: [4, 5] echo: true prompt_logprobs: 0 metadata { key: 'k' value: 'v' } "
          "timeout: 2.5 stream_options { include_usage: true }")
          .SerializeAsString();
  google::protobuf::SetLogHandler(nullptr);  // it has much to say about text that is not UTF-8
  std::mt19937 random(1);
  int num_valid = 0;
  int num_refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good;
    for (uint32_t change = 0; change <= random() % 4; ++change) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.insert(at, 1, static_cast<char>(random()));
          break;
        default:
          bytes.erase(at, 1);
      }
    }
    v1::CompletionRequest message;
    if (!message.ParseFromString(bytes)) continue;
    absl::StatusOr<CompletionRequest> request = DecodeCompletionRequest(message, /*stream=*/round % 2 == 0);
    if (request.ok()) {
      ++num_valid;
      ASSERT_TRUE(ValidateCompletionRequest({}, *request).ok());
    } else {
      ++num_refused;
      ASSERT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
      ASSERT_NE(Param(request.status()).value_or(""), "") << request.status();
    }
  }
  EXPECT_GT(num_valid, 100);
  EXPECT_GT(num_refused, 1000);
}

TEST(ProtoCodecTest, DecodesTokenizeAndDetokenize) {
  const auto tokenize = DecodeTokenizeRequest(Parse<v1::TokenizeRequest>("prompt: 'Hi' add_special_tokens: false"));
  ASSERT_TRUE(tokenize.ok());
  EXPECT_EQ(tokenize->prompt, "Hi");
  EXPECT_FALSE(tokenize->add_special_tokens);
  EXPECT_TRUE(tokenize->parse_special_tokens);
  EXPECT_EQ(Param(DecodeTokenizeRequest(v1::TokenizeRequest()).status()), "prompt");
  EXPECT_THAT(DecodeDetokenizeRequest(Parse<v1::DetokenizeRequest>("tokens: [5, 6]"))->tokens, ElementsAre(5, 6));
  EXPECT_EQ(Param(DecodeDetokenizeRequest(Parse<v1::DetokenizeRequest>("tokens: [5, -1]")).status()), "tokens[1]");
}

CompletionEvent FullEvent() {
  const float minus_infinity = -std::numeric_limits<float>::infinity();
  CompletionEvent event;
  event.index = 1;
  event.text = "ab";
  event.logprobs = {
      {.token = {.id = 5, .text = "a", .logprob = std::nullopt}, .top = {}, .text_offset = 0},
      {.token = {.id = 6, .text = "b", .logprob = -0.5F},
       .top = {{.id = 6, .text = "b", .logprob = -0.5F}, {.id = 7, .text = "c", .logprob = minus_infinity}},
       .text_offset = 1}};
  event.token_ids = {6};
  event.prompt_token_ids = {2, 5};
  event.prompt_logprobs = {std::nullopt, LogprobEntry{.token = {.id = 5, .text = "a", .logprob = -2.0F}, .top = {}}};
  event.finish = FinishReason::kStop;
  event.stop_reason = "x";
  event.usage = {.prompt_tokens = 2, .completion_tokens = 1, .cached_tokens = 1};
  return event;
}

constexpr char kFullChoice[] =
    "index: 1 text: 'ab' logprobs { token { token_id: 5 token: 'a' } } logprobs { token { token_id: 6 token: 'b' "
    "logprob: -0.5 } top { token_id: 6 token: 'b' logprob: -0.5 } top { token_id: 7 token: 'c' logprob: -9999 } "
    "text_offset: 1 } finish_reason: FINISH_REASON_STOP stop_string: 'x' token_ids: 6 prompt_token_ids: [2, 5] "
    "prompt_logprobs {} prompt_logprobs { token { token_id: 5 token: 'a' logprob: -2 } }";
constexpr char kHead[] = "id: 'cmpl-1' created: 9 model: 'm' system_fingerprint: 'f' ";
constexpr char kUsage[] = "usage { prompt_tokens: 2 completion_tokens: 1 total_tokens: 3 cached_tokens: 1 }";

CompletionHead Head() { return {.id = "cmpl-1", .created = 9, .model = "m", .system_fingerprint = "f"}; }

template <typename M>
void ExpectMessage(const M& message, const std::string& text) {
  const M expected = Parse<M>(text);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(message, expected)) << message.DebugString();
}

TEST(ProtoCodecTest, EncodesEvents) {
  v1::CompletionEvent message = Parse<v1::CompletionEvent>("choices { text: 'of the message before' }");
  EncodeEvent(Head(), FullEvent(), /*with_usage=*/false, message);
  ExpectMessage(message, fmt::format("{} choices {{ {} }}", kHead, kFullChoice));
  EncodeEvent(Head(), FullEvent(), /*with_usage=*/true, message);
  ExpectMessage(message, fmt::format("{} choices {{ {} }} {}", kHead, kFullChoice, kUsage));
  EncodeUsageEvent(Head(), FullEvent().usage, message);
  ExpectMessage(message, fmt::format("{} {}", kHead, kUsage));
}

TEST(ProtoCodecTest, EncodesCompletionsInOrderOfTheirIndex) {
  CompletionEvent first;
  first.stop_reason = 7;
  first.finish = FinishReason::kLength;
  v1::CompletionResponse message;
  EncodeCompletion(Head(), {FullEvent(), first}, FullEvent().usage, message);
  ExpectMessage(message, fmt::format("{} choices {{ finish_reason: FINISH_REASON_LENGTH stop_token_id: 7 }} "
                                     "choices {{ {} }} {}",
                                     kHead, kFullChoice, kUsage));
}

}  // namespace
}  // namespace optserve
