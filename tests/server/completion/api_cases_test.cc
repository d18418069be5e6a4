// Every case of tests/api/cases, from the bytes of its body to the error or the answer, without sockets.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/api/error_codec.h"
#include "server/api/json_request.h"
#include "server/completion/completion_service.h"
#include "tests/support/api_cases.h"
#include "tests/support/fake_engine_client.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

absl::Status Answer(CompletionService& service, const std::string& body) {
  absl::StatusOr<CompletionRequest> request = DecodeCompletionRequest(body);
  if (!request.ok()) return request.status();
  const auto call = service.Start(*std::move(request), [] {});
  const CompletionBatch batch = call->Take();
  EXPECT_TRUE(batch.done);
  return batch.error;
}

TEST(ApiCasesTest, EveryBodyIsAnsweredAsTheCasesSay) {
  FakeEngineClient engine({});
  CompletionService service(engine, Tokenizer::Load(DemoModelPath()).value(),
                            {.served_model_name = "demo-model", .inline_text_bytes = 1 << 20});
  for (const ApiCase& api_case : ReadApiCases()) {
    SCOPED_TRACE(api_case.name);
    const absl::Status status = Answer(service, api_case.body);
    if (api_case.status == 200) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_FALSE(status.ok());
    if (status.ok()) continue;
    const HttpError http = ToHttpError(status);
    EXPECT_EQ(http.status, api_case.status);
    const auto error = nlohmann::json::parse(http.body).at("error");
    const auto string_or_null = [](const std::optional<std::string>& text) {
      return text ? nlohmann::json(*text) : nlohmann::json();
    };
    EXPECT_EQ(error.size(), 4u);
    EXPECT_EQ(error.at("type"), "invalid_request_error");
    EXPECT_EQ(error.at("param"), string_or_null(api_case.param)) << error;
    EXPECT_EQ(error.at("code"), string_or_null(api_case.code)) << error;
    EXPECT_THAT(error.at("message").get<std::string>(), testing::HasSubstr(api_case.message));
  }
}

}  // namespace
}  // namespace optserve
