// Every field of the table with values that are wrong for (nearly) all of them. The cases of tests/api/cases know each
// field's own edges; these are the same for all and made from the table, so that a new field has them from the start.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "server/api/error_codec.h"
#include "server/api/json_request.h"
#include "tests/server/completion/completion_client.h"

namespace optserve {
namespace {

struct Edge {
  std::string json;
  std::set<std::string_view> allowed = {};  // fields that may have it
};

std::string Deep(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

// A request in which `field` has the value `json`.
std::string Body(std::string_view field, const std::string& json) {
  const std::string rest = field == "prompt" ? "" : R"("prompt":[5,6],)";
  return fmt::format(R"({{{}"{}":{}}})", rest, field, json);
}

absl::Status Answer(CompletionService& service, const std::string& body) {
  absl::StatusOr<CompletionRequest> request = DecodeCompletionRequest(body);
  if (!request.ok()) return request.status();
  return Complete(service, *std::move(request)).error;
}

// 400 or, for names of models, 404, with the four keys and a param that is the field or lies in it.
void ExpectRefused(const absl::Status& status, std::string_view field) {
  ASSERT_FALSE(status.ok());
  const HttpError http = ToHttpError(status);
  EXPECT_EQ(http.status, field == "model" && absl::IsNotFound(status) ? 404 : 400) << status;
  const auto error = nlohmann::json::parse(http.body).at("error");
  EXPECT_EQ(error.size(), 4u);
  EXPECT_EQ(error.at("type"), "invalid_request_error");
  ASSERT_TRUE(error.at("param").is_string()) << error;
  EXPECT_TRUE(error.at("param").get<std::string>().starts_with(field)) << error;
  EXPECT_NE(error.at("message").get<std::string>(), "");
}

class FieldEdgesTest : public testing::Test {
 protected:
  FakeEngineClient engine_{{}};
  std::unique_ptr<CompletionService> service_ = MakeService(engine_);
};

TEST_F(FieldEdgesTest, NullIsTheDefaultOfAllButThePrompt) {
  for (const CompletionField& field : CompletionFields()) {
    SCOPED_TRACE(field.name);
    const absl::Status status = Answer(*service_, Body(field.name, "null"));
    if (field.name == "prompt") {
      ExpectRefused(status, field.name);
    } else {
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

TEST_F(FieldEdgesTest, WhatIsWrongForEveryFieldIsRefusedByItsName) {
  const Edge edges[] = {
      {"NaN"},
      {"-Infinity"},
      {"1e400"},
      {"-1e400"},
      {"True"},
      {"0x10"},
      {"01"},
      {R"("\ud800")"},
      {R"("\udc00\ud800")"},
      {"\"\xff\""},
      {"\"a\nb\""},
      {"\"\\x41\""},
      {"9223372036854775808", {"repetition_penalty"}},
      {"-9223372036854775809"},
      {"18446744073709551616", {"repetition_penalty"}},
      {"[[[5]]]"},
      {"[{}]"},
      {"[null]"},
      {"[true]"},
      {Deep(31)},
      {Deep(100'000)},
      {R"({"nonsense":[1]})", {"metadata"}},
      {R"({"a":1,"a":2})"},
      {R"({"5":"x"})", {"metadata"}},
      {R"("nonsense")", {"prompt", "stop", "user", "cache_salt"}},
      {R"("\u0000")", {"prompt", "stop", "user", "cache_salt"}},
      {"0.5",
       {"temperature", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
        "timeout"}},
  };
  for (const CompletionField& field : CompletionFields()) {
    for (const Edge& edge : edges) {
      if (edge.allowed.contains(field.name)) continue;
      SCOPED_TRACE(fmt::format("{}: {}", field.name, edge.json.substr(0, 40)));
      ExpectRefused(Answer(*service_, Body(field.name, edge.json)), field.name);
    }
  }
}

TEST_F(FieldEdgesTest, AFieldIsGivenOnce) {
  for (const CompletionField& field : CompletionFields()) {
    SCOPED_TRACE(field.name);
    const std::string twice = fmt::format(R"({{"prompt":[5],"{0}":null,"{0}":null}})", field.name);
    ExpectRefused(DecodeCompletionRequest(twice).status(), field.name);
  }
}

TEST_F(FieldEdgesTest, AMillionKeysAreRefused) {
  std::string keys = "{";
  for (int i = 0; i < 1'000'000; ++i) keys += fmt::format(R"({}"{}":1)", i == 0 ? "" : ",", i);
  keys += '}';
  for (const char* field : {"logit_bias", "stream_options", "prompt", "temperature"}) {
    ExpectRefused(DecodeCompletionRequest(Body(field, keys)).status(), field);
  }
  ExpectRefused(DecodeCompletionRequest(keys).status(), "0");  // the first of them is no field
  ExpectRefused(DecodeCompletionRequest(Body("metadata", keys)).status(), "metadata");
}

}  // namespace
}  // namespace optserve
