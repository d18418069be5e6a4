#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Return early with the error of an expression that is a Status or a StatusOr. Abseil ships no such macros.

#define OPTSERVE_RETURN_IF_ERROR(expr)                                                        \
  do {                                                                                        \
    if (absl::Status optserve_status = (expr); !optserve_status.ok()) return optserve_status; \
  } while (false)

#define OPTSERVE_MACRO_CONCAT_(a, b) a##b
#define OPTSERVE_MACRO_CONCAT(a, b) OPTSERVE_MACRO_CONCAT_(a, b)

// OPTSERVE_ASSIGN_OR_RETURN(auto checkpoint, OpenCheckpoint(path));
#define OPTSERVE_ASSIGN_OR_RETURN(lhs, expr) \
  OPTSERVE_ASSIGN_OR_RETURN_(OPTSERVE_MACRO_CONCAT(optserve_status_or_, __LINE__), lhs, expr)
#define OPTSERVE_ASSIGN_OR_RETURN_(status_or, lhs, expr)     \
  auto status_or = (expr);                                   \
  if (!status_or.ok()) return std::move(status_or).status(); \
  lhs = std::move(status_or).value()
