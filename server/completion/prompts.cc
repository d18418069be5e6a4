#include "server/completion/prompts.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <variant>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/api/completion_fields.h"
#include "server/api/error_codec.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

absl::Status CheckId(int32_t id, std::string_view param, const ModelInfo& model) {
  if (id >= 0 && id < model.vocab_size) return absl::OkStatus();
  return WithParam(InvalidArgument("{} is {}, but the model's token ids are 0 to {}", param, id, model.vocab_size - 1),
                   param);
}

absl::Status CheckOtherIds(const CompletionRequest& request, const ModelInfo& model) {
  for (size_t i = 0; i < request.stop_token_ids.size(); ++i) {
    OPTSERVE_RETURN_IF_ERROR(CheckId(request.stop_token_ids[i], fmt::format("stop_token_ids[{}]", i), model));
  }
  for (const auto& [id, bias] : request.logit_bias) {
    OPTSERVE_RETURN_IF_ERROR(CheckId(id, fmt::format("logit_bias.{}", id), model));
  }
  return absl::OkStatus();
}

absl::Status CheckLength(int64_t prompt_tokens, const CompletionRequest& request, std::string_view param,
                         const ModelInfo& model) {
  const int64_t max_tokens = request.max_tokens.value_or(kDefaultMaxTokens);
  if (prompt_tokens + max_tokens <= model.max_model_len) return absl::OkStatus();
  const bool is_prompt_too_long = prompt_tokens + std::min<int64_t>(max_tokens, 1) > model.max_model_len;
  return WithParam(
      WithErrorCode(
          InvalidArgument("the model's context is {} tokens, but the request needs {}: {} of {} and max_tokens "
                          "{}; {}",
                          model.max_model_len, prompt_tokens + max_tokens, prompt_tokens, param, max_tokens,
                          is_prompt_too_long
                              ? std::string("shorten the prompt, or see truncate_prompt_tokens")
                              : fmt::format("max_tokens can be up to {}", model.max_model_len - prompt_tokens)),
          "context_length_exceeded"),
      is_prompt_too_long ? param : "max_tokens");
}

// Fills in text and offsets by decoding the ids.
void DecodeForEcho(PreparedPrompt& prompt) {
  prompt.offsets.reserve(prompt.ids.size());
  for (const int32_t id : prompt.ids) {
    TextTrack::Piece piece = prompt.track.Append(id);
    prompt.text += piece.text;
    prompt.offsets.push_back(piece.begin);
  }
}

absl::StatusOr<PreparedPrompt> PrepareText(const std::string& text, const CompletionRequest& request,
                                           std::string_view param, const Tokenizer& tokenizer) {
  PreparedPrompt prompt{.track = TextTrack(&tokenizer, request.skip_special_tokens)};
  const EncodeOptions options{.add_special_tokens = request.add_special_tokens,
                              .parse_special_tokens = request.parse_special_tokens};
  if (!request.echo || request.truncate_prompt_tokens) {
    absl::StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(text, options);
    if (!ids.ok()) return WithParam(ids.status(), param);
    prompt.ids = *std::move(ids);
    return prompt;
  }
  absl::StatusOr<Encoding> encoding = tokenizer.EncodeWithOffsets(text, options);
  if (!encoding.ok()) return WithParam(encoding.status(), param);
  prompt.ids = std::move(encoding->ids);
  prompt.text = text;
  prompt.offsets.reserve(encoding->offsets.size());
  for (const TextSpan& span : encoding->offsets) prompt.offsets.push_back(span.begin);
  prompt.track.Skip(static_cast<int32_t>(CountCodePoints(text)));
  return prompt;
}

absl::StatusOr<PreparedPrompt> Prepare(const Prompt& given, const CompletionRequest& request, std::string_view param,
                                       const Tokenizer* tokenizer, const ModelInfo& model) {
  PreparedPrompt prompt{.track = TextTrack(tokenizer, request.skip_special_tokens)};
  if (const auto* text = std::get_if<std::string>(&given)) {
    if (tokenizer == nullptr) return TokenizerMissing(param);
    OPTSERVE_ASSIGN_OR_RETURN(prompt, PrepareText(*text, request, param, *tokenizer));
  } else {
    prompt.ids = std::get<std::vector<int32_t>>(given);
  }
  if (prompt.ids.empty()) return WithParam(InvalidArgument("{} has no tokens", param), param);
  const auto bad = std::ranges::find_if(prompt.ids, [&](int32_t id) { return id < 0 || id >= model.vocab_size; });
  if (bad != prompt.ids.end()) return CheckId(*bad, fmt::format("{}[{}]", param, bad - prompt.ids.begin()), model);
  if (request.truncate_prompt_tokens && prompt.ids.size() > static_cast<size_t>(*request.truncate_prompt_tokens)) {
    prompt.ids.erase(prompt.ids.begin(), prompt.ids.end() - *request.truncate_prompt_tokens);
  }
  OPTSERVE_RETURN_IF_ERROR(CheckLength(static_cast<int64_t>(prompt.ids.size()), request, param, model));
  if (request.echo && prompt.offsets.empty()) DecodeForEcho(prompt);
  return prompt;
}

}  // namespace

absl::StatusOr<std::vector<PreparedPrompt>> PreparePrompts(const CompletionRequest& request, const Tokenizer* tokenizer,
                                                           const ModelInfo& model) {
  OPTSERVE_RETURN_IF_ERROR(CheckOtherIds(request, model));
  if (tokenizer == nullptr && !request.stop.empty()) return TokenizerMissing("stop");
  std::vector<PreparedPrompt> prompts;
  prompts.reserve(request.prompts.size());
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    OPTSERVE_ASSIGN_OR_RETURN(PreparedPrompt prompt,
                              Prepare(request.prompts[i], request, PromptPath(request, i), tokenizer, model));
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace optserve
