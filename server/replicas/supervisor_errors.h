#pragma once

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "engine/util/error_details.h"
#include "engine/util/status.h"

// What clients are told by the supervisor, and how it tells an engine's death from a request's own failure.

namespace optserve {

inline constexpr int kSupervisorRetryAfterSeconds = 2;

inline absl::Status WithCode(absl::Status status, std::string_view code) {
  return WithRetryAfter(WithErrorCode(std::move(status), code), kSupervisorRetryAfterSeconds);
}

inline absl::Status ShuttingDown() { return WithCode(Unavailable("the server is shutting down"), "shutting_down"); }

inline bool IsEngineDeath(const absl::Status& status) { return ErrorCode(status) == "engine_dead"; }

}  // namespace optserve
