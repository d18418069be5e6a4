#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/tracing/span.h"

// OTLP 1.x in its JSON encoding: ids in hexadecimal, 64-bit integers as strings. Collectors take it where they take
// protobuf, by its Content-Type.

namespace optserve {

// ExportTraceServiceRequest. `resource`: who the spans are of, such as service.name.
std::string EncodeTraces(std::span<const Span> spans, const SpanAttributes& resource, std::string_view version);

// How many spans ExportTraceServiceResponse says were rejected: 0 for an empty body, and for one that is not JSON.
int64_t RejectedSpans(std::string_view response);

}  // namespace optserve
