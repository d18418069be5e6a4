#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "server/tracing/trace_context.h"

namespace optserve {

// A fact of a span. Names are OpenTelemetry's where it has one.
using SpanValue = std::variant<int64_t, double, bool, std::string, std::vector<std::string>>;
using SpanAttributes = std::vector<std::pair<std::string_view, SpanValue>>;

// One piece of work in a trace, as OTLP has it. Plain data; holds no text of prompts or answers.
struct Span {
  TraceContext context;            // its trace, its own id
  SpanId parent = {};              // zeros: it is the trace's first
  bool has_remote_parent = false;  // `parent` is another program's
  bool is_server = false;          // answers a call from outside; else internal
  std::string name;
  int64_t begin_ns = 0;  // since 1970
  int64_t end_ns = 0;
  SpanAttributes attributes;
  bool failed = false;  // of our making, not the client's
};

}  // namespace optserve
