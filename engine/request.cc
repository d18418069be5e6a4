#include "engine/request.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr int32_t kMaxLogprobs = 20;
constexpr int32_t kMaxChoices = 128;

absl::Status CheckIds(std::string_view field, const std::vector<int32_t>& ids, int32_t vocab_size) {
  const auto bad = std::ranges::find_if(ids, [&](int32_t id) { return id < 0 || id >= vocab_size; });
  if (bad == ids.end()) return absl::OkStatus();
  return WithParam(InvalidArgument("{}[{}] is {}, but the model's token ids are 0 to {}", field, bad - ids.begin(),
                                   *bad, vocab_size - 1),
                   field);
}

// NaN is in no range.
absl::Status CheckRange(std::string_view field, double value, double min, double max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return WithParam(InvalidArgument("{} is {}, but must be from {} to {}", field, value, min, max), field);
}

absl::Status CheckSampling(const SamplingParams& sampling, int32_t vocab_size) {
  constexpr double kLargestInt = std::numeric_limits<int32_t>::max();
  constexpr double kLargestFloat = std::numeric_limits<float>::max();
  constexpr double kSmallestFloat = std::numeric_limits<float>::denorm_min();
  OPTSERVE_RETURN_IF_ERROR(CheckRange("temperature", sampling.temperature, 0, kLargestFloat));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("top_k", sampling.top_k, 0, kLargestInt));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("top_p", sampling.top_p, kSmallestFloat, 1));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("min_p", sampling.min_p, 0, 1));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("typical_p", sampling.typical_p, kSmallestFloat, 1));
  OPTSERVE_RETURN_IF_ERROR(
      CheckRange("repetition_penalty", sampling.repetition_penalty, kSmallestFloat, kLargestFloat));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("presence_penalty", sampling.presence_penalty, -kLargestFloat, kLargestFloat));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("frequency_penalty", sampling.frequency_penalty, -kLargestFloat, kLargestFloat));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("logprobs", sampling.num_logprobs, 0, kMaxLogprobs));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("min_tokens", sampling.min_tokens, 0, kLargestInt));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("no_repeat_ngram_size", sampling.no_repeat_ngram_size, 0, kLargestInt));
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return WithParam(
          InvalidArgument("logit_bias has the id {}, but the model's token ids are 0 to {}", id, vocab_size - 1),
          "logit_bias");
    }
    if (!std::isfinite(bias)) {
      return WithParam(InvalidArgument("logit_bias of {} is {}, but must be finite", id, bias), "logit_bias");
    }
  }
  return absl::OkStatus();
}

absl::Status TooLong(std::string message, std::string_view param) {
  return WithErrorCode(WithParam(absl::InvalidArgumentError(message), param), "context_length_exceeded");
}

// int64: max_tokens may be anything so far.
absl::Status CheckLength(const GenerateRequest& request, const ModelInfo& model) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t max_tokens = request.max_tokens;
  if (prompt_tokens > model.max_model_len) {
    return TooLong(
        fmt::format("the prompt has {} tokens, but the model's context is {}", prompt_tokens, model.max_model_len),
        "prompt");
  }
  if (prompt_tokens + max_tokens > model.max_model_len) {
    return TooLong(fmt::format("max_tokens is {}, but the prompt ({} tokens) and max_tokens together must be <= {}, "
                               "the model's context: ask for at most {}",
                               max_tokens, prompt_tokens, model.max_model_len, model.max_model_len - prompt_tokens),
                   "max_tokens");
  }
  // The last token of an answer is never computed on, so it needs no room.
  const int64_t kv_tokens = prompt_tokens + std::max<int64_t>(max_tokens, 1) - 1;
  if (kv_tokens > model.kv_tokens) {
    return TooLong(fmt::format("the prompt ({} tokens) and max_tokens ({}) together need more than the {} tokens that "
                               "the server's KV cache holds",
                               prompt_tokens, max_tokens, model.kv_tokens),
                   prompt_tokens > model.kv_tokens ? "prompt" : "max_tokens");
  }
  return absl::OkStatus();
}

absl::Status CheckResumed(const GenerateRequest& request, const ModelInfo& model) {
  OPTSERVE_RETURN_IF_ERROR(CheckIds("generated", request.generated, model.vocab_size));
  if (!request.generated.empty() && request.num_choices != 1) {
    return InvalidArgument("generated is set with {} answers, but one alone can be resumed", request.num_choices);
  }
  if (!request.generated.empty() && std::ssize(request.generated) >= request.max_tokens) {
    return InvalidArgument("{} tokens are generated, but max_tokens is {}: nothing is left to do",
                           request.generated.size(), request.max_tokens);
  }
  if (request.prompt_scores_sent < 0 || request.prompt_scores_sent >= std::ssize(request.prompt)) {
    return InvalidArgument("prompt_scores_sent is {}, but a prompt of {} tokens has {}", request.prompt_scores_sent,
                           request.prompt.size(), request.prompt.size() - 1);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const GenerateRequest& request, const ModelInfo& model) {
  if (request.prompt.empty()) return WithParam(InvalidArgument("prompt is empty: give at least one token"), "prompt");
  OPTSERVE_RETURN_IF_ERROR(CheckIds("prompt", request.prompt, model.vocab_size));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("max_tokens", request.max_tokens, 0, std::numeric_limits<int32_t>::max()));
  OPTSERVE_RETURN_IF_ERROR(CheckLength(request, model));
  OPTSERVE_RETURN_IF_ERROR(CheckSampling(request.sampling, model.vocab_size));
  OPTSERVE_RETURN_IF_ERROR(CheckIds("stop_token_ids", request.stop_token_ids, model.vocab_size));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("n", request.num_choices, 1, kMaxChoices));
  OPTSERVE_RETURN_IF_ERROR(
      CheckRange("first_choice", request.first_choice, 0, std::numeric_limits<int32_t>::max() - kMaxChoices));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("prompt_logprobs", request.num_prompt_logprobs, -1, kMaxLogprobs));
  OPTSERVE_RETURN_IF_ERROR(CheckRange("share_weight", request.share_weight, 1, 1000));
  return CheckResumed(request, model);
}

}  // namespace optserve
