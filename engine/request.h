#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

// What crosses the border between front end and engine: token ids down, token ids up.

namespace optserve {

using RequestId = uint64_t;

// How tokens are chosen. The same struct from codec to sampler, copied, never re-packed.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy, ties to the lowest id
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  float typical_p = 1.0f;    // 1: off
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;  // id, added to its logit
  uint64_t seed = 0;                                  // always set by the front end, so that a request can be run again
  int32_t vocab_limit = 0;           // ids >= this are never chosen (embedding rows without a token); 0: none
  int32_t num_logprobs = 0;          // best tokens reported with each generated token, 0..20
  int32_t min_tokens = 0;            // no stop token before that many are generated
  int32_t no_repeat_ngram_size = 0;  // no token that would end an n-gram the sequence already has; 0: off

  bool operator==(const SamplingParams&) const = default;
};

// One prompt and its n answers.
struct GenerateRequest {
  RequestId id = 0;             // unique among the live requests of a client
  std::vector<int32_t> prompt;  // used as given; at least one id
  int32_t max_tokens = 16;      // 0: score the prompt only
  SamplingParams sampling;
  int32_t num_choices = 1;              // n
  int32_t first_choice = 0;             // randomness of answer j is keyed by (seed, first_choice + j, position)
  std::vector<int32_t> stop_token_ids;  // end an answer; the stop token is its last event
  int32_t num_prompt_logprobs = -1;     // -1: none; 0..20: each prompt token's log probability and that many best
  // Tokens that answer 0 has already produced: a request that is resumed in another engine goes on behind them. They
  // count towards max_tokens and penalties like any generated token. Only with num_choices == 1.
  std::vector<int32_t> generated;
  int32_t prompt_scores_sent = 0;  // prompt log probabilities the client already has; the rest follow
  bool admitted = false;           // it was accepted before, by this engine's predecessor: no queue is too full for it

  // Who asks and how urgent it is: for the scheduler's order and the prefix cache, never for the numbers.
  std::string api_key_id;    // shares of the machine are by key, then by user; empty: the anonymous key
  std::string user;          // as the client named it
  std::string cache_salt;    // cached prefixes are shared only between requests with the same salt (and key)
  int32_t priority = 0;      // among the requests of one user: lower first
  int64_t deadline_ns = 0;   // on the monotonic clock, which all processes of a machine share; 0: none
  bool batch = false;        // fills idle room: runs while nobody else needs the machine
  int32_t share_weight = 1;  // of its API key, 1..1000: a key of weight 2 gets twice the service of one of weight 1
};

enum class FinishReason : uint8_t {
  kNone,       // goes on
  kStop,       // a stop token
  kLength,     // max_tokens
  kCancelled,  // Cancel()
  kDeadline,   // deadline_ns has passed
  kError,      // `error` says why
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
};

// A token and its log probability under the model's unmodified distribution.
struct TokenScore {
  int32_t id = 0;
  float logprob = 0.0f;
  std::vector<TokenLogprob> top;  // best first, as many as asked for
};

// What one step did for one answer. The last event of an answer is the one with finish != kNone.
struct TokenEvent {
  RequestId request = 0;
  int32_t choice = 0;               // 0 .. n-1, counted from first_choice
  std::optional<TokenScore> token;  // the token generated in this step; none for prefill chunks and cancellations
  FinishReason finish = FinishReason::kNone;
  std::vector<TokenScore> prompt_scores;  // answer 0 only: of prompt tokens prompt_scores_begin, +1, ...
  int32_t prompt_scores_begin = 0;        // >= 1: the first prompt token has no prediction
  int32_t cached_tokens = 0;              // prompt tokens that the cache had; set with the first token
  int64_t queue_ns = 0;                   // from Submit to its first step; likewise, or with an end without a token
  int64_t engine_ns = 0;                  // of the steps since the answer's last event, its share by tokens computed
  absl::Status error;                     // with kError
};

// Where a request's events go; requests may share one. Called once a step with all that the step did for its requests,
// so that a sink that all of them share sees exactly one call per step. On the engine's thread (or the thread that
// reads its frames), in order, never after the last answer has finished; must not block. Shared ownership, because
// socket and sequence each may end first.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnEvents(std::vector<TokenEvent> events) = 0;
};

// What the front end must know to refuse a request before the engine sees it. Fixed once the engine is ready.
struct ModelInfo {
  int32_t vocab_size = 0;              // rows of the embedding; prompt ids must be below
  int32_t max_model_len = 0;           // prompt + generated tokens of one answer
  std::vector<int32_t> eos_token_ids;  // from generation_config.json, else config.json; never empty
  int32_t bos_token_id = 2;
  int32_t max_num_seqs = 0;
  int64_t kv_tokens = 0;     // tokens that the KV pool holds
  int64_t weight_bytes = 0;  // of all ranks
  int64_t num_parameters = 0;
};

// InvalidArgument, naming field, value and limit, for a request that this model can never serve: an id outside the
// vocabulary, a number out of its bounds, an answer that is longer than the context or than the KV pool. (Answers that
// do not fit side by side wait for each other.) Pure; any thread.
absl::Status CheckRequest(const GenerateRequest& request, const ModelInfo& model);

}  // namespace optserve
