#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

// What an error says besides its code and message, kept as payloads of the Status, so that every function can go on
// returning Status. The front end prints them (server/api/error_codec.h); they survive the process border.

namespace optserve {

// Codes that clients may test for, such as "context_length_exceeded" or "shutting_down".
absl::Status WithErrorCode(absl::Status status, std::string_view code);
std::optional<std::string> ErrorCode(const absl::Status& status);

// The request field that is wrong, as a path: "prompt[3]".
absl::Status WithParam(absl::Status status, std::string_view param);
std::optional<std::string> Param(const absl::Status& status);

// When it makes sense to try again.
absl::Status WithRetryAfter(absl::Status status, int seconds);
std::optional<int> RetryAfterSeconds(const absl::Status& status);

}  // namespace optserve
