#include "server/api/field_schema.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "server/api/json_writer.h"

namespace optserve {
namespace {

void AppendNumber(std::string& json, std::string_view key, double value) {
  json += fmt::format(R"(,"{}":{})", key, value);
}

void AppendBounds(std::string& json, const FieldBounds& bounds) {
  if (std::isfinite(bounds.min)) AppendNumber(json, bounds.excludes_min ? "exclusiveMinimum" : "minimum", bounds.min);
  if (bounds.max < std::numeric_limits<float>::max()) AppendNumber(json, "maximum", bounds.max);
}

void AppendMaxSize(std::string& json, std::string_view key, const FieldBounds& bounds) {
  if (bounds.max_size == std::numeric_limits<size_t>::max()) return;
  json += fmt::format(R"(,"{}":{})", key, bounds.max_size);
}

// Appends what a field's target says; the overloads are FieldTarget's alternatives. Each begins with "type" or "anyOf".
struct SchemaAppender {
  std::string& json;
  const FieldBounds& bounds;

  void operator()(bool CompletionRequest::*) const { json += R"("type":["boolean","null"])"; }
  void operator()(int32_t CompletionRequest::*) const { Number("integer"); }
  void operator()(float CompletionRequest::*) const { Number("number"); }
  void operator()(std::optional<int32_t> CompletionRequest::*) const { Number("integer"); }
  void operator()(std::optional<int64_t> CompletionRequest::*) const {
    Number("integer");
    json += R"(,"minimum":-9223372036854775808,"maximum":9223372036854775807)";
  }
  void operator()(std::optional<double> CompletionRequest::*) const { Number("number"); }
  void operator()(std::string CompletionRequest::*) const {
    json += R"("type":["string","null"])";
    AppendMaxSize(json, "maxLength", bounds);
  }
  void operator()(std::vector<int32_t> CompletionRequest::*) const {
    json += R"("type":["array","null"],"items":)";
    AppendIdSchema();
    AppendMaxSize(json, "maxItems", bounds);
  }
  void operator()(PromptField) const {
    json +=
        R"("anyOf":[{"type":"string","minLength":1},)"
        R"({"type":"array","minItems":1,"items":{"type":"string","minLength":1}},{"type":"array","minItems":1,"items":)";
    AppendIdSchema();
    json += R"(},{"type":"array","minItems":1,"items":{"type":"array","minItems":1,"items":)";
    AppendIdSchema();
    json += "}}]";
  }
  void operator()(StopField) const {
    json +=
        R"("anyOf":[{"type":["string","null"],"minLength":1},{"type":"array","items":{"type":"string","minLength":1})";
    AppendMaxSize(json, "maxItems", bounds);
    json += "}]";
  }
  void operator()(LogitBiasField) const {
    json += R"("type":["object","null"],"propertyNames":{"pattern":"^(0|[1-9][0-9]*)$"},)"
            R"("additionalProperties":{"type":"number")";
    AppendBounds(json, bounds);
    json += '}';
    AppendMaxSize(json, "maxProperties", bounds);
  }
  void operator()(StreamOptionsField) const {
    json += R"("type":["object","null"],"additionalProperties":false,"properties":{)";
    bool is_first = true;
    for (const auto& [name, member] : StreamOptionFields()) {
      json += fmt::format(R"({}"{}":{{"type":["boolean","null"]}})", is_first ? "" : ",", name);
      is_first = false;
    }
    json += '}';
  }
  void operator()(MetadataField) const { json += R"("type":["object","null"])"; }
  void operator()(UnsupportedField) const { json += R"("type":"null")"; }

 private:
  void Number(std::string_view type) const {
    json += fmt::format(R"("type":["{}","null"])", type);
    AppendBounds(json, bounds);
  }

  void AppendIdSchema() const { json += R"({"type":"integer","minimum":0,"maximum":2147483647})"; }
};

}  // namespace

void AppendFieldSchema(std::string& json, const CompletionField& field) {
  json += '{';
  std::visit(SchemaAppender{.json = json, .bounds = field.bounds}, field.target);
  if (!std::holds_alternative<PromptField>(field.target)) {
    json += R"(,"default":)";
    json += field.default_json;
  }
  json += R"(,"description":)";
  AppendJsonString(json, field.description);
  json += '}';
}

std::string EncodeCapabilities(std::string_view version, std::string_view model, std::span<const NamedLimit> limits) {
  std::string json = R"({"object":"capabilities","version":)";
  AppendJsonString(json, version);
  json += R"(,"model":)";
  AppendJsonString(json, model);
  json += R"(,"limits":{)";
  for (const NamedLimit& limit : limits) {
    if (&limit != limits.data()) json += ',';
    AppendJsonString(json, limit.name);
    json += ':';
    AppendJsonInt(json, limit.value);
  }
  json += R"(},"fields":{)";
  bool is_first = true;
  for (const CompletionField& field : CompletionFields()) {
    if (std::holds_alternative<UnsupportedField>(field.target)) continue;
    if (!is_first) json += ',';
    is_first = false;
    AppendJsonString(json, field.name);
    json += ':';
    AppendFieldSchema(json, field);
  }
  json += "}}";
  return json;
}

}  // namespace optserve
