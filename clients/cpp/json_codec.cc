#include "clients/cpp/json_codec.h"

#include <fmt/format.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace optserve::client {
namespace {

// Ordered, because the order of `top_logprobs` is the tokens' rank.
using Json = nlohmann::ordered_json;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// --- requests --------------------------------------------------------------------------------------------------------

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// The double that prints as short as the float: 0.7, not 0.699999988079071.
double ShortestDouble(float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); }

Json FieldsOf(const Message& message);

Json ValueOf(const Message& message, const FieldDescriptor& field) {
  const google::protobuf::Reflection& read = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return read.GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_INT32:
      return read.GetInt32(message, &field);
    case FieldDescriptor::CPPTYPE_INT64:
      return read.GetInt64(message, &field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return ShortestDouble(read.GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return read.GetDouble(message, &field);
    case FieldDescriptor::CPPTYPE_STRING:
      return read.GetString(message, &field);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return FieldsOf(read.GetMessage(message, &field));
    default:
      return nullptr;
  }
}

Json ListOf(const Message& message, const FieldDescriptor& field) {
  const google::protobuf::Reflection& read = *message.GetReflection();
  Json list = Json::array();
  for (int i = 0; i < read.FieldSize(message, &field); ++i) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
      list.push_back(read.GetRepeatedInt32(message, &field, i));
    } else {
      list.push_back(read.GetRepeatedString(message, &field, i));
    }
  }
  return list;
}

// {"field": value} of what is set, by reflection, so that a field that is added to the .proto is sent. Maps and
// repeated messages are the caller's.
Json FieldsOf(const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  Json json = Json::object();
  for (const FieldDescriptor* field : fields) {
    if (field->is_map() || (field->is_repeated() && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)) continue;
    json[field->name()] = field->is_repeated() ? ListOf(message, *field) : ValueOf(message, *field);
  }
  return json;
}

absl::StatusOr<Json> Prompts(const v1::CompletionRequest& request) {
  Json prompts = Json::array();
  for (const v1::Prompt& prompt : request.prompt()) {
    if (prompt.prompt_case() != request.prompt(0).prompt_case()) {
      return absl::InvalidArgumentError("prompt mixes texts and token ids, which HTTP cannot carry; gRPC can");
    }
    if (prompt.has_token_ids()) {
      prompts.push_back(Json(prompt.token_ids().ids()));
    } else {
      prompts.push_back(prompt.text());
    }
  }
  return prompts;
}

// --- answers; the readers throw nlohmann's exceptions, which Decode turns into a Status
// --------------------------------

absl::Status Malformed(std::string_view why) {
  return absl::InternalError(absl::StrCat("the server's answer is not what the API says: ", std::string(why)));
}

template <typename Read>
absl::Status Decode(std::string_view body, Read read) {
  try {
    const Json json = Json::parse(body);
    if (!json.is_object()) return Malformed("it is no JSON object");
    return read(json);
  } catch (const nlohmann::json::exception& error) {
    return Malformed(error.what());
  }
}

// The member of an object, or null if it is absent or null.
const Json* Member(const Json& json, const char* name) {
  (void)json.get_ref<const Json::object_t&>();  // throws for what is none
  const auto found = json.find(name);
  return found == json.end() || found->is_null() ? nullptr : &*found;
}

template <typename T>
T MemberOr(const Json& json, const char* name, T otherwise) {
  const Json* member = Member(json, name);
  return member == nullptr ? std::move(otherwise) : member->get<T>();
}

template <typename Ids>
void ReadIds(const Json& json, const char* name, Ids* ids) {
  const Json* list = Member(json, name);
  if (list == nullptr) return;
  for (const Json& id : list->get_ref<const Json::array_t&>()) ids->Add(id.get<int32_t>());
}

// N of "token_id:N", which stands for tokens under return_tokens_as_token_ids; else -1.
int32_t IdIn(std::string_view token) {
  constexpr std::string_view kPrefix = "token_id:";
  if (!token.starts_with(kPrefix)) return -1;
  token.remove_prefix(kPrefix.size());
  int32_t id = -1;
  std::from_chars(token.data(), token.data() + token.size(), id);
  return id;
}

v1::TokenLogprob TokenOf(const std::string& text, const Json& logprob) {
  v1::TokenLogprob token;
  token.set_token(text);
  token.set_token_id(IdIn(text));
  if (!logprob.is_null()) token.set_logprob(logprob.get<float>());
  return token;
}

// The four parallel lists, with the ids of those whose ids the choice tells: the prompt's at the front, the generated
// ones' at the end.
void ReadLogprobs(const Json& json, v1::Choice& choice) {
  const Json& tokens = json.at("tokens");
  const Json& top = json.at("top_logprobs");
  for (size_t i = 0; i < tokens.size(); ++i) {
    v1::TokenScore& score = *choice.add_logprobs();
    *score.mutable_token() = TokenOf(tokens.at(i).get<std::string>(), json.at("token_logprobs").at(i));
    score.set_text_offset(json.at("text_offset").at(i).get<int32_t>());
    if (top.is_null() || top.at(i).is_null()) continue;
    for (const auto& [text, logprob] : top.at(i).items()) *score.add_top() = TokenOf(text, logprob);
  }
  const int entries = choice.logprobs_size();
  const int generated = std::min(choice.token_ids_size(), entries);
  for (int i = 0; i < generated; ++i) {
    choice.mutable_logprobs(entries - generated + i)->mutable_token()->set_token_id(choice.token_ids(i));
  }
  for (int i = 0; i < entries - generated && i < choice.prompt_token_ids_size(); ++i) {
    choice.mutable_logprobs(i)->mutable_token()->set_token_id(choice.prompt_token_ids(i));
  }
}

// For each token of the prompt null or {"id": {"logprob", "decoded_token"}}, best first. Which of them is the prompt's
// own is known if the choice tells the prompt's ids.
void ReadPromptLogprobs(const Json& json, v1::Choice& choice) {
  for (const Json& entry : json.get_ref<const Json::array_t&>()) {
    v1::TokenScore& score = *choice.add_prompt_logprobs();
    if (entry.is_null()) continue;
    const int position = choice.prompt_logprobs_size() - 1;
    for (const auto& [id, value] : entry.items()) {
      v1::TokenLogprob& token = *score.add_top();
      token.set_token_id(std::atoi(id.c_str()));
      token.set_token(value.at("decoded_token").get<std::string>());
      token.set_logprob(value.at("logprob").get<float>());
      if (position < choice.prompt_token_ids_size() && choice.prompt_token_ids(position) == token.token_id()) {
        *score.mutable_token() = token;
      }
    }
  }
}

v1::FinishReason FinishReasonOf(std::string_view text) {
  if (text == "stop") return v1::FINISH_REASON_STOP;
  if (text == "length") return v1::FINISH_REASON_LENGTH;
  return v1::FINISH_REASON_UNSPECIFIED;
}

void ReadChoice(const Json& json, v1::Choice& choice) {
  choice.set_index(MemberOr<int32_t>(json, "index", 0));
  choice.set_text(json.at("text").get<std::string>());
  choice.set_finish_reason(FinishReasonOf(MemberOr<std::string>(json, "finish_reason", "")));
  if (const Json* reason = Member(json, "stop_reason"); reason != nullptr && reason->is_string()) {
    choice.set_stop_string(reason->get<std::string>());
  } else if (reason != nullptr) {
    choice.set_stop_token_id(reason->get<int32_t>());
  }
  ReadIds(json, "token_ids", choice.mutable_token_ids());
  ReadIds(json, "prompt_token_ids", choice.mutable_prompt_token_ids());
  if (const Json* logprobs = Member(json, "logprobs")) ReadLogprobs(*logprobs, choice);
  if (const Json* logprobs = Member(json, "prompt_logprobs")) ReadPromptLogprobs(*logprobs, choice);
}

void ReadUsage(const Json& json, v1::Usage& usage) {
  usage.set_prompt_tokens(MemberOr<int32_t>(json, "prompt_tokens", 0));
  usage.set_completion_tokens(MemberOr<int32_t>(json, "completion_tokens", 0));
  usage.set_total_tokens(MemberOr<int32_t>(json, "total_tokens", 0));
  if (const Json* details = Member(json, "prompt_tokens_details")) {
    usage.set_cached_tokens(MemberOr<int32_t>(*details, "cached_tokens", 0));
  }
}

// What CompletionResponse and CompletionEvent have in common, which is all of them.
template <typename Answer>
void ReadAnswer(const Json& json, Answer& answer) {
  answer.set_id(MemberOr<std::string>(json, "id", ""));
  answer.set_created(MemberOr<int64_t>(json, "created", 0));
  answer.set_model(MemberOr<std::string>(json, "model", ""));
  answer.set_system_fingerprint(MemberOr<std::string>(json, "system_fingerprint", ""));
  for (const Json& choice : json.at("choices").get_ref<const Json::array_t&>()) {
    ReadChoice(choice, *answer.add_choices());
  }
  if (const Json* usage = Member(json, "usage")) ReadUsage(*usage, *answer.mutable_usage());
}

// --- errors ----------------------------------------------------------------------------------------------------------

absl::StatusCode CodeOfHttp(int http_status) {
  switch (http_status) {
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 405:
    case 501:
      return absl::StatusCode::kUnimplemented;
    case 408:
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    case 429:
      return absl::StatusCode::kResourceExhausted;
    case 502:
    case 503:
      return absl::StatusCode::kUnavailable;
    default:
      if (http_status >= 500) return absl::StatusCode::kInternal;
      return http_status >= 400 ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kUnknown;
  }
}

// Of an error event, which has no status: as server/README.md pairs types and statuses.
absl::StatusCode CodeOfEvent(std::string_view type, std::string_view code) {
  if (type == "invalid_request_error") {
    return code == "cancelled" ? absl::StatusCode::kCancelled : absl::StatusCode::kInvalidArgument;
  }
  if (type == "rate_limit_exceeded") return absl::StatusCode::kResourceExhausted;
  if (type == "service_unavailable") return absl::StatusCode::kUnavailable;
  if (code == "deadline_exceeded") return absl::StatusCode::kDeadlineExceeded;
  return absl::StatusCode::kInternal;
}

struct ErrorObject {
  std::string message;
  std::string type;
  std::string code;
  std::string param;
};

// Leniently: other servers put numbers into `code`, or say {"error": "text"}.
std::optional<ErrorObject> ReadErrorObject(const Json& json) {
  const Json* error = json.is_object() ? Member(json, "error") : nullptr;
  if (error == nullptr) return std::nullopt;
  if (!error->is_object()) return ErrorObject{.message = error->is_string() ? error->get<std::string>() : Dump(*error)};
  const auto text = [&](const char* name) {
    const Json* member = Member(*error, name);
    if (member == nullptr) return std::string();
    return member->is_string() ? member->get<std::string>() : Dump(*member);
  };
  return ErrorObject{.message = text("message"), .type = text("type"), .code = text("code"), .param = text("param")};
}

std::string FirstLine(std::string_view body) {
  constexpr size_t kMaxBytes = 200;
  std::string line(body.substr(0, std::min(body.find_first_of("\r\n"), kMaxBytes)));
  for (char& byte : line) {
    if (static_cast<unsigned char>(byte) < ' ') byte = ' ';
  }
  return line;
}

}  // namespace

absl::StatusOr<std::string> EncodeCompletion(const v1::CompletionRequest& request, bool stream) {
  Json json = FieldsOf(request);
  absl::StatusOr<Json> prompts = Prompts(request);
  if (!prompts.ok()) return prompts.status();
  json["prompt"] = *std::move(prompts);
  for (const auto& [id, bias] : request.logit_bias()) json["logit_bias"][std::to_string(id)] = ShortestDouble(bias);
  for (const auto& [key, value] : request.metadata()) json["metadata"][key] = value;
  if (stream) json["stream"] = true;
  return Dump(json);
}

std::string EncodeTokenize(const v1::TokenizeRequest& request) { return Dump(FieldsOf(request)); }

std::string EncodeDetokenize(const v1::DetokenizeRequest& request) {
  Json json = FieldsOf(request);
  if (!json.contains("tokens")) json["tokens"] = Json::array();
  return Dump(json);
}

absl::StatusOr<v1::CompletionResponse> DecodeCompletion(std::string_view body) {
  v1::CompletionResponse response;
  const absl::Status status = Decode(body, [&](const Json& json) {
    ReadAnswer(json, response);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return response;
}

absl::Status DecodeEvent(std::string_view data, v1::CompletionEvent& event) {
  return Decode(data, [&](const Json& json) -> absl::Status {
    const std::optional<ErrorObject> error = ReadErrorObject(json);
    if (!error) {
      ReadAnswer(json, event);
      return absl::OkStatus();
    }
    return WithErrorInfo(absl::Status(CodeOfEvent(error->type, error->code), error->message),
                         {.code = error->code, .param = error->param});
  });
}

absl::StatusOr<v1::TokenizeResponse> DecodeTokenize(std::string_view body) {
  v1::TokenizeResponse response;
  const absl::Status status = Decode(body, [&](const Json& json) {
    json.at("tokens");
    ReadIds(json, "tokens", response.mutable_tokens());
    response.set_count(MemberOr<int32_t>(json, "count", response.tokens_size()));
    response.set_max_model_len(MemberOr<int32_t>(json, "max_model_len", 0));
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> DecodeDetokenize(std::string_view body) {
  v1::DetokenizeResponse response;
  const absl::Status status = Decode(body, [&](const Json& json) {
    response.set_prompt(json.at("prompt").get<std::string>());
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::ListModelsResponse> DecodeModels(std::string_view body) {
  v1::ListModelsResponse response;
  const absl::Status status = Decode(body, [&](const Json& json) {
    for (const Json& item : json.at("data").get_ref<const Json::array_t&>()) {
      v1::Model& model = *response.add_models();
      model.set_id(item.at("id").get<std::string>());
      model.set_created(MemberOr<int64_t>(item, "created", 0));
      model.set_owned_by(MemberOr<std::string>(item, "owned_by", ""));
      model.set_max_model_len(MemberOr<int32_t>(item, "max_model_len", 0));
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return response;
}

absl::Status DecodeError(int http_status, std::string_view body, ErrorInfo info) {
  info.http_status = http_status;
  std::string message = FirstLine(body);
  const std::optional<ErrorObject> error = ReadErrorObject(Json::parse(body, nullptr, /*allow_exceptions=*/false));
  if (error) {
    message = error->message;
    info.code = error->code;
    info.param = error->param;
  }
  if (message.empty()) message = absl::StrCat("HTTP status ", http_status);
  return WithErrorInfo(absl::Status(CodeOfHttp(http_status), message), info);
}

}  // namespace optserve::client
