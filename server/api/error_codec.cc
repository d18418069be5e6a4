#include "server/api/error_codec.h"

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "server/api/json_writer.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

struct ErrorClass {
  int status = 500;
  std::string_view type = "server_error";
  std::string_view code = {};  // unless the error brings one
  std::optional<int> retry_after_seconds = std::nullopt;
  std::optional<bool> should_retry = std::nullopt;
};

ErrorClass Classify(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return {.status = 400, .type = kInvalidRequest};
    case absl::StatusCode::kUnauthenticated:
      return {.status = 401, .type = kInvalidRequest, .code = "invalid_api_key"};
    case absl::StatusCode::kPermissionDenied:
      return {.status = 403, .type = kInvalidRequest};
    case absl::StatusCode::kNotFound:
      return {.status = 404, .type = kInvalidRequest};
    case absl::StatusCode::kResourceExhausted:
      return {.status = 429, .type = "rate_limit_exceeded", .code = "rate_limit_exceeded", .retry_after_seconds = 1};
    case absl::StatusCode::kUnavailable:
      return {.status = 503, .type = "service_unavailable", .retry_after_seconds = 1};
    case absl::StatusCode::kDeadlineExceeded:
      return {.status = 504, .code = "deadline_exceeded", .should_retry = false};
    case absl::StatusCode::kCancelled:
      return {.status = 499, .type = kInvalidRequest, .code = "cancelled"};  // nginx's number; the client has gone
    default:
      return {.should_retry = true};
  }
}

}  // namespace

HttpError ToHttpError(const absl::Status& status) {
  const ErrorClass error = Classify(status.code());
  const std::string code = PublicCode(status);
  HttpError http{.status = error.status,
                 .body = ErrorBody(PublicMessage(status), error.type, Param(status).value_or(""), code),
                 .should_retry = error.should_retry};
  if (code == kRequestTooLarge) http.status = 413;
  if (code == kRequestKillsEngine) http.should_retry = false;
  if (error.retry_after_seconds)
    http.retry_after_seconds = RetryAfterSeconds(status).value_or(*error.retry_after_seconds);
  return http;
}

std::string PublicCode(const absl::Status& status) {
  return ErrorCode(status).value_or(std::string(Classify(status.code()).code));
}

std::string PublicMessage(const absl::Status& status) {
  if (ErrorCode(status) == kRequestKillsEngine) return "the engine has died at this request each time it was tried";
  if (Classify(status.code()).status == 500) return "the server failed on this request; it can be sent again";
  return std::string(status.message());
}

std::string ErrorBody(std::string_view message, std::string_view type, std::string_view param, std::string_view code) {
  std::string body = R"({"error":{"message":)";
  AppendJsonString(body, message);
  body += R"(,"type":)";
  AppendJsonString(body, type);
  body += R"(,"param":)";
  AppendJsonStringOrNull(body, param);
  body += R"(,"code":)";
  AppendJsonStringOrNull(body, code);
  body += "}}";
  return body;
}

absl::Status CheckModelName(std::string_view model, std::string_view served_model_name) {
  if (model.empty() || model == served_model_name) return absl::OkStatus();
  constexpr size_t kMaxShownBytes = 128;
  return WithErrorCode(WithParam(NotFound("there is no model '{}'; this server serves '{}'",
                                          Utf8Prefix(model, kMaxShownBytes), served_model_name),
                                 "model"),
                       "model_not_found");
}

absl::Status TokenizerMissing(std::string_view param) {
  return WithErrorCode(
      WithParam(InvalidArgument("{} needs a tokenizer, and this model is served without one: send token ids, and "
                                "return_token_ids for the answer",
                                param),
                param),
      "tokenizer_missing");
}

absl::Status ModelLoading() {
  return WithErrorCode(Unavailable("the model is still loading; try again in a few seconds"), "model_loading");
}

absl::Status ShuttingDown() { return WithErrorCode(Unavailable("the server is shutting down"), "shutting_down"); }

}  // namespace optserve
