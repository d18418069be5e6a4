#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace optserve::client {

// What a server said of an error beside code and message; empty for errors of the connection and of this library.
struct ErrorInfo {
  int http_status = 0;     // 0 over gRPC, and inside a stream
  std::string code;        // "context_length_exceeded", "invalid_api_key", ...
  std::string param;       // the field that is wrong: "prompt[3]"
  std::string request_id;  // to find it in the server's log
  std::optional<std::chrono::milliseconds> retry_after;
  std::optional<bool> should_retry;

  bool operator==(const ErrorInfo&) const = default;
};

ErrorInfo ErrorInfoOf(const absl::Status& status);

// The same error with `info` in it.
absl::Status WithErrorInfo(absl::Status status, const ErrorInfo& info);

}  // namespace optserve::client
