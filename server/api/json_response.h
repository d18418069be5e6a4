#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/api/completion.h"
#include "server/text/tokenizer.h"

// Answers to JSON and to server-sent events. Pure functions; any thread.

namespace optserve {

// What every object of one answer says of itself.
struct CompletionHead {
  std::string id;       // "cmpl-..."
  int64_t created = 0;  // seconds since 1970
  std::string model;
  std::string system_fingerprint;  // empty: null
};

// Which keys a request's answer has.
struct CompletionFormat {
  bool logprobs = false;  // else `logprobs` is null
  bool prompt_logprobs = false;
  bool token_ids = false;
  bool include_usage = false;           // streamed: a last chunk with the usage, null in all others
  bool continuous_usage_stats = false;  // streamed: usage in every chunk
};
CompletionFormat FormatOf(const CompletionRequest& request);

// The answer that is not streamed: one event per choice, in order of their index.
std::string EncodeCompletion(const CompletionHead& head, const CompletionFormat& format,
                             std::span<const CompletionEvent> choices, const Usage& usage);

// Appends one `data: {...}\n\n` for an event.
void AppendChunk(std::string& sse, const CompletionHead& head, const CompletionFormat& format,
                 const CompletionEvent& event);

// Appends how a stream ends: with include_usage the chunk that has no choices, then `data: [DONE]`.
void AppendStreamEnd(std::string& sse, const CompletionHead& head, const CompletionFormat& format, const Usage& usage);

// Appends how a stream ends that has failed: `data: {"error":{...}}`, `data: [DONE]`.
void AppendStreamError(std::string& sse, const absl::Status& error);

// GET /v1/models, and GET /v1/models/NAME for one.
struct ModelEntry {
  std::string id;
  int64_t created = 0;  // seconds since 1970
  int32_t max_model_len = 0;
};
std::string EncodeModel(const ModelEntry& model);
std::string EncodeModels(std::span<const ModelEntry> models);

// POST /tokenize, POST /detokenize, GET /tokenizer_info.
std::string EncodeTokenizeResponse(std::span<const int32_t> tokens, int32_t max_model_len);
std::string EncodeDetokenizeResponse(std::string_view text);
std::string EncodeTokenizerInfo(const Tokenizer& tokenizer, int32_t max_model_len);

}  // namespace optserve
