#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace optserve {

// What a client gets to know of an error: its code, as proto/optserve/v1/completion.proto lists them, the public
// message (server/api/error_codec.h), and as google.rpc.Status in `grpc-status-details-bin` what the error says besides
// (engine/util/error_details.h):
//   Param              BadRequest.field_violations[0].field
//   ErrorCode          ErrorInfo.reason, in the domain "optserve"
//   RetryAfterSeconds  RetryInfo.retry_delay; a second when a RESOURCE_EXHAUSTED or UNAVAILABLE does not say
//
// A message is cut at a kilobyte, on a character's border: all of it travels in the trailers, of which a client takes
// 8 KiB by default.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace optserve
