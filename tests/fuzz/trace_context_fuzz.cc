// What a client says of its trace, and a collector of our spans: fields `traceparent`, one to a line, NUL, fields
// `tracestate`, NUL, a collector's answer. What is taken reads the same written out again; what is sent on is JSON for
// another reader, with the same words.

#include <nlohmann/json.hpp>
#include <vector>

#include "server/text/utf8.h"
#include "server/tracing/otlp_json.h"
#include "server/tracing/trace_context.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) lines.push_back(fuzz::TakePart(text, '\n'));
  return lines;
}

void CheckContext(const TraceContext& context) {
  FUZZ_CHECK(context.trace_id != TraceId{} && context.span_id != SpanId{});
  FUZZ_CHECK(context.state.size() <= 512);
  for (const char c : context.state) FUZZ_CHECK((c >= ' ' && c <= '~') || c == '\t');
  const std::string parent = FormatTraceparent(context);
  const std::string_view fields[] = {parent, context.state};
  const auto again = ParseTraceContext(std::span(fields).first(1), std::span(fields).last(1));
  FUZZ_CHECK(again == context);
}

// As a span's names and values; those are ours, but some of what they hold is a client's: the request's id, its state.
void CheckSpans(const TraceContext& context, const std::string& text) {
  const Span span = {.context = context,
                     .parent = context.span_id,
                     .name = text,
                     .begin_ns = static_cast<int64_t>(text.size()),
                     .attributes = {{"text", text}, {"list", std::vector<std::string>{text, ""}}, {"number", 1.5}}};
  const std::string json = EncodeTraces(std::span(&span, 1), {{"service.name", text}}, "1");
  const nlohmann::json read = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  FUZZ_CHECK(read.is_object());
  const nlohmann::json& sent = read["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
  FUZZ_CHECK(sent.value("traceState", "") == context.state);
  FUZZ_CHECK(sent["traceId"] == Hex(context.trace_id) && sent["parentSpanId"] == Hex(context.span_id));
  if (FindInvalidUtf8(text)) return;
  FUZZ_CHECK(sent["name"] == text && sent["attributes"][0]["value"]["stringValue"] == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input = fuzz::Text(data, size);
  const std::vector<std::string_view> parents = Lines(fuzz::TakePart(input));
  const std::vector<std::string_view> states = Lines(fuzz::TakePart(input));
  const std::optional<TraceContext> context = ParseTraceContext(parents, states);
  if (context) CheckContext(*context);
  if (context) CheckSpans(*context, std::string(input));

  const int64_t rejected = RejectedSpans(input);
  FUZZ_CHECK(rejected >= 0);
  FUZZ_CHECK(rejected == 0 || nlohmann::json::accept(input));
  return 0;
}
