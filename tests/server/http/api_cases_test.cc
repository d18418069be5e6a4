// Every case of tests/api/cases, over sockets: the same answer whole and streamed, and the connection none the worse.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/server/http/test_server.h"
#include "tests/support/api_cases.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

nlohmann::json StringOrNull(const std::optional<std::string>& text) {
  return text ? nlohmann::json(*text) : nlohmann::json();
}

TEST(HttpApiCasesTest, EveryBodyIsAnsweredAsTheCasesSay) {
  TestServer::Setup setup;
  setup.tokenizer = Tokenizer::Load(DemoModelPath()).value();
  TestServer server(std::move(setup));
  HttpClient client(server.port());
  int num_errors = 0;
  for (const ApiCase& api_case : ReadApiCases()) {
    SCOPED_TRACE(api_case.name);
    ASSERT_TRUE(client.Post("/v1/completions", api_case.body));
    const WireResponse response = client.Receive();
    ASSERT_TRUE(response.whole);
    EXPECT_EQ(response.status, api_case.status) << response.body;
    EXPECT_TRUE(response.fields.contains("x-request-id"));
    if (api_case.status == 200 || response.status == 200) continue;
    ++num_errors;
    ErrorCodeOf(response);
    const nlohmann::json error = nlohmann::json::parse(response.body).at("error");
    EXPECT_EQ(error.at("type"), "invalid_request_error");
    EXPECT_EQ(error.at("param"), StringOrNull(api_case.param)) << error;
    EXPECT_EQ(error.at("code"), StringOrNull(api_case.code)) << error;
    EXPECT_THAT(error.at("message").get<std::string>(), testing::HasSubstr(api_case.message));
  }
  EXPECT_GT(num_errors, 100);
}

}  // namespace
}  // namespace optserve
