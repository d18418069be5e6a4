#include "server/grpc/grpc_status.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/util/error_details.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/api/error_codec.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status rich;
  EXPECT_TRUE(rich.ParseFromString(status.error_details()));
  return rich;
}

TEST(GrpcStatusTest, OkIsOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok()); }

TEST(GrpcStatusTest, KeepsTheCodesThatClientsKnow) {
  EXPECT_EQ(ToGrpcStatus(absl::InvalidArgumentError("x")).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ToGrpcStatus(absl::NotFoundError("x")).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ToGrpcStatus(absl::UnauthenticatedError("x")).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ToGrpcStatus(absl::ResourceExhaustedError("x")).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ToGrpcStatus(absl::UnavailableError("x")).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ToGrpcStatus(absl::DeadlineExceededError("x")).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(ToGrpcStatus(absl::CancelledError("x")).error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(ToGrpcStatus(absl::OutOfRangeError("x")).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(GrpcStatusTest, OurOwnFailuresSayNothingOfTheInside) {
  const grpc::Status status = ToGrpcStatus(absl::InternalError("rank 1: /root/model.bin at 0x7f00"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message().find('/'), std::string::npos) << status.error_message();
}

TEST(GrpcStatusTest, CarriesFieldReasonAndDelay) {
  const absl::Status error =
      WithRetryAfter(WithErrorCode(WithParam(absl::ResourceExhaustedError("too much"), "prompt[3]"), "quota"), 7);
  const google::rpc::Status rich = Details(ToGrpcStatus(error));
  EXPECT_EQ(rich.code(), static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_EQ(rich.message(), "too much");
  ASSERT_EQ(rich.details_size(), 3);
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(rich.details(0).UnpackTo(&bad_request));
  EXPECT_EQ(rich.details(0).type_url(), "type.googleapis.com/google.rpc.BadRequest");
  EXPECT_EQ(bad_request.field_violations(0).field(), "prompt[3]");
  EXPECT_EQ(bad_request.field_violations(0).description(), "too much");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(rich.details(1).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "quota");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(rich.details(2).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 7);
}

TEST(GrpcStatusTest, BusyServersAlwaysSayWhenToComeBack) {
  for (const absl::Status& error : {absl::ResourceExhaustedError("full"), absl::UnavailableError("loading")}) {
    const google::rpc::Status rich = Details(ToGrpcStatus(error));
    ASSERT_GE(rich.details_size(), 1);
    google::rpc::RetryInfo retry;
    ASSERT_TRUE(rich.details(rich.details_size() - 1).UnpackTo(&retry));
    EXPECT_EQ(retry.retry_delay().seconds(), 1);
  }
  EXPECT_EQ(ToGrpcStatus(absl::NotFoundError("x")).error_details(), "");
}

// What HTTP answers as "code" for want of one of the error's own.
TEST(GrpcStatusTest, TheReasonIsTheCodeOfHttp) {
  const std::vector<std::pair<absl::Status, std::string>> cases = {
      {absl::UnauthenticatedError("x"), "invalid_api_key"},
      {absl::ResourceExhaustedError("x"), "rate_limit_exceeded"},
      {absl::DeadlineExceededError("x"), "deadline_exceeded"}};
  for (const auto& [error, code] : cases) {
    const google::rpc::Status rich = Details(ToGrpcStatus(error));
    ASSERT_GE(rich.details_size(), 1);
    google::rpc::ErrorInfo info;
    ASSERT_TRUE(rich.details(0).UnpackTo(&info));
    EXPECT_EQ(info.reason(), code);
    EXPECT_NE(ToHttpError(error).body.find("\"code\":\"" + code + "\""), std::string::npos);
  }
}

TEST(GrpcStatusTest, LongMessagesAreCutBetweenCharacters) {
  std::string message = "a";
  while (message.size() < 5000) message += "\u20AC";
  const grpc::Status status = ToGrpcStatus(WithParam(absl::InvalidArgumentError(message), message));
  EXPECT_LE(status.error_message().size(), 1024 + 3);
  EXPECT_EQ(FindInvalidUtf8(status.error_message()), std::nullopt);
  EXPECT_LE(status.error_details().size(), 4 * 1024);
}

}  // namespace
}  // namespace optserve
