#include "server/grpc/grpc_status.h"

#include <optional>
#include <string>
#include <string_view>

#include "engine/util/error_details.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/api/error_codec.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

constexpr size_t kMaxMessageBytes = 1024;
constexpr std::string_view kDomain = "optserve";

std::string ShortMessage(std::string_view message) {
  const std::string_view prefix = Utf8Prefix(message, kMaxMessageBytes);
  return prefix.size() == message.size() ? std::string(message) : std::string(prefix) + "...";
}

grpc::StatusCode GrpcCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return static_cast<grpc::StatusCode>(code);  // the numbers are the same
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return grpc::StatusCode::INVALID_ARGUMENT;
    default:
      return grpc::StatusCode::INTERNAL;
  }
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const grpc::StatusCode code = GrpcCode(status.code());
  const std::string message = ShortMessage(PublicMessage(status));

  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(message);
  if (const std::optional<std::string> param = Param(status)) {
    google::rpc::BadRequest details;
    google::rpc::BadRequest::FieldViolation& violation = *details.add_field_violations();
    violation.set_field(ShortMessage(*param));
    violation.set_description(message);
    rich.add_details()->PackFrom(details);
  }
  if (const std::string reason = PublicCode(status); !reason.empty()) {
    google::rpc::ErrorInfo details;
    details.set_reason(reason);
    details.set_domain(std::string(kDomain));
    rich.add_details()->PackFrom(details);
  }
  std::optional<int> seconds = RetryAfterSeconds(status);
  if (!seconds && (code == grpc::StatusCode::RESOURCE_EXHAUSTED || code == grpc::StatusCode::UNAVAILABLE)) seconds = 1;
  if (seconds) {
    google::rpc::RetryInfo details;
    details.mutable_retry_delay()->set_seconds(*seconds);
    rich.add_details()->PackFrom(details);
  }
  return rich.details().empty() ? grpc::Status(code, message) : grpc::Status(code, message, rich.SerializeAsString());
}

}  // namespace optserve
