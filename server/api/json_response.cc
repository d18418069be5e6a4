#include "server/api/json_response.h"

#include "server/api/error_codec.h"
#include "server/api/json_writer.h"

namespace optserve {
namespace {

// Appends [a,b,...], each element by `append`.
template <typename Range, typename Append>
void AppendList(std::string& json, const Range& range, Append append) {
  json += '[';
  bool is_first = true;
  for (const auto& element : range) {
    if (!is_first) json += ',';
    is_first = false;
    append(element);
  }
  json += ']';
}

void AppendIds(std::string& json, std::span<const int32_t> ids) {
  AppendList(json, ids, [&](int32_t id) { AppendJsonInt(json, id); });
}

void AppendLogprobOrNull(std::string& json, const ShownToken& token) {
  if (token.logprob) {
    AppendJsonLogprob(json, *token.logprob);
  } else {
    json += "null";
  }
}

// {"token": logprob, ...}
void AppendTop(std::string& json, const LogprobEntry& entry) {
  if (!entry.token.logprob) {
    json += "null";
    return;
  }
  json += '{';
  bool is_first = true;
  for (const ShownToken& token : entry.top) {
    if (!is_first) json += ',';
    is_first = false;
    AppendJsonString(json, token.text);
    json += ':';
    AppendLogprobOrNull(json, token);
  }
  json += '}';
}

void AppendLogprobs(std::string& json, std::span<const LogprobEntry> entries) {
  json += R"({"tokens":)";
  AppendList(json, entries, [&](const LogprobEntry& entry) { AppendJsonString(json, entry.token.text); });
  json += R"(,"token_logprobs":)";
  AppendList(json, entries, [&](const LogprobEntry& entry) { AppendLogprobOrNull(json, entry.token); });
  json += R"(,"top_logprobs":)";
  AppendList(json, entries, [&](const LogprobEntry& entry) { AppendTop(json, entry); });
  json += R"(,"text_offset":)";
  AppendList(json, entries, [&](const LogprobEntry& entry) { AppendJsonInt(json, entry.text_offset); });
  json += '}';
}

// As vLLM prints them: null, then {"id": {"logprob", "decoded_token"}} with the prompt's own token among them.
void AppendPromptLogprobs(std::string& json, std::span<const std::optional<LogprobEntry>> entries) {
  AppendList(json, entries, [&](const std::optional<LogprobEntry>& entry) {
    if (!entry) {
      json += "null";
      return;
    }
    json += '{';
    bool is_first = true;
    for (const ShownToken& token : entry->top) {
      if (!is_first) json += ',';
      is_first = false;
      json += '"';
      AppendJsonInt(json, token.id);
      json += R"(":{"logprob":)";
      AppendLogprobOrNull(json, token);
      json += R"(,"decoded_token":)";
      AppendJsonString(json, token.text);
      json += '}';
    }
    json += '}';
  });
}

void AppendFinish(std::string& json, const CompletionEvent& event) {
  switch (event.finish) {
    case FinishReason::kStop:
      json += R"(,"finish_reason":"stop")";
      break;
    case FinishReason::kLength:
      json += R"(,"finish_reason":"length")";
      break;
    default:
      json += R"(,"finish_reason":null)";
  }
  json += R"(,"stop_reason":)";
  if (const auto* text = std::get_if<std::string>(&event.stop_reason)) {
    AppendJsonString(json, *text);
  } else if (const auto* id = std::get_if<int32_t>(&event.stop_reason)) {
    AppendJsonInt(json, *id);
  } else {
    json += "null";
  }
}

void AppendChoice(std::string& json, const CompletionFormat& format, const CompletionEvent& event,
                  bool is_first_piece) {
  json += R"({"index":)";
  AppendJsonInt(json, event.index);
  json += R"(,"text":)";
  AppendJsonString(json, event.text);
  json += R"(,"logprobs":)";
  if (format.logprobs) {
    AppendLogprobs(json, event.logprobs);
  } else {
    json += "null";
  }
  AppendFinish(json, event);
  if (format.token_ids) {
    json += R"(,"token_ids":)";
    AppendIds(json, event.token_ids);
    if (is_first_piece) {
      json += R"(,"prompt_token_ids":)";
      AppendIds(json, event.prompt_token_ids);
    }
  }
  if (format.prompt_logprobs && is_first_piece) {
    json += R"(,"prompt_logprobs":)";
    AppendPromptLogprobs(json, event.prompt_logprobs);
  }
  json += '}';
}

void AppendUsage(std::string& json, const Usage& usage) {
  json += R"({"prompt_tokens":)";
  AppendJsonInt(json, usage.prompt_tokens);
  json += R"(,"completion_tokens":)";
  AppendJsonInt(json, usage.completion_tokens);
  json += R"(,"total_tokens":)";
  AppendJsonInt(json, int64_t{usage.prompt_tokens} + usage.completion_tokens);
  json += R"(,"prompt_tokens_details":{"cached_tokens":)";
  AppendJsonInt(json, usage.cached_tokens);
  json += "}}";
}

// The object's beginning, up to its choices.
void AppendHead(std::string& json, const CompletionHead& head) {
  json += R"({"id":)";
  AppendJsonString(json, head.id);
  json += R"(,"object":"text_completion","created":)";
  AppendJsonInt(json, head.created);
  json += R"(,"model":)";
  AppendJsonString(json, head.model);
  json += R"(,"system_fingerprint":)";
  AppendJsonStringOrNull(json, head.system_fingerprint);
  json += R"(,"choices":)";
}

void AppendTokenOrNull(std::string& json, const Tokenizer& tokenizer, std::optional<int32_t> id) {
  AppendJsonStringOrNull(json, id ? tokenizer.TokenText(*id) : std::string());
}

}  // namespace

CompletionFormat FormatOf(const CompletionRequest& request) {
  return {.logprobs = request.logprobs.has_value(),
          .prompt_logprobs = request.prompt_logprobs.has_value(),
          .token_ids = request.return_token_ids,
          .include_usage = request.include_usage,
          .continuous_usage_stats = request.continuous_usage_stats};
}

std::string EncodeCompletion(const CompletionHead& head, const CompletionFormat& format,
                             std::span<const CompletionEvent> choices, const Usage& usage) {
  std::string json;
  AppendHead(json, head);
  AppendList(json, choices,
             [&](const CompletionEvent& choice) { AppendChoice(json, format, choice, /*is_first_piece=*/true); });
  json += R"(,"usage":)";
  AppendUsage(json, usage);
  json += '}';
  return json;
}

void AppendChunk(std::string& sse, const CompletionHead& head, const CompletionFormat& format,
                 const CompletionEvent& event) {
  sse += "data: ";
  AppendHead(sse, head);
  sse += '[';
  const bool is_first_piece = !event.prompt_token_ids.empty() || !event.prompt_logprobs.empty();
  AppendChoice(sse, format, event, is_first_piece);
  sse += ']';
  if (format.continuous_usage_stats) {
    sse += R"(,"usage":)";
    AppendUsage(sse, event.usage);
  } else if (format.include_usage) {
    sse += R"(,"usage":null)";
  }
  sse += "}\n\n";
}

void AppendStreamEnd(std::string& sse, const CompletionHead& head, const CompletionFormat& format, const Usage& usage) {
  if (format.include_usage) {
    sse += "data: ";
    AppendHead(sse, head);
    sse += R"([],"usage":)";
    AppendUsage(sse, usage);
    sse += "}\n\n";
  }
  sse += "data: [DONE]\n\n";
}

void AppendStreamError(std::string& sse, const absl::Status& error) {
  sse += "data: ";
  sse += ToHttpError(error).body;
  sse += "\n\ndata: [DONE]\n\n";
}

std::string EncodeModel(const ModelEntry& model) {
  std::string json = R"({"id":)";
  AppendJsonString(json, model.id);
  json += R"(,"object":"model","created":)";
  AppendJsonInt(json, model.created);
  json += R"(,"owned_by":"optserve","max_model_len":)";
  AppendJsonInt(json, model.max_model_len);
  json += '}';
  return json;
}

std::string EncodeModels(std::span<const ModelEntry> models) {
  std::string json = R"({"object":"list","data":)";
  AppendList(json, models, [&](const ModelEntry& model) { json += EncodeModel(model); });
  json += '}';
  return json;
}

std::string EncodeTokenizeResponse(std::span<const int32_t> tokens, int32_t max_model_len) {
  std::string json = R"({"tokens":)";
  AppendIds(json, tokens);
  json += R"(,"count":)";
  AppendJsonInt(json, static_cast<int64_t>(tokens.size()));
  json += R"(,"max_model_len":)";
  AppendJsonInt(json, max_model_len);
  json += '}';
  return json;
}

std::string EncodeDetokenizeResponse(std::string_view text) {
  std::string json = R"({"prompt":)";
  AppendJsonString(json, text);
  json += '}';
  return json;
}

std::string EncodeTokenizerInfo(const Tokenizer& tokenizer, int32_t max_model_len) {
  std::string json = R"({"tokenizer_class":"GPT2Tokenizer","bos_token":)";
  AppendTokenOrNull(json, tokenizer, tokenizer.bos_id());
  json += R"(,"eos_token":)";
  AppendTokenOrNull(json, tokenizer, tokenizer.eos_id());
  json += R"(,"pad_token":)";
  AppendTokenOrNull(json, tokenizer, tokenizer.pad_id());
  json += R"(,"unk_token":)";
  AppendTokenOrNull(json, tokenizer, tokenizer.unk_id());
  json += R"(,"add_bos_token":)";
  json += tokenizer.adds_bos() ? "true" : "false";
  json += R"(,"vocab_size":)";
  AppendJsonInt(json, tokenizer.size());
  json += R"(,"max_model_len":)";
  AppendJsonInt(json, max_model_len);
  json += '}';
  return json;
}

}  // namespace optserve
