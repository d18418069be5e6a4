#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/request.h"
#include "server/api/completion.h"
#include "server/completion/text_track.h"
#include "server/text/tokenizer.h"

namespace optserve {

// A prompt as the engine and the answer need it.
struct PreparedPrompt {
  std::vector<int32_t> ids;
  TextTrack track;  // where the answer's text goes on: behind the prompt under echo, else at nothing

  // Only under echo. A text prompt is shown as the client wrote it, everything else is decoded from its ids; then the
  // last character may be one that only the answer completes.
  std::string text;
  std::vector<int32_t> offsets;  // per id: where it begins in `text`, in code points
};

// Tokenizes a request's prompts, cuts them to truncate_prompt_tokens and checks them and every other id of the request
// against the model. InvalidArgument names the field: "prompt[1]" is an id of the one prompt, or the second prompt, and
// "prompt[1][0]" an id of that. Codes: context_length_exceeded, tokenizer_missing.
// Takes as long as the text is: see Tokenizer. Any thread.
absl::StatusOr<std::vector<PreparedPrompt>> PreparePrompts(const CompletionRequest& request, const Tokenizer* tokenizer,
                                                           const ModelInfo& model);

}  // namespace optserve
