#include "server/api/proto_codec.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/api/error_codec.h"

namespace optserve {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Request = CompletionRequest;

absl::Status Bad(std::string_view param, std::string message) {
  return WithParam(absl::InvalidArgumentError(message), param);
}

// InvalidArgument if `message`, or a message in it, has a field that our .proto does not. `path` is where it stands.
absl::Status CheckNoUnknownFields(const Message& message, const std::string& path) {
  const Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty()) {
    const std::string param = fmt::format("{}{}{}", path, path.empty() ? "" : ".", unknown.field(0).number());
    return Bad(param, fmt::format("{} has no field number {}; this server may be older than its client",
                                  message.GetDescriptor()->name(), unknown.field(0).number()));
  }
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_map()) continue;  // map entries keep none
    const std::string name = path.empty() ? field->name() : fmt::format("{}.{}", path, field->name());
    if (!field->is_repeated()) {
      OPTSERVE_RETURN_IF_ERROR(CheckNoUnknownFields(reflection.GetMessage(message, field), name));
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      OPTSERVE_RETURN_IF_ERROR(
          CheckNoUnknownFields(reflection.GetRepeatedMessage(message, field, i), fmt::format("{}[{}]", name, i)));
    }
  }
  return absl::OkStatus();
}

// Copies one field of a message into a request; the overloads are FieldTarget's alternatives.
class FieldCopier {
 public:
  FieldCopier(const v1::CompletionRequest& message, const FieldDescriptor& field, Request& request)
      : message_(message), reflection_(*message.GetReflection()), field_(field), request_(request) {}

  absl::Status operator()(bool Request::*member) const { return Set(member, reflection_.GetBool(message_, &field_)); }
  absl::Status operator()(int32_t Request::*member) const {
    return Set(member, reflection_.GetInt32(message_, &field_));
  }
  absl::Status operator()(float Request::*member) const { return Set(member, reflection_.GetFloat(message_, &field_)); }
  absl::Status operator()(std::string Request::*member) const {
    return Set(member, reflection_.GetString(message_, &field_));
  }
  absl::Status operator()(std::optional<int32_t> Request::*member) const {
    return Set(member, reflection_.GetInt32(message_, &field_));
  }
  absl::Status operator()(std::optional<int64_t> Request::*member) const {
    return Set(member, reflection_.GetInt64(message_, &field_));
  }
  absl::Status operator()(std::optional<double> Request::*member) const {
    return Set(member, reflection_.GetDouble(message_, &field_));
  }
  absl::Status operator()(std::vector<int32_t> Request::*member) const {
    std::vector<int32_t> values(reflection_.FieldSize(message_, &field_));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = reflection_.GetRepeatedInt32(message_, &field_, static_cast<int>(i));
    }
    return Set(member, std::move(values));
  }

  absl::Status operator()(PromptField) const {
    request_.prompt_is_list = true;
    request_.prompts.reserve(message_.prompt_size());
    for (const v1::Prompt& prompt : message_.prompt()) {
      switch (prompt.prompt_case()) {
        case v1::Prompt::kText:
          request_.prompts.emplace_back(prompt.text());
          break;
        case v1::Prompt::kTokenIds:
          request_.prompts.emplace_back(
              std::vector<int32_t>(prompt.token_ids().ids().begin(), prompt.token_ids().ids().end()));
          break;
        case v1::Prompt::PROMPT_NOT_SET:
          const std::string param = fmt::format("prompt[{}]", request_.prompts.size());
          return Bad(param, fmt::format("{} must have text or token_ids", param));
      }
    }
    return absl::OkStatus();
  }

  absl::Status operator()(StopField) const {
    request_.stop.assign(message_.stop().begin(), message_.stop().end());
    return absl::OkStatus();
  }

  absl::Status operator()(LogitBiasField) const {
    request_.logit_bias.assign(message_.logit_bias().begin(), message_.logit_bias().end());
    return absl::OkStatus();
  }

  absl::Status operator()(StreamOptionsField) const {
    request_.has_stream_options = true;
    const v1::StreamOptions& options = message_.stream_options();
    for (const auto& [name, member] : StreamOptionFields()) {
      const FieldDescriptor* field = options.GetDescriptor()->FindFieldByName(std::string(name));
      request_.*member = options.GetReflection()->GetBool(options, field);
    }
    return absl::OkStatus();
  }

  absl::Status operator()(MetadataField) const { return absl::OkStatus(); }
  absl::Status operator()(UnsupportedField) const { return absl::OkStatus(); }

 private:
  template <typename Member, typename Value>
  absl::Status Set(Member member, Value value) const {
    request_.*member = std::move(value);
    return absl::OkStatus();
  }

  const v1::CompletionRequest& message_;
  const Reflection& reflection_;
  const FieldDescriptor& field_;
  Request& request_;
};

bool IsPresent(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  return field.is_repeated() ? reflection.FieldSize(message, &field) > 0 : reflection.HasField(message, &field);
}

// As in HTTP: long texts are the costly ones.
absl::Status CheckTextSize(size_t bytes, const RequestLimits& limits) {
  if (bytes <= limits.text_body_bytes) return absl::OkStatus();
  return WithErrorCode(
      Bad("prompt", fmt::format("prompt has {} bytes of text, the limit is {}; token ids may have more", bytes,
                                limits.text_body_bytes)),
      kRequestTooLarge);
}

float Printable(float logprob) { return std::isinf(logprob) ? -9999.0F : logprob; }

void EncodeToken(ShownToken token, v1::TokenLogprob& message) {
  message.set_token_id(token.id);
  message.set_token(std::move(token.text));
  if (token.logprob) message.set_logprob(Printable(*token.logprob));
}

void EncodeScore(LogprobEntry entry, v1::TokenScore& score) {
  EncodeToken(std::move(entry.token), *score.mutable_token());
  score.mutable_top()->Reserve(static_cast<int>(entry.top.size()));
  for (ShownToken& token : entry.top) EncodeToken(std::move(token), *score.add_top());
}

void EncodeChoice(CompletionEvent event, v1::Choice& choice) {
  choice.set_index(event.index);
  choice.set_text(std::move(event.text));
  choice.mutable_logprobs()->Reserve(static_cast<int>(event.logprobs.size()));
  for (LogprobEntry& entry : event.logprobs) {
    v1::TokenScore& score = *choice.add_logprobs();
    score.set_text_offset(entry.text_offset);
    EncodeScore(std::move(entry), score);
  }
  switch (event.finish) {
    case FinishReason::kStop:
      choice.set_finish_reason(v1::FINISH_REASON_STOP);
      break;
    case FinishReason::kLength:
      choice.set_finish_reason(v1::FINISH_REASON_LENGTH);
      break;
    default:  // goes on; the others end a call by its status
      break;
  }
  if (auto* text = std::get_if<std::string>(&event.stop_reason)) choice.set_stop_string(std::move(*text));
  if (const auto* id = std::get_if<int32_t>(&event.stop_reason)) choice.set_stop_token_id(*id);
  choice.mutable_token_ids()->Add(event.token_ids.begin(), event.token_ids.end());
  choice.mutable_prompt_token_ids()->Add(event.prompt_token_ids.begin(), event.prompt_token_ids.end());
  choice.mutable_prompt_logprobs()->Reserve(static_cast<int>(event.prompt_logprobs.size()));
  for (std::optional<LogprobEntry>& entry : event.prompt_logprobs) {
    v1::TokenScore& score = *choice.add_prompt_logprobs();
    if (entry) EncodeScore(std::move(*entry), score);
  }
}

void EncodeUsage(const Usage& usage, v1::Usage& message) {
  message.set_prompt_tokens(usage.prompt_tokens);
  message.set_completion_tokens(usage.completion_tokens);
  message.set_total_tokens(usage.prompt_tokens + usage.completion_tokens);
  message.set_cached_tokens(usage.cached_tokens);
}

template <typename M>
void EncodeHead(const CompletionHead& head, M& message) {
  message.set_id(head.id);
  message.set_created(head.created);
  message.set_model(head.model);
  message.set_system_fingerprint(head.system_fingerprint);
}

}  // namespace

absl::StatusOr<CompletionRequest> DecodeCompletionRequest(const v1::CompletionRequest& message, bool stream,
                                                          const ProtoDecodeOptions& options) {
  if (!options.ignore_unknown_fields) OPTSERVE_RETURN_IF_ERROR(CheckNoUnknownFields(message, ""));
  size_t text_bytes = 0;
  for (const v1::Prompt& prompt : message.prompt()) text_bytes += prompt.text().size();
  OPTSERVE_RETURN_IF_ERROR(CheckTextSize(text_bytes, options.limits));

  CompletionRequest request;
  const Descriptor& descriptor = *v1::CompletionRequest::descriptor();
  for (const CompletionField& field : CompletionFields()) {
    const FieldDescriptor* proto_field = descriptor.FindFieldByName(std::string(field.name));
    if (proto_field == nullptr || !IsPresent(message, *proto_field))
      continue;  // `stream` and `suffix` are not in proto
    OPTSERVE_RETURN_IF_ERROR(std::visit(FieldCopier(message, *proto_field, request), field.target));
  }
  request.stream = stream;
  OPTSERVE_RETURN_IF_ERROR(ValidateCompletionRequest(options.limits, request));
  return request;
}

absl::StatusOr<TokenizeRequest> DecodeTokenizeRequest(const v1::TokenizeRequest& message,
                                                      const ProtoDecodeOptions& options) {
  if (!options.ignore_unknown_fields) OPTSERVE_RETURN_IF_ERROR(CheckNoUnknownFields(message, ""));
  if (!message.has_prompt()) return Bad("prompt", "prompt is required");
  OPTSERVE_RETURN_IF_ERROR(CheckTextSize(message.prompt().size(), options.limits));
  TokenizeRequest request;
  request.model = message.model();
  request.prompt = message.prompt();
  if (message.has_add_special_tokens()) request.add_special_tokens = message.add_special_tokens();
  if (message.has_parse_special_tokens()) request.parse_special_tokens = message.parse_special_tokens();
  return request;
}

absl::StatusOr<DetokenizeRequest> DecodeDetokenizeRequest(const v1::DetokenizeRequest& message,
                                                          const ProtoDecodeOptions& options) {
  if (!options.ignore_unknown_fields) OPTSERVE_RETURN_IF_ERROR(CheckNoUnknownFields(message, ""));
  for (int i = 0; i < message.tokens_size(); ++i) {
    if (message.tokens(i) < 0) {
      const std::string param = fmt::format("tokens[{}]", i);
      return Bad(param, fmt::format("{} is {}, but must be at least 0", param, message.tokens(i)));
    }
  }
  return DetokenizeRequest{.model = message.model(), .tokens = {message.tokens().begin(), message.tokens().end()}};
}

void EncodeCompletion(const CompletionHead& head, std::vector<CompletionEvent> choices, const Usage& usage,
                      v1::CompletionResponse& message) {
  std::ranges::sort(choices, {}, &CompletionEvent::index);
  EncodeHead(head, message);
  message.mutable_choices()->Reserve(static_cast<int>(choices.size()));
  for (CompletionEvent& choice : choices) EncodeChoice(std::move(choice), *message.add_choices());
  EncodeUsage(usage, *message.mutable_usage());
}

void EncodeEvent(const CompletionHead& head, CompletionEvent event, bool with_usage, v1::CompletionEvent& message) {
  message.Clear();
  EncodeHead(head, message);
  if (with_usage) EncodeUsage(event.usage, *message.mutable_usage());
  EncodeChoice(std::move(event), *message.add_choices());
}

void EncodeUsageEvent(const CompletionHead& head, const Usage& usage, v1::CompletionEvent& message) {
  message.Clear();
  EncodeHead(head, message);
  EncodeUsage(usage, *message.mutable_usage());
}

}  // namespace optserve
