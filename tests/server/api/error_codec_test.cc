#include "server/api/error_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/util/error_details.h"
#include "engine/util/status.h"

namespace optserve {
namespace {

using Json = nlohmann::json;

Json ErrorOf(const HttpError& http) {
  const Json body = Json::parse(http.body);
  EXPECT_EQ(body.size(), 1u);
  EXPECT_EQ(body.at("error").size(), 4u);
  return body.at("error");
}

struct Row {
  absl::Status status;
  int http = 0;
  Json type;
  Json code;
  std::optional<int> retry_after;
  std::optional<bool> should_retry;
};

TEST(ErrorCodecTest, EveryRowOfTheContract) {
  const std::vector<Row> rows = {
      {InvalidArgument("m"), 400, "invalid_request_error", nullptr, {}, {}},
      {WithErrorCode(InvalidArgument("m"), "context_length_exceeded"),
       400,
       "invalid_request_error",
       "context_length_exceeded",
       {},
       {}},
      {WithErrorCode(InvalidArgument("m"), kRequestTooLarge),
       413,
       "invalid_request_error",
       "request_too_large",
       {},
       {}},
      {absl::UnauthenticatedError("m"), 401, "invalid_request_error", "invalid_api_key", {}, {}},
      {WithErrorCode(NotFound("m"), "model_not_found"), 404, "invalid_request_error", "model_not_found", {}, {}},
      {ResourceExhausted("m"), 429, "rate_limit_exceeded", "rate_limit_exceeded", 1, {}},
      {WithRetryAfter(ResourceExhausted("m"), 7), 429, "rate_limit_exceeded", "rate_limit_exceeded", 7, {}},
      {WithErrorCode(Unavailable("m"), "model_loading"), 503, "service_unavailable", "model_loading", 1, {}},
      {WithErrorCode(WithRetryAfter(Unavailable("m"), 30), "engine_dead"),
       503,
       "service_unavailable",
       "engine_dead",
       30,
       {}},
      {Unavailable("m"), 503, "service_unavailable", nullptr, 1, {}},
      {absl::DeadlineExceededError("m"), 504, "server_error", "deadline_exceeded", {}, false},
      {Internal("m"), 500, "server_error", nullptr, {}, true},
      {absl::UnknownError("m"), 500, "server_error", nullptr, {}, true},
      {absl::DataLossError("m"), 500, "server_error", nullptr, {}, true},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.status.ToString());
    const HttpError http = ToHttpError(row.status);
    EXPECT_EQ(http.status, row.http);
    EXPECT_EQ(http.retry_after_seconds, row.retry_after);
    EXPECT_EQ(http.should_retry, row.should_retry);
    const Json error = ErrorOf(http);
    EXPECT_EQ(error.at("type"), row.type);
    EXPECT_EQ(error.at("code"), row.code);
    EXPECT_EQ(error.at("param"), nullptr);
    EXPECT_EQ(error.at("message") == "m", row.http != 500);
  }
}

TEST(ErrorCodecTest, TheFieldsPathIsParam) {
  EXPECT_EQ(ErrorOf(ToHttpError(WithParam(InvalidArgument("m"), "prompt[3]"))).at("param"), "prompt[3]");
}

TEST(ErrorCodecTest, OurOwnFailuresShowNothingOfUs) {
  for (const absl::Status& status :
       {Internal("/usr/lib/x.so at 0x7ffd: row 3 is NaN"), absl::UnknownError("std::bad_alloc\n#0 main"),
        absl::AbortedError("/tmp/x"), absl::UnimplementedError("/tmp/x")}) {
    const std::string message = ErrorOf(ToHttpError(status)).at("message").get<std::string>();
    EXPECT_EQ(message.find_first_of("/\n"), std::string::npos) << message;
    EXPECT_EQ(message.find("0x"), std::string::npos) << message;
    EXPECT_EQ(PublicMessage(status), message);
  }
}

TEST(ErrorCodecTest, ARequestThatKillsTheEngineIsNotToBeSentAgain) {
  const absl::Status status = WithErrorCode(Internal("SIGSEGV at 0x7ffd"), kRequestKillsEngine);
  const HttpError http = ToHttpError(status);
  EXPECT_EQ(http.status, 500);
  EXPECT_EQ(http.should_retry, false);
  EXPECT_EQ(ErrorOf(http).at("code"), "request_kills_engine");
  EXPECT_EQ(PublicMessage(status).find("again"), std::string::npos);
}

TEST(ErrorCodecTest, MessagesWithAClientsBytesAreStillJson) {
  EXPECT_EQ(ErrorOf(ToHttpError(InvalidArgument("a \"{}\"", "\xff\n"))).at("message"), "a \"\uFFFD\n\"");
}

}  // namespace
}  // namespace optserve
