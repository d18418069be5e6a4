#include "server/api/completion_fields.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using Request = CompletionRequest;

constexpr double kInt32Min = std::numeric_limits<int32_t>::min();
constexpr double kInt32Max = std::numeric_limits<int32_t>::max();
constexpr double kFloatMax = std::numeric_limits<float>::max();
constexpr size_t kMaxStringBytes = 512;  // of names and salts
constexpr size_t kMaxStopTokenIds = 1024;
constexpr size_t kMaxLogitBiases = 4096;

const auto kFields = std::to_array<CompletionField>({
    {"model", &Request::model, {}, "null", "the model to use: the served one, which is also the default"},
    {"prompt",
     PromptField{},
     {.min = 0, .max = kInt32Max},
     "null",
     "what to complete: a text, token ids, or a list of either. Text gets the BOS token in front; ids are used as "
     "given"},
    {"max_tokens",
     &Request::max_tokens,
     {.min = 0, .max = kInt32Max},
     "16",
     "the most tokens to generate for a choice; 0 only with echo, to score the prompt"},
    {"min_tokens",
     &Request::min_tokens,
     {.min = 0, .max = kInt32Max},
     "0",
     "a choice does not end, by a stop token or a stop string, before it has that many tokens"},
    {"temperature",
     &Request::temperature,
     {.min = 0, .max = 2},
     "1",
     "divides the logits before sampling; 0 is greedy, ties to the lowest id"},
    {"top_p",
     &Request::top_p,
     {.min = 0, .max = 1, .excludes_min = true},
     "1",
     "sample from the likeliest tokens that together have this probability"},
    {"top_k",
     &Request::top_k,
     {.min = -1, .max = kInt32Max},
     "0",
     "sample from that many likeliest tokens; 0 or -1: all"},
    {"min_p",
     &Request::min_p,
     {.min = 0, .max = 1},
     "0",
     "sample from tokens with at least this share of the likeliest one's probability"},
    {"typical_p",
     &Request::typical_p,
     {.min = 0, .max = 1, .excludes_min = true},
     "1",
     "sample from the most typical tokens that together have this probability"},
    {"presence_penalty",
     &Request::presence_penalty,
     {.min = -2, .max = 2},
     "0",
     "subtracted from the logit of each token that was generated before"},
    {"frequency_penalty",
     &Request::frequency_penalty,
     {.min = -2, .max = 2},
     "0",
     "subtracted from a token's logit for each time it was generated before"},
    {"repetition_penalty",
     &Request::repetition_penalty,
     {.min = 0, .max = kFloatMax, .excludes_min = true},
     "1",
     "divides positive logits, multiplies negative ones, of tokens in the prompt or generated before"},
    {"no_repeat_ngram_size",
     &Request::no_repeat_ngram_size,
     {.min = 0, .max = kInt32Max},
     "0",
     "no sequence of that many tokens comes twice; 0: off"},
    {"logit_bias",
     LogitBiasField{},
     {.min = -100, .max = 100, .max_size = kMaxLogitBiases},
     "null",
     "token id to what is added to its logit"},
    {"seed",
     &Request::seed,
     {},
     "null",
     "same request and seed, same tokens, alone or in any batch; null draws one for each prompt"},
    {"n",
     &Request::n,
     {.min = 1, .max = 128},
     "1",
     "choices for each prompt; choice j of prompt i has index i * n + j"},
    {"best_of",
     &Request::best_of,
     {.min = 1, .max = 20},
     "null",
     "generate that many, return the n with the best mean token log probability; at least n, null: n; not streamed"},
    {"stop",
     StopField{},
     {.max_size = 16},
     "null",
     "a string or several that end a choice; the text is cut before it. The prompt is not searched"},
    {"include_stop_str_in_output",
     &Request::include_stop_str_in_output,
     {},
     "false",
     "cut behind the stop string or stop token instead"},
    {"stop_token_ids",
     &Request::stop_token_ids,
     {.min = 0, .max = kInt32Max, .max_size = kMaxStopTokenIds},
     "null",
     "token ids that end a choice, beside the end-of-sequence token"},
    {"ignore_eos", &Request::ignore_eos, {}, "false", "the end-of-sequence token does not end a choice"},
    {"logprobs",
     &Request::logprobs,
     {.min = 0, .max = 20},
     "null",
     "log probabilities of each token and of that many best, before temperature, penalties, bias and top-k/p"},
    {"echo", &Request::echo, {}, "false", "the prompt in front of the text; with logprobs, its log probabilities too"},
    {"prompt_logprobs",
     &Request::prompt_logprobs,
     {.min = 0, .max = 20},
     "null",
     "log probabilities of each token of the prompt and of that many best, in a list of their own"},
    {"return_token_ids", &Request::return_token_ids, {}, "false", "token_ids and prompt_token_ids in each choice"},
    {"return_tokens_as_token_ids",
     &Request::return_tokens_as_token_ids,
     {},
     "false",
     "the lists of log probabilities show each token as token_id:N"},
    {"skip_special_tokens", &Request::skip_special_tokens, {}, "true", "special tokens show nothing in the text"},
    {"add_special_tokens", &Request::add_special_tokens, {}, "true", "BOS in front of text prompts"},
    {"parse_special_tokens",
     &Request::parse_special_tokens,
     {},
     "true",
     "</s> and <pad> in text prompts become their ids; else they are ordinary text"},
    {"truncate_prompt_tokens",
     &Request::truncate_prompt_tokens,
     {.min = 1, .max = kInt32Max},
     "null",
     "keep only the last so many tokens of each prompt"},
    {"stream", &Request::stream, {}, "false", "answer by server-sent events, one for each token"},
    {"stream_options",
     StreamOptionsField{},
     {},
     "null",
     "only with stream: include_usage, a last event with the usage; continuous_usage_stats, usage in every event"},
    {"suffix", UnsupportedField{}, {}, "null", "OPT cannot fill in text before a suffix"},
    {"user", &Request::user, {.max_size = kMaxStringBytes}, "null", "who asks: for the usage ledger and fair shares"},
    {"metadata", MetadataField{}, {}, "null", "accepted, and has no effect"},
    {"priority",
     &Request::priority,
     {.min = kInt32Min, .max = kInt32Max},
     "0",
     "among the requests of one user: lower goes first"},
    {"batch",
     &Request::batch,
     {},
     "false",
     "work that can wait: fills idle room and gives way to everybody else at once"},
    {"cache_salt",
     &Request::cache_salt,
     {.max_size = kMaxStringBytes},
     "null",
     "cached prompts are shared only between requests with the same salt"},
    {"timeout",
     &Request::timeout_seconds,
     {.min = 0, .max = 86400, .excludes_min = true},
     "null",
     "seconds after which the request fails, waiting included"},
});

constexpr auto kStreamOptions = std::to_array<std::pair<std::string_view, bool Request::*>>({
    {"include_usage", &Request::include_usage},
    {"continuous_usage_stats", &Request::continuous_usage_stats},
});

std::string BoundsText(const FieldBounds& bounds) {
  if (!bounds.excludes_min) return fmt::format("between {} and {}", bounds.min, bounds.max);
  return fmt::format("greater than {} and at most {}", bounds.min, static_cast<float>(bounds.max));
}

absl::Status Bad(std::string_view param, std::string message) {
  return WithParam(absl::InvalidArgumentError(message), param);
}

// Checks the bounds of one field of a request; the overloads are FieldTarget's alternatives.
struct BoundsChecker {
  const CompletionField& field;
  const CompletionRequest& request;

  absl::Status operator()(bool Request::*) const { return absl::OkStatus(); }
  absl::Status operator()(int32_t Request::*member) const { return Number(request.*member); }
  absl::Status operator()(float Request::*member) const { return Number(request.*member); }
  absl::Status operator()(std::string Request::*member) const {
    return CheckFieldSize(field, (request.*member).size());
  }
  absl::Status operator()(std::optional<int32_t> Request::*member) const { return Optional(request.*member); }
  absl::Status operator()(std::optional<double> Request::*member) const { return Optional(request.*member); }
  absl::Status operator()(std::optional<int64_t> Request::*) const { return absl::OkStatus(); }  // any is a seed
  absl::Status operator()(std::vector<int32_t> Request::*member) const { return List(request.*member, field.name); }
  absl::Status operator()(StreamOptionsField) const { return absl::OkStatus(); }
  absl::Status operator()(MetadataField) const { return absl::OkStatus(); }
  absl::Status operator()(UnsupportedField) const { return absl::OkStatus(); }  // the codecs refuse it

  absl::Status operator()(PromptField) const {
    if (request.prompts.empty()) return Bad("prompt", "prompt is required, and must not be empty");
    for (size_t i = 0; i < request.prompts.size(); ++i) {
      const std::string param = PromptPath(request, i);
      if (std::visit([](const auto& prompt) { return prompt.empty(); }, request.prompts[i])) {
        return Bad(param, fmt::format("{} is empty; a prompt of only the BOS token is [2]", param));
      }
      const auto* ids = std::get_if<std::vector<int32_t>>(&request.prompts[i]);
      if (ids != nullptr) OPTSERVE_RETURN_IF_ERROR(List(*ids, param));
    }
    return absl::OkStatus();
  }

  absl::Status operator()(StopField) const {
    OPTSERVE_RETURN_IF_ERROR(CheckFieldSize(field, request.stop.size()));
    for (size_t i = 0; i < request.stop.size(); ++i) {
      const std::string param = fmt::format("stop[{}]", i);
      if (request.stop[i].empty()) return Bad(param, fmt::format("{} is empty; it would stop at once", param));
    }
    return absl::OkStatus();
  }

  absl::Status operator()(LogitBiasField) const {
    OPTSERVE_RETURN_IF_ERROR(CheckFieldSize(field, request.logit_bias.size()));
    for (const auto& [id, bias] : request.logit_bias) {
      const std::string param = fmt::format("logit_bias.{}", id);
      if (id < 0) return Bad(param, fmt::format("{} is not a token id", id));
      OPTSERVE_RETURN_IF_ERROR(CheckFieldNumber(field.bounds, param, bias));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Number(double value) const { return CheckFieldNumber(field.bounds, field.name, value); }

  template <typename T>
  absl::Status Optional(const std::optional<T>& value) const {
    return value.has_value() ? Number(*value) : absl::OkStatus();
  }

  absl::Status List(const std::vector<int32_t>& ids, std::string_view param) const {
    OPTSERVE_RETURN_IF_ERROR(CheckFieldSize(field, ids.size()));
    const auto bad = std::ranges::find_if(ids, [](int32_t id) { return id < 0; });
    if (bad == ids.end()) return absl::OkStatus();
    return CheckFieldNumber(field.bounds, fmt::format("{}[{}]", param, bad - ids.begin()), *bad);
  }
};

absl::Status CheckRulesBetweenFields(const RequestLimits& limits, const CompletionRequest& request) {
  const int32_t max_tokens = request.max_tokens.value_or(kDefaultMaxTokens);
  if (max_tokens == 0 && !request.echo) {
    return Bad("max_tokens", "max_tokens is 0, which needs echo: there would be nothing to return");
  }
  if (request.min_tokens > max_tokens) {
    return Bad("min_tokens", fmt::format("min_tokens is {}, but must be at most max_tokens, which is {}",
                                         request.min_tokens, max_tokens));
  }
  const int32_t best_of = request.best_of.value_or(request.n);
  if (best_of < request.n) {
    return Bad("best_of", fmt::format("best_of is {}, but must be at least n, which is {}", best_of, request.n));
  }
  if (request.stream && best_of > request.n) {
    return Bad("best_of", fmt::format("best_of is {}, but must be n, which is {}, with stream: which choices are best "
                                      "is known only at the end",
                                      best_of, request.n));
  }
  if (request.has_stream_options && !request.stream) {
    return Bad("stream_options", "stream_options is there without stream: true");
  }
  const auto num_choices = static_cast<int64_t>(request.prompts.size()) * best_of;
  if (num_choices > limits.max_choices) {
    return Bad(request.prompts.size() > 1 ? "prompt"
               : request.best_of          ? "best_of"
                                          : "n",
               fmt::format("{} prompts x {} choices are {}, the limit is {}", request.prompts.size(), best_of,
                           num_choices, limits.max_choices));
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const CompletionField> CompletionFields() { return kFields; }

const CompletionField* FindCompletionField(std::string_view name) {
  const auto* field = std::ranges::find(kFields, name, &CompletionField::name);
  return field == kFields.end() ? nullptr : field;
}

absl::Status CheckFieldFloat(const FieldBounds& bounds, std::string_view param, double value) {
  OPTSERVE_RETURN_IF_ERROR(CheckFieldNumber(bounds, param, value));
  if (CheckFieldNumber(bounds, param, static_cast<float>(value)).ok()) return absl::OkStatus();
  return Bad(param,
             fmt::format("{} is {}, which is 0 as a 32-bit number, but must be {}", param, value, BoundsText(bounds)));
}

std::span<const std::pair<std::string_view, bool CompletionRequest::*>> StreamOptionFields() { return kStreamOptions; }

absl::Status CheckFieldNumber(const FieldBounds& bounds, std::string_view param, double value) {
  const bool is_above_min = bounds.excludes_min ? value > bounds.min : value >= bounds.min;
  if (is_above_min && value <= bounds.max) return absl::OkStatus();  // never true for NaN
  return Bad(param, fmt::format("{} is {}, but must be {}", param, value, BoundsText(bounds)));
}

absl::Status CheckFieldSize(const CompletionField& field, size_t size) {
  if (size <= field.bounds.max_size) return absl::OkStatus();
  const bool is_text = std::holds_alternative<std::string CompletionRequest::*>(field.target);
  return Bad(field.name, fmt::format("{} has {} {}, the limit is {}", field.name, size, is_text ? "bytes" : "entries",
                                     field.bounds.max_size));
}

std::string PromptPath(const CompletionRequest& request, size_t index) {
  return request.prompt_is_list ? fmt::format("prompt[{}]", index) : "prompt";
}

absl::Status ValidateCompletionRequest(const RequestLimits& limits, CompletionRequest& request) {
  for (const CompletionField& field : kFields) {
    OPTSERVE_RETURN_IF_ERROR(std::visit(BoundsChecker{.field = field, .request = request}, field.target));
  }
  if (request.top_k == -1) request.top_k = 0;
  return CheckRulesBetweenFields(limits, request);
}

}  // namespace optserve
