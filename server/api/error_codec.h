#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

// What clients see of an error (server/README.md, "Errors"): Status and its details (engine/util/error_details.h) to
// HTTP status, headers and body.

namespace optserve {

struct HttpError {
  int status = 500;
  std::string body;                        // {"error":{...}}, always with its four keys
  std::optional<int> retry_after_seconds;  // header Retry-After
  std::optional<bool> should_retry;        // header x-should-retry, which the openai packages obey
  bool operator==(const HttpError&) const = default;
};

// For any status that is not OK. The messages of our own failures (500) are for the log: clients get a fixed sentence,
// which can hold no path and no pointer.
HttpError ToHttpError(const absl::Status& status);

// The code that a client sees, which HTTP calls "code" and gRPC a reason: the error's own, or that of its kind. Empty:
// none.
std::string PublicCode(const absl::Status& status);

// The message that a client may see; both protocols'.
std::string PublicMessage(const absl::Status& status);

// {"error":{"message","type","param","code"}}, for what only HTTP knows (405, 413, 415, ...). Empty `param` or `code`
// is null.
std::string ErrorBody(std::string_view message, std::string_view type, std::string_view param, std::string_view code);

inline constexpr std::string_view kInvalidRequest = "invalid_request_error";

// Codes that say more than their status.
inline constexpr std::string_view kRequestTooLarge = "request_too_large";        // InvalidArgument, but 413
inline constexpr std::string_view kRequestKillsEngine = "request_kills_engine";  // Internal, but not to be tried again

// Errors that more than one place makes.
absl::Status CheckModelName(std::string_view model, std::string_view served_model_name);  // or model_not_found
absl::Status TokenizerMissing(std::string_view param);  // `param` needs text, and the model is served for ids only
absl::Status ModelLoading();
absl::Status ShuttingDown();

}  // namespace optserve
