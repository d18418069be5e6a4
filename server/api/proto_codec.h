#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "optserve/v1/completion.pb.h"
#include "server/api/completion.h"
#include "server/api/completion_fields.h"
#include "server/api/json_request.h"
#include "server/api/json_response.h"

// Messages of proto/optserve/v1/completion.proto to and from what they mean: the other codec beside json_request.h and
// json_response.h, with the same fields, checks and errors, and minus infinity as -9999. Pure functions; any thread.

namespace optserve {

struct ProtoDecodeOptions {
  RequestLimits limits;
  bool ignore_unknown_fields = false;  // else field numbers that we do not know are errors that name them
};

// Validated. Errors are InvalidArgument with the field's path in `param` ("prompt[3]"); code request_too_large for text
// above limits.text_body_bytes. `stream` is the method's: Stream, not Complete.
absl::StatusOr<CompletionRequest> DecodeCompletionRequest(const v1::CompletionRequest& message, bool stream,
                                                          const ProtoDecodeOptions& options = {});

absl::StatusOr<TokenizeRequest> DecodeTokenizeRequest(const v1::TokenizeRequest& message,
                                                      const ProtoDecodeOptions& options = {});

absl::StatusOr<DetokenizeRequest> DecodeDetokenizeRequest(const v1::DetokenizeRequest& message,
                                                          const ProtoDecodeOptions& options = {});

// The answer of Complete: one event per choice, in any order; they come out in order of their index.
void EncodeCompletion(const CompletionHead& head, std::vector<CompletionEvent> choices, const Usage& usage,
                      v1::CompletionResponse& message);

// A message of Stream. `message` is overwritten.
void EncodeEvent(const CompletionHead& head, CompletionEvent event, bool with_usage, v1::CompletionEvent& message);

// The last message of Stream with include_usage. `message` is overwritten.
void EncodeUsageEvent(const CompletionHead& head, const Usage& usage, v1::CompletionEvent& message);

}  // namespace optserve
