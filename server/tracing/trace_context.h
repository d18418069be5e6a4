#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace optserve {

using TraceId = std::array<uint8_t, 16>;
using SpanId = std::array<uint8_t, 8>;

// Where a request stands in a trace: what the fields `traceparent` and `tracestate` of W3C Trace Context say. Neither
// id is all zeros.
struct TraceContext {
  TraceId trace_id = {};
  SpanId span_id = {};     // of whoever sends it
  bool sampled = false;    // the sender records its part
  std::string state = {};  // tracestate as it came: other systems' words, never read here

  bool operator==(const TraceContext&) const = default;
};

// From the values of all fields of those names, in order. None without a valid traceparent, which also means: several
// of them, upper-case digits, ids of zeros, the version ff, or anything behind the flags of version 00. A later version
// may have more behind them, of which nothing is understood. A tracestate that is not a list as the standard says, that
// names a member twice or is longer than 512 bytes is dropped alone. Never an error; any thread.
std::optional<TraceContext> ParseTraceContext(std::span<const std::string_view> traceparents,
                                              std::span<const std::string_view> tracestates);

// "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".
std::string FormatTraceparent(const TraceContext& context);

// Lower-case hexadecimal digits.
std::string Hex(std::span<const uint8_t> bytes);

// Random, and never all zeros.
TraceId NewTraceId();
SpanId NewSpanId();

}  // namespace optserve
