#include "server/api/completion_fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "engine/util/error_details.h"
#include "server/api/json_request.h"

namespace optserve {
namespace {

CompletionRequest Valid() { return {.prompts = {Prompt(std::string("x"))}}; }

std::string BadParam(CompletionRequest request, const RequestLimits& limits = {}) {
  const absl::Status status = ValidateCompletionRequest(limits, request);
  if (status.ok()) return "";
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return Param(status).value_or("(none)");
}

// The codecs check numbers as they read them; a request that was made by hand is checked all the same.
TEST(CompletionFieldsTest, ARequestMadeByHandIsCheckedToo) {
  EXPECT_EQ(BadParam(Valid()), "");
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const auto with = [](auto member, auto value) {
    CompletionRequest request = Valid();
    request.*member = value;
    return request;
  };
  EXPECT_EQ(BadParam(with(&CompletionRequest::temperature, kNan)), "temperature");
  EXPECT_EQ(BadParam(with(&CompletionRequest::temperature, 2.1f)), "temperature");
  EXPECT_EQ(BadParam(with(&CompletionRequest::top_p, 0.0f)), "top_p");
  EXPECT_EQ(BadParam(with(&CompletionRequest::repetition_penalty, std::numeric_limits<float>::infinity())),
            "repetition_penalty");
  EXPECT_EQ(BadParam(with(&CompletionRequest::n, 0)), "n");
  EXPECT_EQ(BadParam(with(&CompletionRequest::logprobs, 21)), "logprobs");
  EXPECT_EQ(BadParam(with(&CompletionRequest::timeout_seconds, 0.0)), "timeout");
  EXPECT_EQ(BadParam(with(&CompletionRequest::user, std::string(513, 'x'))), "user");
  EXPECT_EQ(BadParam(with(&CompletionRequest::stop, std::vector<std::string>{"a", ""})), "stop[1]");
  EXPECT_EQ(BadParam(with(&CompletionRequest::stop_token_ids, std::vector<int32_t>{1, -1})), "stop_token_ids[1]");
  EXPECT_EQ(BadParam(with(&CompletionRequest::logit_bias, std::vector<std::pair<int32_t, float>>{{7, kNan}})),
            "logit_bias.7");
  EXPECT_EQ(BadParam(with(&CompletionRequest::logit_bias, std::vector<std::pair<int32_t, float>>{{-7, 1.0f}})),
            "logit_bias.-7");
  EXPECT_EQ(BadParam({}), "prompt");
  EXPECT_EQ(BadParam({.prompts = {Prompt(std::vector<int32_t>{5, -6})}}), "prompt[1]");
  EXPECT_EQ(BadParam({.prompts = {Prompt(std::vector<int32_t>{5, -6})}, .prompt_is_list = true}), "prompt[0][1]");
}

TEST(CompletionFieldsTest, MinusOneForTopKIsOff) {
  CompletionRequest request = Valid();
  request.top_k = -1;
  ASSERT_TRUE(ValidateCompletionRequest({}, request).ok());
  EXPECT_EQ(request.top_k, 0);
}

TEST(CompletionFieldsTest, TheLimitOfChoicesIsTheOnesGiven) {
  CompletionRequest request = Valid();
  request.n = 5;
  EXPECT_EQ(BadParam(request, {.max_choices = 5}), "");
  EXPECT_EQ(BadParam(request, {.max_choices = 4}), "n");
}

TEST(CompletionFieldsTest, NamesAreThereOnceAndDescribed) {
  std::set<std::string_view> names;
  for (const CompletionField& field : CompletionFields()) {
    EXPECT_TRUE(names.insert(field.name).second) << field.name;
    EXPECT_FALSE(field.description.empty()) << field.name;
    EXPECT_EQ(FindCompletionField(field.name), &field);
  }
  EXPECT_EQ(FindCompletionField("nonsense"), nullptr);
}

// Sets one field to `json` and answers whether the request is then as if it were absent.
bool IsDefault(const CompletionField& field, std::string_view json) {
  const std::string prompt = R"({"prompt":"x")";
  absl::StatusOr<CompletionRequest> absent = DecodeCompletionRequest(prompt + "}");
  absl::StatusOr<CompletionRequest> given =
      DecodeCompletionRequest(prompt + ",\"" + std::string(field.name) + "\":" + std::string(json) + "}");
  EXPECT_TRUE(given.ok()) << given.status();
  if (field.name == "max_tokens") return json == std::to_string(absent->max_tokens.value_or(kDefaultMaxTokens));
  return given.ok() && std::visit(
                           [&](auto target) {
                             if constexpr (std::is_member_object_pointer_v<decltype(target)>) {
                               return *given.*target == *absent.*target;
                             } else {
                               return json == "null";
                             }
                           },
                           field.target);
}

TEST(CompletionFieldsTest, DefaultsAreWhatTheTableSays) {
  for (const CompletionField& field : CompletionFields()) {
    if (field.name == "prompt") continue;  // has none
    EXPECT_TRUE(IsDefault(field, field.default_json)) << field.name;
    EXPECT_TRUE(field.name == "max_tokens" || IsDefault(field, "null")) << field.name;
  }
}

}  // namespace
}  // namespace optserve
