#include "engine/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "engine/util/error_details.h"

namespace optserve {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
const ModelInfo kModel{
    .vocab_size = 100, .max_model_len = 64, .eos_token_ids = {2}, .max_num_seqs = 8, .kv_tokens = 48};

GenerateRequest GoodRequest() { return {.id = 1, .prompt = {2, 10, 99}, .max_tokens = 16}; }

TEST(CheckRequestTest, GoodRequestsPass) {
  EXPECT_TRUE(CheckRequest(GoodRequest(), kModel).ok());
  GenerateRequest scoring = GoodRequest();
  scoring.max_tokens = 0;
  scoring.num_prompt_logprobs = 20;
  scoring.prompt_scores_sent = 2;
  EXPECT_TRUE(CheckRequest(scoring, kModel).ok());
  GenerateRequest resumed = GoodRequest();
  resumed.generated = {5, 6, 7};
  EXPECT_TRUE(CheckRequest(resumed, kModel).ok());
  GenerateRequest many = GoodRequest();
  many.num_choices = 128;  // more than run at a time: they wait for each other
  EXPECT_TRUE(CheckRequest(many, kModel).ok());
}

TEST(CheckRequestTest, LongestAnswerThatFitsPasses) {
  GenerateRequest request = GoodRequest();
  request.max_tokens = 46;  // 3 + 46 - 1: the last token is never computed on
  EXPECT_TRUE(CheckRequest(request, kModel).ok());
  request.max_tokens = 47;
  const absl::Status too_long = CheckRequest(request, kModel);
  EXPECT_THAT(std::string(too_long.message()), HasSubstr("48 tokens"));
  EXPECT_EQ(ErrorCode(too_long), "context_length_exceeded");
}

struct BadCase {
  const char* field;  // in Param, or at least in the text
  std::function<void(GenerateRequest&)> spoil;
};

TEST(CheckRequestTest, WhatIsWrongIsNamed) {
  const std::vector<BadCase> cases = {
      {"prompt", [](GenerateRequest& r) { r.prompt.clear(); }},
      {"prompt", [](GenerateRequest& r) { r.prompt[1] = 100; }},
      {"prompt", [](GenerateRequest& r) { r.prompt[1] = -1; }},
      {"prompt", [](GenerateRequest& r) { r.prompt.assign(65, 3); }},
      {"max_tokens", [](GenerateRequest& r) { r.max_tokens = -1; }},
      {"max_tokens", [](GenerateRequest& r) { r.max_tokens = 62; }},
      {"max_tokens", [](GenerateRequest& r) { r.max_tokens = std::numeric_limits<int32_t>::max(); }},
      {"temperature", [](GenerateRequest& r) { r.sampling.temperature = -1; }},
      {"temperature", [](GenerateRequest& r) { r.sampling.temperature = kNan; }},
      {"temperature", [](GenerateRequest& r) { r.sampling.temperature = kInf; }},
      {"top_k", [](GenerateRequest& r) { r.sampling.top_k = -1; }},
      {"top_p", [](GenerateRequest& r) { r.sampling.top_p = 0; }},
      {"top_p", [](GenerateRequest& r) { r.sampling.top_p = 1.5; }},
      {"min_p", [](GenerateRequest& r) { r.sampling.min_p = kNan; }},
      {"typical_p", [](GenerateRequest& r) { r.sampling.typical_p = 0; }},
      {"repetition_penalty", [](GenerateRequest& r) { r.sampling.repetition_penalty = 0; }},
      {"presence_penalty", [](GenerateRequest& r) { r.sampling.presence_penalty = kNan; }},
      {"frequency_penalty", [](GenerateRequest& r) { r.sampling.frequency_penalty = -kInf; }},
      {"logprobs", [](GenerateRequest& r) { r.sampling.num_logprobs = 21; }},
      {"min_tokens", [](GenerateRequest& r) { r.sampling.min_tokens = -1; }},
      {"no_repeat_ngram_size", [](GenerateRequest& r) { r.sampling.no_repeat_ngram_size = -1; }},
      {"logit_bias",
       [](GenerateRequest& r) {
         r.sampling.logit_bias = {{100, 1.0f}};
       }},
      {"logit_bias",
       [](GenerateRequest& r) {
         r.sampling.logit_bias = {{1, kNan}};
       }},
      {"stop_token_ids",
       [](GenerateRequest& r) {
         r.stop_token_ids = {2, 100};
       }},
      {"n", [](GenerateRequest& r) { r.num_choices = 0; }},
      {"n", [](GenerateRequest& r) { r.num_choices = 129; }},
      {"first_choice", [](GenerateRequest& r) { r.first_choice = -1; }},
      {"prompt_logprobs", [](GenerateRequest& r) { r.num_prompt_logprobs = -2; }},
      {"prompt_logprobs", [](GenerateRequest& r) { r.num_prompt_logprobs = 21; }},
      {"generated", [](GenerateRequest& r) { r.generated = {100}; }},
      {"generated", [](GenerateRequest& r) { r.generated.assign(16, 3); }},
      {"generated",
       [](GenerateRequest& r) {
         r.generated = {3};
         r.num_choices = 2;
       }},
      {"prompt_scores_sent", [](GenerateRequest& r) { r.prompt_scores_sent = 3; }},
      {"prompt_scores_sent", [](GenerateRequest& r) { r.prompt_scores_sent = -1; }},
  };
  for (const BadCase& bad : cases) {
    GenerateRequest request = GoodRequest();
    bad.spoil(request);
    const absl::Status status = CheckRequest(request, kModel);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.field));
    EXPECT_EQ(Param(status).value_or(bad.field), bad.field);
  }
}

TEST(CheckRequestTest, TooLongSaysAllNumbers) {
  GenerateRequest request = GoodRequest();
  request.max_tokens = 62;
  const absl::Status status = CheckRequest(request, kModel);
  for (const char* number : {"62", "3 tokens", "64", "at most 61"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(number));
  }
}

}  // namespace
}  // namespace optserve
