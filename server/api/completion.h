#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/request.h"

// A completion as both protocols mean it: what the codecs fill in and print, what the service answers.

namespace optserve {

// Text, or ids that are used as given.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

inline constexpr int32_t kDefaultMaxTokens = 16;

// A request after validation; the names and defaults are the API's (server/README.md). Absent and null are the default.
struct CompletionRequest {
  std::string model;                  // empty: the one that is served
  std::vector<Prompt> prompts;        // at least one
  bool prompt_is_list = false;        // of prompts: errors then say "prompt[0]" of the first, else "prompt"
  std::optional<int32_t> max_tokens;  // default kDefaultMaxTokens; 0 only with echo
  float temperature = 1.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;  // 0: off; a client's -1 is 0 here
  float min_p = 0.0f;
  float typical_p = 1.0f;
  int32_t n = 1;
  std::optional<int32_t> best_of;  // >= n; default n
  std::vector<std::string> stop;   // none empty
  bool include_stop_str_in_output = false;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  int32_t min_tokens = 0;
  std::optional<int32_t> logprobs;  // 0..20 best tokens beside the chosen one
  bool echo = false;
  std::optional<int32_t> prompt_logprobs;  // 0..20
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;
  int32_t no_repeat_ngram_size = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::optional<int64_t> seed;  // absent: drawn by the service, and then fixed
  std::string user;
  bool stream = false;
  bool has_stream_options = false;  // the client sent stream_options, be it without a member
  bool include_usage = false;
  bool continuous_usage_stats = false;
  std::optional<int32_t> truncate_prompt_tokens;  // keep the last so many
  bool add_special_tokens = true;
  bool parse_special_tokens = true;
  bool skip_special_tokens = true;
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
  int32_t priority = 0;
  bool batch = false;  // the batch lane
  std::string cache_salt;
  std::optional<double> timeout_seconds;

  // Not from the client's fields: the transport knows it.
  std::string api_key_id;  // empty: anonymous
  std::string request_id;  // the transport's name for it, if it has one; for the usage ledger

  bool operator==(const CompletionRequest&) const = default;
};

// A token of the log probability lists. `text` is what the lists show it as; different ids never show the same.
struct ShownToken {
  int32_t id = 0;
  std::string text;
  std::optional<float> logprob;  // none for a sequence's first token; under the model's unmodified distribution
};

// One entry of `tokens`, `token_logprobs`, `top_logprobs` and `text_offset`.
struct LogprobEntry {
  ShownToken token;
  std::vector<ShownToken> top;  // best first, then the chosen one if it is not among them; empty if it has no logprob
  int32_t text_offset = 0;      // code points into choice.text
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;
};

// A piece of one choice: streamed, one per generated token; not streamed, one per choice with all of it.
struct CompletionEvent {
  int32_t index = 0;                      // prompt_index * n + j
  std::string text;                       // well-formed UTF-8; may be empty
  std::vector<LogprobEntry> logprobs;     // with `logprobs`; under echo the prompt's come first
  std::vector<int32_t> token_ids;         // with return_token_ids: the generated ones of this piece
  std::vector<int32_t> prompt_token_ids;  // with return_token_ids, in a choice's first piece
  std::vector<std::optional<LogprobEntry>>
      prompt_logprobs;                        // with prompt_logprobs, in a choice's first piece; the first is none
  FinishReason finish = FinishReason::kNone;  // kStop or kLength in a choice's last piece
  std::variant<std::monostate, std::string, int32_t> stop_reason;  // the stop string, or the stop token that is not EOS
  Usage usage;                                                     // of the whole request so far
};

}  // namespace optserve
