#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "optserve/client/error_info.h"
#include "optserve/v1/completion.pb.h"

// Proto messages to JSON and back, as POST /v1/completions and its neighbours speak it. Pure functions.
//
// Two things proto has and HTTP's answers have not always: TokenLogprob.token_id is -1 where the answer does not say it
// (say return_token_ids or return_tokens_as_token_ids in the request), and Model.max_model_len and what is optional
// elsewhere is 0 or empty from servers that are not ours.
//
// An answer that is not what the API says is Internal, and the message says where.

namespace optserve::client {

// The request's fields by their names. InvalidArgument if prompts are mixed of texts and ids, which JSON cannot say.
absl::StatusOr<std::string> EncodeCompletion(const v1::CompletionRequest& request, bool stream);
std::string EncodeTokenize(const v1::TokenizeRequest& request);
std::string EncodeDetokenize(const v1::DetokenizeRequest& request);

absl::StatusOr<v1::CompletionResponse> DecodeCompletion(std::string_view body);
absl::StatusOr<v1::TokenizeResponse> DecodeTokenize(std::string_view body);
absl::StatusOr<v1::DetokenizeResponse> DecodeDetokenize(std::string_view body);
absl::StatusOr<v1::ListModelsResponse> DecodeModels(std::string_view body);

// One event of a stream, without its framing; an error event is the error it tells of.
absl::Status DecodeEvent(std::string_view data, v1::CompletionEvent& event);

// An answer that is not 200: `info` has what its headers said, and gets what the body says. For a body that is not
// {"error":{...}}, a proxy's page for example, the message is its first line.
absl::Status DecodeError(int http_status, std::string_view body, ErrorInfo info);

}  // namespace optserve::client
