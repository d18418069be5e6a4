#include "tests/fuzz/request_forms.h"

#include <algorithm>

namespace optserve::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;
using Json = nlohmann::json;
using Request = CompletionRequest;

// Writes one field; the overloads are FieldTarget's alternatives.
struct JsonWriter {
  const Request& request;
  Json& out;

  template <typename T>
  void operator()(T Request::*member) const {
    out = request.*member;
  }
  template <typename T>
  void operator()(std::optional<T> Request::*member) const {
    if (request.*member) out = *(request.*member);
  }
  void operator()(PromptField) const {
    out = Json::array();
    for (const Prompt& prompt : request.prompts) {
      std::visit([&](const auto& value) { out.push_back(value); }, prompt);
    }
  }
  void operator()(StopField) const { out = request.stop; }
  void operator()(LogitBiasField) const {
    out = Json::object();
    for (const auto& [id, bias] : request.logit_bias) out[std::to_string(id)] = bias;
  }
  void operator()(StreamOptionsField) const {
    if (!request.has_stream_options) return;
    out = Json::object();
    for (const auto& [name, member] : StreamOptionFields()) out[std::string(name)] = request.*member;
  }
  void operator()(MetadataField) const {}
  void operator()(UnsupportedField) const {}
};

struct MessageWriter {
  const Request& request;
  v1::CompletionRequest& message;
  const FieldDescriptor* field;
  const Reflection& reflection;

  void Set(bool value) const { reflection.SetBool(&message, field, value); }
  void Set(int32_t value) const { reflection.SetInt32(&message, field, value); }
  void Set(int64_t value) const { reflection.SetInt64(&message, field, value); }
  void Set(float value) const { reflection.SetFloat(&message, field, value); }
  void Set(double value) const { reflection.SetDouble(&message, field, value); }
  void Set(const std::string& value) const { reflection.SetString(&message, field, value); }
  void Set(const std::vector<int32_t>& values) const {
    for (const int32_t value : values) reflection.AddInt32(&message, field, value);
  }

  template <typename T>
  void operator()(T Request::*member) const {
    Set(request.*member);
  }
  template <typename T>
  void operator()(std::optional<T> Request::*member) const {
    if (request.*member) Set(*(request.*member));
  }
  void operator()(PromptField) const {
    for (const Prompt& prompt : request.prompts) {
      v1::Prompt& added = *message.add_prompt();
      if (const auto* text = std::get_if<std::string>(&prompt)) {
        added.set_text(*text);
      } else {
        const auto& ids = std::get<std::vector<int32_t>>(prompt);
        added.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
      }
    }
  }
  void operator()(StopField) const { message.mutable_stop()->Add(request.stop.begin(), request.stop.end()); }
  void operator()(LogitBiasField) const {
    for (const auto& [id, bias] : request.logit_bias) (*message.mutable_logit_bias())[id] = bias;
  }
  void operator()(StreamOptionsField) const {
    if (!request.has_stream_options) return;
    v1::StreamOptions& options = *message.mutable_stream_options();
    options.set_include_usage(request.include_usage);
    options.set_continuous_usage_stats(request.continuous_usage_stats);
  }
  void operator()(MetadataField) const {}
  void operator()(UnsupportedField) const {}
};

}  // namespace

std::string ToJson(const CompletionRequest& request) {
  Json json = Json::object();
  for (const CompletionField& field : CompletionFields()) {
    Json value;
    std::visit(JsonWriter{.request = request, .out = value}, field.target);
    json[std::string(field.name)] = std::move(value);
  }
  return json.dump();
}

v1::CompletionRequest ToMessage(const CompletionRequest& request) {
  v1::CompletionRequest message;
  for (const CompletionField& field : CompletionFields()) {
    const FieldDescriptor* descriptor = message.GetDescriptor()->FindFieldByName(std::string(field.name));
    if (descriptor == nullptr) continue;  // `stream` and `suffix`
    std::visit(MessageWriter{request, message, descriptor, *message.GetReflection()}, field.target);
  }
  return message;
}

bool MeanTheSame(CompletionRequest a, CompletionRequest b) {
  for (CompletionRequest* request : {&a, &b}) {
    request->prompt_is_list = true;
    std::sort(request->logit_bias.begin(), request->logit_bias.end());
  }
  return a == b;
}

}  // namespace optserve::fuzz
