#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/api/completion.h"
#include "server/api/completion_fields.h"

// Bodies of HTTP requests to what they mean. Pure functions; any thread. All errors are InvalidArgument with the
// field's path in `param` ("prompt[3]"), or without one when the body as a whole is not JSON.

namespace optserve {

struct JsonDecodeOptions {
  RequestLimits limits;
  bool ignore_unknown_fields = false;  // else they are errors that name the field
};

// The body of POST /v1/completions, validated. Code request_too_large (413) for text above limits.text_body_bytes.
// `ignored_fields`, where given, gets the names of unknown fields that were ignored.
//
// Time  linear. A prompt of ids goes straight into its vector: measured figures are in server/README.md.
absl::StatusOr<CompletionRequest> DecodeCompletionRequest(std::string_view body, const JsonDecodeOptions& options = {},
                                                          std::vector<std::string>* ignored_fields = nullptr);

// POST /tokenize. `model`, where clients send it, is the transport's to check; empty: the served one.
struct TokenizeRequest {
  std::string model;
  std::string prompt;
  bool add_special_tokens = true;
  bool parse_special_tokens = true;
};
absl::StatusOr<TokenizeRequest> DecodeTokenizeRequest(std::string_view body, const JsonDecodeOptions& options = {});

// POST /detokenize.
struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;  // each >= 0
};
absl::StatusOr<DetokenizeRequest> DecodeDetokenizeRequest(std::string_view body, const JsonDecodeOptions& options = {});

}  // namespace optserve
