#include "server/tracing/otlp_json.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <iterator>

#include "server/api/json_reader.h"
#include "server/api/json_writer.h"

namespace optserve {
namespace {

// Numbers of enumerations of opentelemetry/proto/trace/v1/trace.proto.
constexpr int kKindInternal = 1;
constexpr int kKindServer = 2;
constexpr int kStatusError = 2;
constexpr unsigned kFlagSampled = 0x1;
constexpr unsigned kFlagHasIsRemote = 0x100;  // the next one is known
constexpr unsigned kFlagIsRemote = 0x200;

struct ValueWriter {
  std::string& json;

  void operator()(int64_t value) const { fmt::format_to(std::back_inserter(json), R"({{"intValue":"{}"}})", value); }
  void operator()(double value) const {
    if (std::isfinite(value)) {
      fmt::format_to(std::back_inserter(json), R"({{"doubleValue":{}}})", value);
    } else {
      (*this)(fmt::format("{}", value));  // JSON has no such numbers
    }
  }
  void operator()(bool value) const { json += value ? R"({"boolValue":true})" : R"({"boolValue":false})"; }
  void operator()(const std::string& value) const {
    json += R"({"stringValue":)";
    AppendJsonString(json, value);
    json += '}';
  }
  void operator()(const std::vector<std::string>& values) const {
    json += R"({"arrayValue":{"values":[)";
    for (size_t i = 0; i < values.size(); ++i) {
      if (i > 0) json += ',';
      (*this)(values[i]);
    }
    json += "]}}";
  }
};

void AppendAttributes(std::string& json, const SpanAttributes& attributes) {
  json += R"("attributes":[)";
  for (size_t i = 0; i < attributes.size(); ++i) {
    if (i > 0) json += ',';
    json += R"({"key":)";
    AppendJsonString(json, attributes[i].first);
    json += R"(,"value":)";
    std::visit(ValueWriter{json}, attributes[i].second);
    json += '}';
  }
  json += ']';
}

void AppendSpan(std::string& json, const Span& span) {
  json += fmt::format(R"({{"traceId":"{}","spanId":"{}",)", Hex(span.context.trace_id), Hex(span.context.span_id));
  if (span.parent != SpanId{}) json += fmt::format(R"("parentSpanId":"{}",)", Hex(span.parent));
  if (!span.context.state.empty()) {
    json += R"("traceState":)";
    AppendJsonString(json, span.context.state);
    json += ',';
  }
  unsigned flags = kFlagHasIsRemote;
  if (span.context.sampled) flags |= kFlagSampled;
  if (span.has_remote_parent) flags |= kFlagIsRemote;
  json += R"("name":)";
  AppendJsonString(json, span.name);
  json += fmt::format(R"(,"flags":{},"kind":{},"startTimeUnixNano":"{}","endTimeUnixNano":"{}",)", flags,
                      span.is_server ? kKindServer : kKindInternal, span.begin_ns, span.end_ns);
  AppendAttributes(json, span.attributes);
  if (span.failed) json += fmt::format(R"(,"status":{{"code":{}}})", kStatusError);
  json += '}';
}

}  // namespace

std::string EncodeTraces(std::span<const Span> spans, const SpanAttributes& resource, std::string_view version) {
  std::string json = R"({"resourceSpans":[{"resource":{)";
  AppendAttributes(json, resource);
  json += R"(},"scopeSpans":[{"scope":{"name":"optserve","version":)";
  AppendJsonString(json, version);
  json += R"(},"spans":[)";
  for (size_t i = 0; i < spans.size(); ++i) {
    if (i > 0) json += ',';
    AppendSpan(json, spans[i]);
  }
  json += "]}]}]}";
  return json;
}

int64_t RejectedSpans(std::string_view response) {
  JsonReader reader(response);
  int64_t rejected = 0;
  std::string key;
  if (reader.Peek() != JsonReader::Kind::kObject || !reader.EnterObject()) return 0;
  while (reader.NextKey(key)) {
    if (key != "partialSuccess" || reader.Peek() != JsonReader::Kind::kObject || !reader.EnterObject()) {
      reader.Skip();
      continue;
    }
    while (reader.NextKey(key)) {
      if (key != "rejectedSpans") {
        reader.Skip();
      } else if (reader.Peek() == JsonReader::Kind::kString) {
        std::string text;
        if (reader.ReadString(text)) std::from_chars(text.data(), text.data() + text.size(), rejected);
      } else {
        JsonNumber number;
        if (reader.Peek() == JsonReader::Kind::kNumber && reader.ReadNumber(number)) {
          rejected = number.integer.value_or(0);
        } else {
          reader.Skip();
        }
      }
    }
  }
  return reader.Finish() && rejected > 0 ? rejected : 0;
}

}  // namespace optserve
