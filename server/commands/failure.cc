#include "server/commands/failure.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace optserve {

int Fail(const absl::Status& error) {
  std::string line(error.message());
  std::ranges::replace(line, '\n', ' ');
  std::fprintf(stderr, "optserve: %s\n", line.c_str());
  switch (error.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnimplemented:
      return kExitBadUsage;
    default:
      return kExitRuntimeError;
  }
}

}  // namespace optserve
